"""Running ``pipen-executors`` as a user does, from a second terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .conformance.harness import PATIENCE, Workflow


@dataclass(frozen=True)
class Said:
    """What the command has said."""

    rc: int
    out: str
    err: str

    def ok(self) -> Said:
        """Return self if all was well."""
        assert self.rc == 0, f"exit status {self.rc}\n{self.out}{self.err}"
        return self

    def refused(self, *texts: str) -> Said:
        """Return self if the command could not do it, and said why in one line."""
        assert self.rc == 2, f"exit status {self.rc}\n{self.out}{self.err}"
        assert "Traceback" not in self.err, self.err
        assert all(text in self.err for text in texts), self.err
        return self

    @property
    def json(self) -> Any:
        """What it printed, read as JSON."""
        return json.loads(self.out)


def pipen_executors(
    workflow: Workflow, *arguments: str, env: Mapping[str, str] | None = None
) -> Said:
    """Run ``pipen-executors`` in the directory of a workflow."""
    done = subprocess.run(
        command(*arguments),
        cwd=workflow.dir,
        env={**workflow.environment(), **(env or {})},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def command(*arguments: str) -> list[str]:
    """Return its command line."""
    return [sys.executable, "-c", "from pipen_executors.cli import main; main()", *arguments]
