"""Commands that note each call of them and then run the real ones."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Final

COMMANDS: Final = (
    "sbatch",
    "squeue",
    "sacct",
    "sacctmgr",
    "scancel",
    "scontrol",
    "sinfo",
    "sreport",
    "srun",
    "sshare",
    "sstat",
    "qsub",
    "qstat",
    "qdel",
    "qacct",
    "qconf",
    "qhost",
)


class Shims:
    """A directory for the front of PATH.

    Parameters
    ----------
    directory
        Where the shims lie.
    log
        Where the calls are noted, one line each.
    path
        Where the real commands are looked for; this process's PATH by default.
    """

    def __init__(self, directory: Path, log: Path, path: str | None = None) -> None:
        self.directory = directory
        self._log = log
        directory.mkdir()
        log.touch()
        for name in COMMANDS:
            real = shutil.which(name, path=path)
            if real is None:
                continue
            shim = directory / name
            # An append this short is one write(2), so lines of calls at once stay whole.
            shim.write_text(f'#!/bin/bash\necho {name} >> "{log}"\nexec {real} "$@"\n')
            shim.chmod(0o755)

    def counts(self) -> Counter[str]:
        """Return how often each command has been called."""
        return Counter(self._log.read_text().split())

    def total(self) -> int:
        """Return how often any command has been called."""
        return self.counts().total()
