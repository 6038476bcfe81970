"""A machine and its connection, where a bash of this machine takes the place of ``ssh``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pipen_executors.exceptions import SchedulerError, TransientError
from snakemake_executor_plugin_pipen_ssh import answers
from snakemake_executor_plugin_pipen_ssh.answers import Nonsense
from snakemake_executor_plugin_pipen_ssh.client import Access
from snakemake_executor_plugin_pipen_ssh.host import Host
from snakemake_executor_plugin_pipen_ssh.servers import Server
from snakemake_executor_plugin_pipen_ssh.stock import Stocks

from .loops import run

Test = Callable[[Host], Awaitable[None]]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with the script, which asks nobody for settings."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    become(tmp_path, "exec /bin/bash")
    return tmp_path


def become(there: Path, session: str) -> None:
    """Say what a session is from now on."""
    path = there / "bin" / "ssh"
    path.write_text(f'#!/bin/bash\n[[ " $* " != *" -G "* ]] || exit 0\n{session}\n')
    path.chmod(0o755)


def tell(there: Path, test: Test, timeout: float = 30) -> list[str]:
    """Do something with a machine; return what the user is told."""
    told: list[str] = []

    async def work() -> None:
        nothing = lambda *_: None  # noqa: E731
        host = Host(
            Server("big1", "big1"),
            Access(None, timeout, 300),
            Stocks(),
            f"{there}/tree",
            "events",
            on_event=nothing,
            on_change=nothing,
            warn=told.append,
        )
        try:
            await test(host)
        finally:
            await host.close()

    run(work())
    return told


async def how_many_kills(host: Host) -> int:
    kills, _ = await host.ask("query", 0, read=lambda text: answers.states(text, 0))
    return kills


def test_session_that_is_sound(there: Path) -> None:
    async def work(host: Host) -> None:
        await host.open()
        assert host.tree == f"{there}/tree"
        assert await how_many_kills(host) >= 0
        name = f".pipen-tree.{host._stocks.token}"
        assert host.stock is host._stocks.named((there / "tree" / name).read_text().strip())

    become(there, "echo 'You have new mail.'; echo what the login says >&2; exec /bin/bash")
    assert tell(there, work) == []


def test_nonsense_ends_a_session_and_after_three_the_machine(there: Path) -> None:
    """Each time the connection is made again; then nothing more is expected of it."""

    async def work(host: Host) -> None:
        await host.open()
        while not host.is_lost:
            with pytest.raises(TransientError):
                await how_many_kills(host)
            await asyncio.sleep(0.02)
        assert host.trouble == "big1 is not asked any more: it sent '= 2 perhaps'"

    become(there, "/bin/bash | sed -u 's/^= 2 ok .*/= 2 perhaps/'")
    again = "its jobs go on, connecting again."
    wrong = "big1 does not answer as it should: it sent '= 2 perhaps'"
    assert tell(there, work) == [
        f"{wrong}; {again}",
        "big1 is reachable again.",
        f"{wrong}; {again}",
        "big1 is reachable again.",
        f"{wrong}; it is set aside for this run, after 3 sessions like that.",
    ]


def test_silence_does_not_count(there: Path) -> None:
    """A network that says nothing is no machine that lies."""

    async def work(host: Host) -> None:
        for _ in range(4):
            await (host.come_back() if host._task else host.open())
            agent = host._agent
            with pytest.raises(TransientError, match="big1: no answer to 'query'"):
                await host.ask("query", 0, read=str, patience=0.1)
            while host._agent is agent:
                await asyncio.sleep(0.02)
        await host.come_back()
        assert not host.is_lost

    become(there, "/bin/bash | sed -u '/^= 2 ok/d'")
    silent = "big1 is silent: no answer to 'query' within 0.1 s; its jobs go on, connecting again."
    assert tell(there, work) == [silent, "big1 is reachable again."] * 4


def test_what_an_earlier_connection_sent_is_not_held_against_a_later_one(there: Path) -> None:
    async def work(host: Host) -> None:
        await host.open()
        agent, carriers = host._agent, host.carriers
        assert agent is not None
        host.distrust(Nonsense("it sent 'x'"), carriers)
        while host._agent is agent:
            await asyncio.sleep(0.02)
        await host.come_back()
        later = host._agent
        host.distrust(Nonsense("it sent 'y'"), carriers)
        host.distrust(Nonsense("it sent 'y'"), agent)
        assert await how_many_kills(host) >= 0
        assert host._agent is later

    assert len(tell(there, work)) == 2


def test_startup_file_of_the_environment_is_not_read(there: Path) -> None:
    async def work(host: Host) -> None:
        await host.open()
        assert await how_many_kills(host) >= 0

    (there / "env").write_text("exit 3\n")
    become(there, f'BASH_ENV={there}/env exec /bin/sh -c "${{!#}}"')
    assert tell(there, work) == []


def test_nonsense_that_only_the_reader_sees(there: Path) -> None:
    async def work(host: Host) -> None:
        await host.open()
        with pytest.raises(TransientError, match="big1: it sent '-5 gone'"):
            await how_many_kills(host)

    become(there, "/bin/bash | sed -u 's/^= 2 ok .*/= 2 ok -5 gone/'")
    tell(there, work)


def test_machine_that_greets_with_nonsense(there: Path) -> None:
    """It is tried again later, as one that is away."""

    async def work(host: Host) -> None:
        with pytest.raises(TransientError, match="big1: it sent '1 2 /x'"):
            await host.open()

    become(there, "/bin/bash | sed -u 's/^= 1 ok .*/= 1 ok 1 2 \\/x/'")
    tell(there, work)


@pytest.mark.parametrize(
    ("session", "kind", "says"),
    [
        ("echo 'me@big1: Permission denied (publickey).' >&2; exit 255", SchedulerError, "refuses"),
        ("echo 'Connection refused' >&2; exit 255", TransientError, "big1: Connection refused"),
        ("echo 'No shell for you.' >&2; exit 1", SchedulerError, "run /bin/bash: No shell for you"),
        ("exec sleep 1000", TransientError, "big1: no answer within 0.5 s"),
    ],
)
def test_logins_that_fail(there: Path, session: str, kind: type[SchedulerError], says: str) -> None:
    async def work(host: Host) -> None:
        with pytest.raises(SchedulerError, match=says) as caught:
            await host.open()
        assert type(caught.value) is kind

    become(there, session)
    tell(there, work, timeout=0.5 if "sleep" in session else 30)


def test_tree_that_somebody_has_prepared(there: Path) -> None:
    (there / "elsewhere").mkdir(mode=0o700)
    (there / "tree").symlink_to("elsewhere")

    async def work(host: Host) -> None:
        with pytest.raises(SchedulerError, match=r"big1: .*tree is a symbolic link"):
            await host.open()

    tell(there, work)
    (there / "tree").unlink()
    (there / "tree").mkdir(mode=0o755)

    async def again(host: Host) -> None:
        with pytest.raises(SchedulerError, match="has the mode 755, so that others can get at it"):
            await host.open()

    tell(there, again)


def test_clock_that_differs(there: Path) -> None:
    async def work(host: Host) -> None:
        await host.open()

    become(there, "/bin/bash | sed -u -E 's/^(= 1 ok [0-9]+ [0-9]+ [0-9]+) [0-9]+/\\1 1600000000/'")
    (told,) = tell(there, work)
    assert told.startswith("The clock of big1 is ")
    assert "s behind that of this machine" in told
