"""The ordinary user as whom tests run what must not need root."""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
from pathlib import Path

from tests.services.common import ServiceUnavailable

TEST_USER = "pipentest"
_LOCK = Path("/run/lock/pipen-tests-user.lock")


def ensure_user(name: str = TEST_USER) -> pwd.struct_passwd:
    """Return an ordinary user's entry in the user database; the user is created if missing.

    Raises
    ------
    ServiceUnavailable
        When the user is missing and this is not root.
    """
    entry = _entry(name)
    if entry is not None:
        return entry
    if os.geteuid() != 0:
        raise ServiceUnavailable(f"user {name} is missing, and not root to create it")
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if _entry(name) is None:
            subprocess.run(
                ["/usr/sbin/useradd", "--create-home", "--shell", "/bin/bash", name],
                check=True,
                capture_output=True,
            )
    return pwd.getpwnam(name)


def ensure_login(name: str = TEST_USER) -> pwd.struct_passwd:
    """Return an ordinary user who may log in by ssh with a key.

    An sshd without PAM refuses one whose password is locked, with ``!`` (sshd(8)); nobody can
    log in with the password ``*`` either.
    """
    entry = ensure_user(name)
    subprocess.run(["/usr/sbin/usermod", "--password", "*", name], check=True, capture_output=True)
    return entry


def user_env(entry: pwd.struct_passwd) -> dict[str, str]:
    """Return the variables that say who one is, for a process run as this user."""
    return {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
