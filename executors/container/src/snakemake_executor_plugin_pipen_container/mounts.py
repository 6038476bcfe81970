"""What of this machine a job sees in its container, and where.

Everything is mounted at the path that it has here, so that no command has to change:
the directory of the workflow, the job directory and TMPDIR to be written to, inputs that
lie elsewhere to be read, and the directories of outputs that lie elsewhere. Symbolic links
are followed, so that what they lead to is there as well, but for those of outputs and logs
that a job makes afresh, and never into directories of keys: a job may have made them. A home
directory is never mounted because of something in it.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import pwd
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

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
_PLACES_OF_HOMES: Final = frozenset({"/home", "/Users", "/export/home", "/var/home"})
_FILES_OF_HOMES: Final = (".bashrc", ".profile")
"""By these (and by ``.ssh``) a directory in one of those places is taken for a home."""
_SECRET: Final = frozenset(
    {".ssh", ".gnupg", ".aws", ".azure", ".docker", ".kube", ".netrc", ".pgpass"}
    | {".git-credentials", ".password-store"}
)
"""Files and directories of keys: only what is named of them is mounted, no link followed there."""
_MOST_LINKS: Final = 40
"""Links that the kernel follows in one path (path_resolution(7))."""
_MOST_ENTRIES: Final = 100_000
_SHARED_FOR: Final = 10
"""Seconds for which what was found in a directory serves other jobs."""
_MOST_MOUNTS: Final = 200
_VOLUME_OPTIONS: Final = re.compile(
    r"(?:ro|rw|z|Z|U|O|cached|delegated|consistent|(?:no)?copy|r?(?:shared|slave|private|bind)"
    r"|(?:no)?(?:exec|dev|suid)|(?:idmap|upperdir|workdir|image-src|id)(?:=[^,]*)?)"
    r"(?:,(?:[a-zA-Z][^,]*))*"
)
"""Options of a volume, which may follow a path that is the same in the container."""
_VOLUME_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
"""Name of a volume of the runtime (docker-volume-create(1))."""
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
    options
        Further options of the runtime's volumes, such as ``ro,Z``; empty for none.
    field_list
        The whole as the runtime's ``--mount`` takes it; empty for the usual.
    """

    source: str
    target: str
    writable: bool = True
    name: str = ""
    options: str = ""
    field_list: str = ""


def parse_volume(text: str) -> Mount:
    """Read a volume as Docker's ``--volume`` has it, as its ``--mount`` has it, or as pipen does.

    That is ``host:container[:options]``, ``volume:container[:options]``, ``host[:options]``,
    ``NAME=/host/path[:options]``, and ``type=…,source=…,target=…[,…]``. Options are those of
    the runtime (docker-run(1), podman-run(1), ``apptainer exec --bind``), such as ``ro,Z``.

    >>> parse_volume("DATA=/srv:ro")
    Mount(source='/srv', target='/mnt/disks/DATA', writable=False, name='DATA', options='', \
field_list='')
    """
    if text.startswith("type=") and "," in text:
        return _parse_field_list(text)
    match = _NAMED.fullmatch(text)
    name, rest = match.groups() if match else ("", text)
    parts = rest.split(":")
    options = ""
    if len(parts) == 3 or (len(parts) == 2 and (name or _VOLUME_OPTIONS.fullmatch(parts[1]))):
        options = parts.pop()
    if not 1 <= len(parts) <= (1 if name else 2) or not all(parts) or options.startswith("/"):
        raise ValueError("expected host:container[:ro] or NAME=/host/path[:ro]")
    source = os.path.abspath(parse_path(parts[0], DIRECTORY_AT_IMPORT))
    target = f"{MOUNT_ROOT}/{name}" if name else os.path.normpath(parts[-1])
    if len(parts) == 1 and not name:
        target = source
    if not target.startswith("/"):
        raise ValueError(f"expected an absolute path in the container, not {target!r}")
    if not os.path.lexists(source):
        if len(parts) == 1 or not _VOLUME_NAME.fullmatch(parts[0]):
            raise ValueError(f"{source} does not exist")
        source = parts[0]
    writable = "ro" not in options.split(",")
    return Mount(source, target, writable, name, "" if options in ("ro", "rw") else options)


def _parse_field_list(text: str) -> Mount:
    """Read what ``--mount`` takes, which is passed on as it stands."""
    try:
        if text.splitlines() != [text]:
            raise ValueError("expected type=…,source=…,target=… without line breaks")
        (words,) = csv.reader([text], strict=True)
    except csv.Error as error:
        raise ValueError(
            f"expected type=…,source=…,target=…, with quotes as in a CSV file ({error})"
        ) from None
    fields = {name.strip().lower(): value for name, _, value in (w.partition("=") for w in words)}
    found = [fields.get(name, "") for name in ("target", "destination", "dst")]
    target = next(filter(None, found), "")
    source = fields.get("source") or fields.get("src") or ""
    if not target.startswith("/"):
        raise ValueError("expected type=…,source=…,target=… with an absolute path as target")
    if fields["type"] == "bind" and not os.path.lexists(source):
        raise ValueError(f"{source or 'its source'} does not exist")
    read_only = not {"readonly", "ro"}.isdisjoint(fields)
    return Mount(source, os.path.normpath(target), not read_only, field_list=text)


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
    writable
        Directories of the workflow, its working directory first.
    readable
        Files and directories that its sources are in.
    volumes
        What the user wants mounted.
    """

    writable: tuple[str, ...]
    readable: tuple[str, ...]
    volumes: tuple[Mount, ...] = ()

    def check(self, spec: JobSpec) -> None:
        """Refuse a job whose files cannot be mounted without mounting what nobody asked for.

        Raises
        ------
        UserError
            Naming the rule, the path, and what to do.
        """
        self._collect(spec)

    def of_job(self, spec: JobSpec) -> list[Mount]:
        """Return the mounts of a job, those that lie in others behind them.

        Directories of outputs are made.

        Raises
        ------
        UserError
            If an output lies where nothing can be mounted.
        """
        here, work = self.writable[0], self._places()
        ours, theirs = self._collect(spec)  # makes sure of where directories are made
        for path in (*spec.products, *spec.outputs, *spec.logs):
            os.makedirs(os.path.dirname(os.path.join(here, path)), exist_ok=True)
        tmpdir = _tmpdir(spec, here)
        if tmpdir:
            with contextlib.suppress(OSError):  # the job says what is wrong with it
                os.makedirs(tmpdir, exist_ok=True)
        for path in spec.inputs:
            for link in links_in(os.path.join(here, path)):
                for hop in hops(link):
                    if is_below(hop.place, ours) or is_below(hop.place, theirs):
                        continue
                    if is_secret(hop.place):
                        break
                    theirs.update(_to_read(hop.place, hop.root(work)))
        theirs = {path for path in theirs if not is_below(path, ours)}
        written = [path for path in ours if os.path.exists(path)]
        if tmpdir and os.path.isdir(tmpdir) and not is_private(tmpdir):
            places = [hop.place for hop in hops(tmpdir)]
            if not any(is_private(place) or _is_stray(place, tmpdir) for place in places):
                written += places
        chosen = {path: Mount(path, path, False) for path in _gathered(_outermost(theirs))}
        chosen |= {path: Mount(path, path) for path in _outermost(written)}
        chosen |= {volume.target: volume for volume in self.volumes}
        return [chosen[target] for target in sorted(chosen)]

    def _places(self) -> list[str]:
        """Return the directories of the workflow, and what they are links to."""
        return [hop.place for path in self.writable for hop in hops(path)]

    def _collect(self, spec: JobSpec) -> tuple[set[str], set[str]]:
        """Return what a job may write and what it may read, links in directories left out."""
        here, rule, work = self.writable[0], spec.rule, self._places()
        as_they_are = [volume for volume in self.volumes if volume.source == volume.target]
        ours = {volume.target for volume in as_they_are if volume.writable}
        theirs = {volume.target for volume in as_they_are if not volume.writable}

        def new(path: str, does: str, *known: Iterable[str]) -> Iterator[Hop]:
            """Yield the hops to what is not known yet; refuse a link into a secret place."""
            for hop in hops(path):
                if any(is_below(hop.place, places) for places in known):
                    continue
                if _is_stray(hop.place, path):
                    raise _secret(hop.place, does, rule)
                yield hop

        shadow = [os.path.join(here, spec.shadow_dir)] if spec.shadow_dir else []
        for path in (*self.writable, *shadow):
            does = f"writes the directory {path}"
            for hop in new(path, does, ours):
                if is_private(hop.place):
                    raise _too_much(hop.place, does, rule)
                root = hop.root(work)
                ours.add(root if root and may_be_seen(root) else hop.place)
        for path in (*spec.products, *spec.outputs, *spec.logs):
            for hop in new(os.path.dirname(os.path.join(here, path)), f"writes {path}", ours):
                ours.add(_to_write(hop.place, hop.root(work), path, rule))
        # Other outputs are removed first, and their links with them. Those of logs stay, and a
        # job that failed may have made them.
        for path in spec.kept:
            file, does = os.path.join(here, path), f"updates {path}"
            for hop in new(file, does, ours) if os.path.islink(file) else ():
                above = os.path.dirname(hop.place)
                if is_private(above):
                    raise _too_much(above, does, rule)
                ours.add(above if may_be_seen(above) else hop.place)
        theirs.update(self.readable)
        for path in spec.inputs:
            does = f"reads {path}"
            for hop in new(os.path.join(here, path), does, ours, theirs):
                is_mounted = os.path.isdir(hop.place) and not is_of_system(hop.place)
                if is_mounted and is_private(hop.place):
                    raise _too_much(hop.place, does, rule)
                theirs.update(_to_read(hop.place, hop.root(work)))
        return ours, theirs


def is_below(path: str, directories: Iterable[str]) -> bool:
    """Tell whether a path is one of some directories, or lies in one."""
    return any(path == d or path.startswith(d.rstrip("/") + "/") for d in directories)


def is_of_system(path: str) -> bool:
    """Tell whether a directory has to be the image's own."""
    return path in _SYSTEM or is_below(path, (*_WHOLE_SYSTEM, *_OWN))


def is_private(path: str) -> bool:
    """Tell whether a directory is somebody's home, or holds the user's.

    What holds keys for ssh is taken for one, wherever it lies. Of what lies in ``/home`` and
    the like it is what has one of :data:`_FILES_OF_HOMES`, or belongs to an account of that
    name (passwd(5)); the rest may be projects.
    """
    homes = _homes(os.path.expanduser("~"))
    return (
        path in homes
        or any(is_below(home, [path]) for home in homes)
        or (os.path.dirname(path) in _PLACES_OF_HOMES and _looks_like_home(path))
        or os.path.isdir(f"{path}/.ssh")
    )


@functools.cache
def _homes(own: str) -> set[str]:
    homes = {own}
    with contextlib.suppress(KeyError):
        homes.add(pwd.getpwuid(os.getuid()).pw_dir)
    homes |= {os.path.realpath(home) for home in homes}
    return {home for home in homes if home.startswith("/") and home != "/"}


def _looks_like_home(path: str) -> bool:
    return _is_of_account(path) or any(
        os.path.lexists(f"{path}/{name}") for name in _FILES_OF_HOMES
    )


@functools.cache
def _is_of_account(path: str) -> bool:
    try:
        return os.path.normpath(pwd.getpwnam(os.path.basename(path)).pw_dir) == path
    except (KeyError, ValueError):
        return False


def is_secret(path: str) -> bool:
    """Tell whether keys or passwords are kept where a path lies."""
    return not _SECRET.isdisjoint(path.split("/"))


def _is_stray(place: str, path: str) -> bool:
    """Tell whether links of a path lead to a secret place that the path does not name."""
    return is_secret(place) and not is_secret(path)


def may_be_seen(directory: str) -> bool:
    """Tell whether a directory may be mounted because of one file in it."""
    return not (is_of_system(directory) or is_private(directory) or is_secret(directory))


class Hop(NamedTuple):
    """Where a path leads after one of its links.

    Parameters
    ----------
    place
        The path, with that link resolved.
    link, target
        The link and what it leads to by itself; empty before the first link.
    """

    place: str
    link: str = ""
    target: str = ""

    def root(self, work: Iterable[str]) -> str:
        """Return the target of a link in the directories of a workflow; empty for others.

        Others are those of an administrator, who may keep all users' files behind one.
        """
        return self.target if self.link and is_below(self.link, work) else ""


def hops(path: str) -> Iterator[Hop]:
    """Follow a path through symbolic links as the kernel does (path_resolution(7)).

    Yields
    ------
    Hop
        The path, and after each link the path that it leads to. Loops end.
    """
    here, rest, link, target = "/", path.split("/"), "", ""
    links, is_new = 0, True
    while True:
        if is_new and ".." not in rest:
            left = (part for part in rest if part not in ("", "."))
            yield Hop(os.path.join(here, *left), link, target)
            is_new = False
        if not rest:
            return
        part = rest.pop(0)
        if part == "..":
            here = os.path.dirname(here)
        elif part not in ("", "."):
            step = os.path.join(here, part)
            if not os.path.islink(step):
                here = step
                continue
            links, is_new = links + 1, True
            if links > _MOST_LINKS:
                return
            text = os.readlink(step)
            link, target = step, os.path.normpath(os.path.join(here, text))
            rest = [*text.split("/"), *rest]
            here = "/" if text.startswith("/") else here


def links_in(directory: str) -> Sequence[str]:
    """Return the symbolic links in a directory, and in directories that they lead to.

    No directory is looked into twice, and no more than :data:`_MOST_ENTRIES` entries are
    looked at. There are none in a file. Jobs of the same moment share the answer.
    """
    return _links_in(os.path.realpath(directory), int(time.monotonic() / _SHARED_FOR))


@functools.lru_cache(maxsize=64)
def _links_in(directory: str, moment: int) -> Sequence[str]:
    return tuple(_look_for_links(directory))


def _look_for_links(directory: str) -> Iterator[str]:
    left, seen, count = [directory], set(), 0
    while left:
        place = left.pop()
        if place in seen or is_of_system(place) or is_private(place):
            continue
        if _is_stray(place, directory):
            continue
        seen.add(place)
        try:
            entries = os.scandir(place)
        except OSError:  # a file, or not readable: then not for the job either
            continue
        with entries:
            for entry in entries:
                if (count := count + 1) > _MOST_ENTRIES:
                    return
                if entry.is_symlink():
                    yield entry.path
                    left.append(os.path.realpath(entry.path))
                elif entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)


def _outermost(paths: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for path in sorted(paths):
        if not is_below(path, kept):
            kept.append(path)
    return kept


def _gathered(paths: list[str]) -> list[str]:
    """Return directories above some paths, if these are too many to be mounted one by one."""
    while len(paths) > _MOST_MOUNTS:
        above = Counter(os.path.dirname(path) for path in paths)
        parents = {path for path, count in above.items() if count > 1 and may_be_seen(path)}
        if not parents:
            break
        paths = _outermost({*paths, *parents})
    return paths


def _to_read(place: str, root: str) -> Iterator[str]:
    """Yield what to mount so that a file or directory is seen.

    The directory that a link leads to is mounted as a whole, and with a file those that lie
    beside it (an index of it, say), unless that would show what is nobody else's business.

    Parameters
    ----------
    place, root
        Of one of the :func:`hops`.
    """
    if is_below(place, _OWN) or not os.path.lexists(place):
        return
    if os.path.isdir(place):
        if not is_of_system(place) and not is_private(place):
            yield root if root and may_be_seen(root) else place
        return
    for directory in (root, os.path.dirname(place)):
        if directory and os.path.isdir(directory) and may_be_seen(directory):
            yield directory
            return
    yield place


def _to_write(place: str, root: str, what: str, rule: str) -> str:
    """Return the directory to mount so that files can be made in one.

    Raises
    ------
    UserError
        If that is the image's own, or somebody's home.
    """
    for directory in filter(None, (root, place)):
        if not is_of_system(directory) and not is_private(directory):
            return directory
    if place in ("/tmp", "/var/tmp"):
        return place
    if is_private(place):
        raise _too_much(place, f"writes {what}", rule)
    raise UserError(
        f"Rule {rule} writes {what}; {place} is the image's own in a container. Let it "
        "write into another directory, or mount one there (setting volumes)."
    )


def _too_much(directory: str, does: str, rule: str) -> UserError:
    return UserError(
        f"Rule {rule} {does}, for which its container would see all of {directory}, a home "
        "directory with whatever else is in it. Use a directory below it, or have all of it "
        f"mounted on purpose (setting volumes: {directory})."
    )


def _secret(place: str, does: str, rule: str) -> UserError:
    return UserError(
        f"Rule {rule} {does}, from where a symbolic link leads to {place}; links to places of "
        "keys and passwords are not followed. Remove the link, or have that mounted on purpose "
        f"(setting volumes: {place})."
    )


def _tmpdir(spec: JobSpec, here: str) -> str:
    """Return the directory for temporary files of a job; empty if only the job knows it."""
    asked = str(spec.resources.extra.get("tmpdir") or tempfile.gettempdir())
    path = os.path.expanduser(os.path.expandvars(asked))
    return "" if "$" in path else os.path.normpath(os.path.join(here, path))


def directories_of(workflow: Any) -> list[str]:
    """Return where the sources of a workflow lie: Snakefiles, their caches, its configuration.

    Of a home directory or a system's it is the files themselves.
    """
    files = [file.get_path_or_uri(secret_free=True) for file in workflow.included]
    files += [str(file) for file in workflow.overwrite_configfiles]
    cache = workflow.sourcecache
    found = [os.path.abspath(file) for file in files if "://" not in file]
    found += [str(cache.cache_path), str(cache.runtime_cache_path)]
    work = [hop.place for path in (os.getcwd(), workflow.workdir_init) for hop in hops(str(path))]
    return list(
        dict.fromkeys(
            path
            for file in found
            for hop in hops(file)
            if not _is_stray(hop.place, file)
            for path in _to_read(hop.place, hop.root(work))
        )
    )


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
    return [path for path in left if not is_of_system(path) and not is_private(path)]
