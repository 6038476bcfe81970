"""Snakemake executor ``pipen-slurm``: jobs on Slurm."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Optional

from snakemake_interface_executor_plugins.settings import CommonSettings

from pipen_executors.executor import PipenExecutor
from pipen_executors.settings import Checked, Default
from pipen_executors.settings import ExecutorSettings as SharedSettings

if TYPE_CHECKING:
    from .scheduler import SlurmScheduler

__all__ = ["Executor", "ExecutorSettings", "common_settings"]


@dataclass
class ExecutorSettings(SharedSettings):
    """Settings of pipen-slurm."""

    option_prefixes: ClassVar[tuple[str, ...]] = ("sbatch_", "slurm_")

    sbatch: str = field(default=Default("sbatch"), metadata={"help": "Path of sbatch."})
    squeue: str = field(default=Default("squeue"), metadata={"help": "Path of squeue."})
    scancel: str = field(default=Default("scancel"), metadata={"help": "Path of scancel."})
    sacct: str = field(default=Default("sacct"), metadata={"help": "Path of sacct."})
    scontrol: str = field(default=Default("scontrol"), metadata={"help": "Path of scontrol."})
    partition_config: Optional[str] = field(
        default=None,
        metadata={
            "help": "YAML file with the limits of partitions, to choose from for rules that name "
            "none; the format is that of snakemake-executor-plugin-slurm."
        },
    )
    exclude_failed_nodes: bool = field(
        default=False,
        metadata={"help": "Leave out nodes that failed a job in further submissions."},
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

    backend = "slurm"
    has_accounting = True

    @staticmethod
    def make_scheduler(run: PipenExecutor, workdir: Path, checked: Checked) -> "SlurmScheduler":
        """Return the scheduler."""
        from .partitions import read_partitions
        from .scheduler import SlurmScheduler

        settings = checked.settings
        partitions = []
        if (path := checked.path("partition_config")) is not None:
            partitions = read_partitions(path, checked.where("partition_config"))
        return SlurmScheduler(
            workdir,
            jobname_prefix=checked.jobname_prefix,
            sbatch=checked.command("sbatch"),
            squeue=checked.command("squeue"),
            scancel=checked.command("scancel"),
            sacct=checked.command("sacct"),
            scontrol=checked.command("scontrol"),
            partitions=partitions,
            exclude_failed_nodes=settings.exclude_failed_nodes,
            warn=lambda text: run.on_message(text, warning=True),
        )
