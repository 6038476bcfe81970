"""What arrives from a machine: whole or not at all, and only where it was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from snakemake_executor_plugin_pipen_ssh.arrival import Arrival, RefusedError
from snakemake_executor_plugin_pipen_ssh.carrier import Carriers
from snakemake_executor_plugin_pipen_ssh.transfer import _unpack, receive


def archive(*members: tuple[str, bytes, str], mode: int = 0o750, **headers: str) -> bytes:
    """Return an archive of members: name, type, and content or where a link points."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, mode
            info.pax_headers = headers
            if kind == tarfile.REGTYPE:
                info.size = len(text)
            else:
                info.linkname = text
            tar.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


def unpack(content: bytes, files: dict[str, Path], **more: Any) -> Arrival:
    arrival = Arrival({name: str(path) for name, path in files.items()}, **more)
    _unpack(arrival, io.BytesIO(content))
    return arrival


def test_nothing_is_in_its_place_until_all_has_come(tmp_path: Path) -> None:
    file, directory = tmp_path / "new" / "a", tmp_path / "d"
    (directory / "old").mkdir(parents=True)
    content = archive(
        ("x/a", tarfile.REGTYPE, "text"),
        ("d", tarfile.DIRTYPE, ""),
        ("d/b", tarfile.REGTYPE, "more"),
        ("d/link", tarfile.SYMTYPE, "b"),
    )
    arrival = unpack(content, {"x/a": file, "d": directory, "missing": tmp_path / "m"})
    assert not file.exists()
    assert (directory / "old").exists()
    arrival.settle()
    assert file.read_text() == "text"
    assert file.stat().st_mode & 0o777 == 0o750
    assert sorted(path.name for path in directory.iterdir()) == ["b", "link"]
    assert (directory / "link").read_text() == "more"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "new"]


@pytest.mark.parametrize("at", [100, 600, 1500, 2100])
def test_stream_that_breaks_off(tmp_path: Path, at: int) -> None:
    content = archive(("a", tarfile.REGTYPE, "x" * 2000), ("b", tarfile.REGTYPE, "y"))
    with pytest.raises(tarfile.TarError):
        unpack(content[:at], {"a": tmp_path / "a", "b": tmp_path / "b"})
    assert not (tmp_path / "a").exists()


FILE, DIR, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
D = ("a", DIR, "")


@pytest.mark.parametrize(
    "members",
    [
        [("other", FILE, "x")],
        [("a/../../other", FILE, "x")],
        [("/etc/other", FILE, "x")],
        [("a", LINK, "/tmp"), ("a/other", FILE, "x")],
        [D, ("a/l", LINK, "/tmp"), ("a/l/other", FILE, "x")],
        [D, ("a/l", LINK, "."), ("a/l/other", FILE, "x")],
        [D, ("a/l", LINK, "/etc/passwd")],
        [D, ("a/l", LINK, "../secret")],
        [D, ("a/s", DIR, ""), ("a/s/d", LINK, ".."), ("a/l", LINK, "s/d/../secret")],
        [D, ("a/l", LINK, "../in-secret")],
        [D, ("a/x", FILE, "x"), ("a/x", FILE, "y")],
        [("a", HARD, "other")],
        [("a", HARD, "a")],
        [D, ("a/s", DIR, ""), ("a/s/l", LINK, "../x"), ("a/h", HARD, "a/s/l")],
        [D, ("a/l", LINK, "../in"), ("a/h", HARD, "a/l/secret")],
    ],
)
def test_what_is_not_taken(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    """Of what a broken or hostile machine may send; all else here is as it was."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "secret").write_text("of nobody else")
    (tmp_path / "secret").write_text("of nobody else")
    with pytest.raises((RefusedError, tarfile.TarError)):
        unpack(archive(*members), {"a": tmp_path / "a"}, known=[str(tmp_path / "in")])
    assert sorted(p.name for p in tmp_path.iterdir() if "partial" not in p.name) == ["in", "secret"]


@pytest.mark.parametrize("target", ["secret", "a", "in/../secret", "/etc/passwd"])
def test_output_that_is_a_link_to_another_file(tmp_path: Path, target: str) -> None:
    """What it points at is asked for; a link that comes again is refused."""
    (tmp_path / "secret").write_text("of nobody else")
    (tmp_path / "in").mkdir()
    content = archive(("a", LINK, target))
    known = [str(tmp_path / "a"), str(tmp_path / "in")]
    arrival = unpack(content, {"a": tmp_path / "a"}, known=known)
    assert list(arrival.followed) == ["a"]
    with pytest.raises(RefusedError, match="'a' is a symbolic link to"):
        _unpack(arrival, io.BytesIO(content))
    _unpack(arrival, io.BytesIO(archive(("a", FILE, "content"))))
    arrival.settle()
    assert (tmp_path / "a").read_text() == "content"
    assert not (tmp_path / "a").is_symlink()


def test_links_that_are_taken(tmp_path: Path) -> None:
    """In the same directory, and to what the machine has anyway: inputs and outputs of the job."""
    arrival = unpack(
        archive(
            D,
            ("a/s", DIR, ""),
            ("a/x", FILE, "x"),
            ("a/l", LINK, "x"),
            ("a/s/up", LINK, "../x"),
            ("a/loop", LINK, "."),
            ("a/nothing", LINK, "s/none"),
            ("a/in", LINK, "../in/file"),
            ("a/abs", LINK, "/tree/in/file"),
            ("a/hard", HARD, "a/x"),
            ("a/same", HARD, "a/in"),
        ),
        {"a": tmp_path / "a"},
        known=[str(tmp_path / "in")],
        tree="/tree",
        base=str(tmp_path),
    )
    arrival.settle()
    there = tmp_path / "a"
    assert {p.name: str(p.readlink()) for p in there.iterdir() if p.is_symlink()} == {
        "l": "x",
        "loop": ".",
        "nothing": "s/none",
        "in": "../in/file",
        "abs": "../in/file",
        "same": "../in/file",
    }
    assert (there / "s" / "up").read_text() == "x"
    assert (there / "hard").samefile(there / "x")


def test_hard_links_across_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or on one that has none: there are copies, with mode and time."""

    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", link)
    content = archive(("a", FILE, "x"), ("b", HARD, "a"), ("c", HARD, "b"), mtime="1600000000.5")
    unpack(content, {name: tmp_path / name for name in "abc"}).settle()
    for name in "abc":
        found = (tmp_path / name).stat()
        assert (tmp_path / name).read_text() == "x"
        assert (found.st_mode & 0o777, found.st_mtime) == (0o750, 1600000000.5)


@pytest.mark.parametrize(("mode", "kept"), [(0o4777, 0o775), (0o2755, 0o755), (0o1444, 0o444)])
def test_modes(tmp_path: Path, mode: int, kept: int) -> None:
    """Permissions are the command's; neither setuid nor a file for everybody to write into."""
    unpack(archive(("a", FILE, "x"), mode=mode), {"a": tmp_path / "a"}).settle()
    assert (tmp_path / "a").stat().st_mode & 0o7777 == kept


@pytest.mark.parametrize("time", ["nan", "1e400", "99999999999", "-99999999999", "x", ""])
def test_impossible_times(tmp_path: Path, time: str) -> None:
    with pytest.raises((RefusedError, tarfile.TarError)):
        unpack(archive(("a", FILE, "x"), mtime=time), {"a": tmp_path / "a"})


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_what_is_no_file_is_left_out(tmp_path: Path, kind: bytes) -> None:
    unpack(archive(("a", kind, "")), {"a": tmp_path / "a"}).settle()
    assert list(tmp_path.iterdir()) == []


def test_long_names_and_holes(tmp_path: Path) -> None:
    """Names as long as can be, alike but for their ends; zeros take no room."""
    names = ["é" * 126 + "a" * 3, "é" * 126 + "b" * 3]
    members = [(name, FILE, name[-3:]) for name in names]
    content = archive(*members, ("hole", FILE, "\0" * 3_000_000))
    unpack(content, {name: tmp_path / name for name in (*names, "hole")}).settle()
    assert [(tmp_path / name).read_text() for name in names] == ["aaa", "bbb"]
    hole = (tmp_path / "hole").stat()
    assert hole.st_size == 3_000_000
    assert hole.st_blocks < 1000


def test_cancelled_fetch_leaves_no_complaint(tmp_path: Path) -> None:
    """Ctrl-C: what the thread says of a stream that ended is of no interest to anybody."""
    complaints: list[dict[str, Any]] = []

    class Silent:
        @contextlib.asynccontextmanager
        async def one(self) -> AsyncIterator[Silent]:
            yield self

        async def get(
            self, names: list[str], followed: list[str], archive: asyncio.StreamWriter
        ) -> None:
            begun.set()
            await asyncio.Event().wait()

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        fetch = asyncio.create_task(
            receive(cast(Carriers, Silent()), Arrival({"a": str(tmp_path / "a")}))
        )
        await begun.wait()
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        del fetch
        gc.collect()

    begun = asyncio.Event()
    asyncio.run(work())
    assert complaints == []
    assert list(tmp_path.iterdir()) == []
