"""The Slurm that the other tests rely on: it comes up, runs a job, and goes away whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.common import ProcessRef, ServiceUnavailable, wait_until
from tests.services.require import unavailable
from tests.services.slurm import SlurmCluster
from tests.services.users import TEST_USER

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module", params=[True, False], ids=["accounting", "no-accounting"])
def cluster(request: pytest.FixtureRequest) -> Iterator[SlurmCluster]:
    """Bring a cluster up, once with and once without accounting."""
    try:
        with SlurmCluster(accounting=request.param, min_job_age=2) as running:
            yield running
    except ServiceUnavailable as reason:
        unavailable(reason)


@pytest.mark.parametrize("user", [None, TEST_USER], ids=["as-root", "as-user"])
def test_job_completes(cluster: SlurmCluster, user: str | None) -> None:
    output = cluster.scratch / f"who-{user}"
    wrap = f"--wrap=id --user --name > {output}.part && mv {output}.part {output}"
    jobid = cluster.run("sbatch", "--parsable", wrap, user=user).stdout.strip()
    # MinJobAge is so short that the job may be forgotten before it is seen as finished.
    wait_until(lambda: cluster.job_state(jobid) in {"COMPLETED", ""}, f"job {jobid} to end")
    assert output.read_text() == f"{user or 'root'}\n"
    if cluster.settings.accounting:
        wait_until(
            lambda: "COMPLETED|0:0" in accounted(cluster, jobid), "the job's accounting record"
        )


def accounted(cluster: SlurmCluster, jobid: str) -> str:
    return cluster.run("sacct", "-X", "-n", "-P", "-o", "State,ExitCode", "-j", jobid).stdout


def test_job_outlives_controller(cluster: SlurmCluster) -> None:
    output = cluster.scratch / "outlived"
    go = cluster.scratch / "go"
    script = f"#!/bin/sh\nuntil [ -e {go} ]; do sleep 0.05; done\ntouch {output}\n"
    jobid = cluster.run("sbatch", "--parsable", stdin=script).stdout.strip()
    cluster.wait_state(jobid, "RUNNING")
    cluster.stop_controller()
    assert "is DOWN" in cluster.run("scontrol", "ping", check=False).stdout
    go.touch()
    wait_until(output.exists, "the job to end without slurmctld")
    cluster.start_controller()
    cluster.wait_idle()
    assert "COMPLET" in cluster.job_state(jobid) or not cluster.job_state(jobid)


def test_node_goes_and_comes_back(cluster: SlurmCluster) -> None:
    cluster.node_down("node1")
    assert cluster.node_state("node1").startswith("DOWN")
    cluster.node_resume("node1")
    cluster.drain("node1")
    assert "DRAIN" in cluster.node_state("node1")
    cluster.node_resume("node1")
    assert cluster.node_state("node1") == "IDLE"


def test_cancel_from_outside(cluster: SlurmCluster) -> None:
    jobid = cluster.run("sbatch", "--parsable", "--wrap=sleep 600", user=TEST_USER).stdout.strip()
    cluster.wait_state(jobid, "RUNNING")
    cluster.cancel(jobid)
    cluster.wait_idle()


def test_stop_leaves_nothing() -> None:
    cluster = SlurmCluster(accounting=False)
    try:
        cluster.start()
    except ServiceUnavailable as reason:
        unavailable(reason)
    jobid = cluster.run("sbatch", "--parsable", "--wrap=setsid sleep 600 & sleep 600").stdout
    cluster.wait_state(jobid.strip(), "RUNNING")
    second = SlurmCluster(accounting=False).start()
    seen = cluster.processes()
    assert len(seen) >= 1 + 1 + 2 + 1
    cluster.stop()
    assert [ref for ref in seen if ref.alive()] == []
    assert cluster.processes() == []
    assert not cluster.base.exists()
    # Ending one does not touch the other.
    assert second.node_state("node1") == "IDLE"
    second.stop()


def test_default_location_is_given_back() -> None:
    default = Path("/etc/slurm/slurm.conf")
    if default.exists():
        pytest.skip(f"{default} is there already")
    cluster = SlurmCluster(accounting=False, nodes=1, default_location=True)
    try:
        cluster.start()
    except ServiceUnavailable as reason:
        unavailable(reason)
    with_conf_dropped = cluster.run("env", "-u", "SLURM_CONF", "scontrol", "ping").stdout
    cluster.stop()
    assert "is UP" in with_conf_dropped
    assert not default.is_symlink()


def test_another_process_can_end_it() -> None:
    cluster = SlurmCluster(accounting=False, nodes=1)
    try:
        cluster.start()
    except ServiceUnavailable as reason:
        unavailable(reason)
    SlurmCluster.attach(cluster.base).stop()
    assert cluster.processes() == []


def test_directory_that_users_cannot_reach_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ServiceUnavailable):
        SlurmCluster(closed / "cluster", accounting=False).start()


def test_process_ref_is_not_fooled_by_a_reused_id() -> None:
    mine = ProcessRef.of(os.getpid())
    assert mine is not None
    assert mine.alive()
    assert not ProcessRef(mine.pid, mine.start + 1).alive()
