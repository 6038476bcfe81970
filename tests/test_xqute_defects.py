"""Defects seen in xqute 2.2.1 that must not be here, one test each.

What belongs to one scheduler (squeue per job, podman's client, gcloud) is tested with
its backend.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from pipen_executors.exceptions import TransientError
from pipen_executors.states import ExitReason

from .conformance.harness import wait_for
from .unit.fake import Run


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path / "jobs", query_ceiling=0.2)
    try:
        yield run
    finally:
        run.close()


@pytest.mark.parametrize("module", ["scheduler", "engine", "job"])
def test_importing_xqute_leaves_the_event_loop_policy(module: str) -> None:
    code = (
        "import asyncio; before = asyncio.get_event_loop_policy(); "
        f"import pipen_executors.{module}, xqute; "
        "assert asyncio.get_event_loop_policy() is before"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_command_is_not_expanded_before_it_runs(run: Run) -> None:
    (job,) = run.submit(
        run.spec("a", "x=1; echo \"$x\" `echo $x` '\"$x\"' $(echo ')') \\$x; exit 4\n")
    )
    ended = run.wait(1)["a"]
    assert ended.outcome is not None
    assert ended.outcome.rc == 4, "a job cannot succeed without having run"
    assert job.directory.read("job.stdout") == '1 1 "$x" ) $x\n'


def test_signal_is_never_success(run: Run) -> None:
    """A job killed by its scheduler: TERM to the wrapper, whatever the command makes of it."""
    deaf = "trap 'exit 0' TERM; touch $0.up; while :; do sleep 0.05; done\n"
    plain = "touch $0.up; exec sleep 60\n"
    jobs = run.submit(run.spec("deaf", deaf), run.spec("plain", plain))
    for job in jobs:
        wait_for(Path(job.directory.file("job.script.up")).exists, "the start")
        os.kill(int(job.jid), signal.SIGTERM)
    for name, job in run.wait(2).items():
        assert job.outcome is not None
        assert job.outcome.reason is ExitReason.SIGNAL, name
        assert job.outcome.rc == 143
        assert job.directory.read("job.status").strip() == "7"
        assert job.directory.rc() == 143


def test_ends_are_seen_without_asking(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """xqute looks at its jobs at intervals, and its local ones sleep 2 s each besides."""
    monkeypatch.setattr(run.scheduler, "query_jobs", AsyncMock(side_effect=TransientError("away")))
    for number in range(5):
        run.submit(run.spec(f"a{number}", ":\n"))
        run.wait(number + 1)
    assert all(job.outcome is not None and job.outcome.ok for job in run.ended.values())


def test_status_of_a_fast_job_is_not_overwritten(run: Run) -> None:
    """The job has ended before its submission returns."""
    run.scheduler.wait_for_the_end = True
    run.submit(*(run.spec(f"a{n}", ":\n") for n in range(20)))
    ended = run.wait(20)
    assert all(job.outcome is not None and job.outcome.ok for job in ended.values())
    assert {job.directory.read("job.status").strip() for job in ended.values()} == {"6"}


def test_failed_query_says_nothing_about_a_job(run: Run) -> None:
    (job,) = run.submit(run.spec("a", "until [ -e $0.go ]; do sleep 0.05; done\n"))
    wait_for(lambda: run.scheduler.queries, "a query")
    run.scheduler.absent = 2
    before = len(run.scheduler.queries)
    wait_for(lambda: len(run.scheduler.queries) >= before + 4, "two failed queries and more")
    assert not run.ended
    assert any("away" in message for message in run.messages)
    Path(job.directory.file("job.script.go")).touch()
    assert run.wait(1)["a"].outcome is not None
    assert run.ended["a"].outcome.ok  # type: ignore[union-attr]


def test_one_query_for_all_jobs_and_kills_in_chunks(run: Run) -> None:
    run.submit(*(run.spec(f"a{n}", "sleep 60\n") for n in range(250)))
    wait_for(lambda: 250 in run.scheduler.queries, "a query for all")
    assert len(run.scheduler.queries) <= 3
    run.engine.cancel()
    assert sorted(run.scheduler.kills) == [50, 200]
    assert {job.outcome.reason for job in run.wait(250).values() if job.outcome} == {
        ExitReason.CANCELLED
    }


def test_submission_that_cannot_be_made_now_is_made_later(run: Run) -> None:
    run.scheduler.absent = 2
    run.scheduler.refuse["b"] = "invalid partition specified: nope"
    run.submit(run.spec("a", ":\n"), run.spec("b", ":\n"))
    ended = run.wait(2)
    assert ended["a"].outcome is not None and ended["a"].outcome.ok
    assert ended["b"].outcome is not None
    assert ended["b"].outcome.reason is ExitReason.SUBMIT_FAILURE
    assert "invalid partition" in ended["b"].outcome.describe()


def test_environment_of_a_job_is_its_own(run: Run) -> None:
    """xqute's container scheduler shares one dict, and changes it."""
    jobs = run.submit(
        run.spec("a", "echo $V $XQUTE_JOB_INDEX\n", env={"V": "one"}),
        run.spec("b", "echo ${V-none} $XQUTE_JOB_INDEX\n"),
    )
    run.wait(2)
    assert [job.directory.read("job.stdout") for job in jobs] == ["one 0\n", "none 1\n"]
    assert jobs[0].envs is not jobs[1].envs


def test_talkative_job_ends_though_nobody_reads(run: Run) -> None:
    (job,) = run.submit(run.spec("a", "head -c 5000000 /dev/zero; echo >&2\n"))
    run.wait(1)
    assert os.stat(job.directory.file("job.stdout")).st_size == 5_000_000


def test_engine_needs_neither_the_main_thread_nor_signal_handlers(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    results: list[bool] = []

    def work() -> None:
        run = Run(tmp_path / "jobs")
        run.submit(run.spec("a", ":\n"))
        outcome = run.wait(1)["a"].outcome
        results.append(outcome is not None and outcome.ok)
        run.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert results == [True]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_sixty_jobs_do_not_hang(run: Run) -> None:
    """One run in three of 60 jobs hung with pipen on Slurm."""
    for round_ in range(5):
        run.submit(*(run.spec(f"{round_}.{n}", ":\n") for n in range(60)))
        run.wait(60 * (round_ + 1))
    assert all(job.outcome is not None and job.outcome.ok for job in run.ended.values())


def test_job_that_vanished_is_lost_only_after_a_second_look(run: Run) -> None:
    (job,) = run.submit(run.spec("a", "sleep 60\n"))
    wait_for(lambda: job.jid, "the submission")
    os.killpg(int(job.jid), signal.SIGKILL)
    outcome = run.wait(1)["a"].outcome
    assert outcome is not None
    assert outcome.reason is ExitReason.LOST
