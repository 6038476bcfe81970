"""What earlier runs have left: when it is taken in, and what of it is removed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import snakemake.api  # noqa: F401 - first: its modules import each other
from snakemake.io import AnnotatedString, flag

from pipen_executors import sessions
from pipen_executors.exceptions import SchedulerError
from pipen_executors.jobdir import EVENTS, JobDir, Record
from pipen_executors.sessions import Sessions
from pipen_executors.signals import defer_sigterm, interruptible
from pipen_executors.specify import Specifier
from pipen_executors.takeup import is_taken_in
from pipen_executors.work import ScriptFile
from tests.conformance.harness import wait_for

from .fake import Run
from .specs import job_spec

RECORD = Record("token", "fingerprint", 1, "rule", "1", ("out",), None, 0.0)


class Output(AnnotatedString):  # type: ignore[misc]
    """A file as Snakemake knows it; its modification time is 7."""

    async def exists(self) -> bool:
        return os.path.lexists(self)

    async def mtime(self) -> Any:
        return SimpleNamespace(local_or_storage=lambda: 7)


class Persistence:
    """Snakemake's markers and metadata."""

    def __init__(
        self, *, marked: bool = False, jobids: tuple[str, ...] = (), endtime: float | None = None
    ) -> None:
        self._marked, self._jobids, self._endtime = marked, jobids, endtime

    async def incomplete(self, job: Any) -> list[str]:
        return [file for file in job.output if self._marked and await file.exists()]

    def external_jobids(self, job: Any) -> list[str]:
        return list(self._jobids)

    def metadata(self, file: Any) -> dict[str, Any] | None:
        return None if self._endtime is None else {"endtime": self._endtime}


@pytest.mark.parametrize(
    ("rc", "direct", "persistence", "taken_in"),
    [
        (None, True, Persistence(marked=True), False),
        (None, True, Persistence(), False),
        (0, True, Persistence(marked=True), False),
        (0, True, Persistence(jobids=("pipen-local:key",)), False),
        (0, True, Persistence(), True),
        (0, False, Persistence(), False),
        (0, False, Persistence(endtime=6), False),
        (0, False, Persistence(endtime=7), True),
        # Another executor has run it since.
        (None, True, Persistence(endtime=7), True),
        (143, True, Persistence(endtime=7), True),
    ],
)
def test_what_snakemake_has_taken_in(
    tmp_path: Path, rc: int | None, direct: bool, persistence: Persistence, taken_in: bool
) -> None:
    (tmp_path / "out").touch()
    used_up = Output(str(tmp_path / "temp"))
    used_up.flags = {"temp": True}
    job = SimpleNamespace(output=[Output(str(tmp_path / "out")), used_up])
    assert asyncio.run(is_taken_in([job], rc, direct, persistence)) is taken_in


@pytest.mark.parametrize(
    ("record", "stays"),
    [
        (RECORD, False),  # the submission has made it
        (replace(RECORD, kept=("out",)), True),  # it was there before, and nothing had started
        (None, True),  # nobody knows
    ],
)
def test_updated_file_without_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Record | None, stays: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").write_text("the user's")
    specifier = Specifier.__new__(Specifier)
    persistence = SimpleNamespace(restore_output=lambda path: False)
    specifier._workflow = SimpleNamespace(persistence=persistence)
    job = SimpleNamespace(is_group=lambda: False, output=[flag("out", "update")])
    specifier.take_back(job, job_spec(), record)
    assert Path("out").exists() is stays


def test_events_of_settled_submissions_are_removed(tmp_path: Path) -> None:
    root = tmp_path / "jobs"
    run = Run(root)
    spec = run.spec("other", "")
    directory = JobDir.of(str(root), spec)
    record = directory.open_attempt(spec, 1, "f")
    others = {f"{spec.key}.{record.token}.start"}  # of a run beside this one
    for name in (*others, f"{spec.key}.0ld.end.143", "settled.1234.end.0", "a note"):
        (root / EVENTS / name).touch()
    run.close()
    assert {path.name for path in (root / EVENTS).iterdir()} == {*others, "a note"}


def test_job_with_the_outputs_of_another_ends_that_first(tmp_path: Path) -> None:
    """A rule with another name, jobs that are grouped in another way."""
    root = tmp_path / "jobs"
    earlier = Run(root)
    earlier.submit(earlier.spec("old", "sleep 60\n"))
    wait_for(lambda: sum(map(len, earlier.scheduler.submissions)) == 1, "the first job")
    old = JobDir.of(str(root), earlier.spec("old", ""))
    wait_for(lambda: old.read("job.jid"), "its id")
    earlier.close()

    run = Run(root)
    run.scheduler.processes |= earlier.scheduler.processes
    job = run.engine.make_job(run.spec("new", ":\n"))
    job.displaces = [run.engine.earlier_job(old)]
    run.engine.submit([job])
    outcome = run.wait(1)["new"].outcome
    run.close()
    assert outcome is not None
    assert outcome.ok
    assert earlier.scheduler.processes[old.read("job.jid").strip()].wait() == -signal.SIGKILL
    assert old.record() is None


def test_relative_names_elsewhere_are_not_removed(tmp_path: Path) -> None:
    """With the setting ``cwd``, a relative name is another file than the workflow's."""
    run = Run(tmp_path / "jobs")
    base = str(run.root)
    for cwd, begin in ((base, ""), (str(tmp_path / "elsewhere"), f"{base}/")):
        spec = replace(job_spec(cwd=base, removable=("out/a",), products=("a",)), cwd=cwd)
        job = run.engine.make_job(spec)
        job.record = replace(RECORD, attempt=2)
        wrapper = run.scheduler.wrap_job_script(job)
        assert f"rm -f -- {begin}out/a\n" in wrapper
    run.close()


def test_script_mentions_what_it_reads() -> None:
    def work(source: str, **given: Any) -> str:
        values: dict[str, Any] = {
            "input": [],
            "output": [],
            "log": [],
            "params": {},
            "wildcards": {},
        }
        values |= {"config": {}, "threads": 1, "resources": {"mem_mb": 1, "tmpdir": "/tmp"}}
        return ScriptFile.of(b"", SimpleNamespace(source=source, **values | given)).work

    reads = "print(snakemake.config, snakemake.resources)"
    assert work("print()", config={"a": 1}, threads=2) == work("print()")
    assert work(reads, threads=2) == work(reads)
    assert work(reads, config={"a": 1}) != work(reads)
    assert work(reads, resources={"mem_mb": 2}) != work(reads)
    assert work(reads, resources={"mem_mb": 1, "tmpdir": "/other"}) == work(reads)
    assert work("print()", params={"x": {"b", "a"}}) == work("print()", params={"x": {"a", "b"}})
    assert work("print()", params={"x": 1}) != work("print()")
    assert work("print()") != work("print(1)")


def test_processes_that_do_not_end_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of sudo, which may not be signalled (kill(2), EPERM)."""
    monkeypatch.setattr(sessions, "_signal_sessions", lambda pids, number: None)
    monkeypatch.setattr(sessions, "_AFTER_KILL", 0.1)
    run = Run(tmp_path / "jobs")
    job = run.engine.make_job(run.spec("a", ""))
    job.directory.open_attempt(job.spec, 1, "")
    job._jid = str(Sessions().submit(job, ["/bin/sleep", "60"]))
    mine = Sessions()
    mine._children[job.jid] = None
    try:
        with pytest.raises(SchedulerError, match=rf"process {job.jid} \(sleep, user "):
            asyncio.run(mine.kill([job], 0.1))
    finally:
        os.kill(int(job.jid), signal.SIGKILL)
        os.waitpid(int(job.jid), 0)
        run.close()


@contextlib.contextmanager
def handlers_put_back() -> Iterator[None]:
    """Leave the handlers of signals as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_sigterm_while_the_lock_is_held() -> None:
    class Scheduler:
        def __init__(self) -> None:
            self.lock, self.heard = threading.Lock(), threading.Event()

        def exit_gracefully(self, *_: Any) -> None:
            with self.lock:
                self.heard.set()

    with handlers_put_back():
        scheduler = Scheduler()
        signal.signal(signal.SIGTERM, scheduler.exit_gracefully)
        defer_sigterm(scheduler)
        defer_sigterm(scheduler)
        with scheduler.lock:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not scheduler.heard.is_set()
        assert scheduler.heard.wait(30)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        defer_sigterm(scheduler)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "another's is left alone"


def test_interrupts_while_jobs_are_cancelled() -> None:
    answers: list[int] = []
    with handlers_put_back():
        before = signal.getsignal(signal.SIGINT)
        with interruptible(answers.append):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
        assert answers == [1, 2]
        assert signal.getsignal(signal.SIGINT) is before, "this is not the command snakemake"


def test_job_that_its_scheduler_has_forgotten_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a controller that was killed comes up with an older state."""
    run = Run(tmp_path / "jobs")
    monkeypatch.setattr(run.scheduler, "may_forget", True, raising=False)
    monkeypatch.setattr(run.scheduler, "loss_grace", 0.1, raising=False)

    async def nothing_known(jobs: Any) -> dict[Any, Any]:
        return {}

    monkeypatch.setattr(run.scheduler, "query_jobs", nothing_known)
    script = f"cd {run.root}; until [ -e go ]; do sleep 0.05; done\n"
    (job,) = run.submit(run.spec("a", script))
    wait_for(lambda: any("still runs on" in text for text in run.messages), "the message")
    assert job.directory.is_held()
    (run.root / "go").touch()
    outcome = run.wait(1)["a"].outcome
    wait_for(lambda: not job.directory.is_held(), "the end of the wrapper")
    run.close()
    assert outcome is not None
    assert outcome.ok
    assert len(run.scheduler.submissions) == 1


def test_second_start_of_a_job_waits_for_the_first(tmp_path: Path) -> None:
    """A controller starts once more what it takes for lost, with the same id."""
    run = Run(tmp_path / "jobs")
    run.scheduler.may_forget = True  # type: ignore[misc]
    work = tmp_path / "work"
    work.mkdir()
    spec = job_spec(
        "a",
        cwd=str(work),
        script="echo start >> effects; until [ -e go ]; do sleep 0.05; done; echo end >> effects\n",
    )
    job = run.engine.make_job(spec)
    job.record = job.directory.open_attempt(spec, 1, "")
    wrapper = Path(job.directory.file("wrapper"))
    text = run.scheduler.wrap_job_script(job)
    # Grid Engine and Slurm give both starts the same id.
    wrapper.write_text(text.replace("pipen_jid=$$", "pipen_jid=7"))
    run.close()
    starts = [subprocess.Popen(["/bin/bash", str(wrapper)])]
    wait_for(lambda: (work / "effects").exists(), "the first start")
    starts.append(subprocess.Popen(["/bin/bash", str(wrapper)]))
    wait_for(lambda: _waits_for_lock(starts[1].pid), "the second start's waiting")
    (work / "go").touch()
    assert [start.wait(60) for start in starts] == [0, 0]
    assert (work / "effects").read_text() == "start\nend\n"


def _waits_for_lock(pid: int) -> bool:
    children = psutil.Process(pid).children()
    return any(child.name() == "flock" for child in children)
