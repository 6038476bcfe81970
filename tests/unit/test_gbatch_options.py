"""From what rules ask for to a job of the Batch API."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipen_executors.exceptions import SettingError
from pipen_executors.find_bash import start_with_bash
from pipen_executors.spec import JobSpec, Resources
from snakemake_executor_plugin_pipen_gbatch.jobs import Jid, job_id, stub
from snakemake_executor_plugin_pipen_gbatch.message import job_message, merged
from snakemake_executor_plugin_pipen_gbatch.mounts import Mounts, parse_mounts
from snakemake_executor_plugin_pipen_gbatch.options import check_mounts, request_of
from snakemake_executor_plugin_pipen_gbatch.request import Request, read_options
from snakemake_executor_plugin_pipen_gbatch.runnables import runnables_of
from snakemake_executor_plugin_pipen_gbatch.values import parse_labels, parse_secrets

from .specs import job_spec

NOTHING = Request()


def boot_image(image: str) -> dict[str, Any]:
    """Return the option that names a boot image."""
    return {"allocationPolicy": {"instances": [{"policy": {"bootDisk": {"image": image}}}]}}


def a_spec(options: dict[str, Any] | None = None, **resources: Any) -> JobSpec:
    neutral = {
        name: resources.pop(name)
        for name in ("threads", "mem_mb", "disk_mb", "runtime", "gpus")
        if name in resources
    }
    return job_spec(
        "align",
        products=("out",),
        argv=(),
        resources=Resources(**neutral, extra=resources),
        options=options or {},
    )


def message_of(spec: JobSpec, run: Request = NOTHING) -> Any:
    request = request_of(spec, run)
    task = {"runnables": runnables_of(request, "/mnt/disks/b/script")}
    return job_message(merged(request.table, {"task_groups": [{"task_spec": task}]}))


def test_resources_of_snakemake() -> None:
    job = message_of(a_spec(threads=4, mem_mb=3000, disk_mb=50_000, runtime=90))
    spec = job.task_groups[0].task_spec
    assert spec.compute_resource.cpu_milli == 4000
    assert spec.compute_resource.memory_mib == 3000
    assert spec.compute_resource.boot_disk_mib == 50_000
    assert spec.max_run_duration.total_seconds() == 5400
    assert spec.runnables[0].script.text == "/bin/bash /mnt/disks/b/script"


def test_gpus() -> None:
    job = message_of(a_spec(gpus=2, gpu_model="nvidia-tesla-t4"))
    instance = job.allocation_policy.instances[0]
    assert instance.install_gpu_drivers
    assert (instance.policy.accelerators[0].type_, instance.policy.accelerators[0].count) == (
        "nvidia-tesla-t4",
        2,
    )
    built_in = message_of(a_spec(gpus=1, gbatch_machine_type="g2-standard-4"))
    assert not built_in.allocation_policy.instances[0].policy.accelerators
    with pytest.raises(SettingError, match=r"gpu_model of rule align .*nvidia-tesla-t4"):
        message_of(a_spec(gpus=1))


def test_options_of_pipen() -> None:
    run = read_options(
        {
            "service_account": "me@project.iam.gserviceaccount.com",
            "network": "global/networks/default",
            "no_external_ip_address": True,
            "machine_type": "e2-standard-4",
            "provisioning_model": "spot",
        },
        str,
    )
    job = message_of(a_spec(), run)
    policy = job.allocation_policy
    assert policy.service_account.email == "me@project.iam.gserviceaccount.com"
    assert policy.network.network_interfaces[0].no_external_ip_address
    assert policy.network.network_interfaces[0].network == "global/networks/default"
    assert policy.instances[0].policy.machine_type == "e2-standard-4"
    assert policy.instances[0].policy.provisioning_model.name == "SPOT"


def test_spot_machines_that_are_taken_away_are_replaced() -> None:
    """Only what Batch itself gives up is run again: a command's failure is final."""
    spec = message_of(a_spec(gbatch_provisioning_model="SPOT")).task_groups[0].task_spec
    assert spec.max_retry_count == 3
    (policy,) = spec.lifecycle_policies
    assert policy.action.name == "FAIL_TASK"
    assert {1, 127, 50005} <= set(policy.action_condition.exit_codes)
    assert 50001 not in policy.action_condition.exit_codes
    more = message_of(a_spec(gbatch_provisioning_model="SPOT", gbatch_max_spot_attempts=7))
    assert more.task_groups[0].task_spec.max_retry_count == 7
    assert message_of(a_spec()).task_groups[0].task_spec.max_retry_count == 0


def test_a_rule_is_stronger_than_fields_and_fields_than_settings() -> None:
    run = read_options({"machine_type": "from-setting", "network": "n"}, str)
    fields = {"allocationPolicy": {"instances": [{"policy": {"machineType": "from-field"}}]}}
    machine = message_of(a_spec(fields), run).allocation_policy.instances[0].policy.machine_type
    assert machine == "from-field"
    job = message_of(a_spec(fields, gbatch_machine_type="from-rule"), run)
    assert job.allocation_policy.instances[0].policy.machine_type == "from-rule"
    assert job.allocation_policy.network.network_interfaces[0].network == "n"


def test_fields_in_text_are_yaml() -> None:
    options = {"labels": "{team: genomics}", "taskGroups": "{taskSpec: {maxRunDuration: 60s}}"}
    job = message_of(a_spec(options))
    assert dict(job.labels) == {"team": "genomics"}
    assert job.task_groups[0].task_spec.max_run_duration.total_seconds() == 60


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"taskGroup": []}, "option taskGroup of rule align"),
        ({"taskGroups": [{"taskSpec": {"runables": []}}]}, r"taskGroups\[0\].taskSpec.runables"),
        ({"allocationPolicy": {"instances": [{"policy": {"cpus": 1}}]}}, "machineType"),
        ({"priority": "high"}, "priority"),
        ({"taskGroups": [{"taskCount": 3}]}, "task_groups.task_count"),
        ({"name": "mine"}, "sets this field itself"),
        ({"labels": {"Team": "x"}}, "expected lower-case letters"),
        ({"taskGroups": [{"taskSpec": {"runnables": [{}, {}]}}]}, "further ones"),
    ],
)
def test_wrong_fields(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        message_of(a_spec(options))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("gbatch_machine", "x", "resource gbatch_machine of rule align"),
        ("gbatch_provisioning_model", "cheap", "SPOT"),
        ("gbatch_max_spot_attempts", 11, "0 to 10"),
        ("gbatch_mount", "bucket", "gs://bucket/path:/mnt/directory"),
        ("gbatch_runnables", "[{scrpt: {text: x}}]", "scrpt"),
        ("googlebatch_snippets", "x", "googlebatch_snippets"),
        ("googlebatch_memory", "much", "a whole number"),
    ],
)
def test_wrong_resources(name: str, value: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        message_of(a_spec(**{name: value}))


def test_a_password_is_never_shown() -> None:
    with pytest.raises(SettingError) as raised:
        message_of(a_spec(googlebatch_container="i", googlebatch_docker_password="hunter2"))
    assert "hunter2" not in str(raised.value)


def test_resources_of_the_other_plugin() -> None:
    job = message_of(
        a_spec(
            googlebatch_machine_type="c2-standard-4",
            googlebatch_memory=2000,
            googlebatch_boot_disk_gb=50,
            googlebatch_labels="team=genomics,stage=test",
            googlebatch_container="ubuntu",
            googlebatch_image_family="batch-debian-11-official",
        )
    )
    policy = job.allocation_policy.instances[0].policy
    assert policy.machine_type == "c2-standard-4"
    assert policy.boot_disk.size_gb == 50
    assert policy.boot_disk.image.endswith("/images/family/batch-debian-11-official")
    assert job.task_groups[0].task_spec.compute_resource.memory_mib == 2000
    assert dict(job.labels) == {"team": "genomics", "stage": "test"}
    assert job.task_groups[0].task_spec.runnables[0].container.image_uri == "ubuntu"


@pytest.mark.parametrize(
    ("given", "entrypoint", "commands"),
    [
        ({}, "/bin/sh", start_with_bash("/s c")[1:]),
        ({"commands": ["-x"]}, "/bin/sh", start_with_bash("-x", "/s c")[1:]),
        ({"commands": ["-lc"]}, "/bin/sh", start_with_bash("-lc", "bash '/s c'")[1:]),
        ({"entrypoint": "/bin/sh", "commands": ["-c"]}, "/bin/sh", ["-c", "bash '/s c'"]),
        (
            {"entrypoint": "/usr/bin/env", "commands": ["A=1", "{lang}", "{script}"]},
            "/usr/bin/env",
            ["A=1", "bash", "/s c"],
        ),
    ],
)
def test_three_forms_of_commands(
    given: dict[str, Any], entrypoint: str, commands: list[str]
) -> None:
    request = read_options({"image_uri": "ubuntu", **given}, str)
    (runnable,) = runnables_of(request, "/s c")
    assert runnable["container"]["entrypoint"] == entrypoint
    assert runnable["container"]["commands"] == commands


@pytest.mark.parametrize("words", [["bash", "-c"], ["bash", "-lc"], ["sh", "-e", "-xc"], ["nice"]])
def test_commands_of_a_script(words: list[str], tmp_path: Path) -> None:
    """The wrapper runs, with whatever options of the shell that takes it as one word."""
    script = tmp_path / "s c"
    script.write_text("echo ran")
    (runnable,) = runnables_of(read_options({"commands": words}, str), str(script))
    command = ["/bin/bash", "-c", runnable["script"]["text"]]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout == "ran\n"


@pytest.mark.parametrize(
    ("options", "mount", "refused"),
    [
        ({}, "gs://bucket/refs:/mnt/refs", False),
        ({"image_uri": "debian"}, "gs://bucket/refs:/mnt/disks/refs", False),
        ({"image_uri": "debian"}, "REFS=gs://bucket/refs", False),
        ({"image_uri": "debian"}, "gs://bucket/refs:/mnt/refs", True),
        ({"image_uri": "debian"}, "nfs://server/share:/mnt/disks2", True),
        ({"image_uri": "debian"}, "gs://bucket/refs:/mnt/disks/../refs", True),
        (
            {"image_uri": "debian", **boot_image("batch-debian")},
            "gs://bucket/refs:/mnt/refs",
            False,
        ),
        ({"image_uri": "debian", **boot_image("batch-cos")}, "gs://bucket/refs:/mnt/refs", True),
        (
            {"image_uri": "debian", "runnables": "[{order: -1, script: {text: prepare}}]"},
            "gs://bucket/refs:/mnt/refs",
            False,
        ),
    ],
)
def test_mounts_of_containers(options: dict[str, Any], mount: str, refused: bool) -> None:
    """Of the run, of a rule, and as a field: machines of containers have them in one place."""
    spec = a_spec(options)
    ways = [
        (request_of(spec, NOTHING), Mounts(parse_mounts(mount))),
        (request_of(a_spec(options, gbatch_mount=mount), NOTHING), Mounts([])),
    ]
    for request, mounts in ways:
        if not refused:
            check_mounts("align", request, mounts)
            continue
        with pytest.raises(SettingError, match=r"mount of rule align.*/mnt/disks.*batch-debian"):
            check_mounts("align", request, mounts)


def test_commands_without_a_container() -> None:
    request = read_options({"commands": ["nice", "{lang} {script}"]}, str)
    assert runnables_of(request, "/s c")[0]["script"]["text"] == "nice /bin/bash '/s c'"
    request = read_options({"commands": "nice -n 5"}, str)
    assert runnables_of(request, "/s")[0]["script"]["text"] == "nice -n 5 /bin/bash /s"


def test_further_runnables_in_order() -> None:
    text = "[{order: 1, script: {text: last}}, {order: -1, script: {text: first}}]"
    request = read_options({"runnables": text}, str)
    texts = [one["script"]["text"] for one in runnables_of(request, "/s")]
    assert texts == ["first", "/bin/bash /s", "last"]


def test_mounts() -> None:
    mounts = Mounts(
        parse_mounts(["gs://bkt/data:/mnt/data", "REF=gs://bkt/data/ref", "nfs://10.0.0.2/s:/s"])
    )
    assert mounts.path("gs://bkt/data/x") == "/mnt/data/x"
    assert mounts.path("gs://bkt/data/ref/y") == "/mnt/disks/REF/y"
    assert mounts.path("gs://other/z") == "/mnt/disks/other/z"
    assert mounts.variables() == {"REF": "/mnt/disks/REF"}
    volumes = {volume["mount_path"]: volume for volume in mounts.volumes()}
    assert volumes["/mnt/disks/other"]["gcs"] == {"remote_path": "other"}
    assert "-implicit-dirs" in volumes["/mnt/data"]["mount_options"]
    assert volumes["/s"]["nfs"] == {"server": "10.0.0.2", "remote_path": "/s"}


@pytest.mark.parametrize("value", ["b:/mnt", "gs://b", "N=gs://b:/mnt", "gs://B/x:/m", "/a:/b"])
def test_wrong_mounts(value: str) -> None:
    with pytest.raises(ValueError, match="gs://bucket/path"):
        parse_mounts(value)


def test_labels_and_secrets() -> None:
    assert parse_labels("a=b,c=d") == {"a": "b", "c": "d"}
    with pytest.raises(ValueError, match="lower-case letters"):
        parse_labels("a=B")
    assert parse_secrets(["A=projects/p/secrets/s/versions/1"]) == {
        "A": "projects/p/secrets/s/versions/1"
    }
    with pytest.raises(ValueError, match="NAME="):
        parse_secrets(["A=hunter2"])


@pytest.mark.parametrize("rule", ["align", "Ålign__READS", "1st", "_x", "a" * 200, "a-"])
def test_ids_are_valid_for_every_rule(rule: str) -> None:
    import re

    told = job_id("Pipen.X", rule, "0a1b2c3d", "deadbeef")
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", told)
    assert Jid.parse(told).run == Jid.parse(f"{told}/4").run == "0a1b2c3d"
    assert str(Jid.parse(f"{told}/4")) == f"{told}/4"


def test_stub_quotes_paths() -> None:
    text = stub("job-1-2", ["/mnt/it's here/w", "/mnt/b/w"])
    assert """'/mnt/it'"'"'s here/w'""" in text
    assert "job.kill.job-1-2" in text
    assert "job.kill" not in stub("job-1-2", ["/w"]), "alone, it is cancelled as a job"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("machineType", "use machine_type"),
        ("taskCount", "as a field of a job of Batch it is taskGroups[0].taskCount"),
        ("max_run_duration", "it is taskGroups[0].taskSpec.maxRunDuration"),
        ("bootDisk", "it is allocationPolicy.instances[0].policy.bootDisk"),
        ("nonsense", "expected one of commands, entrypoint"),
    ],
)
def test_option_that_has_another_name(name: str, said: str) -> None:
    with pytest.raises(SettingError, match=re.escape(said)):
        read_options({name: 1}, lambda name: f"option {name}")
