"""What is in a directory as it is sent, and the number that stands for it.

A link that stays inside the directory is sent as the link it is, also one that leads to nothing
or in a circle. Any other is sent as what it points at, unless that holds the directory itself.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from .answers import Version, seconds


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a directory.

    Parameters
    ----------
    name
        Its path below the directory; empty for the directory itself.
    path
        Where it is read.
    found
        What it is; of what a link points at, unless it is sent as a link.
    link
        Where it points, if it is sent as a link; else empty.
    """

    name: str
    path: str
    found: os.stat_result
    link: str = ""


def entries(top: str) -> Iterator[Entry]:
    """Yield all that is in a directory, and first the directory itself.

    Raises
    ------
    OSError
        If something cannot be read.
    """
    yield Entry("", top, os.stat(top))
    real = os.path.realpath(top)
    yield from _below(top, "", real, (real,))


def _below(path: str, prefix: str, top: str, around: tuple[str, ...]) -> Iterator[Entry]:
    """Yield what is in one directory; ``around`` are the real paths of those that it lies in."""
    with os.scandir(path) as listing:
        children = sorted(listing, key=lambda child: os.fsencode(child.name))
    for child in children:
        name = f"{prefix}{child.name}"
        if child.is_symlink():
            link = _link(child.path, top, around)
            if link:
                yield Entry(name, child.path, os.lstat(child.path), link)
                continue
        try:
            found = os.stat(child.path)
        except FileNotFoundError:
            continue  # it has gone meanwhile
        yield Entry(name, child.path, found)
        if stat.S_ISDIR(found.st_mode):
            below = (*around, os.path.realpath(child.path)) if child.is_symlink() else around
            yield from _below(child.path, f"{name}/", top, below)


def _link(path: str, top: str, around: tuple[str, ...]) -> str:
    """Return what a link is sent as; empty if it is to be followed."""
    text = os.readlink(path)
    if not os.path.exists(path):
        return text  # to nothing, or in a circle
    target = os.path.realpath(path)
    if _is_in(target, top):
        parent = os.path.realpath(os.path.dirname(path))
        # Through a directory that was followed the way back would be another one there.
        if not _is_in(parent, top):
            return ""
        return os.path.relpath(target, parent) if text.startswith("/") else text
    return text if any(_is_in(one, target) for one in around) else ""


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def version(path: str) -> Version:
    """Return what tells whether a file or a directory is the same.

    The number of a directory is the one that ``agent.sh`` works out from what lies there.
    """
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        return found.st_size, found.st_mtime_ns
    total, lines = 0, []
    for entry in entries(path):
        name = os.fsencode(entry.name)
        if entry.link:
            lines.append(b"l " + os.fsencode(entry.link) + b" " + name)
        elif stat.S_ISDIR(entry.found.st_mode):
            lines.append(b"d " + name)
        elif stat.S_ISREG(entry.found.st_mode):
            total += entry.found.st_size
            head = f"f {entry.found.st_size} {seconds(entry.found.st_mtime_ns)}0 "
            lines.append(head.encode() + name)
    text = b"".join(line + b"\0" for line in sorted(lines[1:]))
    return total, int(hashlib.sha256(text).hexdigest(), 16)
