"""Files on a file system that may fail for a while.

On network file systems, and on full disks, any call may fail that succeeded a moment ago and
will succeed again: a server restarts, a handle has gone stale, a quota is reached. Such an error
says nothing about the file, least of all that it is not there.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from .exceptions import TransientError

T = TypeVar("T")

_PASSING: Final = frozenset(
    (
        *(errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENOLINK, errno.ENODEV),
        *(errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
        *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOTCONN, errno.ESHUTDOWN),
        *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EKEYEXPIRED),
    )
)
"""What open(2), read(2), write(2), unlink(2), nfs(5) and mount.fuse3(8) say of such moments."""

_AT_ONCE: Final = 5

_TIMEOUT: Final = 60.0
"""Seconds for which a call from Snakemake's own threads is repeated."""


def is_passing(error: BaseException) -> bool:
    """Tell whether an error of the file system may be over when the call is repeated."""
    return isinstance(error, OSError) and error.errno in _PASSING


def describe(error: BaseException) -> str:
    """Return what went wrong, for messages: of an error of the file system, with which file."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or repr(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


@contextlib.contextmanager
def passing_as_transient() -> Iterator[None]:
    """Raise passing errors of the file system as :class:`TransientError`."""
    try:
        yield
    except OSError as error:
        if is_passing(error):
            raise TransientError(describe(error)) from error
        raise


def exists(path: str) -> bool:
    """Tell whether there is a file, directory or symbolic link.

    Other than :func:`os.path.lexists`, which takes every error for absence.

    Raises
    ------
    OSError
        If that cannot be found out.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def at_once(call: Callable[[], T], otherwise: T) -> T:
    """Call a function a few times without a pause; return something else if it fails each time.

    For what is worth no waiting: a stale handle is right at the next call already.
    """
    for _ in range(_AT_ONCE):
        try:
            return call()
        except OSError as error:
            if not is_passing(error):
                break
    return otherwise


def repeat(call: Callable[..., T], *arguments: object) -> T:
    """Call a function, again with back-off while the file system fails; blocks this thread.

    Raises
    ------
    OSError
        If the error is not a passing one, or has not passed after a minute.
    """
    import tenacity  # not at every start of Snakemake

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_passing),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
        stop=tenacity.stop_after_delay(_TIMEOUT),
        reraise=True,
    )
    return retrying(call, *arguments)
