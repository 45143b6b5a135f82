"""What is measured: each part runs one tool once and returns the sizes it saw. Seconds and memory go to the meter.

Whatever is restored to a file or a directory is compared with its source byte by byte, and so is what a cold read gives; what goes
through a pipe is only counted on to end well.
"""

import shutil
import time

from .data import At, STORED_DUMP, STORED_STREAM
from .meter import Meter, drop_page_cache, require_equal_files, require_equal_trees, tree_size, warm

STARTS = 5
SNAPSHOTS = 50
READS = 3


def dumps(tool, meter, place, data):
    repository, cache = place / "dumps", place / "dumps-cache"
    tool.init(meter, repository, cache)
    for number, dump in enumerate(data.dumps):
        warm(dump)
        tool.backup_dump(meter, "next dump" if number else "first dump", repository, cache, dump, number)
    sizes = {"repository after dumps": tree_size(repository), "cache after dumps": tree_size(cache)}
    last = len(data.dumps) - 1
    restored = place / "restored.sql"
    tool.restore_dump(meter, "restore dump", repository, cache, last, restored)
    require_equal_files(data.dumps[-1], restored)
    restored.unlink()
    tool.restore_dump(meter, "restore dump to a pipe", repository, cache, last, Meter.PIPE)
    tool.check(meter, "check dumps", repository, cache)
    return sizes


def quiet_day(tool, meter, place, data):
    repository, cache = place / "quiet-day", place / "quiet-day-cache"
    tool.init(meter, repository, cache)
    for number, dump in enumerate(data.dumps):
        tool.backup_dump(meter, None, repository, cache, dump, number)
    before = tree_size(repository)
    warm(data.quiet_dump)
    tool.backup_dump(meter, "quiet dump", repository, cache, data.quiet_dump, len(data.dumps))
    sizes = {"growth by a quiet day": tree_size(repository) - before}
    restored = place / "quiet.sql"
    tool.restore_dump(meter, "restore quiet dump", repository, cache, len(data.dumps), restored)
    require_equal_files(data.quiet_dump, restored)
    restored.unlink()
    return sizes


def trees(tool, meter, place, data):
    repository, cache, tree = place / "trees", place / "trees-cache", place / "tree"
    tool.init(meter, repository, cache)
    # Both versions are backed up at the same path.
    with At(data.trees[0], tree):
        warm(tree)
        tool.backup_tree(meter, "first tree", repository, cache, tree, 0)
        sizes = {"repository after one tree": tree_size(repository)}
        tool.backup_tree(meter, "unchanged tree", repository, cache, tree, 1)
    with At(data.trees[1], tree):
        warm(tree)
        tool.backup_tree(meter, "changed tree", repository, cache, tree, 2)
        sizes["repository after trees"] = tree_size(repository)
        sizes["cache after trees"] = tree_size(cache)
        target = place / "restored"
        target.mkdir()
        require_equal_trees(tree, tool.restore_tree(meter, "restore tree", repository, cache, 2, tree, target))
    tool.check(meter, "check trees", repository, cache)
    return sizes


def physical(tool, meter, place, data):
    repository, cache, cluster = place / "physical", place / "physical-cache", place / "cluster"
    tool.init(meter, repository, cache)
    sizes = {}
    for number, version in enumerate(data.clusters):
        with At(version, cluster):
            warm(cluster)
            operation = "next data directory" if number else "first data directory"
            tool.backup_tree(meter, operation, repository, cache, cluster, number)
            if number == len(data.clusters) - 1:
                sizes["repository after data directories"] = tree_size(repository)
                target = place / "restored-cluster"
                target.mkdir()
                found = tool.restore_tree(meter, "restore data directory", repository, cache, number, cluster, target)
                require_equal_trees(cluster, found)
                # Few and large files: nobody is slowed by their removal, and the disk would fill.
                shutil.rmtree(target)
    return sizes


def start_up(tool, meter, place, data):
    repository, cache = place / "start-up", place / "start-up-cache"
    if not repository.exists():
        tool.init(meter, repository, cache)
        small = place / "small.sql"
        with open(data.dumps[0], "rb") as dump:
            small.write_bytes(dump.read(1 << 20))
        for number in range(3):
            tool.backup_dump(meter, None, repository, cache, small, number)
    by_key = tool.by_key(meter, repository, cache)
    for _ in range(STARTS):
        tool.snapshots(meter, "start-up", repository, cache)
        if by_key:
            by_key.snapshots(meter, "start-up by key file", repository, cache)
    return {}


def stored_streams(tool, meter, place, data):
    cache = place / "stored-streams-cache"
    for operation, stream in (("stored dump", data.stream("stored-dump", STORED_DUMP)),
                              ("stored stream", data.stream("stored-stream", STORED_STREAM))):
        repository = place / stream.stem
        if not repository.exists():
            tool.init(meter, repository, cache)
            tool.backup_dump(meter, None, repository, cache, stream, "-stored")
        warm(stream)
        # borg wants another name for each.
        number = f"-{time.monotonic_ns()}"
        tool.backup_dump(meter, operation, repository, cache, stream, number)
        restored = place / "restored.stream"
        tool.restore_dump(meter, None, repository, cache, number, restored)
        require_equal_files(stream, restored)
        restored.unlink()
    return {}


def one_file(tool, meter, place, data):
    repository, cache, tree = place / "one-file", place / "one-file-cache", place / "small-tree"
    if not repository.exists():
        tool.init(meter, repository, cache)
        for path in data.small_tree:
            copy = tree / path.relative_to(data.trees[0])
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        files = [tree / path.relative_to(data.trees[0]) for path in data.small_tree]
        for number in range(SNAPSHOTS):
            for file in files[number % 10::10] if number else ():
                file.write_bytes(file.read_bytes().replace(b"e", b"E", number) + b"%d\n" % number)
            tool.backup_tree(meter, None, repository, cache, tree, number)
    wanted = tree / data.small_tree[len(data.small_tree) // 2].relative_to(data.trees[0])
    found = place / "one-file.found"
    by_key = tool.by_key(meter, repository, cache)
    for _ in range(READS):
        read_cold(tool, meter, "read one file", place, wanted, found)
        if by_key:
            read_cold(by_key, meter, "read one file by key file", place, wanted, found)
    return {}


def read_cold(tool, meter, operation, place, wanted, found):
    drop_page_cache()
    # The program itself is in the page cache: what is cold is the repository and what the tool keeps of it.
    meter.run(None, [tool.program, *tool.version_argv])
    tool.read_file(meter, operation, place / "one-file", place / "one-file-cache", SNAPSHOTS - 1, wanted, found)
    require_equal_files(wanted, found)


# In this order; the repositories of those in KEPT are filled in the first round and then used by all.
PARTS = {"dumps": dumps, "quiet-day": quiet_day, "trees": trees, "physical": physical, "start-up": start_up,
         "stored-streams": stored_streams, "one-file": one_file}
KEPT = {"start-up", "stored-streams", "one-file"}
