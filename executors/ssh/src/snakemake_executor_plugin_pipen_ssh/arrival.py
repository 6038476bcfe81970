"""What comes from a machine, on its way to its place here.

A machine may be broken, or somebody else's by now, and the archive it sends is its own. So only
what was asked for is taken, and only regular files, directories, and links that show nothing
but what the machine has anyway; what it must not be is no file here:

* a link to a private key, which would be sent to the next job that has the directory as input;
* a file beside the place it belongs to, through ``..``, an absolute path, or a link that came
  before it;
* a program that runs as its owner (setuid), or a file that everybody may write into;
* a device or a named pipe, at which Snakemake would wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import IO, Final

from pipen_executors.exceptions import SchedulerError

from .answers import Nonsense, nanoseconds

_PARTIAL: Final = ".pipen-partial"
_LONGEST_NAME: Final = 200
"""Bytes of a name that may still be in the middle of another one (pathconf(3), NAME_MAX)."""
_PIECE: Final = 1 << 20


class RefusedError(SchedulerError):
    """Something in an archive is not taken."""


@dataclass
class Arrival:
    """Files on their way to their places.

    Parameters
    ----------
    files
        Their places here, by their names in the archive.
    known
        Files and directories here that the machine has anyway: inputs and outputs of the job.
    tree, base
        A directory of the machine, and the one here that it mirrors.

    Attributes
    ----------
    followed
        Names of links that may not be links here: what they point at is to be sent.
    """

    files: Mapping[str, str]
    known: Sequence[str] = ()
    tree: str = ""
    base: str = ""
    followed: dict[str, None] = field(default_factory=dict, init=False)
    _times: list[tuple[str, int, int]] = field(default_factory=list)
    _directories: set[str] = field(default_factory=set)
    _regular: set[str] = field(default_factory=set)
    _links: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _allowed(self) -> list[str]:
        return [path for one in self.known for path in {os.path.realpath(one), _placed(one)}]

    def partial(self, name: str) -> str:
        """Return where a file is written until it is complete: beside its place."""
        head, _, tail = self.files[name].rpartition("/")
        raw = os.fsencode(tail)
        if len(raw) > _LONGEST_NAME:
            tail = hashlib.sha256(raw).hexdigest()[:32]
        return f"{head}/.{tail}{_PARTIAL}"

    def _split(self, member: str) -> tuple[str, str]:
        """Return which of the files a member of the archive belongs to, and its path in there."""
        name, rest = member, ""
        while name not in self.files:
            name, slash, last = name.rpartition("/")
            if not slash or last in ("", ".", ".."):
                raise RefusedError(f"{member!r} was not asked for")
            rest = f"/{last}{rest}"
        return name, rest

    # -- one by one --------------------------------------------------------------------

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Write one member of an archive, and nothing outside of where it belongs.

        Raises
        ------
        RefusedError
            If it is none that is taken.
        OSError
            If it cannot be written.
        """
        name, rest = self._split(member.name)
        path = self.partial(name) + rest
        parent = os.path.dirname(path)
        if not rest:
            os.makedirs(parent, exist_ok=True)
        elif parent not in self._directories:  # a link, perhaps to another place
            raise RefusedError(f"{member.name!r} is in no directory of the archive")
        if os.path.lexists(path):
            raise RefusedError(f"{member.name!r} came twice")
        self._links.pop(path, None)  # a link that is followed now
        if member.isdir():
            os.mkdir(path, 0o700)
            self._directories.add(path)
        elif member.issym():
            self._take_link(member, member.linkname, name, rest)
            return
        elif member.islnk():
            other, inside = self._split(member.linkname)
            first = self.partial(other) + inside
            if first in self._links:  # a directory that two names stand for
                self._take_link(member, self._links[first], name, rest)
                return
            if first not in self._regular:
                raise RefusedError(f"{member.name!r} is a link to no file of the archive")
            try:
                os.link(first, path)
                return
            except OSError:  # on another file system, or on one that has no hard links
                with open(first, "rb") as content, _new(path) as stream:
                    _copy(content, stream, os.fstat(content.fileno()).st_size)
            self._regular.add(path)
        elif member.isreg() and member.sparse is None:
            packed = archive.extractfile(member)
            assert packed is not None
            with _new(path) as stream:
                _copy(packed, stream, member.size)
            self._regular.add(path)
        elif member.isfifo() or member.ischr() or member.isblk():
            return  # of no use here; an output that is one is missed, and said to be
        else:
            raise RefusedError(f"{member.name!r} is neither a file nor a directory")
        self._times.append((path, member.mode & _permissions(), _time(member)))

    def _take_link(self, member: tarfile.TarInfo, text: str, name: str, rest: str) -> None:
        path = self.partial(name) + rest
        self._links[path] = text
        try:
            target = self._link(member, text, name, rest)
        except RefusedError:
            if rest or name in self.followed:
                raise
            self.followed[name] = None
            return
        os.symlink(target, path)
        if not rest:
            os.utime(path, ns=(_time(member), _time(member)), follow_symlinks=False)

    def _link(self, member: tarfile.TarInfo, text: str, name: str, rest: str) -> str:
        """Return where a link may lead, as a relative path."""
        top = _placed(self.files[name])
        parent = os.path.dirname(top + rest)
        if self.tree and text.startswith(f"{self.tree}/"):
            text = os.path.relpath(f"{self.base}/{text[len(self.tree) + 1 :]}", parent)
        words = [word for word in text.split("/") if word not in ("", ".")]
        ups = len([word for word in words if word == ".."])
        target = os.path.normpath(f"{parent}/{text}")
        allowed = (top, *self._allowed) if rest else {*self._allowed} - {top}
        # A way up behind a name may lead elsewhere than it looks, where the name is a link.
        if (
            text.startswith("/")
            or ".." in words[ups:]
            or not any(target == one or target.startswith(f"{one}/") for one in allowed)
        ):
            raise RefusedError(
                f"{member.name!r} is a symbolic link to {text!r}, which is neither in "
                "the same output nor an input or output of the job: let the rule copy what it "
                "points at"
            )
        return text

    # -- all together --------------------------------------------------------------------

    def settle(self) -> None:
        """Rename all that has come to its place."""
        for path, mode, changed in reversed(self._times):  # directories after their contents
            os.chmod(path, mode)
            os.utime(path, ns=(changed, changed))
        for name, place in self.files.items():
            partial = self.partial(name)
            if not os.path.lexists(partial):
                continue
            if os.path.isdir(place) and not os.path.islink(place):
                shutil.rmtree(place)
            os.replace(partial, place)

    def clear(self) -> None:
        """Remove what has not got to its place."""
        for name in self.files:
            _remove(self.partial(name))


def _placed(path: str) -> str:
    """Return a path in which links are followed, though not in its last part.

    Where links in the path of an output lead is a matter of this machine.
    """
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


@cache
def _permissions() -> int:
    """Return which permissions are kept: what the command gave, as on this machine.

    Other users may write only where files are made like that here. The umask is read from
    proc(5): asking for it by umask(2) changes it for the whole process.
    """
    umask = 0o022
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        umask = next(
            (int(line.split()[1], 8) for line in status if line.startswith("Umask:")), umask
        )
    return 0o777 & ~(umask & 0o002)


def _time(member: tarfile.TarInfo) -> int:
    try:
        return nanoseconds(member.pax_headers.get("mtime", str(int(member.mtime))))
    except (Nonsense, ValueError, OverflowError):
        raise RefusedError(f"{member.name!r} has no possible time of modification") from None


def _new(path: str) -> IO[bytes]:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _copy(content: IO[bytes], stream: IO[bytes], size: int) -> None:
    """Write a file; what is nothing but zeros takes no room (lseek(2), holes)."""
    left = size
    while left:
        piece = content.read(min(left, _PIECE))
        if not piece:
            raise tarfile.ReadError("unexpected end of data")
        if piece.count(0) == len(piece):
            stream.seek(len(piece), os.SEEK_CUR)
        else:
            stream.write(piece)
        left -= len(piece)
    stream.truncate(size)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)
