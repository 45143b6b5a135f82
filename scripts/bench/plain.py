"""The same work by zstd, tar, find and cp: what the machine gives without a repository.

They neither sync, encrypt, verify nor deduplicate; they are yardsticks, not peers.
"""

from .meter import cores, warm


class Plain:
    name = "plain"

    def __init__(self):
        self.program = "zstd"
        self.version_argv = ["-q", "-V"]

    def environment(self, cache):
        return {}


def dumps(tool, meter, place, data):
    warm(data.dumps[0])
    meter.run("first dump", ["zstd", "-3", f"-T{cores()}", "-q", "-c"], stdin=data.dumps[0], stdout=place / "dump.zst")
    return {}


def quiet_day(tool, meter, place, data):
    previous, dump, delta = data.dumps[-1], data.quiet_dump, place / "quiet.zst"
    warm(previous)
    warm(dump)
    # A window that holds all of the previous dump.
    window = max(previous.stat().st_size, dump.stat().st_size).bit_length()
    meter.run("quiet dump", ["zstd", "-3", f"--long={min(max(window, 10), 31)}", f"--patch-from={previous}", "-q", dump,
                             "-o", delta])
    return {"growth by a quiet day": delta.stat().st_size}


def trees(tool, meter, place, data):
    first, second = data.trees
    warm(first)
    script = 'tar -cf - -C "$1" . | zstd -3 "-T$3" -q -c >"$2"'
    meter.run("first tree", ["sh", "-c", script, "sh", first, place / "tree.tar.zst", str(cores())])
    meter.run("unchanged tree", ["find", first])
    warm(second)
    target = place / "copy"
    meter.run("restore tree", ["cp", "-r", second, target])
    return {}


PARTS = {"dumps": dumps, "quiet-day": quiet_day, "trees": trees}
