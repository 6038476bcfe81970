from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pipen_executors import requests
from pipen_executors.exceptions import SchedulerError
from pipen_executors.job import Job
from pipen_executors.scheduler import SchedulerPostInit
from pipen_executors.states import ExitReason, Outcome, Presence, Report

from ..conformance.harness import wait_for
from .failing_files import fail_below
from .fake import FakeScheduler, Run


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path / "jobs", query_ceiling=0.2, forks=2)
    try:
        yield run
    finally:
        run.close()


def test_forks(run: Run) -> None:
    run.submit(*(run.spec(f"a{n}", "sleep 0.1\n") for n in range(7)))
    run.wait(7)
    assert max(len(batch) for batch in run.scheduler.submissions) <= 2
    assert len(run.scheduler.submissions) >= 4


def test_jobs_wait_until_the_scheduler_has_room(run: Run) -> None:
    run.scheduler.room = 0
    run.submit(*(run.spec(f"a{n}", ":\n") for n in range(3)))
    wait_for(lambda: run.scheduler.asked_for_room, "the question for room")
    assert run.scheduler.submissions == []
    run.scheduler.room = 1
    run.engine._loop.call_soon_threadsafe(run.scheduler.room_changed)
    run.wait(3)
    assert run.scheduler.submissions == [["a0"], ["a1"], ["a2"]]


def test_end_that_is_heard_before_the_submission_is_answered(run: Run) -> None:
    """As a scheduler may tell that is quicker than its answers."""
    run.scheduler.answer_after_the_end = True
    run.submit(run.spec("a", ":\n"))
    job = run.wait(1)["a"]
    assert job.jid in run.scheduler.processes
    assert job.outcome is not None
    assert job.outcome.ok


def test_halt_cancels_the_rest(run: Run) -> None:
    run.submit(
        run.spec("bad", "exit 3\n", error_strategy="halt"),
        *(run.spec(f"a{n}", "sleep 60\n") for n in range(5)),
    )
    ended = run.wait(6)
    wait_for(lambda: run.halted, "the halt")
    assert run.halted == ["bad"]
    reasons = {job.outcome.reason for name, job in ended.items() if name != "bad" and job.outcome}
    assert reasons == {ExitReason.CANCELLED}
    run.submit(run.spec("late", ":\n"))
    outcome = run.wait(7)["late"].outcome
    assert outcome is not None
    assert outcome.reason is ExitReason.CANCELLED


def test_job_that_stays_in_the_queue_after_its_end(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Slurm, when slurmstepd is killed: it is said once, of this job alone."""
    monkeypatch.setattr(FakeScheduler, "leaves_queue_within", 0.1)
    run.scheduler.stays_in_queue = "stuck"
    run.submit(run.spec("stuck", ":\n"), run.spec("well", ":\n"))
    run.wait(2)
    run.scheduler.absent = 1
    run.submit(run.spec("long", "until [[ -e said ]]; do sleep 0.05; done\n"))
    wait_for(lambda: "still has it as running" in "".join(run.messages), "the warning")
    asked = len(run.scheduler.queries)
    wait_for(lambda: len(run.scheduler.queries) >= asked + 2, "further queries")
    (run.root / "said").touch()
    outcome = run.wait(3)["stuck"].outcome
    assert outcome is not None
    assert outcome.ok
    told = [text for text in run.messages if "still has it as running" in text]
    assert [text.split()[:2] for text in told] == [["Job", "stuck"]]


def test_scheduler_with_a_bug_does_not_hang_the_run(run: Run) -> None:
    run.scheduler.bug = RuntimeError("a bug in somebody's scheduler class")
    run.submit(run.spec("a", ":\n"))
    wait_for(lambda: run.broken or run.ended, "the report")
    run.close()


def test_cancel_twice_and_without_jobs(run: Run) -> None:
    run.engine.cancel()
    run.engine.cancel()
    run.close()
    run.close()


def test_cancellation_from_elsewhere(run: Run) -> None:
    run.submit(*(run.spec(f"a{n}", "sleep 60\n") for n in range(2)))
    wait_for(lambda: sum(map(len, run.scheduler.submissions)) == 2, "both jobs")
    asked = requests.ask_to_cancel(str(run.root), "run", run.spec("a1", "").key)
    outcome = run.wait(1)["a1"].outcome
    assert outcome is not None
    assert outcome.reason is ExitReason.CANCELLED
    assert not Path(asked).exists()
    assert not run.cancelled
    requests.ask_to_cancel(str(run.root), "run", requests.ALL)
    assert set(run.wait(2)) == {"a0", "a1"}
    wait_for(lambda: run.cancelled, "the end of the run")


def test_requests_to_other_runs_are_not_obeyed(tmp_path: Path) -> None:
    asked = requests.ask_to_cancel(str(tmp_path / "jobs"), "another", requests.ALL)
    run = Run(tmp_path / "jobs")
    run.submit(run.spec("a", "sleep 2\n"))
    outcome = run.wait(1)["a"].outcome
    run.close()
    assert outcome is not None
    assert outcome.ok
    assert Path(asked).exists(), "it is left for the run that it is meant for"


def test_job_under_way_whose_id_is_not_known(run: Run) -> None:
    """The run that submitted it was killed before it noted the id: it is waited for."""
    spec = run.spec("a", "echo twice > twice\n")
    earlier = run.engine.make_job(spec)
    record = earlier.directory.open_attempt(spec, 1, earlier.fingerprint)
    earlier.directory.write(f"job.info.{record.token}", "jid= node=far start=1\n")
    run.submit(spec)
    wait_for(lambda: "its id is not known" in "".join(run.messages), "its being taken up")
    earlier.directory.write("job.rc", "0\n")
    (run.root / ".events" / f"{spec.key}.{record.token}.end.0").touch()
    job = run.wait(1)["a"]
    assert job.outcome is not None
    assert job.outcome.ok
    assert run.scheduler.submissions == []


# -- file systems that fail for a moment ---------------------------------------------------


def test_every_call_fails_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is lost, none runs twice, nothing is left; it is said once for each error."""
    failed = fail_below(monkeypatch, run.root)
    specs = [run.spec(f"a{n}", f"echo x >> {run.root}/ran{n}; : > out{n}\n") for n in range(2)]
    run.submit(
        *(replace(spec, outputs=(f"out{n}",)) for n, spec in enumerate(specs)),
        run.spec("bad", "echo why >&2; exit 3\n"),
    )
    ended = run.wait(3, timeout=120)
    outcome = ended.pop("bad").outcome
    assert outcome is not None
    assert (outcome.reason, outcome.rc) == (ExitReason.NONZERO_EXIT, 3)
    reasons = [job.outcome.reason for job in ended.values() if job.outcome]
    assert reasons == [ExitReason.COMPLETED] * 2
    run.close()
    monkeypatch.undo()
    assert all((run.root / f"ran{n}").read_text() == "x\n" for n in range(2))
    assert list((run.root / ".events").iterdir()) == []
    assert all(job.directory.jid(job.token) == job.jid for job in ended.values())
    assert {"open()", "open", "mkdir", "lstat", "unlink"} <= failed.keys()
    assert len(run.messages) == len(set(run.messages)) <= 4
    assert not run.broken


def test_events_that_cannot_be_listed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler is asked meanwhile, and the jobs' files tell how they ended."""
    fail_below(monkeypatch, run.root / ".events", times=10**9, calls=("listdir",))
    run.submit(run.spec("a", ":\n"), run.spec("b", "exit 3\n"))
    ended = run.wait(2, timeout=60)
    assert [job.outcome.rc for _, job in sorted(ended.items()) if job.outcome] == [0, 3]


def test_directory_that_stays_unreadable_fails_its_job_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "jobs", files_patience=0.5)
    bad = run.spec("bad", "exit 3\n")
    place = run.engine.make_job(bad).directory.path
    fail_below(monkeypatch, place, times=10**9, calls=("open",), name="job.info")
    run.submit(bad, run.spec("good", ":\n"))
    ended = run.wait(2)
    outcomes = {name: job.outcome.reason for name, job in ended.items() if job.outcome}
    assert outcomes == {"bad": ExitReason.UNREADABLE, "good": ExitReason.COMPLETED}
    run.close()


def test_outputs_that_cannot_be_looked_at_are_not_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes, other than one that is not there (--latency-wait)."""
    spec = run.spec("a", ": > out\n", outputs=("out",), latency_wait=0.0)
    looked = fail_below(monkeypatch, run.root / "out", times=4, calls=("lstat",))
    run.submit(spec, run.spec("b", ":\n", outputs=("no",), latency_wait=0.0))
    ended = run.wait(2)
    outcomes = {name: job.outcome.reason for name, job in ended.items() if job.outcome}
    assert outcomes == {"a": ExitReason.COMPLETED, "b": ExitReason.MISSING_OUTPUT}
    assert looked["lstat"] == 4


def test_submission_waits_for_a_full_disk(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = fail_below(
        monkeypatch, run.root, errors=[errno.ENOSPC], times=3, calls=("open",), name="job.script"
    )
    run.submit(run.spec("a", ":\n"))
    outcome = run.wait(1)["a"].outcome
    assert outcome is not None
    assert outcome.ok
    assert failed["open"] == 3
    assert [text for text in run.messages if "No space left" in text] == [
        f"The file system of {run.root} fails (No space left on device); trying again"
    ]


def test_directory_that_may_not_be_written_fails_its_job_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_below(
        monkeypatch, run.root, errors=[errno.EACCES], times=9, calls=("open",), name="job.script"
    )
    run.submit(run.spec("a", ":\n"))
    outcome = run.wait(1)["a"].outcome
    assert outcome is not None
    assert outcome.reason is ExitReason.SUBMIT_FAILURE
    assert outcome.detail.endswith("job.script: Permission denied")


def test_cancelled_while_the_disk_is_full(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_below(
        monkeypatch,
        run.root,
        errors=[errno.ENOSPC],
        times=10**9,
        calls=("open",),
        name="job.script",
    )
    run.submit(run.spec("a", ":\n"))
    wait_for(lambda: any("No space left" in text for text in run.messages), "the message")
    run.engine.cancel()
    outcome = run.wait(1)["a"].outcome
    assert outcome is not None
    assert outcome.reason is ExitReason.CANCELLED


# -- schedulers that cannot tell of one job ------------------------------------------------


def one_by_one(run: Run, monkeypatch: pytest.MonkeyPatch, raises_for: str) -> None:
    """Let the scheduler be asked for one job after the other, and raise for one of them."""

    async def job_is_running(job: Job) -> bool:
        if job.spec.rule == raises_for:
            raise RuntimeError("no answer for this one")
        return run.scheduler.processes[job.jid].poll() is None

    monkeypatch.setattr(run.scheduler, "job_is_running", job_is_running)
    query = partial(SchedulerPostInit.query_jobs, run.scheduler)
    monkeypatch.setattr(run.scheduler, "query_jobs", query)


def test_job_of_which_nothing_can_be_said_hides_no_other(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one(run, monkeypatch, "silent")
    silent, killed = run.submit(run.spec("silent", "sleep 60\n"), run.spec("killed", "sleep 60\n"))
    wait_for(lambda: any("could not be asked about" in m for m in run.messages), "the message")
    os.killpg(int(killed.jid), signal.SIGKILL)
    outcome = run.wait(1)["killed"].outcome
    assert outcome is not None
    assert outcome.reason is ExitReason.LOST
    os.killpg(int(silent.jid), signal.SIGTERM)  # its wrapper tells its end
    assert run.wait(2)["silent"].outcome is not None


def test_cancelling_a_job_of_which_nothing_can_be_said(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipen_executors.engine._UNKNOWN_PATIENCE", 0.2)
    one_by_one(run, monkeypatch, "silent")
    run.submit(run.spec("silent", "sleep 60\n"), run.spec("other", "sleep 60\n"))
    wait_for(lambda: sum(map(len, run.scheduler.submissions)) == 2, "both jobs")
    run.engine.cancel()
    reasons = {job.outcome.reason for job in run.wait(2).values() if job.outcome}
    assert reasons == {ExitReason.CANCELLED}
    assert any("was told to end" in message for message in run.messages)


# -- one attempt is not another ---------------------------------------------------------------


def test_answer_about_an_attempt_that_has_ended_is_not_about_the_next(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exit status is still there while the retry is prepared; the job runs twice, not more."""
    in_flight, prepared = threading.Event(), threading.Event()
    query = run.scheduler.query_jobs

    async def slow_query(jobs: Sequence[Job]) -> Mapping[Job, Report]:
        if not in_flight.is_set():
            in_flight.set()
            (run.root / "go").touch()
            while not any("retry 1 of" in message for message in run.messages):
                await asyncio.sleep(0.01)
            return {}
        prepared.set()
        return await query(jobs)

    monkeypatch.setattr(run.scheduler, "query_jobs", slow_query)
    monkeypatch.setattr(run, "prepare", lambda job: prepared.wait(1.5))
    script = "until [ -e go ]; do sleep 0.02; done; echo x >> ran; [ $(wc -l < ran) -gt 1 ]\n"
    run.submit(run.spec("a", script, error_strategy="retry"))
    outcome = run.wait(1)["a"].outcome
    assert outcome is not None
    assert outcome.ok
    assert run.scheduler.submissions == [["a"], ["a"]]
    assert (run.root / "ran").read_text() == "x\nx\n"


def test_job_that_cannot_be_removed_from_the_queue_ends_no_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hopeless(jobs: Sequence[Job]) -> Mapping[Job, Report]:
        outcome = Outcome(ExitReason.UNSCHEDULABLE, detail="BadConstraints")
        return {job: Report(Presence.PENDING, outcome=outcome) for job in jobs}

    async def refused(jobs: Sequence[Job]) -> None:
        raise SchedulerError("Access/permission denied")

    monkeypatch.setattr(run.scheduler, "query_jobs", hopeless)
    kill = run.scheduler.kill_jobs
    monkeypatch.setattr(run.scheduler, "kill_jobs", refused)
    (job,) = run.submit(run.spec("a", "sleep 60\n"))
    wait_for(lambda: any("could not be removed" in m for m in run.messages), "the message")
    assert not run.broken
    assert not job.state.is_final
    monkeypatch.setattr(run.scheduler, "kill_jobs", kill)
    assert run.wait(1)["a"].outcome is not None


def test_files_that_cannot_be_read_while_an_end_is_explained(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one job is explained without them; the other as always, and the run goes on."""

    async def explain(jobs: Sequence[Job]) -> dict[Job, Outcome]:
        if any(job.spec.rule == "stale" for job in jobs):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return {job: Outcome(ExitReason.OUT_OF_MEMORY, 137) for job in jobs}

    monkeypatch.setattr(run.scheduler, "explain_jobs", explain)
    run.submit(*(run.spec(name, "kill -s KILL $$\n") for name in ("stale", "other")))
    reasons = {name: job.outcome.reason for name, job in run.wait(2).items() if job.outcome}
    assert reasons == {"stale": ExitReason.SIGNAL, "other": ExitReason.OUT_OF_MEMORY}
    assert not run.broken
