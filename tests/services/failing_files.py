"""Builds the library that lets a file system fail now and then (failing_files.c)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.services.common import ServiceUnavailable

_SOURCE = Path(__file__).with_suffix(".c")


def build(directory: Path) -> Path:
    """Return the library, for ``LD_PRELOAD``.

    Raises
    ------
    ServiceUnavailable
        Without a C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise ServiceUnavailable("no C compiler was found")
    library = directory / "failing_files.so"
    subprocess.run(
        [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"],
        check=True,
    )
    return library
