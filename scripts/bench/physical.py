"""Six versions of a PostgreSQL data directory, by pg_basebackup between batches of pgbench's updates."""

import os
import pathlib
import shutil
import subprocess

VERSIONS = 6
TRANSACTIONS = 1000
SCALE = 10
ROWS = """ALTER TABLE pgbench_accounts ALTER filler TYPE char(84)
          USING md5(aid::text) || ' account ' || aid || ' opened at branch ' || bid"""


def binaries():
    """The directory of the newest installed PostgreSQL, or None."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return next((path.parent for path in reversed(found) if (path.parent / "pgbench").exists()), None)


def why_not():
    """Why there can be no such directories here, or None."""
    if binaries() is None:
        return "PostgreSQL with pgbench is missing: there is none in /usr/lib/postgresql"
    if os.geteuid() == 0 and subprocess.run(["id", "postgres"], capture_output=True).returncode != 0:
        return "there is no user postgres, and PostgreSQL does not run as root"
    return None


class Server:
    def __init__(self, root):
        self.root, self.data, self.bin = root, root / "data", binaries()
        self.user = "postgres" if os.geteuid() == 0 else None
        root.mkdir(mode=0o700)
        if self.user:
            shutil.chown(root, self.user, self.user)

    def run(self, program, *words):
        done = subprocess.run([self.bin / program, *map(str, words)], cwd=self.root, user=self.user, group=self.user,
                              extra_groups=[] if self.user else None, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True,
                              env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(self.root), "PGHOST": str(self.root)})
        if done.returncode:
            raise SystemExit(f"compare: {program} ended with {done.returncode}: {done.stderr[-2000:]}")

    def __enter__(self):
        self.run("initdb", "-A", "trust", "--no-sync", "-D", self.data)
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(f"fsync = off\nlisten_addresses = ''\nunix_socket_directories = '{self.root}'\nautovacuum = off\n")
        self.run("pg_ctl", "-w", "-l", self.root / "log", "-D", self.data, "start")
        return self

    def __exit__(self, *_):
        self.run("pg_ctl", "-m", "immediate", "-D", self.data, "stop")

    def bench(self, *words):
        self.run("pgbench", *words, "postgres")


def make_clusters(work, directory, seed, scale):
    """The directories, in order."""
    made = []
    scale = max(1, round(SCALE * scale))
    with Server(work / "server") as server:
        server.bench("-q", "-i", "-s", scale)
        # pgbench fills its rows with blanks, which hardly take space in any repository.
        server.run("psql", "-q", "-c", ROWS, "postgres")
        for number in range(VERSIONS):
            if number > 0:
                transactions = max(10, TRANSACTIONS * scale // SCALE)
                server.bench("-n", "-c", 1, "-t", transactions, f"--random-seed={seed * 100 + number}")
            target = server.root / f"base.{number}"
            server.run("pg_basebackup", "-c", "fast", "--no-sync", "-D", target)
            # Out of the trees' way, and no longer the server's.
            made.append(target.rename(directory / f"{target.name}.cluster"))
    return made
