"""The guard that ends a command when its wrapper is killed and nobody else can."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from pipen_executors.wrapper import WrapperContext, render
from tests.services.common import wait_until

from .specs import job_spec

SCRIPT = "sleep 60 & echo $! > child; echo $$ > pid.part; mv pid.part pid; wait"


def start(
    directory: Path,
    script: str,
    timeout: float = 0,
    prescript: str = "",
    env: dict[str, str] | None = None,
    *,
    guard: bool = True,
    direct: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a wrapper with a guard, leading a process group as a scheduler's job does."""
    (directory / "events").mkdir()
    (directory / "job.script").write_text(script)
    spec = job_spec(
        cwd=str(directory), script=script, timeout=timeout, prescript=prescript, direct=direct
    )
    context = WrapperContext(
        shebang="/bin/bash",
        directory=str(directory),
        events=str(directory / "events"),
        cwd=str(directory),
        key="key",
        token="token",
        jid="$$",
        guard=guard,
    )
    path = directory / "job.wrapped.test"
    path.write_text(render(spec, context, ""))
    return subprocess.Popen(["/bin/bash", "-p", str(path)], start_new_session=True, env=env)


def in_session(pid: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


@pytest.mark.parametrize("timeout", [0.0, 50.0], ids=["no-timeout", "timeout"])
def test_command_ends_with_its_wrapper(tmp_path: Path, timeout: float) -> None:
    wrapper = start(tmp_path, SCRIPT, timeout)
    wait_until((tmp_path / "pid").exists, "the command's start")
    os.killpg(wrapper.pid, signal.SIGKILL)
    wrapper.wait()
    wait_until(lambda: not in_session(wrapper.pid), "the end of all processes")
    assert not (tmp_path / "job.rc").exists()


def test_guard_leaves_with_the_wrapper(tmp_path: Path) -> None:
    """What the command leaves running at its own end is its own business."""
    wrapper = start(tmp_path, "sleep 600 & echo $! > left; exit 3")
    assert wrapper.wait(timeout=60) == 3

    # Killed last by the wrapper, the guard may be seen for a moment after it.
    left = int((tmp_path / "left").read_text())
    wait_until(lambda: in_session(wrapper.pid) == [left], "the guard's end", timeout=30)
    os.kill(left, signal.SIGKILL)
    assert (tmp_path / "job.stderr").read_text() == ""


def test_signals_still_reach_the_command(tmp_path: Path) -> None:
    wrapper = start(tmp_path, f"trap 'echo told > told; exit 0' TERM; {SCRIPT}")
    wait_until((tmp_path / "pid").exists, "the command's start")
    wrapper.terminate()
    assert wrapper.wait(timeout=10) == 143
    assert (tmp_path / "told").exists()
    wait_until(lambda: not in_session(wrapper.pid), "the end of all processes")


def test_killed_before_the_guard_has_heard_of_the_command(tmp_path: Path) -> None:
    """It does not begin: nobody would end it."""
    at_its_fork = """trap '[[ $BASH_COMMAND != "pipen_child="* ]] || kill -s KILL $$' DEBUG"""
    wrapper = start(tmp_path, f"touch ran; {SCRIPT}", prescript=at_its_fork)
    assert wrapper.wait(timeout=60) == -signal.SIGKILL
    wait_until(lambda: not in_session(wrapper.pid), "the end of all processes", timeout=20)
    assert not (tmp_path / "ran").exists()


def test_a_time_limit_of_the_users_for_reading_ends_no_command(tmp_path: Path) -> None:
    """TMOUT of a bash is how long each of its ``read`` waits: the guard's too (bash(1))."""
    wrapper = start(tmp_path, "sleep 2.5", env={**os.environ, "TMOUT": "1"})
    assert wrapper.wait(timeout=60) == 0


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "respawned"])
@pytest.mark.parametrize("timeout", [0.0, 600.0], ids=["guard", "watchdog"])
def test_told_to_end_at_the_same_time_as_its_command(
    tmp_path: Path, timeout: float, direct: bool
) -> None:
    """bash loses the status of a child that ends as the signal comes, and waits for ever."""
    script = "echo $$ > pid.part; mv pid.part pid; exec sleep 600"
    wrappers = []
    for number in range(8):
        place = tmp_path / str(number)
        place.mkdir()
        wrappers.append(start(place, script, timeout, guard=not timeout, direct=direct))
    for number, wrapper in enumerate(wrappers):
        pid = tmp_path / str(number) / "pid"
        wait_until(pid.exists, "the command's start")
        os.kill(int(pid.read_text()), signal.SIGTERM)
        wrapper.terminate()
    for number, wrapper in enumerate(wrappers):
        assert wrapper.wait(timeout=60) == 143
        assert (tmp_path / str(number) / "job.rc").read_text() == "143\n"
