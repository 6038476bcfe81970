"""The test suite that belongs to the installed Snakemake, from its sdist on the package index."""

from __future__ import annotations

import ast
import fcntl
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path, PurePosixPath

#: Overrides where sdists and results are kept.
CACHE_VARIABLE = "SNAKEMAKE_SUITE_CACHE"

#: The upstream files whose tests run workflows. The other files test Snakemake's internals and
#: never reach an executor; ``tests_using_conda.py`` is left to the plugin's own tests, because
#: each of its tests solves and downloads an environment.
FILES = ("tests.py", "test_logging.py")


class SuiteError(Exception):
    """The suite cannot be fetched or run."""


def snakemake_version() -> str:
    """Return the version of the installed Snakemake."""
    return version("snakemake")


def cache_directory() -> Path:
    """Return (and create) the directory for the installed Snakemake version.

    Returns
    -------
    Path
        ``$SNAKEMAKE_SUITE_CACHE/<version>``, by default
        ``.cache/snakemake-suite/<version>`` in the repository.
    """
    default = Path(__file__).resolve().parents[2] / ".cache" / "snakemake-suite"
    base = Path(os.environ.get(CACHE_VARIABLE) or default)
    directory = base / snakemake_version()
    directory.mkdir(parents=True, exist_ok=True)
    ignore = base / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    return directory


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` against other processes of this machine."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def fetch_sdist() -> Path:
    """Return the sdist of the installed Snakemake, downloading it on first use.

    Raises
    ------
    SuiteError
        If pip cannot download it; the message ends with pip's own words.
    """
    cache = cache_directory()
    with locked(cache / "download.lock"):
        found = sorted(cache.glob("snakemake-*.tar.gz"))
        if found:
            return found[-1]
        requirement = f"snakemake=={snakemake_version()}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", "snakemake", "--dest", str(cache), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(cache.glob("snakemake-*.tar.gz"))
        if done.returncode != 0 or not found:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SuiteError(f"cannot download the sdist of {requirement}: {last}")
        return found[-1]


def unpack_tests(destination: Path) -> Path:
    """Unpack the sdist's ``tests/`` into `destination`.

    Each run gets a fresh copy, because some tests write into the suite's own directories.

    Returns
    -------
    Path
        The directory that holds ``tests``.
    """
    with tarfile.open(fetch_sdist()) as archive:
        for member in archive:
            inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if inside.parts[:1] == ("tests",):
                archive.extract(member.replace(name=str(inside)), destination, filter="data")
    return destination


def upstream_tests() -> list[str]:
    """Return the names of the suite's test functions as ``file.py::function``, in file order.

    They are read from the source, so nothing of the suite is imported or unpacked. A
    parametrised test is one name.
    """
    names: list[str] = []
    with tarfile.open(fetch_sdist()) as archive:
        for member in archive:
            parts = PurePosixPath(member.name).parts
            if len(parts) == 3 and parts[1] == "tests" and parts[2] in FILES:
                handle = archive.extractfile(member)
                assert handle is not None
                tree = ast.parse(handle.read())
                names += [f"{parts[2]}::{name}" for name in _functions_of(tree)]
    return list(dict.fromkeys(names))


def _functions_of(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("test"):
                yield node.name
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name.startswith("test"):
                    yield f"{node.name}::{inner.name}"
