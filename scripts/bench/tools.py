"""cairn, restic and borg, each by the same calls."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

PROJECT = pathlib.Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery staple"


class Cairn:
    name = "cairn"
    version_argv = ["--version"]

    def __init__(self, program, key_file=None):
        self.program = program
        self.key_file = key_file

    def environment(self, cache):
        return {"CAIRN_PASSWORD": PASSWORD}

    def argv(self, repository, cache, *words):
        key = ["--key-file", self.key_file] if self.key_file else []
        return [self.program, "-q", "-r", repository, "--cache-dir", cache, *key, *words]

    def init(self, meter, repository, cache):
        meter.run(None, self.argv(repository, cache, "init"))

    def by_key(self, meter, repository, cache):
        """The same tool without the key derivation: with a key file beside the password. None where there is no such thing."""
        key = pathlib.Path(f"{repository}.key")
        if not key.exists():
            meter.run(None, self.argv(repository, cache, "key", "add", "--new-key-file", key))
        return Cairn(self.program, key)

    def backup_dump(self, meter, operation, repository, cache, dump, number):
        meter.run(operation, self.argv(repository, cache, "backup", "--name", "dump", "--stdin"), stdin=dump)

    def restore_dump(self, meter, operation, repository, cache, number, target):
        meter.run(operation, self.argv(repository, cache, "restore", "dump", "--stdout"), stdout=target)

    def backup_tree(self, meter, operation, repository, cache, tree, number):
        meter.run(operation, self.argv(repository, cache, "backup", "--name", "tree", tree))

    def restore_tree(self, meter, operation, repository, cache, number, tree, target):
        meter.run(operation, self.argv(repository, cache, "restore", "tree", "--target", target))
        return pathlib.Path(f"{target}{tree}")

    def read_file(self, meter, operation, repository, cache, number, path, target):
        meter.run(operation, self.argv(repository, cache, "cat", "tree", path), stdout=target)

    def snapshots(self, meter, operation, repository, cache):
        meter.run(operation, self.argv(repository, cache, "snapshots"))

    def check(self, meter, operation, repository, cache):
        meter.run(operation, self.argv(repository, cache, "check", "--read-data"))


class Restic:
    name = "restic"
    version_argv = ["version"]

    def __init__(self, program):
        self.program = program

    def environment(self, cache):
        return {"RESTIC_PASSWORD": PASSWORD, "RESTIC_CACHE_DIR": str(cache)}

    def argv(self, repository, *words):
        return [self.program, "-q", "--compression", "auto", "-r", repository, *words]

    def init(self, meter, repository, cache):
        meter.run(None, self.argv(repository, "init"))

    def by_key(self, meter, repository, cache):
        return None

    def backup_dump(self, meter, operation, repository, cache, dump, number):
        argv = self.argv(repository, "backup", "--stdin", "--stdin-filename", "dump.sql")
        meter.run(operation, argv, stdin=dump)

    def restore_dump(self, meter, operation, repository, cache, number, target):
        meter.run(operation, self.argv(repository, "dump", "latest", "/dump.sql"), stdout=target)

    def backup_tree(self, meter, operation, repository, cache, tree, number):
        meter.run(operation, self.argv(repository, "backup", tree))

    def restore_tree(self, meter, operation, repository, cache, number, tree, target):
        meter.run(operation, self.argv(repository, "restore", "latest", "--target", target))
        return pathlib.Path(f"{target}{tree}")

    def read_file(self, meter, operation, repository, cache, number, path, target):
        meter.run(operation, self.argv(repository, "dump", "latest", path), stdout=target)

    def snapshots(self, meter, operation, repository, cache):
        # Not quiet: then it would list nothing.
        meter.run(operation, [self.program, "-r", repository, "snapshots"])

    def check(self, meter, operation, repository, cache):
        meter.run(operation, self.argv(repository, "check", "--read-data"))


class Borg:
    name = "borg"
    version_argv = ["--version"]

    def __init__(self, program):
        self.program = program

    def environment(self, cache):
        return {"BORG_PASSPHRASE": PASSWORD, "BORG_BASE_DIR": str(cache)}

    def init(self, meter, repository, cache):
        meter.run(None, [self.program, "init", "--encryption", "repokey-blake2", repository])

    def by_key(self, meter, repository, cache):
        return None

    def create(self, meter, operation, repository, archive, *words, stdin=None):
        argv = [self.program, "create", "-C", "zstd,3", f"{repository}::{archive}", *words]
        meter.run(operation, argv, stdin=stdin)

    def backup_dump(self, meter, operation, repository, cache, dump, number):
        self.create(meter, operation, repository, f"dump{number}", "-", stdin=dump)

    def restore_dump(self, meter, operation, repository, cache, number, target):
        meter.run(operation, [self.program, "extract", "--stdout", f"{repository}::dump{number}"], stdout=target)

    def backup_tree(self, meter, operation, repository, cache, tree, number):
        self.create(meter, operation, repository, f"tree{number}", tree)

    def restore_tree(self, meter, operation, repository, cache, number, tree, target):
        meter.run(operation, [self.program, "extract", f"{repository}::tree{number}"], cwd=target)
        return pathlib.Path(f"{target}{tree}")

    def read_file(self, meter, operation, repository, cache, number, path, target):
        # borg names what it stores without the leading slash.
        argv = [self.program, "extract", "--stdout", f"{repository}::tree{number}", str(path).lstrip("/")]
        meter.run(operation, argv, stdout=target)

    def snapshots(self, meter, operation, repository, cache):
        meter.run(operation, [self.program, "list", repository])

    def check(self, meter, operation, repository, cache):
        meter.run(operation, [self.program, "check", "--verify-data", repository])


def build():
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=PROJECT, check=True)
    return target_directory() / "release" / "cairn"


def target_directory():
    metadata = subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=PROJECT, check=True,
                              capture_output=True)
    return pathlib.Path(json.loads(metadata.stdout)["target_directory"])


def find_tools(wanted, cairn):
    """The tools of these names, and the names of those that are missing."""
    tools, missing = [], []
    for kind in (Cairn, Restic, Borg):
        if kind.name not in wanted:
            continue
        program = (cairn or build()) if kind is Cairn else shutil.which(kind.name)
        if program is None:
            missing.append(kind.name)
        else:
            # Not resolved: borg is a link into a Python environment that is found by the link's place.
            tools.append(kind(os.path.abspath(program)))
    for name in missing:
        print(f"{pathlib.Path(sys.argv[0]).name}: {name} is missing: it is not on PATH and is left out", file=sys.stderr)
    return tools, missing


def version(tool):
    found = subprocess.run([tool.program, *tool.version_argv], check=True, capture_output=True, text=True)
    return found.stdout.strip() or found.stderr.strip()
