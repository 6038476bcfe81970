"""Images: how each runtime calls them, and their arrival before the first job."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import psutil
import tenacity

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.process import run
from pipen_executors.settings import DIRECTORY_AT_IMPORT
from pipen_executors.states import ExitReason
from pipen_executors.units import parse_path

from . import parse
from .commands import PULL_PATIENCE

PULL_POLICIES: Final = ("missing", "always", "never")
_ATTEMPTS: Final = 3
_LOOK_UP: Final = 0.5
"""Seconds after which one who waits for an image looks whether it still needs it."""
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+-]*)://")
_FILE: Final = re.compile(r"\.(sif|simg|img|sqsh)$")


def image_name(image: str, kind: str) -> str:
    """Return an image as a runtime calls it.

    ``docker://`` means the same to all runtimes. A plain name is that of a registry for
    Apptainer too, unless there is such a file or directory.

    >>> image_name("docker://debian:12", "podman"), image_name("debian:12", "apptainer")
    ('debian:12', 'docker://debian:12')
    """
    name = image.removeprefix("docker://")
    if name.startswith("-"):
        raise ValueError("the name of an image does not begin with a hyphen")
    if not name or not image.isprintable() or any(map(str.isspace, image)):
        raise ValueError("expected the name of an image, such as docker.io/library/debian:12")
    scheme = _SCHEME.match(image)
    is_file = bool(_FILE.search(image)) or image.startswith(("/", "./", "../", "~"))
    if kind == "apptainer":
        path = os.path.abspath(parse_path(image, DIRECTORY_AT_IMPORT))
        if scheme is None and (is_file or os.path.exists(path)):
            if not os.path.exists(path):
                raise ValueError(f"{path} does not exist")
            return path
        return image if scheme else f"docker://{image}"
    if is_file or (scheme is not None and scheme[1] != "docker"):
        raise ValueError(f"{kind} takes only names of images in a registry, such as debian:12")
    return name


class Store(Protocol):
    """Where a runtime keeps its images."""

    async def has_image(self, image: str) -> bool:
        """Tell whether an image is here."""

    async def pull(self, image: str) -> None:
        """Fetch an image."""


class SifFiles:
    """Images of Apptainer, each converted once into a file below a directory."""

    def __init__(self, bin: str, directory: Path) -> None:
        self._bin = bin
        self._directory = directory

    @classmethod
    def below(cls, bin: str, workdir: Path) -> SifFiles:
        """Return those that lie with the job directories of a workflow."""
        return cls(bin, workdir / ".images")

    def path(self, image: str) -> str:
        """Return the file of an image."""
        if image.startswith("/"):
            return image
        return f"{self._directory}/{hashlib.sha256(image.encode()).hexdigest()[:20]}.sif"

    async def has_image(self, image: str) -> bool:
        """Tell whether an image is here."""
        return os.path.exists(self.path(image))

    async def pull(self, image: str) -> None:
        """Fetch an image; what is in use is never written to."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = f"{self.path(image)}.{os.getpid()}.new"
        try:
            done = await run([self._bin, "pull", "--force", new, image], patience=PULL_PATIENCE)
            if done.rc != 0:
                raise parse.pull_refusal(done.stderr)
            os.replace(new, self.path(image))
        finally:
            with contextlib.suppress(OSError):
                os.unlink(new)

    def sweep(self) -> None:
        """Remove what processes that are gone had begun to fetch."""
        for path in self._directory.glob("*.new"):
            pid = path.name.split(".")[-2]
            if pid.isdecimal() and not psutil.pid_exists(int(pid)):
                with contextlib.suppress(OSError):
                    path.unlink()


class Images:
    """Sees to it that each image is here before its first job, once in a run.

    Parameters
    ----------
    store
        Where they are kept.
    policy
        ``missing``, ``always`` or ``never``: when to fetch.
    tell
        Shows a line to the user.
    """

    def __init__(self, store: Store, policy: str, tell: Callable[[str], None]) -> None:
        self._store = store
        self._policy = policy
        self._tell = tell
        self._fetches: dict[str, asyncio.Task[None]] = {}

    async def ensure(self, image: str, unless: Callable[[], bool]) -> None:
        """Wait until an image is here, or until ``unless()`` says that it is of no use.

        Raises
        ------
        TransientError
            If the runtime or the registry could not be reached; the next call tries again.
        SchedulerError
            If it cannot be had.
        """
        fetch = self._fetches.get(image)
        if fetch is None or (fetch.done() and isinstance(fetch.exception(), TransientError)):
            fetch = self._fetches[image] = asyncio.create_task(self._ensure(image))
        while not (await asyncio.wait({fetch}, timeout=_LOOK_UP))[0]:
            if unless():
                return
        fetch.result()

    async def close(self) -> None:
        """Give up what is still being fetched."""
        left = [fetch for fetch in self._fetches.values() if not fetch.done()]
        for fetch in left:
            fetch.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _ensure(self, image: str) -> None:
        if image.startswith("/") or (
            self._policy != "always" and await self._store.has_image(image)
        ):
            return
        if self._policy == "never":
            raise SchedulerError(
                f"{image} is not here, and the setting pull is 'never'", ExitReason.IMAGE_FAILURE
            )
        self._tell(f"Pulling image {image} …")
        started = time.monotonic()
        await _pull(self._store, image, self._tell)
        self._tell(f"Pulled image {image} in {time.monotonic() - started:.0f} s.")


async def _pull(store: Store, image: str, tell: Callable[[str], None]) -> None:
    """Try a few times, while what goes wrong may pass; then it is a failure for good."""

    def again(state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None
        tell(f"{state.outcome.exception()}; trying again")

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        wait=tenacity.wait_random_exponential(multiplier=1, max=30),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        before_sleep=again,
        reraise=True,
    )
    try:
        await retrying(store.pull, image)
    except TransientError as error:
        raise SchedulerError(str(error), ExitReason.IMAGE_FAILURE) from None
