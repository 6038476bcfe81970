"""Debian packages that a test service needs, installed on first use."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.services.common import ServiceUnavailable

_LOCK = Path("/run/lock/pipen-tests-apt.lock")
_POLICY = Path("/usr/sbin/policy-rc.d")


def missing_packages(packages: Sequence[str]) -> list[str]:
    """Return those of the packages that are not installed."""
    return [package for package in packages if not _installed(package)]


def ensure_debian_packages(packages: Sequence[str]) -> None:
    """Install packages, without their recommendations, unless they are there.

    Test processes side by side wait for each other. The packages' own services are not started.

    Parameters
    ----------
    packages
        Debian package names.

    Raises
    ------
    ServiceUnavailable
        When a package is missing and this is not Debian, not root, or apt fails.
    """
    if shutil.which("dpkg-query") is None or shutil.which("apt-get") is None:
        raise ServiceUnavailable(f"not a Debian system; needed: {', '.join(packages)}")
    if not missing_packages(packages):
        return
    if os.geteuid() != 0:
        missing = ", ".join(missing_packages(packages))
        raise ServiceUnavailable(
            f"missing Debian packages, and not root to install them: {missing}"
        )
    with _lock(), _no_service_start():
        missing_now = missing_packages(packages)
        if missing_now:
            _apt("update")
            _apt("install", "--yes", "--no-install-recommends", *missing_now)


def _installed(package: str) -> bool:
    query = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package],
        capture_output=True,
        text=True,
    )
    return query.returncode == 0 and query.stdout == "installed"


def _apt(*arguments: str) -> None:
    result = subprocess.run(
        ["apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=300", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        raise ServiceUnavailable(f"apt-get {' '.join(arguments)} failed:\n{result.stderr}")


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _no_service_start() -> Iterator[None]:
    """Keep package scripts from starting system-wide daemons (invoke-rc.d(8), policy-rc.d)."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
