"""Requests to a run from another terminal, or another machine: files in its directory.

``<root>/.requests/cancel.<key>`` asks the run to end one job, ``cancel.all`` to end all of
them and itself. The engine looks there every second and removes what it has taken in.
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


def ask_to_cancel(root: str, key: str) -> str:
    """Ask a run to cancel a job, or :data:`ALL`; return the file that goes when it is heard.

    Raises
    ------
    OSError
        If the directory cannot be written.
    """
    directory = f"{root}/{REQUESTS}"
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = f"{directory}/{_CANCEL}{key}"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    return path


def take_cancellations(root: str) -> list[str]:
    """Return the keys of jobs that are to be cancelled, and remove the requests."""
    keys = []
    with contextlib.suppress(OSError):
        for name in os.listdir(f"{root}/{REQUESTS}"):
            if name.startswith(_CANCEL):
                os.unlink(f"{root}/{REQUESTS}/{name}")
                keys.append(name.removeprefix(_CANCEL))
    return keys
