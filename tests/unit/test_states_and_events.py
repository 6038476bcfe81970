from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xqute.defaults import JobStatus

from pipen_executors.events import (
    DirectoryEvents,
    Event,
    is_network_filesystem,
    parse_event,
)
from pipen_executors.states import ExitReason, JobState, outcome_of


def test_states_are_those_of_xqute() -> None:
    for state in JobState:
        assert state.value == getattr(JobStatus, state.name)
    assert {state for state in JobState if state.is_final} == {JobState.FINISHED, JobState.FAILED}


@given(st.integers(0, 255))
def test_exit_status_tells_an_outcome(rc: int) -> None:
    outcome = outcome_of(rc)
    assert outcome.ok == (rc == 0)
    assert outcome.rc == rc
    assert (str(rc) in outcome.describe()) and outcome.describe().strip()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGSEGV", "SIGXCPU", "SIGPIPE"])
def test_signals_are_named(name: str) -> None:
    outcome = outcome_of(128 + signal.Signals[name])
    assert outcome.reason is ExitReason.SIGNAL
    assert name in outcome.describe()


@pytest.mark.parametrize("rc", [128, 255, 1, 2])
def test_other_statuses_are_no_signals(rc: int) -> None:
    assert outcome_of(rc).reason is ExitReason.NONZERO_EXIT


def test_events() -> None:
    assert parse_event("k.t.start") == Event("k", "t", None)
    assert parse_event("k.t.end.0") == Event("k", "t", 0)
    assert parse_event("k.t.end.137") == Event("k", "t", 137)
    for name in ("", "k", "k.t", "k.t.end", "k.t.end.x", "k.t.end.-1", ".probe-1234", "a.b.c.d.e"):
        assert parse_event(name) is None


@given(st.text())
def test_any_name_is_an_event_or_none(name: str) -> None:
    parse_event(name)


def test_directory_events_are_seen_at_least_once(tmp_path: Path) -> None:
    async def main() -> list[str]:
        (tmp_path / "before.t.start").touch()
        seen: list[str] = []
        async with DirectoryEvents(str(tmp_path), local=True) as events, asyncio.timeout(20):
            async for names in events.names():
                seen += names
                DirectoryEvents.remove(str(tmp_path), names)
                if len(seen) == 1:
                    (tmp_path / "after.t.end.0").touch()
                if len(seen) == 2:
                    break
        return seen

    assert asyncio.run(main()) == ["before.t.start", "after.t.end.0"]
    assert not list(tmp_path.iterdir())


def test_this_machine_has_local_file_systems() -> None:
    assert not is_network_filesystem("/proc")
