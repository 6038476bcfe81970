"""From what a run and a rule ask for to a job of the Batch API.

Four layers, the weaker first: the resources that Snakemake knows; pipen's settings; further
fields of the job (``scheduler_opts`` of a profile, ``--pipen-gbatch-options``); and what a
rule says for itself with resources ``gbatch_*``. Resources ``googlebatch_*`` are those of
snakemake-executor-plugin-googlebatch, so that workflows written for it go on working.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pipen_executors.exceptions import SettingError
from pipen_executors.spec import JobSpec

from .message import Table, merged
from .mounts import ROOT, Mounts
from .predecessor import predecessors
from .request import Request, over, policy_fields, read_options, spec_fields
from .runnables import runnables_of

SPOT_ATTEMPTS: Final = 3
"""How often a task is run again whose Spot machine was taken away, unless the user says."""
_MAY_BE_TAKEN_AWAY: Final = ("SPOT", "PREEMPTIBLE")
_GIVEN_UP: Final = (1, 2, 126, 127, 50000, 50005)
"""Exit codes of tasks that are not run again: that of a failed command (the true one is in
the job directory), the shell's, and a run time that is over. All others are Batch's own: a
machine was preempted or lost. A failure that no lifecycle policy names is retried
(TaskSpec.lifecycle_policies)."""
_GPU_MACHINES: Final = ("a2-", "a3-", "a4-", "g2-", "g4-")
"""Machine types that have their GPUs built in (Compute Engine, "GPU machine types")."""


def request_of(spec: JobSpec, run: Request) -> Request:
    """Return what a job asks for.

    Parameters
    ----------
    spec
        The job.
    run
        What all jobs of the run ask for.

    Raises
    ------
    SettingError
        For what can never be right.
    """
    extra = {name: value for name, value in spec.resources.extra.items() if value is not None}
    own = {n.removeprefix("gbatch_"): v for n, v in extra.items() if n.startswith("gbatch_")}
    theirs = {
        n.removeprefix("googlebatch_"): v for n, v in extra.items() if n.startswith("googlebatch_")
    }
    request = over(Request(_resources(spec)), run)
    request = over(
        request, read_options(spec.options, lambda name: f"option {name} of rule {spec.rule}")
    )
    request = over(request, predecessors(spec, theirs))
    request = over(
        request, read_options(own, lambda name: f"resource gbatch_{name} of rule {spec.rule}")
    )
    return _with_retries(_with_accelerators(spec, request))


def check_mounts(rule: str, request: Request, mounts: Mounts) -> None:
    """Refuse a mount that the machine of a job cannot have.

    Where all runnables are containers and no boot image is named, Batch takes its
    Container-Optimized OS, whose root file system is read-only but for ``/mnt/disks``
    (Batch, "Create and run a job that uses storage volumes": ``mountPath``).

    Raises
    ------
    SettingError
        Naming the rule, the mount, and what to do.
    """
    if not all("container" in table for table in runnables_of(request, "")):
        return
    instances = request.table.get("allocation_policy", {}).get("instances") or [{}]
    image = str(instances[0].get("policy", {}).get("boot_disk", {}).get("image", ""))
    if instances[0].get("instance_template") or (image and not image.startswith("batch-cos")):
        return
    groups = request.table.get("task_groups") or [{}]
    volumes = [
        *(mounts.volumes()),
        *(mount.volume() for mount in request.mounts),
        *(groups[0].get("task_spec", {}).get("volumes") or []),
    ]
    for volume in volumes:
        path = posixpath.normpath(str(volume.get("mount_path", ROOT)))
        if not f"{path}/".startswith(f"{ROOT}/"):
            raise SettingError(
                f"The mount of rule {rule}, which runs in a container,",
                path,
                f"the machines of containers have mounts only below {ROOT}; use a directory "
                "there, or NAME=gs://bucket/path, or another boot image with the option "
                "allocationPolicy={instances: [{policy: {bootDisk: {image: batch-debian}}}]}",
            )


def job_table(
    request: Request,
    mounts: Mounts,
    *,
    script: str,
    count: int,
    labels: Mapping[str, str],
    secret_variables: Mapping[str, str],
) -> Table:
    """Return a job of Batch as its fields.

    Parameters
    ----------
    request
        What each of its tasks asks for.
    mounts
        Those of all jobs of the run.
    script
        What its tasks start with, as they see it.
    count
        How many tasks it has.
    labels
        By which it is found.
    secret_variables
        Environment variables that come from Secret Manager.
    """
    own = {mount.path for mount in request.mounts}
    variables = {mount.variable: mount.path for mount in request.mounts if mount.variable}
    task = {
        "runnables": runnables_of(request, script),
        "volumes": [
            *(volume for volume in mounts.volumes() if volume["mount_path"] not in own),
            *(mount.volume() for mount in request.mounts),
        ],
        "environment": {
            "variables": {**mounts.variables(), **variables},
            "secret_variables": secret_variables,
        },
    }
    table = merged(
        request.table,
        {"labels": labels, "task_groups": [{"task_spec": task, "task_count": count}]},
    )
    table.setdefault("logs_policy", {}).setdefault("destination", "CLOUD_LOGGING")
    table["task_groups"][0].setdefault("parallelism", count)
    return table


def _resources(spec: JobSpec) -> Table:
    """Return the fields for the resources that Snakemake knows."""
    asked = spec.resources
    compute: Table = {"cpu_milli": 1000 * asked.threads}
    if asked.mem_mb:
        compute["memory_mib"] = asked.mem_mb
    if asked.disk_mb:
        compute["boot_disk_mib"] = asked.disk_mb
    table = spec_fields(compute_resource=compute)
    if asked.runtime:
        table = merged(table, spec_fields(max_run_duration=f"{60 * asked.runtime}s"))
    return table


def _instances(request: Request) -> Table:
    """Return what is said of the machines."""
    instances = request.table.get("allocation_policy", {}).get("instances") or [{}]
    policy: Table = instances[0].get("policy", {})
    return policy


def _with_retries(request: Request) -> Request:
    """Let Batch itself run a task again whose machine was taken away."""
    if _instances(request).get("provisioning_model") not in _MAY_BE_TAKEN_AWAY:
        return request
    attempts = SPOT_ATTEMPTS if request.spot_attempts is None else request.spot_attempts
    return replace(request, table=merged(_retries(attempts), request.table))


def _with_accelerators(spec: JobSpec, request: Request) -> Request:
    """Ask for GPUs, by the resources ``gpu`` and ``gpu_model``."""
    count = spec.resources.gpus
    if not count:
        return request
    policy = _instances(request)
    gpu: Table = {"allocation_policy": {"instances": [{"install_gpu_drivers": True}]}}
    if not policy.get("accelerators") and not str(policy.get("machine_type", "")).startswith(
        _GPU_MACHINES
    ):
        model = spec.resources.extra.get("gpu_model")
        if not model:
            where = f"resource gpu_model of rule {spec.rule}"
            raise SettingError(where, model, "expected a type of GPU, such as nvidia-tesla-t4")
        gpu = merged(gpu, policy_fields(accelerators=[{"type": str(model), "count": count}]))
    return replace(request, table=merged(gpu, request.table))


def _retries(count: int) -> Table:
    policy = {"action": "FAIL_TASK", "action_condition": {"exit_codes": list(_GIVEN_UP)}}
    return spec_fields(max_retry_count=count, lifecycle_policies=[policy])
