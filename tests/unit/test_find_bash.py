"""Programs that lie elsewhere on the node, or in the image, than where a job was submitted."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pipen_executors import find_bash
from pipen_executors.find_bash import INTERPRETER, start_with_bash

BASH = shutil.which("bash") or ""


def run(words: list[str], path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env={"PATH": path}, capture_output=True, text=True)


@pytest.mark.parametrize("sh", ["sh", "bash", "dash"])
def test_bash_of_the_path_or_of_the_usual_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sh: str
) -> None:
    shell = shutil.which(sh)
    if shell is None:
        pytest.skip(f"no {sh}")
    script = tmp_path / "it's a script"
    script.write_text('echo "$BASH" "$1"\n')
    usual, other = tmp_path / "usual", tmp_path / "other"
    for place in (usual, other):
        place.mkdir()
        (place / "bash").symlink_to(BASH)
    monkeypatch.setattr(find_bash, "PLACES", (str(usual),))

    def start(path: str) -> subprocess.CompletedProcess[str]:
        return run([shell, *start_with_bash(str(script), "a b")[1:]], path)

    assert start(str(other)).stdout == f"{other}/bash a b\n"
    assert start("").stdout == f"{usual}/bash a b\n"
    # What only calls itself bash, as BusyBox may, is none.
    (usual / "bash").unlink()
    (usual / "bash").symlink_to(shutil.which("true") or "/bin/true")
    assert start(str(other)).stdout == f"{other}/bash a b\n"
    (usual / "bash").unlink()
    (usual / "bash").write_text("#!/bin/sh\nexit 1\n")
    (usual / "bash").chmod(0o755)
    failed = start("")
    assert failed.returncode == 127
    assert "no bash 4.2 or later in this image" in failed.stderr
    assert "apk add bash" in failed.stderr


def test_interpreters_by_path_by_name_and_bash_itself(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo ran with $0\n")
    (tmp_path / "zsh").symlink_to(BASH)

    def become(path: str) -> str:
        call = f'pipen_interpreter {shlex.quote(path)}; exec "$pipen_program" {script}'
        code = f"{INTERPRETER}\n{call}"
        return run([BASH, "-c", code], f"{tmp_path}:{os.environ['PATH']}").stdout

    for path in (BASH, "/no/such/bash", "/opt/it's not here/zsh", str(tmp_path / "zsh")):
        assert become(path) == f"ran with {script}\n"
