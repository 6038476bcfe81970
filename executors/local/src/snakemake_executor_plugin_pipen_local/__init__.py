"""Snakemake executor ``pipen-local``: jobs as detached processes on this machine."""

from dataclasses import dataclass, field
from pathlib import Path

from snakemake_interface_executor_plugins.settings import CommonSettings

from pipen_executors.executor import PipenExecutor
from pipen_executors.settings import Checked, read
from pipen_executors.settings import ExecutorSettings as SharedSettings
from pipen_executors.units import parse_seconds

__all__ = ["Executor", "ExecutorSettings", "common_settings"]


@dataclass
class ExecutorSettings(SharedSettings):
    """Settings of pipen-local."""

    kill_grace: str = field(
        default="10",
        metadata={"help": "Time between TERM and KILL for a job that is to end."},
    )


common_settings = CommonSettings(
    # To Snakemake this is local execution: --cores and --resources limit what runs at
    # once, and nothing has to be found out about another machine.
    non_local_exec=False,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(PipenExecutor):
    """The executor."""

    backend = "local"

    def make_scheduler(self, workdir: Path, checked: Checked):  # type: ignore[no-untyped-def]
        """Return the scheduler."""
        from .scheduler import LocalScheduler

        scheduler = LocalScheduler(workdir)
        settings = self.workflow.executor_settings
        scheduler.kill_grace = read("--pipen-local-kill-grace", settings.kill_grace, parse_seconds)
        return scheduler
