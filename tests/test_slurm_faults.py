"""pipen-slurm when things go wrong, on a real Slurm.

Every end of a job is told with its reason within ten seconds, and every run ends by itself.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conformance.harness import Process, Workflow, wait_for
from .services.slurm import ACCOUNT, SlurmCluster
from .services.users import TEST_USER
from .slurm_support import (
    Counted,
    backend_on,
    cluster_or_skip,
    cpu_seconds,
    reported,
    wait_jid,
)

pytestmark = pytest.mark.slurm

PREEMPTION: dict[str, Any] = {
    "options": {
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "AccountingStorageEnforce": "associations,limits,qos",
        "Licenses": "tool:1",
    },
    "extra_lines": (
        "PartitionName=low Nodes=node[1-2] PriorityTier=1 PreemptMode=CANCEL",
        "PartitionName=again Nodes=node[1-2] PriorityTier=1 PreemptMode=REQUEUE",
        "PartitionName=high Nodes=node[1-2] PriorityTier=10 PreemptMode=OFF",
    ),
}


@pytest.fixture(scope="module")
def accounted() -> Iterator[SlurmCluster]:
    """A cluster with accounting and limits."""
    with cluster_or_skip(**PREEMPTION) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def bare() -> Iterator[SlurmCluster]:
    """A cluster without accounting, that forgets at once and has small arrays."""
    options = {"MaxArraySize": 5, "MessageTimeout": 3}
    with cluster_or_skip(accounting=False, min_job_age=2, options=options) as cluster:
        yield cluster


class Site:
    """A cluster, and as whom workflows are run on it."""

    def __init__(self, cluster: SlurmCluster, user: str | None, home: Path) -> None:
        self.cluster = cluster
        self.user = user
        self._home = home
        self._workflows: list[Workflow] = []
        self.counted: Counted | None = None

    def workflow(self, text: str, name: str = "run", **changes: Any) -> Workflow:
        """Return a workflow in a directory of its own."""
        workflow = Workflow(self._home / name, backend_on(self.cluster, self.user, **changes))
        workflow.snakefile(text)
        self._workflows.append(workflow)
        return workflow

    def counting(self) -> Counted:
        """Return counters for the commands of a workflow."""
        return Counted(self.cluster, self.cluster.scratch / f"shims-{time.monotonic_ns()}")

    def close(self) -> None:
        for workflow in self._workflows:
            workflow.close()
        self.cluster.run("scancel", "--user=root", check=False)
        self.cluster.run("scancel", f"--user={TEST_USER}", check=False)
        self.cluster.wait_idle()


@pytest.fixture
def site(accounted: SlurmCluster, tmp_path: Path) -> Iterator[Site]:
    """The cluster with accounting, as root."""
    one = Site(accounted, None, tmp_path)
    yield one
    one.close()


@pytest.fixture
def bare_site(bare: SlurmCluster, tmp_path: Path) -> Iterator[Site]:
    """The cluster without accounting, as an ordinary user."""
    one = Site(bare, TEST_USER, tmp_path)
    yield one
    one.close()


@pytest.fixture(params=["accounting", "bare"])
def each_site(request: pytest.FixtureRequest) -> Site:
    """Both, one after the other."""
    name = {"accounting": "site", "bare": "bare_site"}[request.param]
    one: Site = request.getfixturevalue(name)
    return one


def is_accounted(site: Site) -> bool:
    return site.cluster.settings.accounting


def in_queue(site: Site) -> set[str]:
    """Return all jobs that wait or run; of what has ended, the nodes are still cleaned."""
    listed = site.cluster.run("squeue", "-h", "-r", "-t", "PENDING,RUNNING", "-o", "%i")
    return set(listed.stdout.split())


def started(process: Process, workflow: Workflow, *names: str) -> None:
    for name in names:
        process.wait_for(lambda name=name: workflow.exists(name), f"{name}")  # type: ignore[misc]


# -- reasons ---------------------------------------------------------------------------


def test_jobs_that_run(each_site: Site) -> None:
    """Over its memory, cancelled by another, node lost, not to be launched, killed."""
    cluster = each_site.cluster
    workflow = each_site.workflow(
        """
        rule all:
            input: "memory", "cancelled", "node", "launch", "killed"
        rule memory:
            output: "memory"
            resources: mem_mb=50, constraint="only_node1"
            shell: "touch {output}; perl -e '$x = q(x) x 200_000_000; sleep 600'"
        rule cancelled:
            output: "cancelled"
            resources: constraint="only_node1"
            shell: "touch {output} cancelled.started; sleep 600"
        rule node:
            output: "node"
            resources: constraint="only_node2"
            shell: "touch {output} node.started; sleep 600"
        rule launch:
            output: "launch"
            resources: pipen_options="output=/nonexistent/directory/output"
            shell: "touch {output}"
        rule killed:
            output: "killed"
            resources: constraint="only_node1"
            shell: "touch {output}; echo $PPID $$ > killed.started; sleep 600"
        """
    )
    process = workflow.start("--keep-going", jobs=5)
    started(process, workflow, "cancelled.started", "node.started", "killed.started")
    reported(process, "launch")
    cluster.cancel(wait_jid(process, workflow, "cancelled"))
    cluster.node_down("node2")
    reported(process, "cancelled")
    reported(process, "node")
    cluster.node_resume("node2")
    pids = process.wait_for(lambda: workflow.read("killed.started").split(), "its processes")
    os.kill(int(pids[0]), signal.SIGKILL)
    os.killpg(int(pids[1]), signal.SIGKILL)
    reported(process, "killed")
    result = process.wait().failed()
    reasons = {failure.rule: failure.message for failure in result.failures()}
    assert reasons["memory"].startswith("out of memory"), reasons
    assert "exceeded memory limit" in reasons["memory"]
    assert reasons["cancelled"].startswith("cancelled, exit status 143"), reasons
    assert reasons["node"].startswith("the node failed"), reasons
    if is_accounted(each_site):
        assert "by root" in reasons["cancelled"]
        assert reasons["launch"].startswith("could not be started on the node"), reasons
        assert "SIGKILL" in reasons["killed"], reasons
    for rule in reasons:
        assert not workflow.exists(rule)
    workflow.assert_nothing_runs()


def test_jobs_that_wait(each_site: Site) -> None:
    """Held (and let go), cancelled by another, and what can never run."""
    cluster = each_site.cluster
    may_fail = cluster.scratch / f"fail-{time.monotonic_ns()}"
    failing = f"--wrap=until [ -e {may_fail} ]; do sleep 0.1; done; exit 1"
    failed = cluster.run("sbatch", "--parsable", failing, user=each_site.user)
    workflow = each_site.workflow(
        f"""
        rule all:
            input: "held", "cancelled", "large", "dependent", "refused"
        rule held:
            output: "held"
            resources: pipen_options="hold=true"
            shell: "touch {{output}}"
        rule cancelled:
            output: "cancelled"
            resources: pipen_options="hold=true"
            shell: "touch {{output}}"
        rule large:
            output: "large"
            resources: pipen_options="cpus_per_task=1000"
            shell: "touch {{output}}"
        rule dependent:
            output: "dependent"
            resources: pipen_options="dependency=afterok:{failed.stdout.strip()}"
            shell: "touch {{output}}"
        rule refused:
            output: "refused"
            resources: slurm_partition="nope"
            shell: "touch {{output}}"
        """
    )
    process = workflow.start("--keep-going", jobs=5)
    reported(process, "refused")
    # Only now: Slurm soon forgets a job that has ended, and what depends on none may run.
    wait_jid(process, workflow, "dependent")
    may_fail.touch()
    process.wait_for(lambda: "JobHeldUser" in process.text, "the reason of waiting")
    cluster.cancel(wait_jid(process, workflow, "cancelled"))
    reported(process, "cancelled")
    process.wait_for(lambda: "Error in rule large" in process.text, "the end of large")
    process.wait_for(lambda: "Error in rule dependent" in process.text, "the end of dependent")
    cluster.run("scontrol", "release", wait_jid(process, workflow, "held"))
    result = process.wait().failed()
    assert workflow.exists("held")
    reasons = {failure.rule: failure.message for failure in result.failures()}
    assert set(reasons) == {"cancelled", "large", "dependent", "refused"}
    assert reasons["cancelled"].startswith("cancelled"), reasons
    if is_accounted(each_site):
        assert "by root" in reasons["cancelled"]
    assert "invalid partition" in reasons["refused"].lower()
    assert reasons["refused"].startswith("could not be submitted")
    # Newer releases refuse what older ones let wait for ever.
    for rule, word in (("large", "PartitionConfig"), ("dependent", "DependencyNeverSatisfied")):
        told = reasons[rule]
        assert (told.startswith("can never be scheduled") and word in told) or told.startswith(
            "could not be submitted"
        ), told


@pytest.mark.slow
def test_time_limit_and_deadline(site: Site) -> None:
    """Slurm's shortest time limit is a minute; a deadline is for a job that waits."""
    site.cluster.run("sbatch", "--licenses=tool:1", "--wrap=sleep 300")
    workflow = site.workflow(
        """
        rule all:
            input: "limit", "deadline"
        rule limit:
            output: "limit"
            resources: slurm_partition="short", runtime=1
            shell: "touch {output}; sleep 300"
        rule deadline:
            output: "deadline"
            resources: runtime=1, pipen_options="deadline=now+70seconds licenses=tool:1"
            shell: "touch {output}; sleep 300"
        """
    )
    process = workflow.start("--keep-going")
    limit, deadline = (wait_jid(process, workflow, rule) for rule in ("limit", "deadline"))
    for rule, jid, state in (("limit", limit, "TIMEOUT"), ("deadline", deadline, "DEADLINE")):
        site.cluster.wait_state(jid, state, timeout=150)
        reported(process, rule)
    result = process.wait().failed()
    told = result.failure("limit").message
    assert told.startswith("ran longer than allowed, exit status 143"), told
    assert "TIME LIMIT" in told
    assert "DEADLINE" in result.failure("deadline").message


def test_preempted(site: Site) -> None:
    """For good where the partition cancels; put back into the queue where it requeues."""
    cluster = site.cluster
    workflow = site.workflow(
        """
        rule all:
            input: "gone", "again"
        rule gone:
            output: "gone"
            resources: slurm_partition="low", constraint="only_node1"
            shell: "touch {output} gone.started; sleep 600"
        rule again:
            output: "again"
            resources:
                slurm_partition="again", constraint="only_node2", pipen_options="requeue=true"
            shell:
                "if [ -e {output} ]; then echo left >> left; fi; echo x >> again.log; "
                "touch {output}; [ $(wc -l < again.log) = 2 ] || sleep 600"
        """
    )
    process = workflow.start("--keep-going")
    started(process, workflow, "gone.started", "again.log")
    urgent = cluster.run(
        "sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--wrap=true"
    )
    again = wait_jid(process, workflow, "again")
    reported(process, "gone")
    assert urgent.stdout
    process.wait_for(lambda: "was requeued" in process.text, "word of the requeue")
    start_again(process, cluster, again)
    result = process.wait().failed()
    assert [failure.rule for failure in result.failures()] == ["gone"], result.text
    assert result.failure("gone").message.startswith("preempted"), result.text
    assert workflow.lines("again.log") == ["x", "x"]
    assert not workflow.exists("left"), "outputs of the first start are removed"
    assert wait_for(lambda: workflow.job("again").jid) == again, "not submitted a second time"


def start_again(process: Process, cluster: SlurmCluster, jid: str) -> None:
    """Let a requeued job start without the two minutes that Slurm makes it wait.

    Not in the same second: slurmd takes that for the start that was revoked.
    """
    process.wait_for(lambda: cluster.job_state(jid) == "PENDING", "the job to wait again")
    later = time.time() + 2
    process.wait_for(lambda: time.time() > later, "another second")
    cluster.run("scontrol", "update", f"JobId={jid}", "StartTime=now")


def test_requeued(each_site: Site) -> None:
    """Slurm runs the job again: no second submission, and no outputs of the first start."""
    counted = each_site.counting()
    workflow = each_site.workflow(
        """
        rule a:
            output: "a"
            resources: pipen_options="requeue=true"
            shell:
                "if [ -e {output} ]; then echo left >> left; fi; echo x >> log; "
                "echo half > {output}; [ $(wc -l < log) = 2 ] || sleep 600; echo whole > {output}"
        """,
        environment=counted.environment,
    )
    process = workflow.start()
    started(process, workflow, "log")
    jid = wait_jid(process, workflow, "a")
    each_site.cluster.run("scontrol", "requeue", jid)
    process.wait_for(lambda: "was requeued" in process.text, "word of the requeue")
    start_again(process, each_site.cluster, jid)
    process.wait().ok()
    assert workflow.lines("log") == ["x", "x"]
    assert workflow.read("a") == "whole\n"
    assert not workflow.exists("left")
    assert len(counted.of("sbatch")) == 1


# -- daemons away ----------------------------------------------------------------------

CHAIN = """
    rule all:
        input: "second", "other"
    rule first:
        output: "first"
        shell: "echo first >> effects; touch {output}; until [ -e go ]; do sleep 0.1; done"
    rule second:
        input: "first"
        output: "second"
        shell: "echo second >> effects; touch {output}"
    rule other:
        output: "other"
        shell: "echo other >> effects; touch {output}; until [ -e go ]; do sleep 0.1; done"
    """


def controller_away(site: Site, seconds: float) -> None:
    """One job ends and the next is submitted while slurmctld is away, for so long at least."""
    workflow = site.workflow(CHAIN)
    process = workflow.start()
    process.wait_for(lambda: len(workflow.lines("effects")) == 2, "the start of two jobs")
    site.cluster.stop_controller()
    try:
        over = time.monotonic() + seconds
        workflow.file("go")
        process.says("Finished jobid")
        process.says("Unable to contact slurm controller")
        process.wait_for(lambda: time.monotonic() >= over, "the outage", timeout=2 * seconds)
    finally:
        site.cluster.start_controller()
    process.wait().ok().lacks("Error in rule")
    assert sorted(workflow.lines("effects")) == ["first", "other", "second"]


def test_controller_away(each_site: Site) -> None:
    controller_away(each_site, 0)


@pytest.mark.slow
def test_controller_killed(site: Site) -> None:
    """It may come up with an older state and start once more what it takes for lost."""
    workflow = site.workflow(
        """
        rule all:
            input: expand("{n}.out", n=range(4))
        rule held:
            output: "{n}.out"
            resources: pipen_options="requeue=true"
            shell:
                "echo S {wildcards.n} >> effects; echo half > {output}; "
                "until [ -e go ]; do sleep 0.1; done; echo whole > {output}; "
                "echo E {wildcards.n} >> effects"
        """
    )
    process = workflow.start()
    process.wait_for(lambda: len(workflow.lines("effects")) == 4, "the start of all jobs")
    site.cluster.kill_controller()
    site.cluster.start_controller()
    process.wait_for(lambda: site.cluster.run("squeue", "--noheader").stdout, "the controller")
    workflow.file("go")
    process.wait(240).ok()
    assert sorted(workflow.lines("effects")) == sorted(f"{w} {n}" for w in "SE" for n in range(4))
    assert [workflow.read(f"{n}.out") for n in range(4)] == ["whole\n"] * 4
    workflow.assert_nothing_runs()


@pytest.mark.slow
def test_controller_away_for_a_minute(site: Site) -> None:
    controller_away(site, 60)


def test_controller_hangs_and_takes_the_submission(bare_site: Site) -> None:
    """sbatch gives up, but the job is there: it is found, and not submitted again."""
    counted = bare_site.counting()
    workflow = bare_site.workflow(
        """
        rule all:
            input: expand("{n}.out", n=range(4))
        rule first:
            output: touch("first")
            shell: "until [ -e go ]; do sleep 0.1; done"
        rule a:
            input: "first"
            output: "{n}.out"
            shell: "echo {wildcards.n} >> effects; touch {output}"
        """,
        environment=counted.environment,
    )
    process = workflow.start()
    wait_jid(process, workflow, "first")
    process.wait_for(lambda: workflow.job("first").read("job.status").strip() == "4", "its start")
    bare_site.cluster.hang_controller()
    workflow.file("go")
    try:
        process.wait_for(lambda: "timed out" in process.text, "sbatch to give up")
    finally:
        bare_site.cluster.wake_controller()
    process.wait().ok()
    assert sorted(workflow.lines("effects")) == ["0", "1", "2", "3"]
    assert in_queue(bare_site) == set(), "nothing of the first submission is left"


def test_interrupt_while_the_controller_hangs(bare_site: Site) -> None:
    """What was submitted without an answer is not left in the queue."""
    workflow = bare_site.workflow(
        """
        rule all:
            input: expand("{n}.out", n=range(4))
        rule first:
            output: touch("first")
            shell: "until [ -e go ]; do sleep 0.1; done"
        rule a:
            input: "first"
            output: "{n}.out"
            resources: pipen_options="hold=true"
            shell: "touch {output}"
        """
    )
    process = workflow.start()
    wait_jid(process, workflow, "first")
    process.wait_for(lambda: workflow.job("first").read("job.status").strip() == "4", "its start")
    bare_site.cluster.hang_controller()
    workflow.file("go")
    try:
        process.wait_for(lambda: "timed out" in process.text, "sbatch to give up")
        process.interrupt()
    finally:
        bare_site.cluster.wake_controller()
    process.wait().failed()
    assert in_queue(bare_site) == set()


def test_database_away(site: Site) -> None:
    """Reasons that slurmctld knows are told; who cancelled is what only accounting knows.

    Done when slurmctld has found slurmdbd again, for which it takes its time, so that the tests
    that follow have accounting.
    """
    workflow = site.workflow(CHAIN)
    process = workflow.start("--keep-going")
    process.wait_for(lambda: len(workflow.lines("effects")) == 2, "the start of two jobs")
    site.cluster.stop_dbd()
    try:
        jid = wait_jid(process, workflow, "other")
        site.cluster.cancel(jid)
        reported(process, "other")
        workflow.file("go")
        result = process.wait().failed()
    finally:
        site.cluster.start_dbd()
    assert workflow.exists("second")
    assert result.failure("other").message.startswith("cancelled"), result.text
    ask = ("sacct", "--allocations", "--noheader", "--format=State%30", f"--jobs={jid}")
    wait_for(lambda: "CANCELLED by" in site.cluster.run(*ask).stdout, "its record", timeout=120)


# -- submission ------------------------------------------------------------------------

EIGHT = """
    rule all:
        input: expand("{n}.out", n=range(12))
    rule a:
        output: "{n}.out"
        shell: "echo {wildcards.n} >> effects; touch {output}"
    """


def test_submit_limit_is_waited_out(site: Site) -> None:
    user = ("where", f"user={TEST_USER}", f"account={ACCOUNT}")
    site.user = TEST_USER
    workflow = site.workflow(EIGHT)
    site.cluster.run("sacctmgr", "-i", "modify", "user", *user, "set", "MaxSubmitJobs=5")
    try:
        result = workflow.run(jobs=12).ok()
    finally:
        site.cluster.run("sacctmgr", "-i", "modify", "user", *user, "set", "MaxSubmitJobs=-1")
    assert sorted(workflow.lines("effects"), key=int) == [str(n) for n in range(12)]
    result.has("AssocMaxSubmitJobLimit", "waiting until it takes more")


def test_more_jobs_than_an_array_may_have(bare_site: Site) -> None:
    counted = bare_site.counting()
    workflow = bare_site.workflow(EIGHT, environment=counted.environment)
    workflow.run(jobs=12).ok()
    assert sorted(workflow.lines("effects"), key=int) == [str(n) for n in range(12)]
    assert len(counted.of("sbatch")) == 3, counted.calls


def test_inside_an_allocation(site: Site) -> None:
    """The variables of the surrounding job are neither options nor the jobs' environment."""
    workflow = site.workflow(
        """
        rule a:
            output: "a"
            shell: "echo $SLURM_NTASKS ${{SLURM_MEM_PER_CPU-}} $SLURM_JOB_NAME > {output}"
        """
    )
    inner = {
        "SLURM_JOB_ID": "999999",
        "SLURM_JOBID": "999999",
        "SLURM_ARRAY_JOB_ID": "999999",
        "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_NTASKS": "64",
        "SLURM_MEM_PER_CPU": "1",
        "SLURM_MEM_PER_NODE": "1",
        "SLURM_CPUS_PER_TASK": "31",
        "SLURM_JOB_NAME": "outer",
        "SLURMD_NODENAME": "elsewhere",
    }
    workflow.run(env=inner).ok()
    tasks, *memory, name = workflow.read("a").split()
    assert tasks == "1"
    assert "1" not in memory
    assert name.endswith("-a")
    assert workflow.job("a").jid.isdigit()


def test_named_cluster(site: Site) -> None:
    """Ids carry the cluster; status, accounting and cancellation ask there."""
    counted = site.counting()
    workflow = site.workflow(
        """
        rule all:
            input: expand("{n}.out", n=range(3)), "cancelled", "long"
        rule a:
            output: "{n}.out"
            shell: "touch {output}"
        rule cancelled:
            output: "cancelled"
            shell: "touch {output} cancelled.started; sleep 600"
        rule long:
            output: "long"
            shell: "touch {output} long.started; sleep 600"
        """,
        environment=counted.environment,
    )
    process = workflow.start("--keep-going", "--default-resources", "clusters='pipentest'", jobs=5)
    started(process, workflow, "cancelled.started", "long.started")
    jid, _, cluster = wait_jid(process, workflow, "cancelled").partition(";")
    assert cluster == "pipentest"
    site.cluster.cancel(jid)
    reported(process, "cancelled")
    process.interrupt()
    result = process.wait().failed()
    assert "by root" in result.failure("cancelled").message
    assert [workflow.exists(f"{n}.out") for n in range(3)] == [True] * 3
    assert all("--clusters=pipentest" in call for call in counted.calls if "config" not in call)
    site.cluster.wait_idle()


def test_retry_leaves_the_array(site: Site) -> None:
    workflow = site.workflow(
        """
        rule all:
            input: expand("{n}.out", n=range(3))
        rule a:
            output: "{n}.out"
            shell:
                "echo x >> {wildcards.n}.log; touch {output}; "
                "[ {wildcards.n} != 1 ] || [ $(wc -l < 1.log) = 2 ]"
        """
    )
    workflow.run(*workflow.backend.option("error_strategy", "retry"), jobs=3).ok()
    assert [len(workflow.lines(f"{n}.log")) for n in range(3)] == [1, 2, 1]
    (retried,) = [job for job in workflow.jobs("a") if job.attempts]
    assert "_" in retried.read("job.retry/1/job.jid")
    assert "_" not in retried.jid


def test_nodes_that_failed_are_left_out(site: Site) -> None:
    counted = site.counting()
    workflow = site.workflow(
        """
        rule a:
            output: "a"
            shell: "hostname >> log; [ $(wc -l < log) = 2 ] || sleep 600; touch {output}"
        """,
        environment=counted.environment,
    )
    process = workflow.start(
        workflow.backend.flag("exclude_failed_nodes"),
        *workflow.backend.option("error_strategy", "retry"),
    )
    started(process, workflow, "log")
    jid = wait_jid(process, workflow, "a")
    node = site.cluster.run("squeue", "-h", "-j", jid, "-o", "%N").stdout.strip()
    site.cluster.node_down(node)
    process.wait_for(lambda: "the node failed" in process.text, "the retry")
    site.cluster.node_resume(node)
    process.wait().ok()
    assert f"--exclude={node}" in counted.of("sbatch")[1]
    assert "--exclude" not in counted.of("sbatch")[0]


# -- Snakemake itself ------------------------------------------------------------------

KINDS = """
    rule all:
        input: "running", "ended", "waiting"
    rule running:
        output: "running"
        shell: "echo running >> effects; until [ -e go ]; do sleep 0.1; done; touch {output}"
    rule ended:
        output: "ended"
        shell: "echo ended >> effects; until [ -e end ]; do sleep 0.1; done; touch {output}"
    rule waiting:
        output: "waiting"
        resources: pipen_options="hold=true"
        shell: "echo waiting >> effects; touch {output}"
    """


def test_killed_and_started_again(each_site: Site) -> None:
    """Running jobs are taken up, ended ones collected, waiting ones run: each once."""
    cluster = each_site.cluster
    workflow = each_site.workflow(KINDS)
    process = workflow.start(jobs=3)
    process.wait_for(lambda: len(workflow.lines("effects")) == 2, "the start of two jobs")
    waiting = wait_jid(process, workflow, "waiting")
    process.kill9()
    workflow.file("end")
    wait_for(lambda: workflow.job("ended").rc == 0, "the end of a job")
    workflow.run("--unlock").ok()
    second = workflow.start(jobs=3)

    def released() -> bool:
        for jid in cluster.run("squeue", "-h", "-t", "PD", "-o", "%i").stdout.split():
            cluster.run("scontrol", "release", jid, check=False)
        return workflow.exists("waiting")

    second.wait_for(lambda: "taken up again" in second.text, "the running job's being taken up")
    second.wait_for(released, "the waiting job")
    workflow.file("go")
    second.wait().ok()
    assert sorted(workflow.lines("effects")) == ["ended", "running", "waiting"]
    assert waiting
    cluster.wait_idle()


def test_interrupt(each_site: Site) -> None:
    """No job of this run is left when Snakemake returns, and no other is touched."""
    cluster = each_site.cluster
    counted = each_site.counting()
    text = """
        rule all:
            input: expand("{n}.out", n=range(40)), "held"
        rule a:
            output: "{n}.out"
            threads: 4
            shell: "touch {output} {wildcards.n}.started; sleep 600"
        rule held:
            output: "held"
            resources: pipen_options="hold=true"
            shell: "touch {output}"
        """
    other = each_site.workflow(text.replace("range(40)", "range(2)"), "other")
    workflow = each_site.workflow(text, environment=counted.environment)
    stranger = cluster.run("sbatch", "--parsable", "--wrap=sleep 600", user=TEST_USER)
    beside = other.start(jobs=3)
    beside.wait_for(lambda: len(list(other.dir.glob("*.started"))) == 2, "the other run's jobs")
    before = in_queue(each_site)
    process = workflow.start(jobs=41)
    process.wait_for(lambda: list(workflow.dir.glob("*.started")), "the start of a job")
    wait_jid(process, workflow, "held")
    process.interrupt()
    result = process.wait().failed()
    left = in_queue(each_site)
    assert left == before
    assert stranger.stdout.strip() in left
    assert len(counted.of("scancel")) <= 2, counted.of("scancel")
    result.has("41 jobs have been cancelled").lacks("Error in rule")
    workflow.assert_nothing_runs()
    beside.interrupt()
    beside.wait()


# -- how often Slurm is asked ----------------------------------------------------------


def test_a_command_ends_with_its_wrapper(site: Site) -> None:
    """Without control groups Slurm loses it when its wrapper is killed; a retry would meet it."""
    workflow = site.workflow(
        """
        rule a:
            output: "a.out"
            shell: "echo $PPID > wrapper; exec sleep 600"
        """
    )
    process = workflow.start()
    process.wait_for(lambda: workflow.lines("wrapper"), "the job's start")
    os.kill(int(workflow.read("wrapper")), signal.SIGKILL)
    process.wait(120).failed()
    workflow.assert_nothing_runs()


def test_interrupt_ends_what_has_left_the_process_tree(site: Site) -> None:
    """A command deaf to TERM whose shell is gone: proctrack/linuxproc does not find it any more.

    Slurm ends the wrapper after KillWait (5 s here), which has to be done by then.
    """
    workflow = site.workflow(
        """
        rule deaf:
            output: "deaf.out"
            shell: "(trap '' TERM INT; touch started; sleep 60; sleep 60; touch {output}) & wait"
        """
    )
    process = workflow.start()
    started(process, workflow, "started")
    process.interrupt()
    process.wait(60).failed()
    workflow.assert_nothing_runs()


def test_commands_for_60_jobs(each_site: Site) -> None:
    counted = each_site.counting()
    workflow = each_site.workflow(
        """
        rule all:
            input: expand("{n}.out", n=range(60))
        rule a:
            output: "{n}.out"
            shell: "touch {output}"
        """,
        environment=counted.environment,
    )
    result = workflow.run(jobs=60).ok()
    arrays = 60 if is_accounted(each_site) else 5  # MaxArraySize
    assert len(counted.calls) <= 5 + 60 // arrays - 1, counted.calls
    print(f"60 jobs: {result.seconds:.1f} s, {len(counted.calls)} commands")


@pytest.mark.slow
def test_1000_jobs_held_in_the_queue(site: Site) -> None:
    counted = site.counting()
    workflow = site.workflow(
        """
        rule all:
            input: expand("{n}.out", n=range(1000))
        rule a:
            output: "{n}.out"
            shell: "touch {output}"
        """,
        environment=counted.environment,
    )
    nodes = site.cluster.settings.node_names
    for node in nodes:
        site.cluster.drain(node)
    try:
        process = workflow.start(jobs=1000)
        process.wait_for(
            lambda: sum(1 for job in workflow.jobs("a") if job.jid) == 1000, "the submission"
        )
        calls, cpu = len(counted.calls), cpu_seconds(process.pid)
        deadline = time.monotonic() + 60
        process.wait_for(lambda: time.monotonic() > deadline, "a minute", timeout=90)
        commands = len(counted.calls) - calls
        used = cpu_seconds(process.pid) - cpu
        process.interrupt()
        process.wait()
        assert in_queue(site) == set()
    finally:
        for node in nodes:
            site.cluster.node_resume(node)
    print(f"1000 jobs waiting: {commands} commands and {used:.2f} s of CPU time in a minute")
    assert commands < 10, counted.calls
    assert used < 0.05 * 60
    assert len(counted.of("scancel")) <= 6
