"""Virtual environments, one for each peer: Snakemake imports every plugin it finds at its start.

They are kept below ``.cache/benchmarks`` and made again when what goes into them changes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / ".cache" / "benchmarks"

_OURS: Final = (
    "shared",
    *(f"executors/{name}" for name in ("local", "slurm", "sge", "ssh", "container")),
)
REQUIREMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "snakemake": ("snakemake>=9,<10",),
    "pipen": ("snakemake>=9,<10", *(f"{ROOT}/{part}" for part in _OURS)),
    "xqute": ("xqute==2.2.1",),
    "slurm-plugin": ("snakemake>=9,<10", "snakemake-executor-plugin-slurm>=2.8,<2.9"),
    "sge-plugin": ("snakemake>=9,<10", "snakemake-executor-plugin-sge>=0.6,<0.7"),
    "cluster-generic": ("snakemake>=9,<10", "snakemake-executor-plugin-cluster-generic"),
}
"""What goes into each environment."""


@cache
def bin_of(name: str) -> Path:
    """Return the directory of commands of an environment, which is made if it is missing.

    Other sources make another environment, so that what is measured stays the same for the
    whole run.
    """
    place = CACHE / "envs" / f"{name}-{_fingerprint(name)[:8]}"
    stamp = place / "installed"
    if not stamp.exists():
        print(f"Making the environment of {name} …", file=sys.stderr, flush=True)
        _remove_old()
        venv.create(place, with_pip=True, clear=True)
        pip = [str(place / "bin" / "python"), "-m", "pip"]
        quiet = ["--quiet", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *quiet, *REQUIREMENTS[name]], check=True)
    stamp.touch()
    return place / "bin"


def _remove_old() -> None:
    """Remove environments that no run has used for three hours."""
    for stamp in (CACHE / "envs").glob("*/installed"):
        if time.time() - stamp.stat().st_mtime > 3 * 3600:
            shutil.rmtree(stamp.parent)


def _fingerprint(name: str) -> str:
    digest = sha256(f"{sys.version}{REQUIREMENTS[name]}".encode())
    if name == "pipen":
        for part in _OURS:
            for path in sorted((ROOT / part).rglob("*")):
                if path.suffix in (".py", ".toml"):
                    digest.update(path.read_bytes())
    return digest.hexdigest()


def variables(name: str) -> dict[str, str]:
    """Return this process's environment variables with an environment first on PATH."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "PATH": f"{bin_of(name)}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def versions(name: str, *packages: str) -> dict[str, str]:
    """Return the versions of packages in an environment."""
    code = "import sys, importlib.metadata as m; print(*(m.version(p) for p in sys.argv[1:]))"
    done = subprocess.run(
        [bin_of(name) / "python", "-c", code, *packages], check=True, capture_output=True, text=True
    )
    return dict(zip(packages, done.stdout.split(), strict=True))
