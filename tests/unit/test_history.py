from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipen_executors.history import HISTORY, Change, History
from pipen_executors.job import Job
from pipen_executors.live import Live, counts_line, is_quiet
from pipen_executors.runs import JobStory, Run, read_runs, runs_in
from pipen_executors.states import ExitReason, Phase
from pipen_executors.usage import MIB, RuleUsage, by_rule

from ..conformance.harness import wait_for
from .fake import FakeScheduler
from .fake import Run as EngineRun


def lines_of(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / HISTORY).read_text().splitlines() if line]


@pytest.fixture
def changes() -> list[Change]:
    return []


def a_run(tmp_path: Path, changes: list[Change]) -> EngineRun:
    history = History(str(tmp_path / "jobs"), {"forks": "2"}, pytest.fail, [changes.append])
    return EngineRun(tmp_path / "jobs", [history])


def test_one_line_for_each_change(tmp_path: Path, changes: list[Change]) -> None:
    run = a_run(tmp_path, changes)
    run.submit(run.spec("good", "true\n"), run.spec("bad", "echo why >&2; exit 3\n"))
    run.wait(2)
    run.close()
    (seen,) = read_runs(tmp_path / "jobs")
    assert seen.over is not None
    assert seen.settings == {"forks": "2"}
    assert seen.pid == os.getpid()
    assert seen.is_alive is False
    jobs = {job.rule: job for job in seen.jobs.values()}
    assert jobs["good"].phase is Phase.DONE
    bad = jobs["bad"].last
    assert (bad.phase, bad.reason, bad.rc) == (Phase.FAILED, ExitReason.NONZERO_EXIT, 3)
    assert bad.stderr == ("why",)
    assert bad.why == "the command failed, exit status 3"
    assert bad.wall is not None
    assert bad.cpu is not None
    for rule in ("good", "bad"):
        phases = [change.phase for change in changes if change.job.spec.rule == rule]
        assert phases[:2] == [Phase.QUEUED, Phase.PENDING]
        assert phases[-1].is_final
        assert len(set(phases)) == len(phases)
    # The run begins and is over; each job is introduced; a line for each change.
    assert len(lines_of(tmp_path / "jobs")) == 2 + 2 + len(changes)


def test_retries_are_attempts(tmp_path: Path, changes: list[Change]) -> None:
    run = a_run(tmp_path, changes)
    script = f"echo x >> {tmp_path}/n; [ $(wc -l < {tmp_path}/n) -gt 1 ]\n"
    run.submit(run.spec("a", script, error_strategy="retry"))
    run.wait(1)
    run.close()
    (seen,) = read_runs(tmp_path / "jobs")
    (job,) = seen.jobs.values()
    assert [attempt.phase for attempt in job.attempts] == [Phase.FAILED, Phase.DONE]
    assert [attempt.number for attempt in job.attempts] == [1, 2]


def test_an_end_waits_for_what_is_still_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    ended = threading.Event()

    def measured(scheduler: FakeScheduler, job: Job) -> dict[str, Any] | None:
        asked.append(job)
        return {"memory": 5 << 20, "memory_by": "the test"} if len(asked) > 2 else None

    def heard(change: Change) -> None:
        if change.phase.is_final:
            ended.set()

    monkeypatch.setattr(FakeScheduler, "measured", measured)
    history = History(str(tmp_path / "jobs"), {}, pytest.fail, [heard])
    run = EngineRun(tmp_path / "jobs", [history])
    run.submit(run.spec("a", "true\n"))
    assert ended.wait(60)
    run.close()
    (seen,) = read_runs(tmp_path / "jobs")
    (job,) = seen.jobs.values()
    assert (job.phase, job.last.memory, job.last.memory_by) == (Phase.DONE, 5 << 20, "the test")


def test_torn_and_foreign_lines_are_passed_over() -> None:
    good = (
        '{"event":"run","time":1,"run":"a","version":1,"scheduler":"local","here":true,"pid":1,'
        '"born":0,"host":"h","cwd":"/","root":"/r","command":["snakemake"],"settings":{}}'
    )
    later = good.replace('"run":"a","version":1', '"run":"b","version":99')
    lines = ["", "no JSON", '{"event":"job","time":1', "[1]", good, later, good[:40]]
    lines.append('{"event":"over","time":2,"run":"b","calls":{}}')
    runs = list(runs_in(lines, Path("/r")))
    assert [run.id for run in runs] == ["a"]
    assert runs[0].over is None


def test_disk_that_cannot_be_written(tmp_path: Path) -> None:
    """The run goes on; that it is so is said once, and at the end what it has cost."""
    said: list[str] = []
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / HISTORY).symlink_to("/dev/full")
    run = EngineRun(tmp_path / "jobs", [History(str(tmp_path / "jobs"), {}, said.append)])
    run.submit(run.spec("a", "true\n"))
    assert run.wait(1)["a"].outcome is not None
    run.close()
    assert len(said) == 2
    assert "No space left" in said[0]
    assert "is not complete" in said[1]


def test_disk_that_was_full_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is lost, and a line of which a part was written is there once."""
    said: list[str] = []
    full = threading.Event()
    full.set()
    write = os.write

    def write_some(descriptor: int, data: bytes) -> int:
        if not full.is_set() or b'"event":"' not in data:
            return write(descriptor, data)
        if len(data) < 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", write_some)
    changes: list[Change] = []
    history = History(str(tmp_path / "jobs"), {}, said.append, [changes.append])
    run = EngineRun(tmp_path / "jobs", [history])
    run.submit(run.spec("a", "true\n"))
    run.wait(1)
    wait_for(lambda: said, "the failure")
    full.clear()
    run.close()
    assert len(said) == 1
    text = (tmp_path / "jobs" / HISTORY).read_text()
    (seen,) = runs_in(text.splitlines(), tmp_path / "jobs")
    assert seen.over is not None
    assert [job.phase for job in seen.jobs.values()] == [Phase.DONE]
    whole = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            whole.append(json.loads(line))
    assert [line["event"] for line in whole] == [
        "run",
        "job",
        *(c.phase for c in changes[:-1]),
        "ended",
        "over",
    ]


def test_live_line() -> None:
    counts = {Phase.PENDING: 12, Phase.DONE: 3}
    assert counts_line(counts, {"Priority": 1, "Resources": 5}) == (
        "Jobs: 12 pending, 3 done (waiting: Resources)"
    )
    assert counts_line({}, {}) == "Jobs: none yet"
    assert is_quiet(["progress"])
    assert not is_quiet(None)


def test_live_counts_each_job_once() -> None:
    """Also when a job has been let go of, and the next one lies where it was in memory."""
    live = Live(logging.getLogger("nobody"), quiet=True)

    def change(key: str, phase: Phase, **facts: Any) -> Change:
        return Change(SimpleNamespace(spec=SimpleNamespace(key=key)), phase, facts)  # type: ignore[arg-type]

    live.take(change("a", Phase.PENDING, reason="Priority"))
    assert live._line() == "Jobs: 1 pending (waiting: Priority)"
    live.take(change("a", Phase.RUNNING))
    live.take(change("a", Phase.DONE))
    assert live._line() == "Jobs: 1 done"
    for number in range(20):
        live.take(change(f"b{number}", Phase.DONE))
    assert live._line() == "Jobs: 21 done"


def a_story(
    memory: int | None = None, below: int | None = None, wall: float = 10, **asked: Any
) -> Any:
    run = Run("r", Path("/r"))
    job = JobStory(run, str(id(object())), "a", **asked)
    end = job.attempt(1)
    end.phase, end.submitted, end.started, end.ended = Phase.DONE, 0.0, 1.0, 1.0 + wall
    end.cpu, end.memory, end.memory_below = wall / 2, memory, below
    return job


def usage_of(*jobs: Any) -> RuleUsage:
    (usage,) = by_rule(jobs)
    return usage


def test_usage_says_only_what_is_known() -> None:
    usage = usage_of(a_story(300 * MIB), a_story(None, below=100 * MIB))
    assert usage.peak_text == "300 MB"
    assert usage_of(a_story(300 * MIB), a_story(None)).peak_text == "not known"
    assert usage_of(a_story(None, below=100 * MIB)).peak_text == "< 100 MB"
    assert usage_of(a_story(None)).peak_text == "not known"
    assert "of memory" not in usage_of(a_story(None)).describe()
    assert usage.busy == 0.5
    assert "kept 1 thread 50 % busy" in usage.describe()


@pytest.mark.parametrize(
    ("job", "suggestion"),
    [
        (a_story(300 * MIB, mem_mb=4000), "mem_mb=380"),
        (a_story(300 * MIB, mem_mb=400), ""),
        (a_story(390 * MIB, mem_mb=400), "mem_mb=490"),
        (a_story(300 * MIB), "mem_mb=380"),
        (a_story(None, below=100 * MIB, mem_mb=1000), "mem_mb=130"),
        (a_story(None, below=100 * MIB), ""),
        (a_story(None, mem_mb=1000), ""),
        (a_story(None, wall=600, runtime=600), "runtime=20"),
        (a_story(None, wall=600, runtime=25), ""),
    ],
)
def test_suggestions(job: Any, suggestion: str) -> None:
    assert usage_of(job).suggestion() == suggestion


def test_accounting_adds_only_what_is_not_known() -> None:
    job = {"rule": "a", "wildcards": {}, "jobid": "1", "directory": "a/b", "direct": True}
    facts: dict[str, Any] = {"threads": 1, "mem_mb": 1000, "runtime": None, "outputs": []}
    end = {"attempt": 1, "state": "done", "start": 10.0, "end": 20.0, "rc": 0, "id": "7"}
    head = {"version": 1, "scheduler": "slurm", "here": False, "pid": 1, "born": 0, "host": "h"}
    more = {"cwd": "/", "root": "/", "command": [], "settings": {}}
    told = {"event": "accounted", "attempt": 1, "cpu": 9.0, "memory": 100 << 20}
    lines = [
        {"event": "run", "time": 1.0, **head, **more},
        {"event": "job", "time": 2.0, "key": "k", **job, **facts},
        {"event": "ended", "time": 20.0, "key": "k", **end, "cpu": 5.0},
        {"time": 99.0, "key": "k", **told, "memory_by": "Slurm, sampled"},
    ]
    (run,) = runs_in([json.dumps({"run": "r", **line}) for line in lines], Path("/nowhere"))
    last = run.jobs["k"].last
    assert (last.cpu, last.memory, last.accounted) == (5.0, 100 << 20, True)
    assert run.last_sign == 20.0
    (usage,) = by_rule(run.jobs.values())
    assert usage.peak_text == "100 MB (sampled)"
    assert usage.suggestion() == "", "a peak that may have been missed"
    run.jobs["k"].mem_mb = 50
    assert by_rule(run.jobs.values())[0].suggestion() == "mem_mb=130"
