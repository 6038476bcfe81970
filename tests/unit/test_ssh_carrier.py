"""Files carried by one bash after another transfer, as to a machine: here to this one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest

from pipen_executors.exceptions import SchedulerError, TransientError
from snakemake_executor_plugin_pipen_ssh.arrival import Arrival
from snakemake_executor_plugin_pipen_ssh.carrier import Carriers
from snakemake_executor_plugin_pipen_ssh.client import Client, Session
from snakemake_executor_plugin_pipen_ssh.transfer import receive, send

from . import loops

NAMES = ["a b", "new\nline", "$(touch pwned)", "'q' \"d\"", "-x", "*", "é", "\udcff"]


class Here:
    """Opens sessions of this machine's own bash, as a client does on another one."""

    def __init__(self) -> None:
        self.made: list[Session] = []

    async def session(self) -> Session:
        session = await Session.start(["/bin/bash"])
        self.made.append(session)
        return session


def carried(tree: Path, work: Callable[[Carriers], Awaitable[None]]) -> list[Session]:
    """Do some work with carriers of a tree; return the sessions that it took."""
    tree.chmod(0o700)
    return carried_in(tree, work)


def carried_in(tree: Path, work: Callable[[Carriers], Awaitable[None]]) -> list[Session]:
    """Do some work with carriers of a directory as it is."""
    client = Here()

    async def run() -> None:
        await work(Carriers(cast(Client, client), str(tree), "big1", 60))
        for session in client.made:
            session.stdin.close()
            await session.wait_closed()

    loops.run(run())
    return client.made


@pytest.fixture
def here(tmp_path: Path) -> Path:
    path = tmp_path / "here"
    path.mkdir()
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "it's a tree"
    path.mkdir()
    return path


def test_one_session_for_all(here: Path, tree: Path) -> None:
    """Names are data, and sizes of pieces do not show."""
    content = {name: os.urandom(3_000_000 if name == "é" else 3) for name in NAMES}
    for name, data in content.items():
        (here / name).write_bytes(data)

    async def work(carriers: Carriers) -> None:
        await send(carriers, {f"d/{name}": f"{here}/{name}" for name in NAMES}, "events/k", [])
        await receive(carriers, Arrival({f"d/{name}": f"{here}/back/{name}" for name in NAMES}))
        await receive(carriers, Arrival({"missing": f"{here}/missing"}))

    (_,) = carried(tree, work)
    for name, data in content.items():
        assert (tree / "d" / name).read_bytes() == data
        assert (here / "back" / name).read_bytes() == data
    assert {path.name for path in here.iterdir()} == {*NAMES, "back"}
    assert not (tree / "pwned").exists()


def test_stale_files_are_removed_first(here: Path, tree: Path) -> None:
    (tree / "events").mkdir()
    for name in ("old", "events/k.t.end.0", "events/k2.t.end.0", "kept"):
        (tree / name).touch()
    (here / "new").touch()

    async def work(carriers: Carriers) -> None:
        await send(carriers, {"old/new": f"{here}/new"}, "events/k", ["old", "never"])

    carried(tree, work)
    there = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    assert there == ["events", "events/k2.t.end.0", "kept", "old", "old/new"]


def test_directories_and_named_pipes_are_made(here: Path, tree: Path) -> None:
    """Also where those of an earlier run lie; a pipe is not read, and does not come back."""
    os.mkfifo(here / "pipe")

    async def work(carriers: Carriers) -> None:
        for _ in range(2):
            await send(carriers, {"d/pipe": f"{here}/pipe"}, "k", [], ["shadow/x"])
        await receive(carriers, Arrival({"d/pipe": f"{here}/back", "shadow/x": f"{here}/x"}))

    carried(tree, work)
    assert (tree / "d" / "pipe").is_fifo()
    assert (tree / "shadow" / "x").is_dir()
    assert sorted(os.listdir(here)) == ["pipe", "x"]


def test_refusals_do_not_cost_the_session(here: Path, tree: Path) -> None:
    """The rest of an archive that is not wanted is passed over."""
    (tree / "file").touch()
    (here / "large").write_bytes(os.urandom(2_000_000))

    async def work(carriers: Carriers) -> None:
        with pytest.raises(SchedulerError, match=r"while sending: .*Cannot open.*") as caught:
            await send(carriers, {"file/below": f"{here}/large"}, "k", [])
        assert not isinstance(caught.value, TransientError)
        with pytest.raises(SchedulerError, match=f"{here}/none: No such file or directory"):
            await send(carriers, {"x": f"{here}/large", "y": f"{here}/none"}, "k", [])
        await send(carriers, {"large": f"{here}/large"}, "k", [])

    assert len(carried(tree, work)) == 1
    assert (tree / "large").read_bytes() == (here / "large").read_bytes()


def test_transfer_that_is_broken_off_here_costs_the_session(here: Path, tree: Path) -> None:
    (tree / "large").write_bytes(os.urandom(20_000_000))
    (here / "file").touch()

    async def work(carriers: Carriers) -> None:
        with pytest.raises(FileExistsError):
            await receive(carriers, Arrival({"large": f"{here}/file/below"}))
        await receive(carriers, Arrival({"large": f"{here}/large"}))

    assert len(carried(tree, work)) == 2
    assert (tree / "large").read_bytes() == (here / "large").read_bytes()
    assert sorted(os.listdir(here)) == ["file", "large"]


@pytest.mark.parametrize("name", ["a b", "a,b&\\1\nc", "é", "\udcff", "-x"])
def test_links_that_are_asked_for(here: Path, tree: Path, tmp_path: Path, name: str) -> None:
    """Those to files that do not come themselves come as what they point at.

    They do not change what comes of a directory.
    """
    d = tree / "d"
    d.mkdir()
    (d / "v1").write_text("of d")
    (d / "latest").symlink_to("v1")
    (d / "loop").symlink_to(".")
    (d / "again").symlink_to(".")
    target = tmp_path / f"of,{name}"
    target.write_text("target")
    (tree / "sub").mkdir()
    (tree / "sub" / name).symlink_to(target)
    (tree / "other").symlink_to(target)
    (tree / "to d").symlink_to("d")
    (tree / "to v1").symlink_to("d/latest")
    names = ["d", f"sub/{name}", "other", "to d", "to v1"]

    async def work(carriers: Carriers) -> None:
        await receive(carriers, Arrival({one: f"{here}/{one}" for one in names}))

    carried(tree, work)
    for one in ("d", "to d"):
        links = {p.name: str(p.readlink()) for p in (here / one).iterdir() if p.is_symlink()}
        assert links == {"latest": "v1", "loop": ".", "again": "."}
        assert not (here / one).is_symlink()
    found = {one: (here / one) for one in (f"sub/{name}", "other", "to v1")}
    assert [path.read_text() for path in found.values()] == ["target", "target", "of d"]
    assert not any(path.is_symlink() for path in found.values())


def test_links_to_what_comes_too(here: Path, tree: Path) -> None:
    """They stay links, as also those to inputs: Snakemake may remove what they lead to."""
    (tree / "r").mkdir()
    (tree / "r" / "first").write_text("first")
    (tree / "r" / "to first").symlink_to("first")
    (tree / "r" / "to that").symlink_to("to first")
    (tree / "r" / "to input").symlink_to(tree / "data" / "in")
    (tree / "r" / "to itself").symlink_to("to itself")
    (tree / "r" / "to another").symlink_to("../data/another")
    (tree / "data").mkdir()
    (tree / "data" / "in").write_text("in")
    (tree / "data" / "another").write_text("another")
    (here / "real").write_text("in")
    (here / "data").mkdir()
    (here / "data" / "in").symlink_to(here / "real")
    names = [f"r/{name}" for name in os.listdir(tree / "r")]
    files = {name: f"{here}/{name}" for name in names}

    async def work(carriers: Carriers) -> None:
        known = [*files.values(), f"{here}/data/in"]
        await receive(carriers, Arrival(files, known, str(tree), str(here)))

    os.utime(tree / "r" / "to first", (1e9, 1e9), follow_symlinks=False)
    carried(tree, work)
    found = {path.name: path for path in (here / "r").iterdir()}
    assert {name: str(path.readlink()) for name, path in found.items() if path.is_symlink()} == {
        "to first": "first",
        "to that": "to first",
        "to input": "../data/in",
    }
    assert found["to another"].read_text() == "another"
    assert found["to first"].lstat().st_mtime == 1e9
    assert "to itself" not in found


def test_session_that_ends_is_a_lost_connection(here: Path, tree: Path) -> None:
    async def work(carriers: Carriers) -> None:
        async with carriers.one() as carrier:
            carrier.close()
        for attempt in (
            send(carriers, {"x": str(here)}, "k", []),
            receive(carriers, Arrival({"x": f"{here}/x"})),
        ):
            async with carriers.one() as carrier:
                carrier.close()
            with pytest.raises(TransientError, match="the connection was lost while "):
                await attempt

    carried(tree, work)
    assert os.listdir(here) == []


def test_tree_that_is_not_there(tmp_path: Path) -> None:
    """Or not this user's alone."""
    (tmp_path / "file").touch()
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("own")
    (tmp_path / "open").mkdir()

    async def work(carriers: Carriers) -> None:
        await receive(carriers, Arrival({}))

    for name, why in (
        ("file/x", "File exists"),
        ("link", "is a symbolic link"),
        ("link/x", "link is a symbolic link"),
        ("open/x", "open has the mode 755, so that others can get at it"),
    ):
        with pytest.raises(SchedulerError, match=rf"big1 does not run .*{why}"):
            carried_in(tmp_path / name, work)
    (tmp_path / "open").chmod(0o750)
    with pytest.raises(SchedulerError, match="has the mode 750, so that others can get at it"):
        carried_in(tmp_path / "open", work)
