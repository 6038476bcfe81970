"""How pipen-ssh uses the program ``ssh``: its options, and what its words mean."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from pipen_executors.exceptions import SchedulerError, TransientError
from snakemake_executor_plugin_pipen_ssh import client
from snakemake_executor_plugin_pipen_ssh.client import (
    OVERRIDDEN,
    QUESTION,
    SHARING,
    Access,
    Session,
    arguments,
    completion,
    control_path,
    effective,
    refusal,
)
from snakemake_executor_plugin_pipen_ssh.servers import Server, parse_servers

from .loops import run

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh")
PAGE = Path(__file__).parents[2] / "docs" / "ssh.md"

CONTRARY = """
    # what is all right for a person at a terminal
    BatchMode no
    LocalForward 1234 localhost:1
    EscapeChar ~
    ForwardAgent yes
    ForwardX11 yes
    LogLevel DEBUG3
    PermitLocalCommand yes
    LocalCommand echo hello
    RemoteCommand tmux
    RequestTTY force
    Tunnel yes
    ControlMaster auto
    ControlPersist 1h
"""


def settings(config: Path, server: Server) -> tuple[list[str], dict[str, list[str]]]:
    """Return the options for a server, and what ``ssh`` makes of them."""
    words = arguments(server, Access(str(config), 15, 300))

    def ask(*question: str) -> dict[str, list[str]]:
        done = subprocess.run(
            ["ssh", *question, *words, "--", server.host],
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return effective(done.stdout)

    words += completion(ask(*QUESTION))
    return words, ask("-G")


@needs_ssh
def test_neither_agent_nor_terminal_nor_tunnel(tmp_path: Path) -> None:
    """Whatever the user's files say for their own logins."""
    config = tmp_path / "config"
    config.write_text(f"Host *\n{CONTRARY}")
    _, found = settings(config, Server("big1", "big1"))
    for keyword, value in OVERRIDDEN.items():
        if keyword == "ClearAllForwardings":
            assert "localforward" not in found
        elif keyword.lower() in found:  # a keyword without a value is left out
            assert found[keyword.lower()] in ([value], ["false" if value == "no" else value])
        else:
            assert value == "none", keyword


@needs_ssh
def test_what_the_user_says_counts(tmp_path: Path) -> None:
    """Comments, quotes, patterns, tokens, includes and matches are read by ``ssh`` itself."""
    (tmp_path / "more").write_text("Host big*\n  Port 2222   # as the site has it\n")
    config = tmp_path / "config"
    config.write_text(
        f"Include {tmp_path}/more\nIgnoreUnknown UseKeychain\nUseKeychain yes\n"
        f"Host big1\n  HostName %h.example.org\n  User 'me'\n  ServerAliveInterval 20\n"
        "Match host big1.example.org\n  ProxyJump gate\n  StrictHostKeyChecking accept-new\n"
    )
    _, found = settings(config, Server("big1", "big1"))
    assert found["hostname"] == ["big1.example.org"]
    assert found["port"] == ["2222"]
    assert found["user"] == ["me"]
    assert found["proxyjump"] == ["gate"]
    assert found["stricthostkeychecking"] == ["accept-new"]
    assert found["serveraliveinterval"] == ["20"]
    (server,) = parse_servers([f"you@big1:22,keyfile={tmp_path}/a key %h"])
    _, found = settings(config, server)
    assert (found["user"], found["port"]) == (["you"], ["22"])
    assert found["identityfile"] == [f"{tmp_path}/a key %%h"]
    assert found["identitiesonly"] == ["yes"]
    assert found["connecttimeout"] == ["15"]
    _, found = settings(config, Server("other", "other"))
    assert found["serveraliveinterval"] == ["5"], "a silent machine is noticed"


OURS = {"ConnectTimeout", "ServerAliveInterval", "ServerAliveCountMax"}


def test_page_names_what_does_not_count() -> None:
    text = PAGE.read_text().partition("<!-- keywords -->")[2].partition("<!-- end -->")[0]
    named = {
        k
        for line in text.splitlines()[2:]
        for k in re.findall("`([A-Z][A-Za-z0-9]+)`", line.split("|")[1] if "|" in line else "")
    }
    assert named == {*OVERRIDDEN, *SHARING, *OURS}


UNKNOWN_KEY = "No ED25519 host key is known for 10.0.0.1 and you have requested strict checking.\n"


@pytest.mark.parametrize(
    ("why", "says"),
    [
        (f"{UNKNOWN_KEY}Host key verification failed.", "the host key of big1 is not known"),
        (
            "@@@@@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n"
            "Host key for 10.0.0.1 has changed and you have requested strict checking.\n"
            "Host key verification failed.",
            "ssh-keyscan -p 2222 10.0.0.1",
        ),
        ("me@10.0.0.1: Permission denied (publickey).", "big1 refuses the login"),
        ("Received disconnect from 10.0.0.1: Too many authentication failures", "ssh-agent"),
        ("ssh: Could not resolve hostname big1: Name or service not known", "no such machine"),
        ("Unable to negotiate with 10.0.0.1 port 22: no matching cipher found.", "no matching"),
        ("/x: line 1: Bad configuration option: bogus", "Bad configuration option: bogus"),
    ],
)
def test_refusals_for_good(why: str, says: str) -> None:
    error = refusal("big1", "-p 2222 10.0.0.1", why)
    assert says in str(error)
    assert not isinstance(error, TransientError)


@pytest.mark.parametrize(
    "why",
    [
        "",
        "ssh: connect to host 10.0.0.1 port 22: Connection refused",
        "ssh: connect to host 10.0.0.1 port 22: Connection timed out",
        "kex_exchange_identification: Connection closed by remote host",
        "ssh: Could not resolve hostname big1: Temporary failure in name resolution",
        "Connection closed by UNKNOWN port 65535",
    ],
)
def test_refusals_for_now(why: str) -> None:
    error = refusal("big1", "10.0.0.1", why)
    assert isinstance(error, TransientError)
    assert str(error).startswith("big1: ")


def test_place_of_the_shared_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the user's alone, and short enough for a socket."""
    short = Path("/tmp") / f"pp-{os.getpid()}"
    short.mkdir(mode=0o700)
    try:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
        path = Path(control_path())
        assert path.parent.parent == short
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert control_path() != str(path)
        path.parent.chmod(0o755)
        assert Path(control_path()).parent != path.parent
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 20)))
        assert Path(control_path()).parent.parent != tmp_path
    finally:
        shutil.rmtree(short)


@pytest.mark.parametrize(("seconds", "option"), [(0.2, "1"), (15.0, "15"), (15.1, "16")])
def test_login_has_an_end_without_snakemake(seconds: float, option: str) -> None:
    words = arguments(Server("big1", "big1"), Access(None, seconds, 300))
    assert f"ConnectTimeout={option}" in words


def test_control_sockets_of_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with the same process id elsewhere has another name; what nobody listens at goes."""
    short = Path("/tmp") / f"pp-{os.getpid()}"
    short.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    try:
        first = Path(control_path())
        directory = first.parent
        dead, alive, foreign = (
            str(directory / name) for name in (f"{first.name[:-8]}00000000", first.name, "foreign")
        )
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(alive)
            listening.listen()
            for path in (dead, foreign):
                with socket.socket(socket.AF_UNIX) as one:
                    one.bind(path)
            client._clean.cache_clear()
            assert control_path() != str(first)
            assert sorted(os.listdir(directory)) == sorted([first.name, "foreign"])
    finally:
        shutil.rmtree(short)


def test_session_that_says_a_lot_and_ends() -> None:
    """Nobody waits for its standard error, whose end is kept, without what a terminal obeys."""

    async def work() -> None:
        loud = "head -c 3000000 /dev/zero | tr '\\0' x >&2; printf '\\033[31mlast\\n' >&2; exit 255"
        session = await Session.start(["/bin/bash", "-c", loud])
        assert (await session.why()).endswith("xlast")
        assert session.is_refused
        await session.wait_closed()
        with pytest.raises(SchedulerError, match="needs OpenSSH's client"):
            await Session.start(["/no/such/ssh"])

    run(work())
