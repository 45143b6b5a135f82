"""Runs programs and keeps what they took; sizes, comparisons and facts about the machine."""

import filecmp
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time


class Failed(Exception):
    """A tool did not do what it was asked to."""


class Meter:
    """Runs programs and keeps what they took."""

    # As `stdout` of a run: a pipe into another program that reads it all.
    PIPE = object()

    def __init__(self, scratch, environment, quiet):
        self.scratch = scratch
        self.environment = environment
        self.quiet = quiet
        self.figures = {}

    def run(self, operation, argv, stdin=None, stdout=None, cwd=None):
        """Runs argv; with an operation its time and peak memory count towards that."""
        # What earlier programs left to be written must not be paid for by this one.
        os.sync()
        forget_own_peak()
        log = self.scratch / "stderr"
        piped = stdout is Meter.PIPE
        with open(stdin or os.devnull, "rb") as source, open(log, "wb") as errors, \
                open(os.devnull if piped else stdout or os.devnull, "wb") as sink:
            started = time.perf_counter()
            child = subprocess.Popen(argv, stdin=source, stdout=subprocess.PIPE if piped else sink, stderr=errors,
                                     cwd=cwd, env=self.environment)
            if piped:
                reader = subprocess.Popen(["cat"], stdin=child.stdout, stdout=sink)
                child.stdout.close()
                reader.wait()
            # Not Popen.wait: wait4 alone tells the memory of this very child.
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - started
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            words = log.read_text(errors="replace").strip()[-2000:]
            raise Failed(f"{' '.join(map(str, argv))}\n  exit code {child.returncode}: {words}")
        figure = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime,
                  "peak_rss_bytes": usage.ru_maxrss * 1024}
        if operation is not None:
            self.figures.setdefault(operation, []).append(figure)
            if not self.quiet:
                print(f"    {operation:24} {seconds:8.3f} s  {usage.ru_maxrss / 1024:6.0f} MiB", file=sys.stderr)
        return figure


def forget_own_peak():
    """Linux counts a parent's peak memory as its child's until the child runs its own program: so it is set back."""
    try:
        with open("/proc/self/clear_refs", "w") as control:
            control.write("5")
    except OSError:
        pass


def drop_page_cache():
    """Empties the page cache. False where that is not allowed (it takes root)."""
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w") as control:
            control.write("3")
    except OSError:
        return False
    return True


def tree_size(directory):
    """Bytes of all files below a directory (their lengths, not the blocks they take)."""
    total = 0
    for parent, _, files in os.walk(directory):
        total += sum(os.lstat(os.path.join(parent, name)).st_size for name in files)
    return total


def warm(path):
    """Reads a file, or all files below a directory, so that no tool is timed with a colder page cache than another."""
    files = [path] if path.is_file() else (
        pathlib.Path(parent, name) for parent, _, names in os.walk(path) for name in names)
    for file in files:
        if file.is_file():
            with open(file, "rb") as source:
                while source.read(1 << 20):
                    pass


def require_equal_files(expected, found):
    if not filecmp.cmp(expected, found, shallow=False):
        raise Failed(f"{found} differs from its source {expected}")


def require_equal_trees(expected, found):
    listings = []
    for root in (expected, found):
        names = {}
        for parent, directories, files in os.walk(root):
            for name in directories + files:
                path = os.path.join(parent, name)
                stat = os.lstat(path)
                size = stat.st_size if name in files else None
                names[os.path.relpath(path, root)] = (stat.st_mode, size, stat.st_mtime_ns)
        listings.append(names)
    if listings[0] != listings[1]:
        odd = sorted(path for path in listings[0].keys() | listings[1].keys()
                     if listings[0].get(path) != listings[1].get(path))
        raise Failed(f"the restored tree differs in {len(odd)} entries, first {odd[0]}")
    for path, (_, size, _) in listings[0].items():
        if size is not None and not filecmp.cmp(os.path.join(expected, path), os.path.join(found, path), shallow=False):
            raise Failed(f"the restored tree differs in {path}")


def machine(work):
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
               platform.machine())
    memory = next(int(line.split()[1]) * 1024 for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    filesystem = "unknown"
    longest = -1
    for line in open("/proc/self/mounts"):
        _, mount, kind = line.split()[:3]
        inside = mount == "/" or str(work) == mount or str(work).startswith(mount + "/")
        if inside and len(mount) >= longest:
            longest, filesystem = len(mount), kind
    return {"cpu": cpu, "cores": cores(), "memory_bytes": memory, "load": os.getloadavg(),
            "kernel": f"{platform.system()} {platform.release()}", "filesystem": filesystem}


def cores():
    return len(os.sched_getaffinity(0))


def base_environment():
    """What every program gets of the environment."""
    return {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}


def found_on_path(*programs):
    return all(shutil.which(program) for program in programs)
