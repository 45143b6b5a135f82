"""The rows of the table, what each must reach, and the Markdown of a report."""

import functools
import statistics

MIB = 1 << 20
MEMORY = 128 * MIB
MEMORY_AIM = 96 * MIB


class Goal:
    """At most `limit` times what a peer has; without a peer at most `limit` seconds."""

    def __init__(self, limit, peer=None):
        self.limit, self.peer = limit, peer

    def judge(self, ours, theirs):
        """The goal, what was measured, and whether that is enough; None if it cannot be told."""
        if ours is None or self.peer and not theirs:
            return None
        measured = ours / theirs if self.peer else ours
        wanted = f"{self.limit:.2f} of {self.peer}" if self.peer else f"{self.limit * 1000:.0f} ms"
        if measured <= self.limit:
            return f"{wanted}: met"
        found = f"{measured:.3f}" if self.peer else f"{measured * 1000:.0f} ms"
        return f"{wanted}: **missed** ({found})"


def restic(limit):
    return Goal(limit, "restic")


def times(factor):
    """As a goal: that many times restic's speed."""
    return Goal(1 / factor, "restic")


def plain(limit):
    return Goal(limit, "plain")


# operation -> label, what must be reached, what is aimed at
OPERATIONS = {
    "first dump": ("first dump", times(3), plain(1)),
    "next dump": ("each next dump", times(3.5), times(5)),
    "quiet dump": ("dump of a quiet day", None, None),
    "stored dump": ("dump that is stored already", times(3), times(5)),
    "stored stream": ("long stream that is stored already", times(4), times(6)),
    "restore dump": ("restore a dump", times(2.5), times(4)),
    "restore dump to a pipe": ("restore a dump to a pipe", times(2.5), times(4)),
    "restore quiet dump": ("restore a quiet day's dump", times(2.5), times(4)),
    "check dumps": ("full check, dumps", times(2), None),
    "first tree": ("first tree", times(3), plain(1)),
    "unchanged tree": ("unchanged tree", times(4), plain(2)),
    "changed tree": ("changed tree", times(3), times(5)),
    "restore tree": ("restore the tree", plain(1), None),
    "check trees": ("full check, trees", times(2), None),
    "first data directory": ("first data directory", None, None),
    "next data directory": ("each next data directory", None, None),
    "restore data directory": ("restore a data directory", None, None),
    "start-up": ("start-up: `snapshots`", restic(0.35), Goal(0.15)),
    "start-up by key file": ("start-up by key file: no key derivation", None, None),
    "read one file": ("one file of 50 snapshots, cold", Goal(0.05), Goal(0.02)),
    "read one file by key file": ("the same file by key file: no key derivation", Goal(0.05), Goal(0.02)),
}
SIZES = {
    "repository after dumps": ("repository, all dumps", restic(0.45), restic(0.38)),
    "growth by a quiet day": ("growth by a quiet day's dump", plain(1.3), plain(1.1)),
    "repository after one tree": ("repository, one tree", restic(0.40), restic(0.30)),
    "repository after trees": ("repository, both trees", restic(0.25), restic(0.20)),
    "repository after data directories": ("repository, six data directories", restic(0.50), restic(0.40)),
    "cache after dumps": ("cache, dumps", None, None),
    "cache after trees": ("cache, trees", None, None),
}


def seconds_of(result, operation):
    """Mean seconds of an operation in one round (an operation such as `next dump` runs several times)."""
    figures = result.get("operations", {}).get(operation)
    return statistics.mean(figure["seconds"] for figure in figures) if figures else None


def peak_of(result, operation=None):
    """Largest peak memory in one round, of one operation or of all."""
    operations = result.get("operations", {})
    chosen = operations.values() if operation is None else [operations.get(operation, [])]
    return max((figure["peak_rss_bytes"] for figures in chosen for figure in figures), default=None)


def size_of(result, size):
    return result.get("sizes", {}).get(size)


def seconds_cell(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds:.3f} s"


class Table:
    """The figures as Markdown. A ratio below 1 means that cairn is faster or smaller."""

    def __init__(self, report):
        self.rounds = report["rounds"]
        self.names = list(report["versions"])
        self.peers = [name for name in self.names if name != "cairn"] if "cairn" in self.names else []
        self.judged = []

    def middle(self, get, name):
        """The median of what `get` takes from a tool's rounds; None without any."""
        values = [value for value in (get(turn[name]) for turn in self.rounds if name in turn) if value is not None]
        return statistics.median(values) if values else None

    def cell(self, get, name, form):
        value = self.middle(get, name)
        if value is not None:
            return form(value)
        return "failed" if any("failed" in turn.get(name, {}) for turn in self.rounds) else ""

    def ratio(self, get, peer):
        ours, theirs = self.middle(get, "cairn"), self.middle(get, peer)
        return f"{ours / theirs:.2f}" if ours is not None and theirs else ""

    def verdict(self, label, get, goal):
        if goal is None or "cairn" not in self.names:
            return ""
        theirs = self.middle(get, goal.peer) if goal.peer in self.names else None
        judged = goal.judge(self.middle(get, "cairn"), theirs)
        self.judged.append((label, judged))
        return judged or "not measured"

    def memory(self, label, get):
        """Whether cairn stays within 128 MiB, or within restic's where that is more."""
        ours = self.middle(get, "cairn") if "cairn" in self.names else None
        if ours is None:
            return ""
        theirs = self.middle(get, "restic") if "restic" in self.names else None
        judged = "met" if ours <= max(MEMORY, theirs or 0) else "**missed**"
        self.judged.append((f"{label}, memory", judged))
        return judged if ours > MEMORY_AIM else f"{judged}, aim met"

    def row(self, label, get, cells, must, aim, memory=""):
        ratios = [self.ratio(get, peer) for peer in self.peers]
        verdicts = [self.verdict(label, get, must), self.verdict(f"{label} (aim)", get, aim)]
        return "| " + " | ".join([label, *cells, *ratios, *verdicts, memory]) + " |"

    def lines(self):
        yield "| | " + " | ".join([*self.names, *(f"cairn / {peer}" for peer in self.peers), "must reach", "aim",
                                   "memory: 128 MiB, or restic's"]) + " |"
        yield "|---|" + "---:|" * (len(self.names) + len(self.peers)) + "---|---|---|"
        for operation, (label, must, aim) in OPERATIONS.items():
            seconds = functools.partial(seconds_of, operation=operation)
            peak = functools.partial(peak_of, operation=operation)
            if any(self.middle(seconds, name) is not None for name in self.names):
                cells = [", ".join(filter(None, dict.fromkeys((self.cell(seconds, name, seconds_cell), self.cell(
                    peak, name, lambda n: f"{n / MIB:.0f} MiB"))))) for name in self.names]
                yield self.row(label, seconds, cells, must, aim, self.memory(label, peak))
        for size, (label, must, aim) in SIZES.items():
            length = functools.partial(size_of, size=size)
            if any(self.middle(length, name) is not None for name in self.names):
                cells = [self.cell(length, name, lambda n: f"{n / 1e6:.3f} MB") for name in self.names]
                yield self.row(label, length, cells, must, aim)
        cells = [self.cell(peak_of, name, lambda n: f"{n / MIB:.0f} MiB") for name in self.names]
        yield self.row("peak memory of all", peak_of, cells, None, None)

    def text(self):
        lines = list(self.lines())
        missed = [label for label, judged in self.judged if judged and "missed" in judged]
        unknown = [label for label, judged in self.judged if judged is None]
        must = [label for label in missed if not label.endswith("(aim)")]
        aims = [label for label in missed if label.endswith("(aim)")]
        for words, labels in (("Must be reached and is not", must), ("Aims that are missed", aims),
                              ("Not measured here, since its peer is not", unknown)):
            if labels:
                lines += ["", f"{words}: {'; '.join(labels)}."]
        return "\n".join(lines)


def heading(report):
    host, data = report["machine"], report["data"]
    versions = "; ".join(words for name, words in report["versions"].items() if name != "plain")
    missing = f" Missing: {', '.join(report['missing'])}." if report["missing"] else ""
    plain_tools = (" plain: `zstd -3` on all cores, `zstd -3 --patch-from`, `tar | zstd -3`, `find`, `cp -r`; these neither sync, "
                   "encrypt nor verify." if "plain" in report["versions"] else "")
    dumps = ", ".join(f"{size / 1e6:.0f}" for size in data["dump_bytes"])
    trees = " and ".join(f"{files:,} files ({size / 1e6:.0f} MB)"
                         for files, size in zip(data["tree_files"], data["tree_bytes"]))
    clusters = data.get("cluster_bytes")
    more = f"; {len(clusters)} data directories of PostgreSQL ({sum(clusters) / 1e6:.0f} MB)" if clusters else ""
    streams = [data[f"stored-{kind}_bytes"] for kind in ("dump", "stream") if f"stored-{kind}_bytes" in data]
    if streams:
        more += f"; already stored: {' and '.join(f'{size / 1e6:,.0f}' for size in streams)} MB"
    turns = report["rounds"]
    failures = "".join(f" {name} failed in {count} of them." for name in report["versions"]
                       if (count := sum("failed" in turn.get(name, {}) for turn in turns)))
    left_out = "".join(f" Left out: {words}." for words in report.get("left_out", []))
    return (f"{report['date'][:10]}; {host['cpu']}, {host['cores']} cores, {host['memory_bytes'] / 2**30:.0f} GiB, "
            f"{host['kernel']}, {host['filesystem']}; {versions}.{missing}{plain_tools}\n"
            f"Input ({data['description']}): dumps of {dumps} MB; trees of {trees}{more}. "
            f"Medians of {len(turns)} rounds.{failures}{left_out}")


def render(report):
    return f"{heading(report)}\n\n{Table(report).text()}"
