"""Commands of a scheduler."""

from __future__ import annotations

import asyncio

import pytest

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.process import run


def test_command_that_a_signal_has_ended_says_nothing() -> None:
    """As Ctrl-C may, between its fork and its setsid(2): it is called again."""
    with pytest.raises(TransientError, match="ended by signal 2"):
        asyncio.run(run(["/bin/sh", "-c", "kill -s INT $$"]))


def test_command_that_is_not_there() -> None:
    with pytest.raises(SchedulerError, match="there is no command 'no-such-command'"):
        asyncio.run(run(["no-such-command"]))
