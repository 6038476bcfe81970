"""What is in a directory as it is sent, and the number that stands for it on both sides."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from snakemake_executor_plugin_pipen_ssh.agent import script
from snakemake_executor_plugin_pipen_ssh.contents import entries, version

NAMES = ["a b", "new\nline", "$(touch pwned)", "-x", "*", "\u00e9", "\udcff", "z/deep/er"]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "work" / "data"
    for number, name in enumerate(NAMES):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, errors="surrogateescape")
        os.utime(path, ns=(1, 1_600_000_000_123_456_789 + number))
    (top / "empty").mkdir()
    return top


def sent(top: Path) -> dict[str, str]:
    return {entry.name: entry.link for entry in entries(str(top))}


def there(top: Path) -> int:
    """Return the number that the agent works out."""
    source = script("agent.sh").decode().rpartition("agent_main")[0]
    done = subprocess.run(
        ["/bin/bash", "-c", f'{source}\nagent_digest "$1"', "bash", str(top)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout, 16)


def test_number_is_the_same_on_both_sides(top: Path) -> None:
    (top / "link").symlink_to("a b")
    (top / "empty" / "loop").symlink_to("..")
    os.mkfifo(top / "pipe")
    before = version(str(top))
    assert before[1] == there(top)
    os.utime(top / "a b", ns=(1, 5))
    assert version(str(top)) != before
    assert version(str(top))[1] == there(top)
    (top / "empty" / "new").touch()
    (top / "empty" / "new").unlink()
    assert version(str(top))[1] == there(top)


def test_links(top: Path) -> None:
    """Inside: as they are. To elsewhere: what they point at, unless that has no end."""
    outside = top.parent / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "file").touch()
    (outside / "sub" / "back").symlink_to(outside)
    (outside / "into").symlink_to(top / "a b")
    (top / "self").symlink_to(".")
    (top / "absolute").symlink_to(top / "z" / "deep")
    (top / "up").symlink_to("..")
    (top / "nothing").symlink_to("none")
    (top / "circle").symlink_to("circle")
    (top / "dir").symlink_to(outside)
    (top / "file").symlink_to("../outside/file")
    found = sent(top)
    links = {name: link for name, link in found.items() if link}
    assert links == {
        "self": ".",
        "absolute": "z/deep",
        "up": "..",
        "nothing": "none",
        "circle": "circle",
        "dir/sub/back": str(outside),
    }
    assert {"dir", "dir/file", "dir/sub", "dir/into", "file", "empty", "z/deep/er"} <= found.keys()
