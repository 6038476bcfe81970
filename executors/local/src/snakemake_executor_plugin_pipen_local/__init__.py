"""Snakemake executor ``pipen-local``: jobs as detached processes on this machine."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from snakemake_interface_executor_plugins.settings import CommonSettings

from pipen_executors.executor import PipenExecutor
from pipen_executors.settings import Checked, Default
from pipen_executors.settings import ExecutorSettings as SharedSettings
from pipen_executors.units import parse_seconds

if TYPE_CHECKING:
    from .scheduler import LocalScheduler

__all__ = ["Executor", "ExecutorSettings", "common_settings"]


@dataclass
class ExecutorSettings(SharedSettings):
    """Settings of pipen-local."""

    takes_options: ClassVar[bool] = False

    kill_grace: str = field(
        default=Default("10"),
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

    @staticmethod
    def make_scheduler(run: PipenExecutor, workdir: Path, checked: Checked) -> "LocalScheduler":
        """Return the scheduler."""
        from .scheduler import LocalScheduler

        scheduler = LocalScheduler(workdir)
        scheduler.kill_grace = checked.read("kill_grace", parse_seconds)
        return scheduler
