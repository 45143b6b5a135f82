"""A stream of new text goes in while memory is watched, and comes out again equal; then once more with 0.1 % changed.

The text is that of scripts/make-stream: compressible, and different all along. In the second stream one run of rows in each
MiB is other text. What that adds is compared with a model of four terms, none of them fitted:
  the changed text   each run compressed by itself as zstd -3 does, on the average of a sample
  its chunks         a run lies in one or two chunks of 32 KiB: 1 + length / 32 KiB of them, 18 bytes each in a pack's footer
  their bases        each names, by 16 bytes, what stood in its place and one that is similar to it
  the lists          a list has 18 bytes for each chunk and is cut into nodes of about 16 KiB of which each has a change:
                     the 18 bytes of each new chunk, and each node's own entry and base one level up
"""

import json
import subprocess

from .meter import Failed, tree_size
from .scale import MIB, Watched, bytes_of, digest_of_stream, grown

CHANGED = 0.001
CHUNK = 32 << 10
ENTRY = 18
BASE = 16
ALLOWED = 1.5
SLACK = 8 * MIB


def arguments(parser):
    parser.add_argument("--gigabytes", type=float, default=5)
    parser.add_argument("--base", help="a dump whose text is varied; a made one by default")


def store(bench, repository, base, length, *words):
    """Pipes a made stream into cairn. What Watched found, and the generator's word on the stream."""
    argv = bench.script("make-stream", base, "--bytes", length, "--seed", bench.seed, *words)
    maker = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    watched = Watched(bench.argv(repository, "backup", "--name", "stream", "--stdin"), bench.work / "stderr",
                      lambda: bytes_of(maker.pid, "wchar"), stdin=maker.stdout, stdout=subprocess.DEVNULL)
    maker.stdout.close()
    figure = watched.finish()
    said = maker.stderr.read()
    if maker.wait() != 0:
        raise Failed(f"make-stream failed: {said.decode(errors='replace')[-2000:]}")
    return figure, json.loads(said)


def restore(bench, repository, made, name):
    watched = Watched(bench.argv(repository, "restore", "stream", "--stdout"), bench.work / "stderr",
                      stdout=subprocess.PIPE)
    digest = digest_of_stream(watched.child.stdout)
    figure = watched.finish()
    tell(bench, name, figure, made["bytes"])
    bench.claim(f"{name} gives what went in", digest == made["blake2b"], f"BLAKE2b {digest[:16]}")
    flat(bench, name, figure)


def tell(bench, name, figure, length):
    bench.note(name, figure, f"{figure['seconds']:.1f} s, {length / 1e6 / figure['seconds']:.0f} MB/s, "
                             f"{figure['peak_rss_bytes'] / MIB:.0f} MiB at most")


def flat(bench, name, figure):
    series = figure["rss_by_gigabyte"]
    first, last = series[0], series[-1]
    # The first gigabyte includes the growth to the working size; a last one of a few bytes says nothing.
    bench.claim(f"memory of {name} is flat: the last gigabyte takes no more than the first and {SLACK // MIB} MiB",
                max(series[-2:]) <= first + SLACK,
                f"{first / MIB:.0f} MiB, then at most {max(series) / MIB:.0f}, at last {last / MIB:.0f}")


def predicted(base, changes, length):
    """The model above."""
    with open(base, "rb") as source:
        text = source.read()
    run = int(MIB * CHANGED)
    step = max(run, len(text) // 200)
    packed = [len(subprocess.run(["zstd", "-3", "-q", "-c"], input=text[at:at + run], capture_output=True, check=True).stdout)
              for at in range(0, len(text) - run, step)]
    chunks = changes * (1 + run / CHUNK)
    nodes = length / CHUNK * ENTRY / CHUNK
    return {"text": changes * sum(packed) / len(packed), "chunks": chunks * ENTRY, "bases": chunks * 2 * BASE,
            "lists": chunks * ENTRY + nodes * ENTRY * 2}


def run(bench, options):
    base = options.base or bench.base_dump(0.35)
    length = int(options.gigabytes * 1e9)
    repository = bench.repository("repository")
    figure, made = store(bench, repository, base, length)
    tell(bench, "backup", figure, length)
    stored = tree_size(repository)
    bench.note("stored", stored, f"{stored / 1e6:.1f} MB, {stored / length:.3f} of the stream")
    flat(bench, "backup", figure)
    restore(bench, repository, made, "restore")
    (figure, made), growth = grown(repository, lambda: store(bench, repository, base, length, "--changed", CHANGED))
    tell(bench, "backup with changes", figure, length)
    flat(bench, "backup with changes", figure)
    changes = -(-length // MIB)
    model = predicted(base, changes, length)
    whole = sum(model.values())
    bench.note("growth", {"bytes": growth, "changes": changes, "model": model},
               f"{growth / 1e6:.3f} MB, {growth / changes:.0f} bytes for each of {changes:,} changes; the model says "
               f"{whole / 1e6:.3f} MB ({', '.join(f'{key} {value / 1e6:.3f}' for key, value in model.items())})")
    bench.claim(f"0.1 % changed adds no more than {ALLOWED} of the model", growth <= ALLOWED * whole, f"{growth / whole:.2f}")
    restore(bench, repository, made, "restore with changes")
