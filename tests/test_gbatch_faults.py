"""pipen-gbatch when things go wrong, and how often Batch is asked.

The Batch is the tests' own (tests/services/batch_service.py), the client library is Google's.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.cloud import batch_v1

from .commands_support import Said, pipen_executors
from .conformance.harness import Process, Workflow, wait_for
from .gbatch_support import (
    PROJECT,
    Bucket,
    BucketWorkflow,
    Cloud,
    cloud_or_skip,
    on_filestore,
)
from .services.gcs import BUCKET

pytestmark = pytest.mark.gbatch

HELD = "until [ -e go ]; do sleep 0.05; done; "
"""Bash that keeps a job running until the test lets it end."""


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """A Batch and a Cloud Storage."""
    with cloud_or_skip() as running:
        yield running


class Site:
    """The cloud as one test has it, with workflows on it."""

    def __init__(self, cloud: Cloud, home: Path) -> None:
        self.cloud = cloud
        self.batch = cloud.batch
        self._home = home
        self._workflows: list[Workflow] = []
        self.batch.forget_calls()

    def workflow(self, text: str, **changes: Any) -> Workflow:
        """Return a workflow whose files lie on Filestore."""
        backend = on_filestore(self.cloud, self._home.resolve())
        return self._kept(Workflow(self._next(), replace(backend, **changes)), text)

    def in_bucket(self, text: str) -> BucketWorkflow:
        """Return a workflow whose files lie in the bucket alone."""
        bucket = Bucket(PROJECT, "us-central1", BUCKET, self.cloud.env, self.cloud.storage.client)
        workflow = BucketWorkflow(self._next(), bucket)
        self._kept(workflow, text)
        return workflow

    def _next(self) -> Path:
        return self._home / f"run{len(self._workflows)}"

    def _kept(self, workflow: Workflow, text: str) -> Workflow:
        workflow.snakefile(text)
        self._workflows.append(workflow)
        return workflow

    def running(self, process: Process, workflow: Workflow, rule: str) -> str:
        """Wait until the one job of a rule runs; return the id of its job of Batch."""

        def jid() -> str:
            found = workflow.jobs(rule)
            return found[0].jid if found else ""

        told = process.wait_for(jid, f"the submission of {rule}")
        process.wait_for(lambda: workflow.exists(f"{rule}.started"), f"the start of {rule}")
        return told

    def jobs_in_bucket(self) -> list[str]:
        """Return what lies in the bucket for the jobs that this test submitted."""
        (spec, *_) = [request.job.task_groups[0].task_spec for request in self.created()]
        root = spec.runnables[0].script.text.partition("/.stubs/")[0]
        return self.cloud.storage.names(root.partition("/bucket/")[2])

    def created(self) -> list[batch_v1.CreateJobRequest]:
        """Return what was asked of CreateJob."""
        return [call.request for call in self.batch.of("CreateJob")]

    def close(self) -> None:
        for workflow in self._workflows:
            workflow.close()
        self.batch.away = self.batch.cannot_cancel = False
        self.batch.lost_answers = 0
        self.batch.refusals.clear()
        self.batch.secrets.clear()
        self.batch.set_quota(None)
        for job in self.batch.alive():
            self.batch.cancel_from_outside(job)
        wait_for(lambda: not self.batch.alive(), "the end of all jobs")


@pytest.fixture
def site(cloud: Cloud, tmp_path: Path) -> Iterator[Site]:
    """The cloud, without faults."""
    one = Site(cloud, tmp_path)
    yield one
    one.close()


# -- machines that go away ----------------------------------------------------------------


def test_preempted_jobs_are_run_again(site: Site) -> None:
    """It is no failure, and what the first start left is taken back; nor is it for ever."""
    workflow = site.workflow(
        f"""
        rule all:
            input: "a", "b"
        rule a:
            output: "a"
            resources: gbatch_provisioning_model="SPOT"
            shell:
                "echo $BATCH_TASK_RETRY_ATTEMPT >> effects; [ ! -e {{output}} ] || exit 9; "
                "touch {{output}} a.started; {HELD}"
        rule b:
            output: "b"
            resources: gbatch_provisioning_model="SPOT", gbatch_max_spot_attempts=0
            shell: "touch {{output}} b.started; {HELD}"
        """
    )
    process = workflow.start("--keep-going")
    site.batch.lose_machine(site.running(process, workflow, "b"))
    site.batch.lose_machine(site.running(process, workflow, "a"))
    process.wait_for(lambda: len(workflow.lines("effects")) == 2, "the second start")
    process.says("Error in rule b")
    workflow.file("go")
    result = process.wait().failed()
    assert workflow.lines("effects") == ["0", "1"]
    assert workflow.exists("a")
    assert [failure.rule for failure in result.failures()] == ["b"]
    message = result.failure("b").message
    assert message.startswith("preempted"), message
    assert "50001" in message
    assert len(site.created()) == 2, "Batch itself ran it again"
    workflow.assert_nothing_runs()


def test_reserved_exit_codes_are_named(site: Site) -> None:
    codes = {
        "reporting": (50002, "the node failed"),
        "rebooted": (50003, "the node failed"),
        "unresponsive": (50004, "the node failed"),
        "recreated": (50006, "the node failed"),
    }
    rules = "\n".join(
        f"""
        rule {rule}:
            output: "{rule}"
            shell: "touch {{output}} {rule}.started; sleep 60"
        """
        for rule in codes
    )
    workflow = site.workflow(
        f"""
        rule all:
            input: "over", {", ".join(f'"{rule}"' for rule in codes)}
        rule over:
            output: "over"
            resources: gbatch_taskGroups="{{taskSpec: {{maxRunDuration: 2s}}}}"
            shell: "touch {{output}}; sleep 60"
        {rules}
        """
    )
    process = workflow.start("--keep-going", jobs=6)
    for rule, (code, _) in codes.items():
        site.batch.lose_machine(site.running(process, workflow, rule), code)
    result = process.wait().failed()
    for rule, (code, words) in codes.items():
        message = result.failure(rule).message
        assert message.startswith(words), message
        assert f"exit code {code}" in message
        assert not workflow.exists(rule)
    over = result.failure("over").message
    assert over.startswith("ran longer than allowed"), over
    assert "50005" in over
    workflow.assert_nothing_runs()


# -- the API -------------------------------------------------------------------------------


def test_refusals_and_a_lost_answer(site: Site) -> None:
    """429, 503 and 500 are waited out, and a job whose answer was lost is not made twice."""
    workflow = site.workflow(
        """
        rule all:
            input: "b"
        rule a:
            output: "a"
            shell: "echo a >> effects; touch {output}"
        rule b:
            input: "a"
            output: "b"
            shell: "echo b >> effects; touch {output}"
        """
    )
    process = workflow.start()
    process.says("Building DAG of jobs")
    process.wait_for(lambda: site.batch.of("ListJobs"), "the first call")
    site.batch.lost_answers = 1
    site.batch.refusals.extend(
        [
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        ]
    )
    result = process.wait().ok()
    result.has("Google Batch does not answer", "trying again")
    assert workflow.lines("effects") == ["a", "b"]
    assert len(site.batch.jobs()) == len({job.name for job in site.batch.jobs()})
    ids = [request.job_id for request in site.created()]
    assert len(set(ids)) == 2, "an attempt is repeated under its own id"


def test_an_outage_fails_no_job(site: Site) -> None:
    """One job ends while Batch is away, one goes on after it."""
    workflow = site.workflow(
        """
        rule all:
            input: "short", "long"
        rule short:
            output: "short"
            shell: "touch short.started; until [ -e away ]; do sleep 0.05; done; touch {output}"
        rule long:
            output: "long"
            shell: "touch long.started; until [ -e back ]; do sleep 0.05; done; touch {output}"
        """
    )
    process = workflow.start()
    site.running(process, workflow, "short")
    site.running(process, workflow, "long")
    site.batch.away = True
    workflow.file("away")
    process.says("Finished jobid")
    process.says("no job is affected")
    site.batch.away = False
    workflow.file("back")
    process.wait().ok()
    assert len(site.created()) == 2


def test_a_refusal_for_good_fails_that_job_alone(site: Site) -> None:
    workflow = site.workflow(
        """
        rule all:
            input: "good", "bad"
        rule good:
            output: "good"
            shell: "touch {output}"
        rule bad:
            output: "bad"
            resources: gbatch_machine_type="no-such-type"
            shell: "touch {output}"
        """
    )
    result = workflow.run("--keep-going").failed()
    message = result.failure("bad").message
    assert message.startswith("could not be submitted"), message
    assert "machine_type is not found" in message
    assert workflow.exists("good")


def test_a_stall_is_shown(site: Site) -> None:
    workflow = site.workflow(
        """
        rule a:
            output: "a"
            shell: "touch {output}"
        """
    )
    site.batch.set_quota(0)
    process = workflow.start()
    process.says("Waiting: a (")
    process.says("Quota: CPUS_ALL_REGIONS")
    site.batch.set_quota(None)
    process.wait().ok()


def test_what_a_job_wrote_that_never_ran_comes_from_the_log(site: Site) -> None:
    workflow = site.workflow(
        """
        rule a:
            output: "a"
            resources: gbatch_commands="/no/such/program"
            shell: "touch {output}"
        """
    )
    failure = workflow.run().failed().failure("a")
    assert failure.message.startswith("could not be started on the node, exit status 127")
    assert "/no/such/program" in failure.text


def test_cancelled_by_somebody_else(site: Site) -> None:
    workflow = site.workflow(
        """
        rule a:
            output: "a"
            shell: "touch {output} a.started; sleep 60"
        """
    )
    process = workflow.start()
    site.batch.cancel_from_outside(site.running(process, workflow, "a"))
    message = process.wait().failed().failure("a").message
    assert message.startswith("cancelled"), message
    assert not workflow.exists("a")
    workflow.assert_nothing_runs()


def test_cancel_says_what_it_could_not_cancel(site: Site) -> None:
    workflow = site.workflow(
        """
        rule a:
            output: "a"
            shell: "touch {output} a.started; sleep 60"
        """
    )
    process = workflow.start()
    told = site.running(process, workflow, "a")
    site.batch.cannot_cancel = True
    process.interrupt()
    result = process.wait().failed()
    line = result.line("may still be there")
    assert told in line
    assert "batch.jobs.cancel" in line


# -- secrets -----------------------------------------------------------------------------------


def test_secrets_are_nowhere(site: Site) -> None:
    """Of a variable of ``envvars:`` only the job's own script knows, and not even that of one
    that comes from Secret Manager.
    """
    reference = "projects/p/secrets/s/versions/1"
    site.batch.secrets[reference] = "from-manager"
    workflow = site.workflow(
        """
        envvars: "PLAIN", "MANAGED"
        rule a:
            output: "a"
            shell:
                "touch a.started; until [ -e go ]; do sleep 0.05; done; "
                "echo $PLAIN $MANAGED | md5sum > {output}"
        """
    )
    process = workflow.start(
        *("--pipen-gbatch-secrets", f"MANAGED={reference}"),
        env={"PLAIN": "hunter2", "MANAGED": "hunter3"},
    )
    site.running(process, workflow, "a")
    client = site.cloud.storage.client()
    holding = []
    for name in site.cloud.storage.names():
        content = client.bucket("bucket").blob(name).download_as_bytes()
        assert b"hunter3" not in content, name
        if b"hunter2" in content:
            holding.append(name.rpartition("/")[2])
    assert holding == ["job.wrapped.gbatch"]
    workflow.file("go")
    result = process.wait().ok()
    assert workflow.read("a").split()[0] == "14858fd73a757888a4551eb54c52cbee"
    result.lacks("hunter")
    for call in site.batch.calls:
        assert "hunter" not in str(call.request)
    assert site.jobs_in_bucket() == [], "nothing of it stays"


# -- few calls, stable ids, nothing twice -------------------------------------------------------


@pytest.mark.slow
def test_five_hundred_jobs_take_few_calls(site: Site) -> None:
    workflow = site.workflow(
        """
        rule all:
            input: expand("out/{n}", n=range(500))
        rule a:
            output: "out/{n}"
            shell: "touch {output}"
        """
    )
    gcloud = workflow.file("bin/gcloud", "#!/bin/sh\necho called >> gcloud.log\n", 0o755)
    started = time.monotonic()
    workflow.run(
        jobs=500,
        timeout=400,
        env={"PATH": f"{gcloud.parent}:/usr/bin:/bin"},
    ).ok()
    seconds = time.monotonic() - started
    assert len(list(workflow.path("out").iterdir())) == 500
    counted = Counter(call.method for call in site.batch.calls)
    print(f"500 jobs in {seconds:.1f} s: {dict(counted)}")
    assert counted["CreateJob"] < 20
    assert counted["ListJobs"] < seconds
    assert counted["ListTasks"] + counted["GetJob"] < 20
    assert not workflow.exists("gcloud.log")
    assert site.jobs_in_bucket() == []


def test_ids_never_collide(site: Site) -> None:
    """Run after run; nothing is deleted before a submission, nor ever."""
    workflow = site.workflow(
        """
        rule _1st_Rule_of_a_workflow_whose_name_is_longer_than_any_identifier_may_be:
            output: "a"
            shell: "touch {output}"
        """
    )
    workflow.run().ok()
    workflow.run("--forceall").ok()
    ids = [request.job_id for request in site.created()]
    assert len(set(ids)) == 2
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", one) for one in ids)
    assert set(Counter(call.method for call in site.batch.calls)) <= {"CreateJob", "ListJobs"}


def test_one_of_many_tasks_is_ended(site: Site) -> None:
    """Batch can only cancel all tasks of a job: one is asked to end, the others go on."""
    text = """
        rule all:
            input: expand("{n}.out", n=range(3))
        rule a:
            output: "{n}.out"
            params: word=lambda wildcards: {"0": "zero"}.get(wildcards.n, "other")
            shell:
                "echo {params.word} >> effects; "
                "until [ -e go.{params.word} ]; do sleep 0.05; done; "
                "echo {params.word} > {output}"
        """
    workflow = site.workflow(text)
    process = workflow.start()
    process.wait_for(lambda: len(workflow.lines("effects")) == 3, "the start of all")
    process.kill9()
    assert len(site.created()) == 1
    workflow.snakefile(text.replace('"zero"', '"changed"'))
    process = workflow.start("--nolock", "--rerun-incomplete")
    process.says("taken up again", times=2)
    process.wait_for(lambda: "changed" in workflow.lines("effects"), "the new job's start")
    workflow.file("go.other")
    workflow.file("go.changed")
    workflow.file("go.zero")
    process.wait().ok()
    assert Counter(workflow.lines("effects")) == {"zero": 1, "other": 2, "changed": 1}
    assert [workflow.read(f"{n}.out") for n in range(3)] == ["changed\n", "other\n", "other\n"]
    workflow.assert_nothing_runs()


# -- nothing shared but the bucket ---------------------------------------------------------------


def test_a_killed_run_is_taken_up_from_the_bucket(site: Site) -> None:
    """Nothing runs twice, and nothing is left."""
    workflow = site.in_bucket(
        """
        rule all:
            input: "last"
        rule a:
            output: "{n}.out"
            params: place=lambda wildcards, output: config["place"]
            shell:
                "mkdir -p {params.place}/effects; "
                "touch {params.place}/effects/{wildcards.n}.$(cat /proc/sys/kernel/random/uuid); "
                "until [ -e {params.place}/go.{wildcards.n} ]; do sleep 0.2; done; "
                "echo {wildcards.n} > {output}"
        rule last:
            input: "1.out", "2.out"
            output: "last"
            shell: "cat {input} > {output}"
        """
    )
    arguments = ("--config", f"place=/mnt/disks/{BUCKET}/{workflow.prefix}", "--nolock")

    def effects() -> Counter[str]:
        names = [name for name in workflow.names() if name.startswith("effects/")]
        return Counter(name.partition(".")[0] for name in names)

    process = workflow.start(*arguments)
    process.wait_for(lambda: sum(effects().values()) == 2, "the start of two jobs")
    process.kill9()
    workflow.object("go.1").upload_from_string("")
    wait_for(lambda: workflow.exists("1.out"), "the output of one job")
    process = workflow.start(*arguments)
    process.says("taken up again")
    workflow.object("go.2").upload_from_string("")
    process.wait().ok()
    assert workflow.read("last") == "1\n2\n"
    assert effects() == {"effects/1": 1, "effects/2": 1}
    assert not [name for name in workflow.names() if name.startswith(".pipen")]
    assert not site.batch.alive()
    workflow.run(*arguments).ok().has("Nothing to be done")


def test_what_would_be_submitted(site: Site) -> None:
    """It is told without a word to Batch."""
    workflow = site.workflow("rule a:\n    output: 'a.out'\n    shell: 'touch {output}'\n")
    options = ("a", "--wrapper", "--", *workflow.argv()[2:])
    said = pipen_executors(workflow, "script", *options).ok().out
    assert "PIPEN_GBATCH_JOB" in said
    assert not site.batch.calls
    assert not workflow.exists("a.out")


def test_through_executor_pipen_files_lie_in_storage(site: Site) -> None:
    """Otherwise Snakemake would look for outputs here, and remove those in the bucket."""
    workflow = site.in_bucket("rule a:\n    output: 'a.out'\n    shell: 'touch {output}'\n")
    arguments = (
        *("--pipen-scheduler", "gbatch", "--default-storage-provider", "gcs"),
        *("--default-storage-prefix", f"gs://{BUCKET}/{workflow.prefix}"),
        *("--storage-gcs-project", PROJECT, "--pipen-options"),
        *(f"project={PROJECT}", "location=us-central1"),
    )
    workflow.backend = replace(
        workflow.backend, executor="pipen", drives="gbatch", arguments=arguments
    )
    line = workflow.run().failed().line("Scheduler gbatch shares no files")
    assert "--shared-fs-usage none" in line
    assert not site.created()
    workflow.run("--shared-fs-usage", "none").ok()
    assert workflow.exists("a.out")


class TestDoctor:
    """The check-up before a first run."""

    @pytest.fixture
    def workflow(self, site: Site) -> Workflow:
        return site.workflow("rule a:\n    output: 'a.out'\n    shell: 'touch {output}'\n")

    def doctor(self, workflow: Workflow, *arguments: str, **settings: str) -> Said:
        known = {
            "project": PROJECT,
            "location": "us-central1",
            "remote_workdir": f"gs://{BUCKET}/doctor",
            **settings,
        }
        words = [word for name in known for word in ("--set", f"{name}={known[name]}")]
        return pipen_executors(workflow, "doctor", "gbatch", *words, *arguments)

    def test_all_is_well(self, workflow: Workflow, cloud: Cloud) -> None:
        said = self.doctor(workflow)
        assert said.rc == 0, said.out + said.err
        assert "Batch runs jobs in us-central1, one of 2 locations" in said.out
        assert f"the jobs of project {PROJECT} can be listed" in said.out
        assert "can be written, read, listed and removed" in said.out
        assert "jobs run as Compute Engine's default service account" in said.out
        assert "a job of a second ran on" in said.out
        assert not [name for name in cloud.storage.names() if name.startswith("doctor/")]

    def test_what_is_wrong(self, workflow: Workflow, cloud: Cloud) -> None:
        quick = "--no-probe"
        said = pipen_executors(workflow, "doctor", "gbatch", quick)
        assert said.rc == 1
        assert "no project is named" in said.out
        assert "no location is named" in said.out
        said = self.doctor(workflow, quick, location="moon1")
        assert said.rc == 1
        assert "name one of europe-west4, us-central1" in said.out
        said = self.doctor(workflow, quick, remote_workdir="gs://nosuch-bucket/x")
        assert said.rc == 1
        assert "cannot be written to" in said.out
        assert "Storage Object Admin" in said.out
        said = self.doctor(workflow, quick, remote_workdir="")
        assert said.rc == 1
        assert "--default-storage-prefix" in said.out
        cloud.batch.refusals.append(grpc.StatusCode.PERMISSION_DENIED)
        said = self.doctor(workflow, quick)
        assert said.rc == 1
        assert "roles/batch.jobsEditor" in said.out
        cloud.batch.away = True
        said = self.doctor(workflow, quick)
        assert said.rc == 1
        assert "batch.googleapis.com" in said.out

    def test_profile(self, workflow: Workflow) -> None:
        words = ("profile", "gbatch", "--set", "project=p1", "--set", "location=us-central1")
        profile = pipen_executors(workflow, *words).ok().out
        assert yaml.safe_load(profile) == {
            "executor": "pipen-gbatch",
            "jobs": 500,
            "pipen-gbatch-project": "p1",
            "pipen-gbatch-location": "us-central1",
        }
        assert "# default-storage-prefix: gs://" in profile
