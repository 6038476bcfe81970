"""What of this machine a job sees in its container, and where.

Everything is mounted at the path that it has here, so that no command has to change:
the directory of the workflow, the job directory and TMPDIR to be written to, inputs that
lie elsewhere to be read, and the directories of outputs that lie elsewhere.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipen_executors.exceptions import UserError
from pipen_executors.settings import DIRECTORY_AT_IMPORT
from pipen_executors.spec import JobSpec
from pipen_executors.units import parse_path

MOUNT_ROOT: Final = "/mnt/disks"
"""Where named volumes are in the container, as in pipen (xqute's ``DEFAULT_MOUNTED_ROOT``)."""

_OWN: Final = ("/dev", "/proc", "/sys")
_WHOLE_SYSTEM: Final = ("/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/sbin", "/usr")
_SYSTEM: Final = frozenset(
    {"/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/var", "/var/tmp"}
)
_NAMED: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Mount:
    """One file or directory of this machine that a container sees.

    Parameters
    ----------
    source, target
        Its path here and in the container.
    writable
        Whether the container may change it.
    name
        Variable that holds ``target`` in the job; empty for none.
    """

    source: str
    target: str
    writable: bool = True
    name: str = ""


def parse_volume(text: str) -> Mount:
    """Read ``host:container[:ro]``, ``host[:ro]`` or ``NAME=/host/path[:ro]``.

    >>> parse_volume("DATA=/srv:ro")
    Mount(source='/srv', target='/mnt/disks/DATA', writable=False, name='DATA')
    """
    match = _NAMED.fullmatch(text)
    name, rest = match.groups() if match else ("", text)
    parts = rest.split(":")
    mode = parts.pop() if parts[-1] in ("ro", "rw") else "rw"
    if not 1 <= len(parts) <= (1 if name else 2) or not all(parts):
        raise ValueError("expected host:container[:ro] or NAME=/host/path[:ro]")
    source = os.path.abspath(parse_path(parts[0], DIRECTORY_AT_IMPORT))
    target = f"{MOUNT_ROOT}/{name}" if name else os.path.normpath(parts[-1])
    if len(parts) == 1 and not name:
        target = source
    if not target.startswith("/"):
        raise ValueError(f"expected an absolute path in the container, not {target!r}")
    if not os.path.lexists(source):
        raise ValueError(f"{source} does not exist")
    return Mount(source, target, mode == "rw", name)


def parse_cwd_volume(text: str) -> Mount:
    """Read ``host`` or ``host:container``: the volume in which jobs have their directory."""
    if ":" not in text:
        text = f"{text}:{MOUNT_ROOT}/.cwd"
    return parse_volume(text)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all containers of a run see.

    Parameters
    ----------
    writable, readable
        Directories of the workflow.
    volumes
        What the user wants mounted.
    """

    writable: tuple[str, ...]
    readable: tuple[str, ...]
    volumes: tuple[Mount, ...] = ()

    def of_job(self, spec: JobSpec) -> list[Mount]:
        """Return the mounts of a job, those that lie in others behind them.

        Raises
        ------
        UserError
            If an output lies where nothing can be mounted.
        """
        here = self.writable[0]
        tmpdir = str(spec.resources.extra.get("tmpdir") or tempfile.gettempdir())
        ours = set(self.writable)
        if spec.shadow_dir is not None:
            ours.add(os.path.abspath(os.path.join(here, spec.shadow_dir)))
        for path in (*spec.products, *spec.outputs, *spec.logs):
            directory = os.path.dirname(os.path.normpath(os.path.join(here, path)))
            if not is_below(directory, ours):
                _refuse_system(directory, path, spec.rule)
                os.makedirs(directory, exist_ok=True)
                ours.add(directory)
        theirs = set(self.readable)
        for path in spec.inputs:
            for place in _hops(os.path.join(here, path)):
                if not is_below(place, ours) and not is_below(place, theirs):
                    theirs.update(_to_mount(place))
        theirs = {path for path in theirs if not is_below(path, ours)}
        chosen = {path: Mount(path, path, False) for path in _outermost(theirs)}
        written = {*ours, tmpdir} if os.path.isdir(tmpdir) else ours
        chosen |= {path: Mount(path, path) for path in _outermost(written)}
        chosen |= {volume.target: volume for volume in self.volumes}
        return [chosen[target] for target in sorted(chosen)]


def is_below(path: str, directories: Iterable[str]) -> bool:
    """Tell whether a path is one of some directories, or lies in one."""
    return any(path == d or path.startswith(d.rstrip("/") + "/") for d in directories)


def is_of_system(path: str) -> bool:
    """Tell whether a directory has to be the image's own."""
    return path in _SYSTEM or is_below(path, (*_WHOLE_SYSTEM, *_OWN))


def _outermost(paths: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for path in sorted(paths):
        if not is_below(path, kept):
            kept.append(path)
    return kept


def _hops(path: str) -> Iterator[str]:
    """Yield a path and, where it goes through symbolic links, the paths that they lead to."""
    path = os.path.normpath(path)
    for _ in range(40):
        yield path
        if os.path.realpath(path) == path:
            return
        parts = path.split("/")
        for end in range(2, len(parts) + 1):
            prefix = "/".join(parts[:end])
            if os.path.islink(prefix):
                to = os.path.join(os.path.dirname(prefix), os.readlink(prefix), *parts[end:])
                path = os.path.normpath(to)
                break


def _to_mount(path: str) -> Iterator[str]:
    """Yield what to mount so that an input is seen, with the files that lie beside it."""
    if is_below(path, _OWN) or not os.path.lexists(path):
        return
    if os.path.isdir(path):
        if not is_of_system(path):
            yield path
        return
    directory = os.path.dirname(path)
    yield path if is_of_system(directory) else directory


def _refuse_system(directory: str, path: str, rule: str) -> None:
    if is_of_system(directory) and directory not in ("/tmp", "/var/tmp"):
        raise UserError(
            f"Rule {rule} writes {path}; {directory} is the image's own in a container. Let it "
            "write into another directory, or mount one there (setting volumes)."
        )


def directories_of(workflow: Any) -> list[str]:
    """Return where the sources of a workflow lie: Snakefiles, their caches, its configuration."""
    files = [file.get_path_or_uri(secret_free=True) for file in workflow.included]
    files += [str(file) for file in workflow.overwrite_configfiles]
    cache = workflow.sourcecache
    found = [os.path.dirname(os.path.abspath(file)) for file in files if "://" not in file]
    found += [str(cache.cache_path), str(cache.runtime_cache_path)]
    return [path for path in dict.fromkeys(found) if os.path.isdir(path) and not is_of_system(path)]


def python_directories(volumes: Sequence[Mount]) -> list[str]:
    """Return where this process's Python and what it can import lie.

    Raises
    ------
    ValueError
        If it is the system's own, which cannot be laid over that of an image.
    """
    wanted = {sys.prefix, sys.exec_prefix, sys.base_prefix, *sys.path}
    given = [volume.target for volume in volumes]
    left = [path for path in wanted if os.path.isdir(path) and not is_below(path, given)]
    if is_of_system(sys.base_prefix) and sys.base_prefix in left:
        raise ValueError(
            f"the Python that runs Snakemake is the system's ({sys.base_prefix}), which cannot be "
            "mounted over that of an image; use one of conda or uv"
        )
    return [path for path in left if not is_of_system(path)]
