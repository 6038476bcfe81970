"""The Grid Engine that the other tests rely on: it comes up, runs a job, and goes away whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.services.common import ServiceUnavailable, wait_until
from tests.services.require import unavailable
from tests.services.sge import SgeCell
from tests.services.users import TEST_USER

pytestmark = pytest.mark.sge


@pytest.fixture(scope="module")
def cell() -> Iterator[SgeCell]:
    """A cell for all tests of this file."""
    started = SgeCell(max_unheard=4)
    try:
        started.start()
    except ServiceUnavailable as reason:
        unavailable(reason)
    try:
        yield started
    finally:
        started.stop()


def submit(cell: SgeCell, script: str, *options: str, user: str | None = TEST_USER) -> str:
    words = ("qsub", "-terse", "-S", "/bin/sh", "-j", "y", "-o", "/dev/null", *options)
    return cell.run(*words, user=user, stdin=script).stdout.strip()


@pytest.mark.parametrize("user", [None, TEST_USER], ids=["as-root", "as-user"])
def test_job_completes(cell: SgeCell, user: str | None) -> None:
    output = cell.scratch / f"who-{user}"
    script = f"id --user --name > {output}.part && mv {output}.part {output}"
    jobid = submit(cell, script, user=user)
    wait_until(output.exists, f"job {jobid} to write")
    cell.wait_state(jobid, "")
    assert output.read_text() == f"{user or 'root'}\n"
    assert "exit_status  0" in cell.wait_accounted(jobid)


def test_daemons_listen_on_loopback_only(cell: SgeCell) -> None:
    pids = {ref.pid for ref in cell.processes()}
    listening = {
        connection.laddr.ip
        for connection in psutil.net_connections("inet")
        if connection.pid in pids and connection.status == psutil.CONN_LISTEN and connection.laddr
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.slow
def test_job_outlives_qmaster(cell: SgeCell) -> None:
    output, go = cell.scratch / "outlived", cell.scratch / "go"
    jobid = submit(cell, f"until [ -e {go} ]; do sleep 0.05; done; touch {output}")
    cell.wait_state(jobid, "r")
    cell.stop_qmaster()
    assert cell.run("qstat", check=False).returncode != 0
    go.touch()
    wait_until(output.exists, "the job to end without qmaster")
    cell.start_qmaster()
    cell.wait_state(jobid, "")


@pytest.mark.slow
def test_job_outlives_execd(cell: SgeCell) -> None:
    output, go = cell.scratch / "outlived-too", cell.scratch / "go-too"
    jobid = submit(cell, f"until [ -e {go} ]; do sleep 0.05; done; touch {output}")
    cell.wait_state(jobid, "r")
    cell.stop_execd()
    cell.wait_queue("u")
    assert cell.job_state(jobid) == "r"
    go.touch()
    wait_until(lambda: not cell.jobs(), "the job and its shepherd to end without execd")
    assert output.exists()
    cell.start_execd()
    cell.wait_state(jobid, "")


def test_delete_from_outside(cell: SgeCell) -> None:
    jobid = submit(cell, "sleep 600")
    cell.wait_state(jobid, "r")
    cell.delete(jobid)
    cell.wait_idle()


def test_stop_leaves_nothing() -> None:
    cell = SgeCell()
    try:
        cell.start()
    except ServiceUnavailable as reason:
        unavailable(reason)
    jobid = submit(cell, "setsid sleep 600 & sleep 600")
    cell.wait_state(jobid, "r")
    second = SgeCell().start()
    seen = cell.processes()
    assert len(seen) >= 2 + 1 + 2
    cell.stop()
    assert [ref for ref in seen if ref.alive()] == []
    assert cell.processes() == []
    assert not cell.base.exists()
    # Ending one does not touch the other.
    assert second.queue_state() == ""
    SgeCell.attach(second.base).stop()
    assert second.processes() == []


def test_directory_that_users_cannot_reach_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ServiceUnavailable):
        SgeCell(closed / "cell").start()
