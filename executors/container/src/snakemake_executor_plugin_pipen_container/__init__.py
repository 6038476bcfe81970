"""Snakemake executor ``pipen-container``: jobs in containers of this machine."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, List, Optional

from snakemake_interface_executor_plugins.settings import CommonSettings

from pipen_executors.exceptions import SchedulerError, SettingError, UserError
from pipen_executors.executor import PipenExecutor
from pipen_executors.settings import Checked, Default
from pipen_executors.settings import ExecutorSettings as SharedSettings
from pipen_executors.units import one_of, parse_seconds, parse_switch, parse_words

if TYPE_CHECKING:
    from .scheduler import ContainerScheduler

__all__ = ["Executor", "ExecutorSettings", "common_settings"]


@dataclass
class ExecutorSettings(SharedSettings):
    """Settings of pipen-container."""

    also_called: ClassVar[Mapping[str, str]] = {"mount": "volumes", "mount_as_cwd": "volume_as_cwd"}

    like_settings: ClassVar[frozenset[str]] = frozenset({"env", "volume"})

    image: Optional[str] = field(
        default=None,
        metadata={"help": "Container image for rules that name none."},
    )
    bin: str = field(
        default=Default("docker"),
        metadata={"help": "Container runtime: docker, podman, apptainer, singularity, or a path."},
    )
    bin_type: Optional[str] = field(
        default=None,
        metadata={
            "help": "What the runtime is, where its version does not tell.",
            "metavar": "docker|podman|apptainer",
        },
    )
    entrypoint: str = field(
        default=Default("bash"),
        metadata={
            "help": "What runs a job's script in the container: bash, wherever the image has it, "
            "or what starts it."
        },
    )
    volumes: List[str] = field(
        default_factory=list,
        metadata={
            "help": "What else to mount: host:container[:ro], or NAME=/host/path, whose path in "
            "the container is then in $NAME.",
            "nargs": "+",
            "metavar": "VOLUME",
        },
    )
    volume_as_cwd: Optional[str] = field(
        default=None,
        metadata={
            "help": "Directory that is mounted elsewhere (host[:container]), where jobs then have "
            "their working directory."
        },
    )
    remove: str = field(
        default=Default("true"),
        metadata={
            "help": "Whether to remove containers that have ended.",
            "metavar": "yes|no",
        },
    )
    user: Optional[str] = field(
        default=None,
        metadata={"help": "User in the container (default: the one who runs Snakemake)."},
    )
    bin_args: List[str] = field(
        default_factory=list,
        metadata={
            "help": "Arguments of the runtime's run or exec, as for a shell.",
            "nargs": "+",
            "metavar": "ARGUMENT",
            "words": True,
        },
    )
    pull: str = field(
        default=Default("missing"),
        metadata={
            "help": "When to fetch an image, before its first job of a run.",
            "metavar": "missing|always|never",
        },
    )
    python: str = field(
        default=Default("none"),
        metadata={
            "help": "'host' mounts the Python that runs Snakemake, for rules that need it (run: "
            "blocks, scripts in Python, conda environments).",
            "metavar": "none|host",
        },
    )
    limits: str = field(
        default=Default("true"),
        metadata={
            "help": "Whether containers are held to the threads and mem_mb of their jobs.",
            "metavar": "yes|no",
        },
    )
    kill_grace: str = field(
        default=Default("10"),
        metadata={"help": "Time between TERM and KILL for a job that is to end."},
    )


common_settings = CommonSettings(
    # Jobs run on this machine: --cores and --resources limit what runs at once.
    non_local_exec=False,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(PipenExecutor):
    """The executor."""

    backend = "container"

    @staticmethod
    def make_scheduler(run: PipenExecutor, workdir: Path, checked: Checked) -> "ContainerScheduler":
        """Return the scheduler."""
        from .config import Config
        from .directives import checked_arguments
        from .images import PULL_POLICIES
        from .mounts import (
            Surroundings,
            directories_of,
            is_private,
            parse_cwd_volume,
            parse_volume,
            python_directories,
        )
        from .scheduler import ContainerScheduler

        settings = checked.settings
        bin, kind = runtime_of(checked)
        volumes = [checked.read_one("volumes", text, parse_volume) for text in settings.volumes]
        cwd_volume = None
        if settings.volume_as_cwd is not None:
            cwd_volume = checked.read("volume_as_cwd", parse_cwd_volume)
            volumes.append(cwd_volume)
        bin_args = [
            word
            for text in settings.bin_args
            for word in checked.read_one("bin_args", text, parse_words)
        ]
        python = checked.read("python", one_of(("none", "host"))) == "host"
        readable = directories_of(run.workflow)
        if python:
            try:
                readable += python_directories(volumes)
            except ValueError as error:
                raise SettingError(checked.where("python"), "host", str(error)) from None
        here = [str(Path.cwd()), str(workdir)]
        begun = str(run.workflow.workdir_init)
        if not is_private(begun):  # Snakemake's --directory leads away from a home
            here.append(begun)
        scheduler = ContainerScheduler(
            workdir,
            Config(
                where=checked.where,
                bin=bin,
                kind=kind,
                image=settings.image,
                entrypoint=tuple(checked.read("entrypoint", parse_words)),
                surroundings=Surroundings(
                    tuple(dict.fromkeys(here)), tuple(readable), tuple(volumes)
                ),
                cwd_volume=cwd_volume,
                user=settings.user,
                bin_args=tuple(checked_arguments(bin_args, checked.where("bin_args"), kind)),
                remove=checked.read("remove", parse_switch),
                pull=checked.read("pull", one_of(PULL_POLICIES)),
                python=python,
                enforce=checked.read("limits", parse_switch),
                tell=run.on_message,
            ),
            checked.jobname_prefix,
        )
        scheduler.kill_grace = checked.read("kill_grace", parse_seconds)
        return scheduler


def runtime_of(checked: Checked) -> tuple[str, str]:
    """Return the path of the runtime and its kind.

    Raises
    ------
    UserError
        If there is no such command, or it does not say what it is.
    """
    from .commands import version
    from .parse import KINDS, kind_of

    name, where = checked.command("bin"), checked.where("bin")
    path = shutil.which(name)
    if path is None:
        others = [other for other in (*KINDS, "singularity") if shutil.which(other)]
        there = f"; installed: {', '.join(others)}" if others else ""
        raise SettingError(where, name, f"there is no such command{there}")
    if checked.settings.bin_type is not None:
        return path, checked.read("bin_type", one_of(KINDS))
    try:
        said = version(path)
    except SchedulerError as error:
        raise SettingError(where, name, f"it does not work ({error})") from None
    if not (kind := kind_of(said)):
        raise UserError(
            f"What {where} is ({path}) cannot be told from its version ({said.strip()!r}); set "
            f"{checked.where('bin_type')} to one of {', '.join(KINDS)}."
        )
    return path, kind
