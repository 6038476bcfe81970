"""A file system that fails for a moment, as a full disk or a network file system does."""

from __future__ import annotations

import builtins
import errno
import itertools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

_CALLS = ("open", "listdir", "scandir", "lstat", "unlink", "replace", "mkdir", "makedirs")


def fail_below(
    monkeypatch: pytest.MonkeyPatch,
    root: object,
    *,
    errors: Sequence[int] = (errno.ESTALE, errno.EIO, errno.ENOSPC, errno.EDQUOT),
    times: int = 1,
    calls: Sequence[str] = _CALLS,
    name: str = "",
) -> Counter[str]:
    """Let each call for each path below a directory fail as often as is said, then succeed.

    Parameters
    ----------
    root
        The directory.
    errors
        What they fail with, in turn.
    times
        How often each fails.
    calls
        Names of functions of :mod:`os`; ``open`` is the built-in one too.
    name
        What the last part of the path must begin with.

    Returns
    -------
    Counter
        How often each of the functions has failed; it goes on counting.
    """
    failed: Counter[str] = Counter()
    seen: Counter[tuple[str, str]] = Counter()
    numbers = itertools.cycle(errors)

    def failing(what: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **more: Any) -> Any:
            text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
            below = str(text).startswith(str(root)) and os.path.basename(text).startswith(name)
            if below and seen[what, str(text)] < times:
                seen[what, str(text)] += 1
                failed[what] += 1
                number = next(numbers)
                raise OSError(number, os.strerror(number), text)
            return original(path, *arguments, **more)

        return call

    for what in calls:
        monkeypatch.setattr(os, what, failing(what, getattr(os, what)))
    if "open" in calls:
        monkeypatch.setattr(builtins, "open", failing("open()", builtins.open))
    return failed
