"""The scheduler classes for pipen and xqute, on this machine: what is the same on all of them."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import xqute
from xqute import JobStatus, Xqute, plugin

from pipen_executors import get_scheduler
from pipen_executors.exceptions import UserError
from pipen_executors.pipen_api import PipenScheduler

from .conformance.harness import wait_for

_CLASSES = ("local", "slurm", "sge", "ssh", "container")
_PAGE = Path(__file__).parents[1] / "docs" / "scheduler-api.md"


def methods_of(scheduler: type[Any]) -> dict[str, Callable[..., Any]]:
    """Return the public methods of a class by name."""
    found = inspect.getmembers(scheduler, inspect.isfunction)
    return {name: method for name, method in found if not name.startswith("_")}


@pytest.mark.parametrize("name", _CLASSES)
def test_methods_are_xqutes(name: str) -> None:
    """Same names, same parameters in the same order, and coroutines where xqute has them."""
    ours = get_scheduler(name)
    theirs = methods_of(xqute.Scheduler)
    assert issubclass(ours, PipenScheduler)
    parents = [base for base in ours.__mro__ if base.__module__.startswith("xqute.")]
    assert inspect.signature(ours) == inspect.signature(parents[0])
    for method, function in theirs.items():
        mine = getattr(ours, method)
        wanted = list(inspect.signature(function).parameters)
        assert list(inspect.signature(mine).parameters) == wanted, method
        assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(function), method


def test_page_has_every_method() -> None:
    table = _PAGE.read_text().partition("## Methods")[2].partition("\n\n1. ")[0]
    told = set(re.findall(r"`(\w+)\(", table))
    assert told == {*methods_of(xqute.Scheduler), "init_proc"}
    header = next(line for line in table.splitlines() if line.startswith("| method"))
    assert tuple(re.findall(r"\w+", header)[1:]) == _CLASSES


def run(
    workdir: Path, commands: Sequence[str | list[str]], **options: Any
) -> tuple[list[Any], PipenScheduler]:
    """Run commands with xqute on this machine; return its jobs and the scheduler."""

    async def main() -> tuple[list[Any], Any]:
        runner = Xqute(get_scheduler("local"), workdir=workdir, **options)
        for command in commands:
            await runner.feed(command)
        await runner.run_until_complete()
        return runner.jobs, runner.scheduler

    return asyncio.run(main())


def bash(code: str) -> list[str]:
    return ["bash", "-c", code]


def test_command_is_run_as_it_was_given(tmp_path: Path) -> None:
    (job,), _ = run(tmp_path, [["printf", "%s|", "$HOME", "`id`", 'a"b', "it's", "a  b", ""]])
    assert job.stdout_file.read_text() == "$HOME|`id`|a\"b|it's|a  b||"


def test_failures_say_why(tmp_path: Path) -> None:
    """A signal is no success, whatever the command makes of it; nothing else is written."""
    deaf, plain, known, late = run(
        tmp_path,
        [
            bash("trap 'exit 0' TERM; kill -TERM $PPID; while :; do sleep 0.1; done"),
            bash("kill -KILL $$"),
            bash("echo so it is >&2; exit 3"),
            "sleep 60",
        ],
        forks=4,
        scheduler_opts={"timeout": 1},
    )[0]
    assert {job._status for job in (deaf, plain, known, late)} == {JobStatus.FAILED}
    rcs = [asyncio.run(job.get_rc()) for job in (deaf, plain, known, late)]
    assert rcs == [143, 137, 3, 124]
    assert "SIGTERM" in deaf.stderr_file.read_text()
    assert "SIGKILL" in plain.stderr_file.read_text()
    assert known.stderr_file.read_text() == "so it is\n"
    assert "ran longer than allowed" in late.stderr_file.read_text()


def test_a_submission_that_is_refused(tmp_path: Path) -> None:
    """It has failed, with the reason, where xqute's tools look for it."""
    (job,), _ = run(tmp_path, ["true"], scheduler_opts={"kill_grace": "soon"})
    assert job._status == JobStatus.FAILED
    assert asyncio.run(job.get_rc()) == -2
    assert "kill_grace in scheduler_opts is 'soon'" in job.stderr_file.read_text()


def test_an_option_that_is_none_is_told_before_the_first_job(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"kil_grace in scheduler_opts is 5: .*use kill_grace"):
        run(tmp_path, ["true"], scheduler_opts={"kil_grace": 5})
    assert not (tmp_path / "0").exists()


def test_forks_and_hooks(tmp_path: Path) -> None:
    """No more jobs than forks at a time; each plugin is told in the caller's thread, in order."""
    told: list[tuple[int, str]] = []
    depth = tmp_path / "depth"

    def teller(name: str) -> Any:
        async def hook(scheduler: Any, job: Any) -> None:
            assert isinstance(scheduler, PipenScheduler)
            asyncio.get_running_loop()
            told.append((job.index, name))

        hook.__name__ = f"on_job_{name}"
        return plugin.impl(hook)

    names = ("init", "queued", "submitting", "submitted", "started", "failed", "succeeded")
    made = type("Teller", (), {f"on_job_{name}": staticmethod(teller(name)) for name in names})
    command = bash(f"echo + >> {depth}; sleep 0.3; echo - >> {depth}; [[ $XQUTE_JOB_INDEX != 1 ]]")
    jobs, _ = run(tmp_path / "jobs", [command] * 5, forks=2, plugins=[made])
    most = now = 0
    for line in depth.read_text().splitlines():
        now += 1 if line == "+" else -1
        most = max(most, now)
    assert most == 2
    before = ["init", "queued", "submitting", "submitted", "started"]
    for job in jobs:
        end = "failed" if job.index == 1 else "succeeded"
        assert [name for index, name in told if index == job.index] == [*before, end]


def test_bash_of_plugins_and_of_subclasses(tmp_path: Path) -> None:
    class Plugin:
        @plugin.impl
        def on_jobcmd_prep(scheduler: Any, job: Any) -> str:
            return 'cmd="$cmd three"'

    class Mine(get_scheduler("local")):  # type: ignore[misc]
        def jobcmd_init(self, job: Any) -> str:
            return f"export INDEX={job.index}\n{super().jobcmd_init(job)}"

        def wrap_job_script(self, job: Any) -> str:
            return str(super().wrap_job_script(job)).replace('" one "', '" ONE "')

    async def main() -> Any:
        runner = Xqute(Mine, workdir=tmp_path, plugins=[Plugin])
        await runner.feed([*bash('echo "$INDEX" one "$@"'), "-", "two"])
        await runner.run_until_complete()
        return runner.jobs[0]

    assert asyncio.run(main()).stdout_file.read_text() == "0 ONE two three\n"


def test_job_that_ends_while_it_is_asked_about(tmp_path: Path) -> None:
    """It has run, though it was not seen to."""

    class Quick(get_scheduler("local")):  # type: ignore[misc]
        ends = True

        async def job_is_running(self, job: Any) -> bool:
            if self.ends:
                Path(str(job.rc_file)).write_text("0\n")
            return False

    async def main() -> tuple[bool, bool]:
        scheduler = Quick(tmp_path)
        job = await scheduler.create_job(0, ["true"])
        await job.set_jid(1)
        quick = await scheduler.job_fails_before_running(job)
        os.unlink(job.rc_file)
        scheduler.ends = False
        return quick, await scheduler.job_fails_before_running(job)

    assert asyncio.run(main()) == (False, True)


def test_subclass_that_submits_by_itself(tmp_path: Path) -> None:
    """Its scheduler knows what to ask; the wrapper tells the rest."""

    class Mine(get_scheduler("local")):  # type: ignore[misc]
        async def wrapped_job_script(self, job: Any) -> Any:
            path = await super().wrapped_job_script(job)
            (job.metadir / "seen").write_text(path.name)
            return path

    class Alone(Mine):
        async def submit_job(self, job: Any) -> int:
            script = await self.wrapped_job_script(job)
            return (await asyncio.create_subprocess_exec("bash", str(script))).pid

    async def main(scheduler: Any, workdir: Path) -> Any:
        runner = Xqute(scheduler, workdir=workdir)
        await runner.feed("echo done")
        await runner.run_until_complete()
        return runner.jobs[0]

    for scheduler in (Mine, Alone):
        job = asyncio.run(main(scheduler, tmp_path / scheduler.__name__))
        assert job._status == JobStatus.FINISHED
        assert job.stdout_file.read_text() == "done\n"
        assert (job.metadir / "seen").read_text() == "job.wrapped.local"


def test_halt_ends_the_others(tmp_path: Path) -> None:
    jobs, scheduler = run(
        tmp_path, ["sleep 300", "false", "sleep 300"], forks=3, error_strategy="halt"
    )
    assert jobs[1]._status == JobStatus.FAILED
    assert asyncio.run(jobs[0].get_rc()) == asyncio.run(jobs[2].get_rc()) == 143
    assert not any(job.goes_on for job in jobs)
    assert scheduler._engine is None


def test_scheduler_is_asked_about_all_jobs_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often xqute looks, and together when they are submitted."""
    from snakemake_executor_plugin_pipen_local.scheduler import LocalScheduler

    asked: list[int] = []
    submitted: list[int] = []

    def counting(name: str, counts: list[int]) -> None:
        method = getattr(LocalScheduler, name)

        async def counted(self: Any, jobs: Sequence[Any]) -> Mapping[Any, Any]:
            counts.append(len(jobs))
            answer: Mapping[Any, Any] = await method(self, jobs)
            return answer

        monkeypatch.setattr(LocalScheduler, name, counted)

    counting("query_jobs", asked)
    counting("submit_jobs", submitted)
    monkeypatch.setattr("xqute.xqute.SLEEP_INTERVAL_POLLING_JOBS", 0.01)
    # However slowly they come on a machine with other work.
    monkeypatch.setattr("pipen_executors.pipen_api._TOGETHER", 1.0)
    monkeypatch.setattr("pipen_executors.pipen_api._TOGETHER_AT_MOST", 30.0)
    jobs, _ = run(tmp_path, ["sleep 2.5"] * 20, forks=20)
    assert all(job._status == JobStatus.FINISHED for job in jobs)
    assert submitted == [20]
    assert len(asked) < 10, "at the pace of the engine, not of xqute"


def test_a_job_of_another_kind_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        scheduler = get_scheduler("local")(tmp_path)
        job = xqute.job.Job(0, "true", scheduler.workdir)
        await scheduler.submit_job(job)

    with pytest.raises(TypeError, match="is no job of create_job"):
        asyncio.run(main())


def test_workdir_in_a_bucket_is_refused(tmp_path: Path) -> None:
    scheduler: Any = get_scheduler("slurm")("gs://bucket/path")
    with pytest.raises(Exception, match="workdir of scheduler slurm is gs://bucket/path: expected"):
        scheduler.driven  # noqa: B018


def test_options_of_servers_and_containers(tmp_path: Path) -> None:
    async def ready(scheduler: Any) -> Any:
        await scheduler.post_init()
        return scheduler

    with pytest.raises(ValueError, match="at least one server"):
        get_scheduler("ssh")(tmp_path)
    servers = {"a": {"user": "me", "ctrl_persist": 60}, "b": {}}
    over_ssh: Any = get_scheduler("ssh")(tmp_path, servers=servers)
    assert over_ssh.servers == {"a": {"user": "me"}, "b": {}}
    made = get_scheduler("container")(
        workdir="jobs", image="i", bin="true", volumes="DATA=/data", volume_as_cwd=str(tmp_path)
    )
    scheduler = asyncio.run(ready(made))
    assert str(scheduler.workdir) == str(scheduler.workdir.mounted) == f"{tmp_path}/jobs"
    assert scheduler.cwd == "/mnt/disks/.cwd"
    assert scheduler._read_options().jobname_prefix == "container"
    assert scheduler._given()["volume_as_cwd"] == f"{tmp_path}:/mnt/disks/.cwd"


_PIPELINE = r"""
import sys
from pipen import Pipen, Proc


class Waiting(Proc):
    input = "x:var"
    input_data = [0, 1]
    output = "out:file:out.txt"
    script = '''
        echo begun >> {{out.out}}; echo {{in.x}} >> PLACE/begun
        until [[ -e PLACE/go ]]; do sleep 0.05; done
        echo ended >> {{out.out}}
        '''.replace("PLACE", sys.argv[1])


pipeline = Pipen(
    name="P",
    scheduler="pipen-executors-local",
    forks=2,
    outdir="out",
    workdir="jobs",
    loglevel="info",
).set_starts(Waiting)
sys.exit(not pipeline.run())
"""


def start(place: Path) -> subprocess.Popen[bytes]:
    (place / "pipeline.py").write_text(_PIPELINE)
    with (place / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "pipeline.py", str(place)],
            cwd=place,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # pipen breaks its lines at the width of a terminal.
            env={**os.environ, "HOME": str(place), "COLUMNS": "200"},
        )


def begun(place: Path) -> list[str]:
    try:
        return sorted((place / "begun").read_text().split())
    except FileNotFoundError:
        return []


def test_killed_pipeline_is_taken_up(tmp_path: Path) -> None:
    """What runs keeps what it has written, is waited for, and not run twice."""
    first = start(tmp_path)
    try:
        wait_for(lambda: len(begun(tmp_path)) == 2, "both jobs to run")
    finally:
        first.kill()
        first.wait()
    second = start(tmp_path)
    try:
        log = tmp_path / "log"
        wait_for(lambda: log.read_text().count("taken up again") == 2, "jobs to be taken up")
        (tmp_path / "go").touch()
        assert second.wait(60) == 0, log.read_text()
    finally:
        (tmp_path / "go").touch()
        second.kill()
        second.wait()
    assert begun(tmp_path) == ["0", "1"]
    for index in range(2):
        assert (tmp_path / f"out/Waiting/{index}/out.txt").read_text() == "begun\nended\n"


def test_interrupted_pipeline_ends_its_jobs(tmp_path: Path) -> None:
    process = start(tmp_path)
    try:
        wait_for(lambda: len(begun(tmp_path)) == 2, "both jobs to run")
        process.send_signal(signal.SIGINT)
        process.wait(60)
        rc = [(tmp_path / f"jobs/P/Waiting/{index}/job.rc").read_text() for index in range(2)]
        assert rc == ["143\n", "143\n"]
    finally:
        (tmp_path / "go").touch()
        process.kill()
        process.wait()
