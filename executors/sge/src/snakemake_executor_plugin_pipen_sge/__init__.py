"""Snakemake executor ``pipen-sge``: jobs on Grid Engine."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Optional

from snakemake_interface_executor_plugins.settings import CommonSettings

from pipen_executors.executor import PipenExecutor
from pipen_executors.settings import Checked, Default
from pipen_executors.settings import ExecutorSettings as SharedSettings
from pipen_executors.units import one_of, parse_seconds

if TYPE_CHECKING:
    from .scheduler import SgeScheduler

__all__ = ["Executor", "ExecutorSettings", "common_settings"]


@dataclass
class ExecutorSettings(SharedSettings):
    """Settings of pipen-sge."""

    scheduler_words = frozenset({"pe"})
    bare_flags = frozenset({"cwd"})
    option_prefixes: ClassVar[tuple[str, ...]] = ("qsub_", "sge_")

    qsub: str = field(default=Default("qsub"), metadata={"help": "Path of qsub."})
    qstat: str = field(default=Default("qstat"), metadata={"help": "Path of qstat."})
    qdel: str = field(default=Default("qdel"), metadata={"help": "Path of qdel."})
    qacct: str = field(default=Default("qacct"), metadata={"help": "Path of qacct."})
    qconf: str = field(default=Default("qconf"), metadata={"help": "Path of qconf."})
    pe: Optional[str] = field(
        default=None,
        metadata={
            "help": "Parallel environment for jobs with several threads (default: the only one "
            "that keeps all slots on one host, if there is only one)."
        },
    )
    memory: str = field(
        default=Default("h_vmem"),
        metadata={
            "help": "Resource that mem_mb is asked for as: h_vmem, mem_free, s_vmem or the site's "
            "own; several with commas between them, or none.",
            "metavar": "NAME[,NAME]|none",
        },
    )
    memory_per: str = field(
        default=Default("slot"),
        metadata={
            "help": "Whether the site counts memory per slot, as usual ('slot': mem_mb is divided "
            "by the threads), or per job ('job').",
            "metavar": "slot|job",
        },
    )
    gpu: str = field(
        default=Default("gpu"),
        metadata={"help": "Resource that gpu is asked for as, or none.", "metavar": "NAME|none"},
    )
    disk: str = field(
        default=Default("none"),
        metadata={
            "help": "Resource that disk_mb is asked for as (default: none, it is not asked for).",
            "metavar": "NAME|none",
        },
    )
    host_timeout: str = field(
        default=Default("10m"),
        metadata={
            "help": "Time after which a job is given up whose host has not been heard of (state "
            "'u'). Its end is noticed all the same as long as only the host's daemon is away."
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

    backend = "sge"
    has_accounting = True

    @staticmethod
    def make_scheduler(run: PipenExecutor, workdir: Path, checked: Checked) -> "SgeScheduler":
        """Return the scheduler."""
        from .directives import Site, resource_names
        from .scheduler import SgeScheduler

        settings = checked.settings

        scheduler = SgeScheduler(
            workdir,
            jobname_prefix=checked.jobname_prefix,
            qsub=checked.command("qsub"),
            qstat=checked.command("qstat"),
            qdel=checked.command("qdel"),
            qacct=checked.command("qacct"),
            qconf=checked.command("qconf"),
            site=Site(
                environment=settings.pe,
                memory=checked.read("memory", resource_names),
                per_slot=checked.read("memory_per", one_of(("slot", "job"))) == "slot",
                gpu=checked.read("gpu", resource_names),
                disk=checked.read("disk", resource_names),
            ),
            host_timeout=checked.read("host_timeout", parse_seconds),
            warn=lambda text: run.on_message(text, warning=True),
        )
        scheduler.environment_setting = checked.where("pe")
        return scheduler
