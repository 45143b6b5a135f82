"""Snapshots of one slowly changing dump, and what each operation takes when there are 10, 100, 1,000 of them.

Each dump is the one before after a quiet day (scripts/make-data --quiet-day-after). What a backup or a restore touches is the
same all along; `snapshots`, `forget` and `gc` look at every snapshot. forget and gc are timed on a copy of the repository.
What each backup adds stands beside `zstd -3 --patch-from` of the dump before: a series whose deltas have become as deep as they
may be adds what it adds for ever.
At the end all but ten are forgotten, and the repository is set beside a fresh one of those ten.
"""

import contextlib
import shutil
import sqlite3
import statistics
import subprocess

from .meter import Failed, tree_size
from .scale import digest_of, figure_words, grown

KEPT = 10
DEPTH = 8
# What is the same work may take this much longer, and what looks at all of them this much longer than in proportion.
SAME, PROPORTION, SLACK = 1.5, 1.3, 0.03
# Of the last so many backups the median is told, and the sum of what they add.
NEAR = 10
GROWTH = 1.3


def arguments(parser):
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--scale", type=float, default=0.1, help="size of the dump: about 8 MB by default")


class Series:
    """The dumps, one after another; the last ones are kept, and of all what they hash to."""

    def __init__(self, bench, scale):
        self.bench, self.current = bench, bench.base_dump(scale)
        self.number, self.last, self.patch_bytes = 0, [], None
        self.first_digest = digest_of(self.current)
        self.last.append(self.current)

    def live_on(self):
        self.number += 1
        following = self.bench.work / f"dump.{self.number}.sql"
        subprocess.run(self.bench.script("make-data", following, "--quiet-day-after", self.current, "--seed",
                                         self.bench.seed * 100_000 + self.number), check=True)
        self.patch_bytes = self.patch(self.current, following)
        self.current = following
        self.last.append(following)
        if len(self.last) > KEPT:
            self.last.pop(0).unlink()


    @staticmethod
    def patch(previous, following):
        """Bytes of the following dump as a difference to the previous one."""
        argv = ["zstd", "-3", "--long=27", "-q", f"--patch-from={previous}", following, "-c"]
        return len(subprocess.run(argv, check=True, capture_output=True).stdout)


def backup(bench, repository, dump):
    return bench.cairn(repository, "backup", "--name", "dump", "--stdin", stdin=dump)


def restore(bench, repository, snapshot, digest):
    target = bench.work / "restored.sql"
    figure = bench.cairn(repository, "restore", snapshot, "--stdout", stdout=target)
    if digest_of(target) != digest:
        raise Failed(f"the restored snapshot {snapshot} differs")
    target.unlink()
    return figure


def depth(repository, bench):
    """The largest delta depth, as the derived index has it; None if the index has another form."""
    with contextlib.suppress(sqlite3.Error, StopIteration):
        file = next(bench.cache(repository).rglob("index*.sqlite"))
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as index:
            return index.execute("SELECT max(depth) FROM frame").fetchone()[0]
    return None


def forget_and_collect(bench, repository, *policy):
    """forget, gc, and gc once more, when there should be nothing left to do."""
    forget = bench.cairn(repository, "forget", *policy)
    collect = bench.cairn(repository, "gc", "--grace", "0s")
    return {"forget": forget, "gc": collect, "gc again": bench.cairn(repository, "gc", "--grace", "0s")}


def middle(act):
    """Of three runs the one of median time: some of these take milliseconds."""
    return sorted((act() for _ in range(3)), key=lambda figure: figure["seconds"])[1]


def at_this_count(bench, repository, series, count, near):
    """Every operation on so many snapshots."""
    known = bench.ids(repository)
    if len(known) != count:
        raise Failed(f"{len(known)} snapshots instead of {count}")
    newest = digest_of(series.current)
    found = {"backup": {"seconds": statistics.median(figure["seconds"] for figure in near),
                        "peak_rss_bytes": max(figure["peak_rss_bytes"] for figure in near)},
             "snapshots": middle(lambda: bench.cairn(repository, "snapshots")),
             "restore newest": middle(lambda: restore(bench, repository, known[-1], newest)),
             "restore oldest": middle(lambda: restore(bench, repository, known[0], series.first_digest))}
    copy = bench.work / "copy"
    shutil.copytree(repository, copy)
    shutil.copytree(bench.cache(repository), bench.cache(copy))
    found.update(forget_and_collect(bench, copy, "--keep-last", count - 1))
    shutil.rmtree(copy)
    shutil.rmtree(bench.cache(copy))
    for operation, figure in found.items():
        bench.note(f"{count:,} snapshots, {operation}", figure, figure_words(figure))
    size, deepest = tree_size(repository), depth(repository, bench)
    bench.note(f"{count:,} snapshots, repository", size, f"{size / 1e6:.2f} MB, deltas {deepest} deep at most")
    added, patches = sum(figure["growth"] for figure in near), sum(figure["patch_bytes"] for figure in near)
    bench.note(f"{count:,} snapshots, growth", {"bytes": added, "patch_bytes": patches, "backups": len(near)},
               f"{added / len(near) / 1e3:.1f} kB a backup, {added / patches:.2f} of zstd --patch-from")
    bench.claim(f"at {count:,} snapshots a backup adds at most {GROWTH} of zstd --patch-from", added <= GROWTH * patches,
                f"{added / patches:.2f}")
    if deepest is not None:
        bench.claim(f"at {count:,} snapshots deltas are at most {DEPTH} deep", deepest <= DEPTH, deepest)
    return found


def compare(bench, few, many, counts):
    """None grows faster than what it must touch."""
    factor = counts[1] / counts[0]
    for operation in few:
        same = operation in ("backup", "restore newest", "restore oldest")
        allowed = few[operation]["seconds"] * (SAME if same else factor * PROPORTION) + SLACK
        words = "does the same work" if same else "grows no faster than the snapshots"
        bench.claim(f"{operation} {words} from {counts[0]:,} to {counts[1]:,}", many[operation]["seconds"] <= allowed,
                    f"{few[operation]['seconds']:.3f} and {many[operation]['seconds']:.3f} s")


def run(bench, options):
    repository, series = bench.repository("repository"), Series(bench, options.scale)
    points = [count for count in (10, 100, 1000) if count < options.count] + [options.count]
    before, every = None, []
    for count in range(1, options.count + 1):
        if count > 1:
            series.live_on()
        figure, figure["growth"] = grown(repository, lambda: backup(bench, repository, series.current))
        figure["patch_bytes"] = series.patch_bytes
        every.append(figure)
        if count in points:
            found = at_this_count(bench, repository, series, count, every[-min(NEAR, count - 1):])
            if before:
                compare(bench, before[1], found, (before[0], count))
            before = (count, found)
    bench.figures["every backup"] = every
    all_but_ten(bench, repository, series)


def all_but_ten(bench, repository, series):
    for operation, figure in forget_and_collect(bench, repository, "--keep-last", KEPT).items():
        bench.note(f"all but ten, {operation}", figure, figure_words(figure))
    known = bench.ids(repository)
    digests = [digest_of(dump) for dump in series.last]
    for snapshot, digest in zip(known, digests):
        restore(bench, repository, snapshot, digest)
    bench.cairn(repository, "check", "--read-data")
    fresh = bench.repository("fresh")
    for dump in series.last:
        backup(bench, fresh, dump)
    left, whole = tree_size(repository), tree_size(fresh)
    bench.note("all but ten, repository", {"left": left, "fresh": whole},
               f"{left / 1e6:.2f} MB; a fresh one of the same ten {whole / 1e6:.2f} MB")
    bench.claim("gc leaves no more than 1.15 of a fresh repository", left <= 1.15 * whole, f"{left / whole:.2f}")
    bench.claim("the ten that are kept are restored equal", len(known) == len(digests), f"{len(known)} snapshots")
