"""The labels of containers, by which they are found again."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from pipen_executors.plain_text import plain_line
from pipen_executors.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels as ``name=value``, which is how a runtime is asked for them.

    Parameters
    ----------
    root
        Of all containers of one directory of job directories, whichever run they are of.
    run
        Of the containers of this run.
    """

    root: str
    run: str

    @classmethod
    def of_run(cls, workdir: Path) -> Labels:
        """Return those of a new run."""
        place = hashlib.sha256(os.fsencode(os.path.realpath(workdir))).hexdigest()[:12]
        return cls(f"pipen.root={place}", f"pipen.run={secrets.token_hex(4)}")

    def of_job(self, spec: JobSpec) -> list[str]:
        """Return those of the container of a job."""
        return [self.root, self.run, plain_line(f"pipen.job={spec.rule} {spec.label}")]
