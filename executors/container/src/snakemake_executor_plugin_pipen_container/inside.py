"""What the wrapper of a job in a container does otherwise than one outside: pure functions."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable

from .mounts import Mount, is_below


def working_directory(cwd: str, volume: Mount | None) -> str:
    """Return where a container sees a directory, of which a volume may be mounted elsewhere."""
    if volume is None or not is_below(cwd, [volume.source]):
        return cwd
    below = os.path.relpath(cwd, volume.source)
    return os.path.normpath(os.path.join(volume.target, below))


def extend_path(code: str, wanted: str, here: str) -> str:
    """Return bash that adds to the image's ``PATH`` what was added to this machine's.

    Parameters
    ----------
    code
        Bash that sets it as it would be here.
    wanted
        Its value there.
    here
        Its value before anything was added. Where that is no part of what is wanted, the
        user has set another one, which stays.
    """
    before, found, behind = wanted.partition(here) if here else ("", "", "")
    if not found:
        return code
    return code.replace(
        f"export PATH={shlex.quote(wanted)}",
        f'export PATH={shlex.quote(before)}"$PATH"{shlex.quote(behind)}',
    )


def beginning(volumes: Iterable[Mount]) -> str:
    """Return bash that tells where named volumes are, and gives a home to who has none."""
    lines = [f"export {v.name}={shlex.quote(v.target)}" for v in volumes if v.name]
    return "\n".join([*lines, "[[ -w ${HOME:-/} ]] || export HOME=${TMPDIR:-/tmp}"])
