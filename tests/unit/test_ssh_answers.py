"""What a machine sends is read strictly: each reader on what it may and may not be."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pipen_executors.exceptions import TransientError
from pipen_executors.job import Job
from pipen_executors.jobdir import JobDir
from pipen_executors.states import JobState
from snakemake_executor_plugin_pipen_ssh import answers
from snakemake_executor_plugin_pipen_ssh.agent import Agent
from snakemake_executor_plugin_pipen_ssh.answers import Answer, Event, Nonsense
from snakemake_executor_plugin_pipen_ssh.client import Session
from snakemake_executor_plugin_pipen_ssh.stock import Stocks

from .loops import run
from .specs import job_spec


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("= 3 ok", Answer("3", True, "")),
        ("= 3 ok a b", Answer("3", True, "a b")),
        ("= 3 error no  such", Answer("3", False, "no  such")),
        ("! k-1.0a1b.end.0", Event("k-1.0a1b.end.0")),
        ("! k.t.start", Event("k.t.start")),
        ("! k.t.end.\N{SUPERSCRIPT TWO}", None),
        ("! ../../x.t.end.0", None),
        ("! k.t.end.1234", None),
        (".", None),
        ("", None),
        ("Last login: yesterday", None),
    ],
)
def test_lines(text: str, meaning: object) -> None:
    assert answers.line(text) == meaning


@pytest.mark.parametrize(
    "text", ["=", "= ", "= 3", "= x ok", "= 3 maybe", "= \N{SUPERSCRIPT TWO} ok"]
)
def test_answers_that_are_none(text: str) -> None:
    with pytest.raises(Nonsense, match="it sent "):
        answers.line(text)


@pytest.mark.parametrize("text", ["", "1 2", "1 2 3 4.5 u t", "1 x 3 4.5 u /t", "1 2 3 nan u /t"])
def test_hello(text: str) -> None:
    assert answers.hello("1 2 3 4.5 u /a tree").tree == "/a tree"
    with pytest.raises(Nonsense):
        answers.hello(text)


@pytest.mark.parametrize("text", ["", "0 5", "-1 5", "99999999999 5", "12", "12 x", "12 5 6"])
def test_started(text: str) -> None:
    assert answers.started("12 5") == ("12", 5)
    with pytest.raises(Nonsense):
        answers.started(text)


@pytest.mark.parametrize(
    "text", ["", "5", "5 running", "5 running 256", "5 running gone gone", "5 a b"]
)
def test_states(text: str) -> None:
    assert answers.states("5 running 137", 2) == (5, ["running", "137"])
    with pytest.raises(Nonsense):
        answers.states(text, 2)


@pytest.mark.parametrize(
    "text", ["", "-", "- 5", "- 5:x", "- 5:1e300", "- x:5.5", "- - -", "- -1:5.5", "- d:x"]
)
def test_versions(text: str) -> None:
    assert answers.versions(f"d:{'f' * 64} 5:1.5", 2) == ["f" * 64, (5, 1_500_000_000)]
    with pytest.raises(Nonsense):
        answers.versions(text, 2)


def test_times() -> None:
    for time in (0, 1, -1, -1_500_000_000, 1_600_000_000_123_456_789):
        assert answers.nanoseconds(answers.seconds(time)) == time
    for text in ("", "x", "1e5", "99999999999", "1.x", "\N{SUPERSCRIPT TWO}"):
        with pytest.raises(Nonsense):
            answers.nanoseconds(text)


@pytest.mark.parametrize("sent", ["= 1 perhaps", "=", "x" * (1 << 25)])
def test_session_with_a_malformed_line_is_over(sent: str, tmp_path: Path) -> None:
    """Who waits for an answer is told at once, and what was wrong is known."""
    (tmp_path / "sent").write_text(f".\n{sent}\n")

    async def work() -> None:
        session = await Session.start(["/bin/sh", "-c", f"cat {tmp_path}/sent; exec sleep 1000"])
        agent = Agent(session, "big1", lambda _: None)
        ask = asyncio.create_task(agent.ask("query", 0))
        await asyncio.wait_for(agent.listen(), 60)
        with pytest.raises(TransientError, match="big1: it sent "):
            await ask
        assert agent.failure is not None
        session.close()
        await session.wait_closed()

    run(work())


def test_readers_of_a_tree() -> None:
    """Whoever reads a file, what is in it or around it; the tree of two machines is one."""
    stocks = Stocks()
    near, far = stocks.named("u"), stocks.named("u")
    assert near is far
    assert stocks.named("v") is not near
    first, second = (Job(n, job_spec(), JobDir("/nowhere")) for n in range(2))
    first.set_state(JobState.RUNNING)
    near.use(first, ["d", "x/y"])
    for name in ("d", "d/in/it", "x", "x/y", "x/y/z"):
        assert far.readers(["other", name], second) == {first: name}
    assert far.readers(["d2", "x/y2", "e"], second) == {}
    assert far.readers(["d"], first) == {}
    first.set_state(JobState.QUEUED)
    assert far.readers(["d"], second) == {}, "it waits for a second start"
    first.set_state(JobState.RUNNING)
    stocks.free(first)
    assert far.readers(["d"], second) == {}
