"""What arrives from a machine: whole or not at all, and only where it was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from snakemake_executor_plugin_pipen_ssh.carrier import Carriers
from snakemake_executor_plugin_pipen_ssh.transfer import _Arrival, _unpack, receive


def archive(*members: tuple[str, bytes, str]) -> bytes:
    """Return an archive of members: name, type, and content or where a link points."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o750
            if kind == tarfile.REGTYPE:
                info.size = len(text)
            else:
                info.linkname = text
            tar.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


def unpack(content: bytes, files: dict[str, Path]) -> _Arrival:
    arrival = _Arrival({name: str(path) for name, path in files.items()})
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


@pytest.mark.parametrize(
    "members",
    [
        [("other", tarfile.REGTYPE, "x")],
        [("a/../../other", tarfile.REGTYPE, "x")],
        [("/etc/other", tarfile.REGTYPE, "x")],
        [("a", tarfile.SYMTYPE, "/tmp"), ("a/other", tarfile.REGTYPE, "x")],
        [
            ("a", tarfile.DIRTYPE, ""),
            ("a/l", tarfile.SYMTYPE, "/tmp"),
            ("a/l/other", tarfile.REGTYPE, "x"),
        ],
        [("a", tarfile.LNKTYPE, "other")],
    ],
)
def test_what_was_not_asked_for(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    with pytest.raises(tarfile.TarError):
        unpack(archive(*members), {"a": tmp_path / "a"})


def test_cancelled_fetch_leaves_no_complaint(tmp_path: Path) -> None:
    """Ctrl-C: what the thread says of a stream that ended is of no interest to anybody."""
    complaints: list[dict[str, Any]] = []

    class Silent:
        @contextlib.asynccontextmanager
        async def one(self) -> AsyncIterator[Silent]:
            yield self

        async def get(self, names: list[str], archive: asyncio.StreamWriter) -> None:
            begun.set()
            await asyncio.Event().wait()

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        fetch = asyncio.create_task(receive(cast(Carriers, Silent()), {"a": str(tmp_path / "a")}))
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
