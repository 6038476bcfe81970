"""Buckets as directories: what is mounted where, and where a job finds an object.

Pipen's ways of naming a mount are understood: ``gs://bucket/path:/mnt/dir``, and
``NAME=gs://bucket/path``, which is mounted at ``/mnt/disks/NAME`` and whose path a job finds
in the variable ``NAME``. A file system of Filestore, or another that is exported by NFS, is
named as ``nfs://server/path:/mnt/dir``. A bucket that jobs need and that no mount covers is
mounted as a whole at ``/mnt/disks/<bucket>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

ROOT: Final = "/mnt/disks"
WORKING_DIRECTORY: Final = f"{ROOT}/.cwd"
"""Where pipen mounts what ``mount_as_cwd`` names."""

FUSE_OPTIONS: Final = ("-o rw", "-implicit-dirs")
"""Options of gcsfuse: without the second, it sees no directories but those that somebody
made with it (Cloud Storage FUSE, "Files and directories")."""

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_MOUNT: Final = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<address>(?:gs|nfs)://[^:]+)(?::(?P<path>/[^:]*))?"
)


@dataclass(frozen=True, slots=True)
class Mount:
    """A bucket, or what lies below a prefix of one, mounted as a directory.

    Parameters
    ----------
    address
        ``gs://bucket/prefix``, without a slash at its end, or ``nfs://server/path``.
    path
        Absolute path on the machine.
    variable
        Environment variable that tells jobs the path; may be empty.
    """

    address: str
    path: str
    variable: str = ""

    def volume(self) -> dict[str, Any]:
        """Return it as a ``Volume`` of the Batch API."""
        if self.address.startswith("nfs://"):
            server, _, path = self.address.removeprefix("nfs://").partition("/")
            return {
                "nfs": {"server": server, "remote_path": f"/{path}"},
                "mount_path": self.path,
            }
        return {
            "gcs": {"remote_path": self.address.removeprefix("gs://")},
            "mount_path": self.path,
            "mount_options": list(FUSE_OPTIONS),
        }


def parse_address(value: Any) -> str:
    """Read ``gs://bucket/prefix``.

    >>> parse_address("gs://my-bucket/run/")
    'gs://my-bucket/run'
    """
    bucket, _, _ = str(value).removeprefix("gs://").partition("/")
    if not str(value).startswith("gs://") or not _BUCKET.fullmatch(bucket):
        raise ValueError("expected an address in Cloud Storage such as gs://bucket/path")
    return str(value).rstrip("/")


def parse_mount(value: Any) -> Mount:
    """Read one mount.

    >>> parse_mount("DATA=gs://my-bucket/data")
    Mount(address='gs://my-bucket/data', path='/mnt/disks/DATA', variable='DATA')
    """
    match = _MOUNT.fullmatch(str(value).strip())
    if match is None or bool(match["name"]) == bool(match["path"]):
        raise ValueError("expected gs://bucket/path:/mnt/directory or NAME=gs://bucket/path")
    path = (match["path"] or f"{ROOT}/{match['name']}").rstrip("/")
    address = match["address"].rstrip("/")
    if address.startswith("gs://"):
        address = parse_address(address)
    return Mount(address, path, match["name"] or "")


def parse_mounts(value: Any) -> tuple[Mount, ...]:
    """Read one mount or a list of them.

    Two mounts may not have the same directory.
    """
    words = [value] if isinstance(value, str) else list(value or ())
    mounts = tuple(map(parse_mount, words))
    if len({mount.path for mount in mounts}) < len(mounts):
        raise ValueError("two mounts have the same directory")
    return mounts


class Mounts:
    """All mounts of a run.

    Parameters
    ----------
    mounts
        Those that the user named.
    """

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self._mounts = list(mounts)

    def path(self, address: str) -> str:
        """Return where jobs see an object; its bucket is mounted if no mount covers it."""
        covering = [
            mount
            for mount in self._mounts
            if address == mount.address or address.startswith(f"{mount.address}/")
        ]
        if not covering:
            bucket = address.removeprefix("gs://").partition("/")[0]
            covering = [Mount(f"gs://{bucket}", f"{ROOT}/{bucket}")]
            self._mounts += covering
        best = max(covering, key=lambda mount: len(mount.address))
        return best.path + address[len(best.address) :]

    def volumes(self) -> list[dict[str, Any]]:
        """Return all of them as volumes of the Batch API, a directory before what is in it."""
        return [mount.volume() for mount in sorted(self._mounts, key=lambda mount: mount.path)]

    def variables(self) -> dict[str, str]:
        """Return the environment variables that tell where named mounts are."""
        return {mount.variable: mount.path for mount in self._mounts if mount.variable}
