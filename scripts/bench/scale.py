"""What the subjects of `scripts/scale` share: a repository, figures that are printed as they come, and claims."""

import hashlib
import json
import os
import subprocess
import threading
import time

from .meter import Failed, Meter, base_environment, forget_own_peak, tree_size
from .tools import PROJECT, Cairn

MIB = 1 << 20


class Bench:
    def __init__(self, work, tool, seed):
        self.work, self.seed = work, seed
        self.figures, self.claims = {}, []
        self.meter = Meter(work, base_environment(), quiet=True)
        key = work / "key"
        key.write_bytes(os.urandom(32))
        key.chmod(0o600)
        self.tool = Cairn(tool.program, key)

    def note(self, name, value, words):
        """Keeps a figure and prints it."""
        self.figures[name] = value
        print(f"{name}: {words}", flush=True)

    def claim(self, words, holds, measured):
        """What must hold, and whether it does."""
        self.claims.append({"claim": words, "holds": bool(holds), "measured": measured})
        print(f"  {'holds' if holds else 'DOES NOT HOLD'}: {words} ({measured})", flush=True)

    def repository(self, name):
        repository = self.work / name
        self.tool.init(self.meter, repository, self.cache(repository))
        return repository

    @staticmethod
    def cache(repository):
        return repository.with_name(f"{repository.name}.cache")

    def argv(self, repository, *words):
        return self.tool.argv(repository, self.cache(repository), *map(str, words))

    def cairn(self, repository, *words, stdin=None, stdout=None):
        """Runs cairn; its seconds and peak memory."""
        return self.meter.run(None, self.argv(repository, *words), stdin=stdin, stdout=stdout)

    def cairn_json(self, repository, *words):
        done = subprocess.run(self.argv(repository, "--json", *words), env=base_environment(), check=True,
                              capture_output=True, text=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def ids(self, repository):
        """The snapshots, oldest first."""
        return [line["id"] for line in self.cairn_json(repository, "snapshots") if line["type"] == "snapshot"]

    def script(self, name, *words):
        """The command line of one of the project's scripts. They are programs of their own: their memory is not cairn's."""
        return [PROJECT / "scripts" / name, *map(str, words)]

    def base_dump(self, scale):
        """A made dump of about 80 MB times `scale`."""
        directory = self.work / "data"
        subprocess.run(self.script("make-data", directory, "--scale", scale, "--seed", self.seed), check=True)
        return directory / "03.sql"


def figure_words(figure):
    return f"{figure['seconds']:.3f} s, {figure['peak_rss_bytes'] / MIB:.0f} MiB"


def digest_of(path):
    with open(path, "rb") as source:
        return digest_of_stream(source)


def digest_of_stream(source):
    digest = hashlib.blake2b()
    while block := source.read(MIB):
        digest.update(block)
    return digest.hexdigest()


class Watched:
    """A running program whose memory is read all the time, beside how far it is."""

    def __init__(self, argv, log, progress=None, **options):
        os.sync()
        forget_own_peak()
        self.log = log
        with open(log, "wb") as errors:
            self.child = subprocess.Popen(argv, stderr=errors, env=base_environment(), **options)
        self.progress = progress or (lambda: bytes_of(self.child.pid, "wchar"))
        self.samples = []
        self.started = time.perf_counter()
        self.watcher = threading.Thread(target=self.watch)
        self.watcher.start()

    def watch(self):
        while self.child.returncode is None:
            rss, far = resident(self.child.pid), self.progress()
            if rss is not None and far is not None:
                self.samples.append((far, rss))
            time.sleep(0.02)

    def finish(self):
        """Waits for its end; seconds, and the largest memory within each gigabyte."""
        code = self.child.wait()
        seconds = time.perf_counter() - self.started
        self.watcher.join()
        if code != 0:
            raise Failed(f"exit code {code}: {self.log.read_text(errors='replace')[-2000:]}")
        gigabytes = {}
        for far, rss in self.samples:
            gigabytes[far // 10**9] = max(rss, gigabytes.get(far // 10**9, 0))
        return {"seconds": seconds, "peak_rss_bytes": max(gigabytes.values(), default=0),
                "rss_by_gigabyte": [gigabytes[number] for number in sorted(gigabytes)]}


def resident(pid):
    try:
        with open(f"/proc/{pid}/status") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS")), None)
    except OSError:
        return None


def bytes_of(pid, counter):
    """How much a process has read or written so far."""
    try:
        with open(f"/proc/{pid}/io") as counters:
            return next(int(line.split()[1]) for line in counters if line.startswith(counter))
    except OSError:
        return None


def grown(repository, act):
    """What `act` gives, and by how many bytes it made the repository larger."""
    before = tree_size(repository)
    value = act()
    return value, tree_size(repository) - before
