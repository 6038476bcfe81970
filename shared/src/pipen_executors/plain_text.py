"""Text of others (schedulers, runtimes, jobs) made fit for a terminal."""

from __future__ import annotations

import re
from typing import Final

_ESCAPES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, movements of the cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"  # strings
    r"|\x1b[ -/]*[0-~]"
)
"""Escape sequences (ECMA-48, 5.4 and 5.6): control sequences, control strings with their text,
and two-character ones."""
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters but tabulator and newline, and what turns the direction of writing."""


def plain(text: str) -> str:
    r"""Return text without escape sequences and control characters.

    Newlines and tabulators stay; of the rest a lone carriage return ends a line, and each
    other control character is left out. Files of a job (its stdout and stderr) are never
    changed, only what is quoted from them.

    >>> plain("\x1b[31mFATAL:\x1b[0m   no such image\r\n")
    'FATAL:   no such image\n'
    """
    if text.isprintable():
        return text
    text = _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("", text)


def plain_line(text: str) -> str:
    """Return text as one line, without escape sequences and control characters."""
    return text if text.isprintable() else " ".join(plain(text).split())
