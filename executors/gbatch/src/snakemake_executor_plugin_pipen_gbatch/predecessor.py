"""Resources ``googlebatch_*``: those of snakemake-executor-plugin-googlebatch.

So that workflows written for it go on working; docs/gbatch.md names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pipen_executors.exceptions import SettingError
from pipen_executors.settings import read
from pipen_executors.spec import JobSpec

from . import message
from .message import Table, merged
from .mounts import Mount, parse_mounts
from .request import FIELDS, Command, Request, policy_fields, spec_fields
from .values import SECRET, parse_count, parse_retries

_TRANSLATED: Final[Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Table]]]] = {
    **{
        name: FIELDS[name]
        for name in ("machine_type", "labels", "network", "subnetwork", "service_account")
    },
    "cpu_milli": (parse_count, lambda v: spec_fields(compute_resource={"cpu_milli": v})),
    "memory": (parse_count, lambda v: spec_fields(compute_resource={"memory_mib": v})),
    "boot_disk_gb": (parse_count, lambda v: policy_fields(boot_disk={"size_gb": v})),
    "boot_disk_type": (str, lambda v: policy_fields(boot_disk={"type": v})),
    "boot_disk_image": (str, lambda v: policy_fields(boot_disk={"image": v})),
    "retry_count": (parse_retries, lambda v: spec_fields(max_retry_count=v)),
    "max_run_duration": (str, lambda v: spec_fields(max_run_duration=v)),
    "work_tasks_per_node": (parse_count, lambda v: {"task_groups": [{"task_count_per_node": v}]}),
}
_OTHERS: Final = frozenset(
    {"container", "entrypoint", "docker_username", "docker_password", "image_family"}
    | {"image_project", "bucket", "mount_path"}
)
_NOTHING: Final = frozenset({"project", "region", "keep_source_cache", "work_tasks"})
"""Resources of that plugin which say what is said otherwise, or is always so."""


def predecessors(spec: JobSpec, given: Mapping[str, Any]) -> Request:
    """Read resources of snakemake-executor-plugin-googlebatch."""

    def where(name: str) -> str:
        return f"resource googlebatch_{name} of rule {spec.rule}"

    known = {*_TRANSLATED, *_OTHERS, *_NOTHING}
    table: Table = {}
    for name, value in given.items():
        if name not in known:
            problem = f"there is no such resource; there are {', '.join(sorted(known))}"
            raise SettingError(where(name), value, problem)
        if name in _TRANSLATED:
            reader, make = _TRANSLATED[name]
            table = merged(
                table, message.checked(make(read(where(name), value, reader)), where(name))
            )
    if "image_family" in given or "image_project" in given:
        project = given.get("image_project", "batch-custom-image")
        family = given.get("image_family")
        if not family:
            raise SettingError(where("image_family"), family, "image_project needs it")
        if "boot_disk_image" not in given:
            image = f"projects/{project}/global/images/family/{family}"
            table = merged(table, policy_fields(boot_disk={"image": image}))
    login = {}
    if given.get("docker_username"):
        login["username"] = str(given["docker_username"])
    if given.get("docker_password"):
        reference = str(given["docker_password"])
        if not SECRET.fullmatch(reference):
            problem = "expected projects/<project>/secrets/<secret>/versions/<version>"
            raise SettingError(where("docker_password"), "***", problem)
        login["password"] = reference
    if login:
        table = merged(table, spec_fields(runnables=[{"container": login}]))
    mounts: tuple[Mount, ...] = ()
    if given.get("bucket"):
        bucket = str(given["bucket"]).removeprefix("gs://")
        directory = given.get("mount_path", "/mnt/share")
        mounts = read(where("bucket"), f"gs://{bucket}:{directory}", parse_mounts)
    command = Command(str(given.get("container", "")), str(given.get("entrypoint", "")))
    return Request(table, command, mounts)
