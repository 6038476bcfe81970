"""Third-party scheduler classes: what they override has its effect."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import uvloop
from xqute.schedulers.local_scheduler import LocalScheduler

from pipen_executors import engine
from pipen_executors.exceptions import UserError
from pipen_executors.foreign import Foreign, doubtful_options, make_foreign
from pipen_executors.hooks import hookimpl
from pipen_executors.scheduler import xqute
from pipen_executors.settings import ExecutorSettings, check
from pipen_executors.states import ExitReason
from snakemake_executor_plugin_pipen import ExecutorSettings as PipenSettings
from snakemake_executor_plugin_pipen.choice import choose

from ..conformance.harness import wait_for
from .fake import Run


class Plain(LocalScheduler):
    """xqute's local scheduler, as a third-party class."""

    SUBMIT_JOB_SLEEP = 0.0


def make(scheduler: type[xqute.Scheduler], root: Path, **settings: Any) -> Any:
    checked = check(ExecutorSettings(**settings), "pipen")
    return make_foreign(scheduler, "--pipen-scheduler", root, checked)


StartRun = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartRun]:
    """Start an engine with a scheduler of a class; what happens is heard of at once."""
    monkeypatch.setattr(Foreign, "runs_here", True)
    monkeypatch.setattr(engine, "_FIRST_QUERY", 0.2)
    runs: list[Run] = []

    def start_run(scheduler: type[xqute.Scheduler], **settings: Any) -> Run:
        root = tmp_path / "jobs"
        runs.append(Run(root, make=lambda root: make(scheduler, root, **settings)))
        return runs[-1]

    yield start_run
    for run in runs:
        run.close()


def outcome_of_one(run: Run, script: str, **more: Any) -> Any:
    run.submit(run.spec("a", script, **more))
    return run.wait(1)["a"].outcome


class OwnShebang(Plain):
    def jobcmd_shebang(self, job: Any) -> str:
        return "/usr/bin/env SHEBANG=yes /bin/bash"


class OwnWrapperInit(Plain):
    @property
    def jobcmd_wrapper_init(self) -> str:
        return super().jobcmd_wrapper_init + "\nexport SHEBANG=yes\n"


class OwnInit(Plain):
    def jobcmd_init(self, job: Any) -> str:
        return super().jobcmd_init(job) + "\nexport SHEBANG=yes"


class OwnPrep(Plain):
    def jobcmd_prep(self, job: Any) -> str:
        return "export SHEBANG=yes"


class OwnWrapper(Plain):
    def wrap_job_script(self, job: Any) -> str:
        first, _, rest = super().wrap_job_script(job).partition("\n")
        return f"{first}\nexport SHEBANG=yes\n{rest}"


class OwnWrapperFile(Plain):
    async def wrapped_job_script(self, job: Any) -> Any:
        path = await super().wrapped_job_script(job)
        moved = path.with_name("moved")
        moved.write_text("export SHEBANG=yes\n" + path.read_text())
        return moved


class XqutesWrapper(Plain):
    """Makes the wrapper by itself, from xqute's template."""

    def wrap_job_script(self, job: Any) -> str:
        text = xqute.scheduler.Scheduler.wrap_job_script(self, job)
        return text.replace("# prescript", "export SHEBANG=yes")


@pytest.mark.parametrize(
    "scheduler",
    [OwnShebang, OwnWrapperInit, OwnInit, OwnPrep, OwnWrapper, OwnWrapperFile, XqutesWrapper],
)
def test_what_is_put_around_the_command(start: StartRun, scheduler: type[xqute.Scheduler]) -> None:
    run = start(scheduler)
    assert outcome_of_one(run, f'echo "$SHEBANG" > {run.root}/out').ok
    assert (run.root / "out").read_text() == "yes\n"


class OwnEnd(Plain):
    def jobcmd_end(self, job: Any) -> str:
        return f"echo $rc > {self.workdir}/end"


class Submits(Plain):
    count = 0

    async def submit_job(self, job: Any) -> Any:
        self.count += 1
        jid = await super().submit_job(job)
        (self.workdir / f"{job.spec.rule}.submitted").write_text(self.config.get("queue", ""))
        return f"{jid}"


class Kills(Plain):
    async def kill_job(self, job: Any) -> None:
        (self.workdir / "killed").write_text(str(await job.get_jid()))
        os.killpg(int(await job.get_jid()), signal.SIGTERM)


class NeverBegins(Plain):
    """Takes a job that its scheduler then holds for good, and says so."""

    async def submit_job(self, job: Any) -> Any:
        return "held"

    async def job_is_running(self, job: Any) -> bool:
        return True

    async def job_fails_before_running(self, job: Any) -> bool:
        return True

    async def kill_job(self, job: Any) -> None:
        raise RuntimeError("there is no such job")


class Vanishes(NeverBegins):
    async def job_is_running(self, job: Any) -> bool:
        return False

    async def job_fails_before_running(self, job: Any) -> bool:
        return False


class CannotWrap(Plain):
    def wrap_job_script(self, job: Any) -> str:
        raise KeyError("template")


class CannotSubmit(Plain):
    async def submit_job(self, job: Any) -> Any:
        raise RuntimeError("the site is closed")


def test_pauses_of_xqute_are_left_out(start: StartRun) -> None:
    run = start(Plain)
    (job,) = run.submit(run.spec("a", "true"))
    run.wait(1)
    assert "\nsleep 1\n" not in job.directory.read("job.wrapped.local")


def test_end_of_failed_and_retried_command(start: StartRun) -> None:
    run = start(OwnEnd)
    outcome = outcome_of_one(
        run, "echo >> n; exit $(wc -l < n)", error_strategy="retry", num_retries=1
    )
    assert (outcome.reason, outcome.rc) == (ExitReason.NONZERO_EXIT, 2)
    assert (run.root / "end").read_text() == "2\n"


def test_submit_job_alone_with_options_of_jobs(start: StartRun) -> None:
    """The scheduler is one for all jobs, also for those that have options of their own."""
    run = start(Submits, options=["queue=short"])
    run.submit(
        run.spec("a", "true", options={"queue": "short"}),
        run.spec("b", "true", options={"queue": "long"}),
    )
    ended: Any = run.wait(2)
    assert all(job.outcome.ok for job in ended.values())
    assert [(run.root / f"{name}.submitted").read_text() for name in "ab"] == ["short", "long"]
    scheduler: Any = run.scheduler
    assert scheduler.count == 2


def test_kill_job(start: StartRun) -> None:
    run = start(Kills)
    (job,) = run.submit(run.spec("a", "touch begun; exec sleep 60"))
    wait_for((run.root / "begun").exists, "the start")
    run.engine.cancel()
    ended: Any = run.wait(1)
    assert ended["a"].outcome.reason is ExitReason.CANCELLED
    assert (run.root / "killed").read_text() == job.jid


class Unsure(Kills):
    """Holds a job, and cannot say whether it is there any more once it was killed."""

    async def submit_job(self, job: Any) -> Any:
        return "held"

    async def kill_job(self, job: Any) -> None: ...

    async def job_is_running(self, job: Any) -> bool:
        raise IndexError("list index out of range")


def test_job_that_was_killed_before_it_began_is_not_waited_for(start: StartRun) -> None:
    run = start(Unsure)
    (job,) = run.submit(run.spec("a", "true"))
    wait_for(lambda: job.jid, "the submission")
    run.engine.cancel()
    assert job.outcome is not None
    assert job.outcome.reason is ExitReason.CANCELLED
    assert not any("whether it has" in text for text in run.messages)
    assert not job.directory.claim(job.token)


def test_halt(start: StartRun) -> None:
    run = start(Kills)
    run.submit(
        run.spec("long", "touch begun; exec sleep 60"),
        run.spec("bad", "until [ -e begun ]; do sleep 0.05; done; exit 3", error_strategy="halt"),
    )
    ended: Any = run.wait(2)
    assert ended["bad"].outcome.rc == 3
    assert ended["long"].outcome.reason is ExitReason.CANCELLED
    wait_for(lambda: run.halted, "the halt")
    assert run.halted == ["bad"]


@pytest.mark.parametrize(
    ("scheduler", "reason", "words"),
    [
        (NeverBegins, ExitReason.LAUNCH_FAILURE, "job_fails_before_running"),
        (Vanishes, ExitReason.LOST, ""),
        (CannotWrap, ExitReason.SUBMIT_FAILURE, "wrapper: KeyError('template')"),
        (CannotSubmit, ExitReason.SUBMIT_FAILURE, "the site is closed"),
    ],
)
def test_job_that_does_not_begin(
    start: StartRun,
    monkeypatch: pytest.MonkeyPatch,
    scheduler: type[xqute.Scheduler],
    reason: ExitReason,
    words: str,
) -> None:
    monkeypatch.setattr("pipen_executors.foreign.Foreign.loss_grace", 0.1)
    outcome = outcome_of_one(start(scheduler), "true")
    assert outcome.reason is reason
    assert words in outcome.detail


class NeedsLoop(Plain):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loop = asyncio.get_running_loop()

    async def post_init(self) -> None:
        assert asyncio.get_running_loop() is self.loop


def test_constructed_in_the_loop_of_its_methods(start: StartRun) -> None:
    assert outcome_of_one(start(NeedsLoop), "true").ok


def test_that_loop_is_asyncios_own(start: StartRun) -> None:
    """Whoever imports xqute first has uvloop's policy in the whole process."""
    policy = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        run = start(NeedsLoop)
        assert isinstance(run.scheduler.made_in_loop, asyncio.SelectorEventLoop)
        assert outcome_of_one(run, "true").ok
    finally:
        asyncio.set_event_loop_policy(policy)


def test_pipens_ssh_scheduler_is_constructed(tmp_path: Path) -> None:
    from pipen.scheduler import SshScheduler

    scheduler = make(SshScheduler, tmp_path, options={"servers": ["node1"]})
    assert list(scheduler.servers) == ["node1:22"]
    scheduler.made_in_loop.close()
    with pytest.raises(UserError, match="No ssh_servers defined"):
        make(SshScheduler, tmp_path)


def test_constructor_has_the_settings(tmp_path: Path) -> None:
    scheduler = make(
        Plain, tmp_path, forks="7", recheck_interval="120", error_strategy="halt", num_retries="2"
    )
    assert (scheduler.forks, scheduler.recheck_interval) == (7, 120)
    assert (scheduler.error_strategy, scheduler.num_retries) == ("halt", 2)
    scheduler.made_in_loop.close()


class Painted(Plain):
    def __init__(self, *args: Any, colour: str = "none", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def test_option_that_is_nearly_an_argument() -> None:
    checked = check(ExecutorSettings(options=["color=red", "queue=long"]), "pipen")
    (doubt,) = doubtful_options(Painted, checked)
    assert "the constructor of Painted has no argument of this name, but colour" in doubt


class AddsVariable:
    @hookimpl
    def on_job_submitting(self, job: Any) -> None:
        job.envs["GREETING"] = f"it's {job.envs['XQUTE_JOB_INDEX']}"


@pytest.mark.parametrize("scheduler", [None, Plain])
def test_variables_of_plugins(tmp_path: Path, scheduler: type[xqute.Scheduler] | None) -> None:
    """Of this project's schedulers and of others."""
    of_other = scheduler and (lambda root: make(scheduler, root))
    run = Run(tmp_path / "jobs", plugins=[AddsVariable()], make=of_other)
    try:
        assert outcome_of_one(run, 'echo "$GREETING" > out').ok
        assert (run.root / "out").read_text() == "it's 0\n"
    finally:
        run.close()


@pytest.mark.parametrize("module", ["scheduler", "pipen_scheduler"])
def test_subclass_of_this_family(tmp_path: Path, module: str) -> None:
    found = import_module(f"snakemake_executor_plugin_pipen_local.{module}").LocalScheduler
    mine = type("Mine", (found,), {"submit_job": Submits.submit_job})
    with pytest.raises(UserError, match=r"Mine is a subclass of LocalScheduler of pipen-local.*"):
        make(mine, tmp_path)


def test_class_itself_from_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As pipen takes it; Snakemake's Python interface hands settings over as they are."""
    monkeypatch.setenv("HOME", str(tmp_path))
    choice = choose(PipenSettings(scheduler=Plain, forks="3"), {}, "a")  # type: ignore[arg-type]
    assert choice.lane == "tests.unit.test_foreign.Plain"
    checked, make_scheduler = choice.prepare(print, print)
    scheduler: Any = make_scheduler(None, tmp_path / choice.lane, checked)  # type: ignore[arg-type]
    assert scheduler.forks == 3
    scheduler.made_in_loop.close()
