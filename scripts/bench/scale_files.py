"""A tree of many small files: first and unchanged and changed backup, ls, diff, the restore of one file; restic beside it.

A tenth of the tree goes first: cairn's memory on the whole must be that on the tenth.
"""

import json
import random
import subprocess

from .meter import Failed, require_equal_files, tree_size
from .scale import MIB, figure_words
from .tools import find_tools

PER_DIRECTORY = 1000
SLACK = 8 * MIB
OPERATIONS = ("first", "unchanged", "changed", "ls", "diff", "restore one")


def arguments(parser):
    parser.add_argument("--count", type=int, default=100_000)


def make_tree(root, count, seed):
    """Files of some 300 bytes each, a thousand to a directory. Their paths are those of path_of."""
    draws = random.Random(f"files {seed}")
    for number in range(count):
        path = path_of(root, number)
        if number % PER_DIRECTORY == 0:
            path.parent.mkdir(parents=True)
        write(path, number, draws)


def path_of(root, number):
    directory = number // PER_DIRECTORY
    return root / f"{directory // 100:03}" / f"{directory % 100:02}" / f"object-{number:08}.json"


def write(path, number, draws):
    words = " ".join(f"{draws.getrandbits(10):x}" for _ in range(12 + int(draws.random() * 20)))
    with open(path, "w", encoding="ascii") as out:
        out.write(f'{{\n  "type": "indicator",\n  "id": "{draws.getrandbits(128):032x}",\n  "number": {number},\n'
                  f'  "labels": ["malicious-activity", "feed-{number % 17}"],\n  "description": "{words}"\n}}\n')


class Ours:
    """cairn's side: each operation as an argv."""

    def __init__(self, bench, name):
        self.bench, self.repository = bench, bench.repository(f"{name}.cairn")

    def run(self, *words):
        return self.bench.cairn(self.repository, *words)

    def backup(self, tree):
        return self.run("backup", "--name", "tree", tree)

    def ls(self):
        return self.run("ls", "tree")

    def diff(self):
        return self.run("diff", *self.bench.ids(self.repository)[-2:])

    def restore(self, path, target):
        return self.run("restore", f"tree:{path}", "--target", target)


class Theirs:
    """restic's side."""

    def __init__(self, bench, name, restic):
        self.repository = bench.work / f"{name}.restic"
        self.meter, self.restic = bench.meter, restic
        self.meter.environment = {**self.meter.environment, **restic.environment(bench.work / f"{name}.restic-cache")}
        self.restic.init(self.meter, self.repository, None)

    def run(self, *words):
        return self.meter.run(None, self.restic.argv(self.repository, *words))

    def backup(self, tree):
        return self.run("backup", tree)

    def ls(self):
        return self.run("ls", "latest")

    def diff(self):
        argv = self.restic.argv(self.repository, "snapshots", "--json")
        done = subprocess.run(argv, env=self.meter.environment, check=True, capture_output=True, text=True)
        ids = [line["id"] for line in json.loads(done.stdout)]
        return self.run("diff", ids[-2], ids[-1])

    def restore(self, path, target):
        return self.run("restore", "latest", "--include", path, "--target", target)


def measure(bench, sides, tree, count):
    """The figures of each side, by operation."""
    found = {name: {} for name in sides}
    middle = path_of(tree, count // 2)

    def each(operation, act):
        for name, side in sides.items():
            found[name][operation] = act(side, name)

    each("first", lambda side, _: side.backup(tree))
    for name, side in sides.items():
        found[name]["repository_bytes"] = tree_size(side.repository)
    each("unchanged", lambda side, _: side.backup(tree))
    draws = random.Random(f"changes {bench.seed}")
    for number in range(0, count, 1000):
        write(path_of(tree, number), number, draws)
    each("changed", lambda side, _: side.backup(tree))
    each("ls", lambda side, _: side.ls())
    each("diff", lambda side, _: side.diff())

    def restore(side, name):
        target = bench.work / f"target.{name}.{count}"
        figure = side.restore(middle, target)
        # restic makes the directories above it, too.
        restored = next(target.rglob(middle.name), None)
        if restored is None:
            raise Failed(f"{name} restored no {middle.name}")
        require_equal_files(middle, restored)
        return figure

    each("restore one", restore)
    return found


def run(bench, options):
    restics, _ = find_tools(["restic"], None)
    peaks = {}
    for count in (max(1000, options.count // 10), options.count):
        tree = bench.work / f"tree.{count}"
        make_tree(tree, count, bench.seed)
        sides = {"cairn": Ours(bench, str(count))}
        if restics:
            sides["restic"] = Theirs(bench, str(count), restics[0])
        found = measure(bench, sides, tree, count)
        for operation in OPERATIONS:
            words = "; ".join(f"{name} {figure_words(figures[operation])}" for name, figures in found.items())
            if "restic" in found:
                words += f"; ratio {found['cairn'][operation]['seconds'] / found['restic'][operation]['seconds']:.2f}"
            bench.note(f"{count:,} files, {operation}", {name: figures[operation] for name, figures in found.items()}, words)
        sizes = {name: figures["repository_bytes"] for name, figures in found.items()}
        words = "; ".join(f"{name} {size / 1e6:.1f} MB, {size / count:.0f} bytes a file" for name, size in sizes.items())
        bench.note(f"{count:,} files, repository", sizes, words)
        peaks[count] = {operation: found["cairn"][operation]["peak_rss_bytes"] for operation in OPERATIONS}
    few, many = peaks
    if few < 10_000:
        # Smaller trees do not fill the buffers that larger ones do.
        print("memory is not judged on less than 100,000 files")
        return
    for operation in OPERATIONS:
        before, after = peaks[few][operation], peaks[many][operation]
        bench.claim(f"memory of {operation} is flat from {few:,} to {many:,} files", after <= before + SLACK,
                    f"{before / MIB:.0f} and {after / MIB:.0f} MiB")
