"""An index of synthetic chunks (examples/fill_index.rs): memory, how fast it opens and answers, bytes on disk.

Memory must be at most 256 MiB; novel look-ups at least 1,000,000 a second at 10 million chunks and 300,000 at 100 million; an
index of 100 million opens in less than a second, from a cold page cache if this runs as root.
"""

import json
import subprocess

from .meter import drop_page_cache, tree_size
from .scale import MIB
from .tools import PROJECT, target_directory

MEMORY = 256 * MIB


def arguments(parser):
    parser.add_argument("--chunks", default="1000000,10000000", help="how many, comma-separated")
    parser.add_argument("--fill", help="the program fill_index; without it that of this project is built")


def build():
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--example", "fill_index"], cwd=PROJECT, check=True)
    return target_directory() / "release" / "examples" / "fill_index"


def run(bench, options):
    program = options.fill or build()
    for chunks in map(int, options.chunks.split(",")):
        measure(bench, program, chunks)


def measure(bench, program, chunks):
    directory, output = bench.work / f"index.{chunks}", bench.work / "output"

    def step(action):
        figure = bench.meter.run(None, [program, action, directory, str(chunks)], stdout=output)
        return {**json.loads(output.read_text()), "peak_rss_bytes": figure["peak_rss_bytes"]}

    filled = step("fill")
    bench.note(f"{chunks:,} chunks, fill", filled, f"{filled['seconds']:.1f} s, {chunks / filled['seconds']:,.0f} a second, "
                                                   f"{filled['peak_rss_bytes'] / MIB:.0f} MiB")
    size = tree_size(directory)
    bench.note(f"{chunks:,} chunks, on disk", size, f"{size / 1e6:.1f} MB, {size / chunks:.1f} bytes a chunk")
    cold = drop_page_cache()
    found = step("look")
    bench.note(f"{chunks:,} chunks, open", found["open_seconds"],
               f"{found['open_seconds']:.3f} s with all packs listed, the page cache {'cold' if cold else 'as it was'}")
    again = step("look")
    for what in ("novel", "known_in_order", "known_anywhere"):
        rate = f"{what}_per_second"
        bench.note(f"{chunks:,} chunks, {what.replace('_', ' ')} look-ups", {"first": found[rate], "again": again[rate]},
                   f"{again[rate]:,.0f} a second ({found[rate]:,.0f} after the page cache was emptied)")
    peak = max(step["peak_rss_bytes"] for step in (filled, found, again))
    bench.claim(f"{chunks:,} chunks take at most 256 MiB", peak <= MEMORY, f"{peak / MIB:.0f} MiB")
    wanted = 300_000 if chunks > 10_000_000 else 1_000_000
    bench.claim(f"{chunks:,} chunks: {wanted:,} novel look-ups a second", again["novel_per_second"] >= wanted,
                f"{again['novel_per_second']:,.0f}")
    bench.claim(f"{chunks:,} chunks: opened in less than a second", found["open_seconds"] < 1, f"{found['open_seconds']:.3f} s")
