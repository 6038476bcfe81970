"""Snakemake executor ``pipen``: pipen's profiles, any of its schedulers, several in one run."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Optional

from snakemake_interface_executor_plugins.settings import CommonSettings

from pipen_executors.executor import Lane, PipenExecutor
from pipen_executors.jobdir import JOB_DIRECTORIES, JobDir, root_below
from pipen_executors.settings import READERS, Checked, read
from pipen_executors.settings import ExecutorSettings as SharedSettings
from pipen_executors.spec import JobSpec

if TYPE_CHECKING:
    from pipen_executors.scheduler import SchedulerPostInit

__all__ = ["Executor", "ExecutorSettings", "common_settings"]


@dataclass
class ExecutorSettings(SharedSettings):
    """Settings of pipen. No name may begin with that of another executor (``slurm_``)."""

    scheduler: Optional[str] = field(
        default=None,
        metadata={
            "help": "Scheduler of jobs whose rule names none: an installed pipen executor (local, "
            "slurm …), an entry point of group pipen_sched, or module:Class (default: the "
            "profile's, else local).",
            "metavar": "NAME",
        },
    )


common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(PipenExecutor):
    """The executor."""

    backend = "pipen"

    def plan(self) -> None:
        """Nothing: a lane is made when the first rule asks for it."""
        self._asked: dict[tuple[Any, Any], Lane] = {}
        self._lanes: dict[str, Lane] = {}
        self._named: dict[str, tuple[str, str, str]] = {}

    def lane_for(self, resources: Mapping[str, Any], rule: str) -> Lane:
        """Return the lane that the resources of a rule name, or that of the command line."""
        from .choice import PROFILE, SCHEDULER, choose

        asked = resources.get(PROFILE), resources.get(SCHEDULER)
        if asked not in self._asked:
            choice = choose(self.settings, resources, rule)
            if choice.lane not in self._lanes:
                checked, make_scheduler = choice.prepare(self._warn, self.logger.debug)
                self._named[choice.lane] = ("scheduler", choice.shown, choice.where)
                self._lanes[choice.lane] = self.add_lane(choice.lane, checked, make_scheduler)
            self._asked[asked] = self._lanes[choice.lane]
        return self._asked[asked]

    def lane_that_has(self, spec: JobSpec, lane: Lane) -> Lane:
        """Leave a job of an earlier run where it is, although its rule now names another lane."""
        from .choice import resources_of

        for root in self.roots(self.settings):
            directory = JobDir.of(str(root), spec)
            if root.name == lane.name or directory.record() is None:
                continue
            if directory.rc():  # it has failed since, and is free to run anywhere
                directory.settle()
                continue
            self._warn(
                f"Rule {spec.rule}: an earlier run has given a job to {root.name}; it stays there."
            )
            return self.lane_for(resources_of(root.name), spec.rule)
        return lane

    def root(self, name: str, checked: Checked) -> Path:
        """Return where the job directories of a lane lie: each lane has its own."""
        return root_below(checked.workdir or JOB_DIRECTORIES) / name

    @classmethod
    def roots(cls, settings: SharedSettings) -> list[Path]:
        """Return where job directories of earlier runs may lie, on whichever lane."""
        above = JOB_DIRECTORIES
        if settings.workdir:
            above = root_below(read("--pipen-workdir", settings.workdir, READERS["workdir"]))
        return sorted(path for path in above.iterdir()) if above.is_dir() else []

    def settings_of(self, lane: Lane) -> list[tuple[str, str, str]]:
        """Return name, value and origin of each setting of a lane, and of its scheduler."""
        return [self._named[lane.name], *super().settings_of(lane)]

    def default_forks(self, scheduler: "SchedulerPostInit") -> Optional[int]:
        """Run no more jobs on this machine than it has processors: --jobs is for all lanes."""
        return len(os.sched_getaffinity(0)) if scheduler.runs_here else None
