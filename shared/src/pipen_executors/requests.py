"""Requests to a run from another terminal, or another machine: files in its directory.

``<root>/.requests/<run>/cancel.<key>`` asks a run to end one job, ``cancel.all`` to end all of
them and itself. Its engine looks there every second and removes what it has taken in. Another
run in the same directory does not look there.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

REQUESTS: Final = ".requests"
ALL: Final = "all"
INTERVAL: Final = 1.0
"""Seconds between two looks of the engine."""
_CANCEL: Final = "cancel."


def _directory(root: str, run: str) -> str:
    return f"{root}/{REQUESTS}/{run}"


def ask_to_cancel(root: str, run: str, key: str) -> str:
    """Ask a run to cancel a job, or :data:`ALL`; return the file that goes when it is heard.

    Raises
    ------
    OSError
        If the directory cannot be written.
    """
    directory = _directory(root, run)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = f"{directory}/{_CANCEL}{key}"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    return path


def take_cancellations(root: str, run: str) -> list[str]:
    """Return the keys of jobs that a run is to cancel, and remove the requests."""
    keys = []
    directory = _directory(root, run)
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            if name.startswith(_CANCEL):
                os.unlink(f"{directory}/{name}")
                keys.append(name.removeprefix(_CANCEL))
    return keys


def close(root: str, run: str) -> None:
    """Remove the directory of a run that is over."""
    with contextlib.suppress(OSError):
        os.rmdir(_directory(root, run))
