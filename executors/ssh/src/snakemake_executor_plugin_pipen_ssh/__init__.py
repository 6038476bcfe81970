"""Snakemake executor ``pipen-ssh``: jobs on machines that are reached over ssh."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, List, Optional

from snakemake_interface_executor_plugins.settings import CommonSettings, SharedFSUsage

from pipen_executors.executor import PipenExecutor
from pipen_executors.settings import Checked, Default
from pipen_executors.settings import ExecutorSettings as SharedSettings
from pipen_executors.units import one_of, parse_seconds

if TYPE_CHECKING:
    from .scheduler import SshScheduler

__all__ = ["Executor", "ExecutorSettings", "common_settings"]


@dataclass
class ExecutorSettings(SharedSettings):
    """Settings of pipen-ssh."""

    also_called: ClassVar[Mapping[str, str]] = {"ssh_servers": "servers"}

    not_needed: ClassVar[frozenset[str]] = frozenset({"ssh"})

    takes_options: ClassVar[bool] = False

    servers: List[str] = field(
        default_factory=list,
        metadata={
            "help": "Machines to run jobs on, each as [USER@]HOST[:PORT] or a name of "
            "~/.ssh/config, with host, port, user, keyfile, slots, mem_mb, workdir, tmpdir or "
            "groups behind it, such as big1,slots=16. In a profile also a table by name.",
            "nargs": "+",
            "metavar": "SERVER",
        },
    )
    staging: Optional[str] = field(
        default=None,
        metadata={
            "help": "How machines get files: 'none' if they see those of this machine at the same "
            "paths, 'sftp' if files are to be sent over ssh (default: 'none', and 'sftp' where "
            "--shared-fs-usage leaves out input-output and no storage provider is the default).",
            "metavar": "none|sftp",
        },
    )
    ssh_config: Optional[str] = field(
        default=None,
        metadata={"help": "File in the format of ssh_config(5) (default: ~/.ssh/config)."},
    )
    connect_timeout: str = field(
        default=Default("15"),
        metadata={"help": "Time that a connection with its login may take."},
    )
    host_timeout: str = field(
        default=Default("5m"),
        metadata={
            "help": "Time after which a machine that cannot be reached is given up: its jobs fail "
            "with 'host lost', to be run elsewhere where they are retried."
        },
    )
    kill_grace: str = field(
        default=Default("10"),
        metadata={"help": "Time between TERM and KILL for a job that is to end."},
    )


common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
    can_transfer_local_files=True,
)


class Executor(PipenExecutor):
    """The executor."""

    backend = "ssh"

    @staticmethod
    def make_scheduler(run: PipenExecutor, workdir: Path, checked: Checked) -> "SshScheduler":
        """Return the scheduler."""
        from .client import Access
        from .scheduler import SshScheduler
        from .sending import SendingSshScheduler
        from .servers import parse_servers

        storage = run.workflow.storage_settings
        shared = SharedFSUsage.INPUT_OUTPUT in storage.shared_fs_usage
        how = "none" if shared or storage.default_storage_provider else "sftp"
        if checked.settings.staging is not None:
            how = checked.read("staging", one_of(("none", "sftp")))
        config = checked.path("ssh_config")
        access = Access(
            config=None if config is None else str(config),
            connect_timeout=checked.read("connect_timeout", parse_seconds),
            host_timeout=checked.read("host_timeout", parse_seconds),
        )
        common = (
            workdir,
            checked.read("servers", parse_servers),
            access,
            lambda text: run.on_message(text, warning=True),
        )
        if how == "sftp":
            keep = run.workflow.execution_settings.keep_incomplete
            sending = SendingSshScheduler(*common, keep_incomplete=keep)
            sending.staging_setting = checked.where("staging")
            scheduler: SshScheduler = sending
        else:
            scheduler = SshScheduler(*common)
        scheduler.kill_grace = checked.read("kill_grace", parse_seconds)
        return scheduler
