"""Snakemake executor ``pipen-gbatch``: jobs on Google Cloud Batch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, List, Optional

from snakemake_interface_executor_plugins.settings import CommonSettings

from pipen_executors.exceptions import SettingError
from pipen_executors.executor import PipenExecutor
from pipen_executors.settings import Checked
from pipen_executors.settings import ExecutorSettings as SharedSettings

if TYPE_CHECKING:
    from .scheduler import GbatchScheduler

__all__ = ["Executor", "ExecutorSettings", "common_settings"]

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=True,
    job_deploy_sources=True,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=True,
)


@dataclass
class ExecutorSettings(SharedSettings):
    """Settings of pipen-gbatch."""

    also_called: ClassVar[Mapping[str, str]] = {"volumes": "mount", "volume_as_cwd": "mount_as_cwd"}

    not_needed: ClassVar[frozenset[str]] = frozenset({"gcloud"})

    project: Optional[str] = field(
        default=None,
        metadata={"help": "Id of the Google Cloud project.", "env_var": True},
    )
    location: Optional[str] = field(
        default=None,
        metadata={"help": "Region in which jobs run, such as us-central1.", "env_var": True},
    )
    remote_workdir: Optional[str] = field(
        default=None,
        metadata={
            "help": "Where in Cloud Storage the job directories lie while jobs run, "
            "gs://bucket/path (default: .pipen below --default-storage-prefix, or below "
            "mount-as-cwd).",
            "metavar": "ADDRESS",
        },
    )
    mount: List[str] = field(
        default_factory=list,
        metadata={
            "help": "Buckets to mount: gs://bucket/path:/mnt/directory, or NAME=gs://bucket/path, "
            "which is mounted at /mnt/disks/NAME and whose path jobs find in $NAME; or a file "
            "system, nfs://server/path:/directory.",
            "nargs": "+",
            "metavar": "MOUNT",
        },
    )
    fast_mount: List[str] = field(
        default_factory=list,
        metadata={"help": "Older name of mount.", "nargs": "+", "metavar": "MOUNT"},
    )
    mount_as_cwd: Optional[str] = field(
        default=None,
        metadata={
            "help": "What to mount as the working directory of all jobs, gs://bucket/path.",
            "metavar": "ADDRESS",
        },
    )
    service_account: Optional[str] = field(
        default=None, metadata={"help": "Email of the service account that jobs run as."}
    )
    network: Optional[str] = field(
        default=None, metadata={"help": "Network of the machines, such as global/networks/default."}
    )
    subnetwork: Optional[str] = field(
        default=None, metadata={"help": "Subnetwork, such as regions/REGION/subnetworks/default."}
    )
    no_external_ip_address: bool = field(
        default=False, metadata={"help": "Give the machines no external IP addresses."}
    )
    machine_type: Optional[str] = field(
        default=None,
        metadata={"help": "Machine type, such as e2-standard-4 (default: Batch chooses)."},
    )
    provisioning_model: Optional[str] = field(
        default=None, metadata={"help": "STANDARD or SPOT, which costs less and may be taken away."}
    )
    max_spot_attempts: Optional[str] = field(
        default=None,
        metadata={
            "help": "How often a job is run again, without counting as a failure, when its Spot "
            "machine is taken away (default: 3)."
        },
    )
    image_uri: Optional[str] = field(
        default=None, metadata={"help": "Image of a container that jobs run in."}
    )
    entrypoint: Optional[str] = field(
        default=None,
        metadata={"help": "Entrypoint of the container (default: the bash of the image)."},
    )
    commands: List[str] = field(
        default_factory=list,
        metadata={
            "help": "Words before the job's script, or with {lang} and {script} in them.",
            "nargs": "+",
            "metavar": "WORD",
            "words": True,
        },
    )
    runnables: Optional[str] = field(
        default=None,
        metadata={
            "help": "Further runnables as YAML or JSON: a list of tables of the Batch API. Those "
            "with a negative 'order' run before the job, the others after it."
        },
    )
    secrets: List[str] = field(
        default_factory=list,
        metadata={
            "help": "Environment variables that jobs get from Secret Manager: "
            "NAME=projects/P/secrets/S/versions/V.",
            "nargs": "+",
            "metavar": "NAME=REFERENCE",
        },
    )
    shared_fs: bool = field(
        default=False,
        metadata={
            "help": "Jobs see the working directory at its own path: it lies on a file system, "
            "such as Filestore, that a mount names. No storage provider is needed."
        },
    )

    def __post_init__(self) -> None:
        """Tell Snakemake whether files are shared, which it asks when the run begins."""
        super().__post_init__()
        common_settings.implies_no_shared_fs = not self.shared_fs
        common_settings.job_deploy_sources = not self.shared_fs
        common_settings.auto_deploy_default_storage_provider = not self.shared_fs


class Executor(PipenExecutor):
    """The executor."""

    backend = "gbatch"

    @staticmethod
    def make_scheduler(run: PipenExecutor, workdir: Path, checked: Checked) -> "GbatchScheduler":
        """Return the scheduler."""
        from .mounts import WORKING_DIRECTORY, Mount, Mounts, parse_address, parse_mounts
        from .request import read_options
        from .scheduler import GbatchScheduler
        from .values import parse_secrets

        settings = checked.settings
        for name, problem in (
            ("project", "expected the id of a Google Cloud project"),
            ("location", "expected a region such as us-central1"),
        ):
            if not getattr(settings, name):
                raise SettingError(checked.where(name), getattr(settings, name), problem)
        mounts = [*checked.read("mount", parse_mounts), *checked.read("fast_mount", parse_mounts)]
        if settings.mount_as_cwd:
            address = checked.read("mount_as_cwd", parse_address)
            if checked.cwd:
                problem = f"{checked.where('mount_as_cwd')} sets the working directory already"
                raise SettingError(checked.where("cwd"), checked.cwd, problem)
            mounts.insert(0, Mount(address, WORKING_DIRECTORY))
        named = (
            *("service_account", "network", "subnetwork", "machine_type", "provisioning_model"),
            *("max_spot_attempts", "image_uri", "entrypoint", "commands", "runnables"),
        )
        given: dict[str, Any] = {name: getattr(settings, name) or None for name in named}
        given["no_external_ip_address"] = settings.no_external_ip_address or None
        read_options(checked.options, checked.where)  # each job has them; wrong ones are told now
        prefix = checked.jobname_prefix
        if prefix is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,47}", prefix):
            problem = "expected at most 48 letters, digits and hyphens, beginning with a letter"
            raise SettingError(checked.where("jobname_prefix"), prefix, problem)
        return GbatchScheduler(
            workdir,
            project=settings.project,
            location=settings.location,
            jobname_prefix=prefix,
            place=place_of(checked, workdir, _default_storage(run)),
            request=read_options(given, checked.where),
            mounts=Mounts(mounts),
            shared=settings.shared_fs,
            cwd_on_node=WORKING_DIRECTORY if settings.mount_as_cwd else None,
            secret_variables=checked.read("secrets", parse_secrets),
        )


def _default_storage(run: PipenExecutor) -> Optional[str]:
    """Return where Snakemake puts what is not said to lie elsewhere, if that is a bucket."""
    storage = run.workflow.storage_settings
    is_bucket = storage.default_storage_provider == "gcs"
    return storage.default_storage_prefix if is_bucket else None


def place_of(checked: Checked, workdir: Path, default_storage: Optional[str] = None) -> str:
    """Return where in Cloud Storage the job directories of a working directory lie.

    Raises
    ------
    SettingError
        If no setting says in which bucket.
    """
    from hashlib import sha256

    from .mounts import parse_address

    if checked.settings.remote_workdir:
        base = checked.read("remote_workdir", parse_address)
    elif checked.settings.mount_as_cwd:
        base = f"{checked.read('mount_as_cwd', parse_address)}/.pipen"
    elif default_storage is not None:
        base = f"{parse_address(default_storage)}/.pipen"
    else:
        where = checked.where("remote_workdir")
        raise SettingError(where, None, "expected an address such as gs://bucket/path")
    return f"{base}/{sha256(str(workdir).encode()).hexdigest()[:12]}"
