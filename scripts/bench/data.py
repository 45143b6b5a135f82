"""The input of all rounds, copied or made in one place, each kind when it is first asked for."""

import functools
import os
import pathlib
import shutil
import subprocess

from .meter import Failed, tree_size
from .tools import PROJECT

STORED_DUMP = 200_000_000
STORED_STREAM = 1_181_116_006  # 1.1 GiB
SMALL_FILES = 300


class Input:
    def __init__(self, work, seed, scale):
        self.directory = work / "input"
        # The work directory lets a server's user through; what is in here may be private.
        self.directory.mkdir(mode=0o700)
        self.work, self.seed, self.scale = work, seed, scale
        self.given = os.environ.get("CAIRN_BENCH_DATA")
        if self.given:
            self.description = "data given by CAIRN_BENCH_DATA"
            for item in sorted(pathlib.Path(self.given).iterdir()):
                if item.suffix == ".sql":
                    shutil.copy2(item, self.directory / item.name)
                elif item.is_dir() and item.name[0].isdigit() or item.name.startswith("tree."):
                    shutil.copytree(item, self.directory / item.name, symlinks=True)
        else:
            self.description = f"scripts/make-data --seed {seed} --scale {scale:g}"
            self.make("make-data", self.directory, "--scale", f"{scale:g}")
        self.dumps = sorted(self.directory.glob("[0-9]*.sql"))
        self.trees = sorted(item for item in self.directory.iterdir() if item.is_dir())[:2]
        if not self.dumps or len(self.trees) < 2:
            raise SystemExit("compare: the data must have NN.sql files and two directories, each a version of one tree")
        self.made = {}

    def make(self, script, *words, stdout=None):
        # A program of its own, so that its memory is not counted as that of a tool.
        argv = [PROJECT / "scripts" / script, *words, "--seed", str(self.seed)]
        subprocess.run(argv, check=True, stdout=stdout, stderr=subprocess.DEVNULL)

    @functools.cached_property
    def quiet_dump(self):
        """The successor of the last dump after a quiet day."""
        path = self.directory / "quiet.sql"
        if not path.exists():
            self.make("make-data", path, "--quiet-day-after", self.dumps[-1])
        self.made["quiet_dump_bytes"] = path.stat().st_size
        return path

    def stream(self, name, length):
        """A dump of that length (less, if the made data are scaled down)."""
        path = self.directory / f"{name}.stream"
        if not path.exists():
            with open(path, "wb") as out:
                length = int(length * min(self.scale, 1))
                self.make("make-stream", self.dumps[-1], "--bytes", str(length), stdout=out)
            self.made[f"{name}_bytes"] = path.stat().st_size
        return path

    @functools.cached_property
    def small_tree(self):
        """Some files of the first tree, by their paths in it."""
        paths = sorted(path for path in self.trees[0].rglob("*") if path.is_file() and not path.is_symlink())
        return paths[::max(1, len(paths) // SMALL_FILES)][:SMALL_FILES]

    @functools.cached_property
    def clusters(self):
        """Directories of PostgreSQL, each a base backup some updates later than the one before."""
        from .physical import make_clusters
        clusters = make_clusters(self.work, self.directory, self.seed, self.scale)
        self.made["cluster_bytes"] = [tree_size(cluster) for cluster in clusters]
        return clusters

    def facts(self):
        files = [sum(len(names) for _, _, names in os.walk(tree)) for tree in self.trees]
        return {"description": self.description, "dump_bytes": [dump.stat().st_size for dump in self.dumps],
                "tree_files": files, "tree_bytes": [tree_size(tree) for tree in self.trees], **self.made}


class At:
    """Gives a directory another path for a time. Renaming leaves its files as they are."""

    def __init__(self, directory, path):
        self.directory, self.path = directory, path

    def __enter__(self):
        if self.path.exists():
            raise Failed(f"{self.path} is in the way")
        self.directory.rename(self.path)

    def __exit__(self, *_):
        self.path.rename(self.directory)
