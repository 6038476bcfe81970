"""One workflow by two executors, and workflows made smaller while they differ."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.harness import Backend

from .compare import Difference, compare
from .generator import plan_of
from .plan import Plan
from .running import observe, observe_local


@dataclass
class Trial:
    """Runs workflows by Snakemake's own executor and by another.

    Attributes
    ----------
    backend
        The other.
    root
        Directory of the workflows.
    kept
        Directory of results of the local executor.
    keep
        Whether the directories of the workflows stay.
    failed_locally
        How many workflows ended with an error by the local executor.
    """

    backend: Backend
    root: Path
    kept: Path | None
    keep: bool = False
    failed_locally: int = 0

    def of_seed(self, seed: int) -> list[Difference]:
        """Return the differences on the workflow of a seed."""
        return self.of_plan(plan_of(seed), self.kept)

    def of_plan(self, plan: Plan, kept: Path | None = None) -> list[Difference]:
        """Return the differences on a workflow."""
        local = observe_local(plan, self.root, kept)
        self.failed_locally += local.runs["run"].rc != 0
        try:
            other = observe(plan, self.backend, self.root, keep=self.keep)
        except subprocess.TimeoutExpired:
            return [Difference("end of the run", "was there", "was not")]
        apart = not self.backend.sees_files
        found = compare(local, other, self.backend.executor, apart=apart)
        planned = plan.serial or ("--keep-going",) in plan.options
        if local.runs["run"].rc and not planned:
            # What else was started before the failure is a matter of chance.
            return [one for one in found if one.where == "run: exit status"]
        return found


def shrunk(plan: Plan, trial: Trial, most: int = 60) -> tuple[Plan, list[Difference]]:
    """Return the smallest workflow that differs in the same way, as far as it is found.

    Parameters
    ----------
    plan
        A workflow that differs.
    trial
        How that is seen.
    most
        How many smaller ones are tried.
    """
    differences = trial.of_plan(plan)
    tried = 0
    while differences:
        kinds = {_kind(difference) for difference in differences}
        for less in plan.smaller():
            tried += 1
            found = trial.of_plan(less)
            if kinds & {_kind(difference) for difference in found}:
                plan, differences = less, found
                break
            if tried >= most:
                return plan, differences
        else:
            return plan, differences
    return plan, differences


def _kind(difference: Difference) -> str:
    """Return what a difference is about, whatever the rule."""
    return re.sub(r"\S*\d\S*", "_", difference.where)
