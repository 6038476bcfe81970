"""What others say reaches no terminal but as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipen_executors.exceptions import SchedulerError, SettingError, TransientError, UserError
from pipen_executors.jobdir import tail
from pipen_executors.live import counts_line
from pipen_executors.plain_text import plain, plain_line
from pipen_executors.states import ExitReason, Outcome, Phase, Presence, Report

RED = "\x1b[31;1mFATAL:\x1b[0m"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("as it is: ☃ é\u00a0x\n\tindented", "as it is: ☃ é\u00a0x\n\tindented"),
        (f"{RED}   no image\r\n", "FATAL:   no image\n"),
        ("\x1b]0;new title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;cm0gLXJm", ""),
        ("\x1bP1$r\x1b\\text", "text"),
        ("\x9b2Jcleared", "cleared"),
        ("\x1bcreset \x1b(B", "reset "),
        ("10 %\r20 %\rdone", "10 %\n20 %\ndone"),
        ("a\x00b\x07c\x08d\x7fe\x85f", "abcdef"),
        ("\u202etxt.exe", "txt.exe"),
        ("cut off \x1b[3", "cut off 3"),
    ],
)
def test_plain(text: str, right: str) -> None:
    assert plain(text) == right


def test_one_line() -> None:
    assert plain_line(f"{RED}   no image\n  at all\r\n") == "FATAL: no image at all"
    assert plain_line("two  spaces") == "two  spaces"


def test_wherever_a_message_is_made(tmp_path: Path) -> None:
    file = tmp_path / "job.stderr"
    file.write_text(f"{RED} first\n10 %\r20 %\n")
    assert tail(str(file)) == ["FATAL: first", "10 %", "20 %"]
    assert file.read_text().startswith("\x1b"), "the log itself stays as the job wrote it"
    outcome = Outcome(ExitReason.LAUNCH_FAILURE, 255, f"{RED} x\ny")
    assert outcome.describe().endswith("exit status 255: FATAL: x y")
    assert Report(Presence.PENDING, f"{RED} x").reason == "FATAL: x"
    for kind in (SchedulerError, TransientError, UserError):
        assert str(kind(f"{RED} x\ny")) == "FATAL: x\ny"
    assert "\x1b" not in str(SettingError("--x", RED, f"one of {RED}"))
    assert "\x1b" not in counts_line({Phase.PENDING: 1}, {RED: 1})
