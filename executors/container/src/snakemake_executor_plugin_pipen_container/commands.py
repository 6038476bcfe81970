"""The commands of Docker and Podman, each as a call: what is asked, and the answer read.

Every call raises :class:`~pipen_executors.exceptions.TransientError` when the runtime
could not be reached, and :class:`~pipen_executors.exceptions.SchedulerError` with its own
words when it refused.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.process import run

from . import parse

PULL_PATIENCE: Final = 6 * 3600.0
"""Seconds that an image may take to arrive."""
_STOP_PATIENCE: Final = 120.0


def version(bin: str) -> str:
    """Return what a runtime says of its version.

    Raises
    ------
    SchedulerError
        If there is no such command, or it fails.
    """
    try:
        done = subprocess.run(
            [bin, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SchedulerError(str(error)) from None
    if done.returncode != 0:
        raise SchedulerError(parse.message(done.stderr.decode(errors="replace")))
    return done.stdout.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Containers:
    """Containers of Docker or Podman.

    Parameters
    ----------
    bin
        Path of the command.
    kind
        ``docker`` or ``podman``, whichever command line it has.
    """

    bin: str
    kind: str

    async def facts(self) -> parse.Facts:
        """Ask the runtime, or its daemon, what it can do."""
        if self.kind == "podman":
            return parse.podman_facts(await self._said("info", "--format", "json"))
        return parse.docker_facts(await self._said("info", "--format", "{{json .}}"))

    async def start(self, name: str, words: Sequence[str], label: str) -> None:
        """Start a container in the background.

        Nobody is at its other end: it outlives this process, no pipe of it has to be
        drained, and the answer is the same through a socket (``run --rm`` is not: Podman's
        answers 0 whatever happens, podman issue 18889).

        Parameters
        ----------
        name
            Its name.
        words
            The rest of the command line.
        label
            One of the labels in ``words``; a container without it is another's.
        """
        done = await run([self.bin, "run", "--detach", "--pull=never", *_identity(name), *words])
        if done.rc != 0 and parse.name_is_taken(done.stderr) and name in await self.running(label):
            # An earlier call seemed to have failed and had come through.
            done = await run([self.bin, "start", name])
        if done.rc != 0:
            raise parse.refusal(done.rc, done.stderr)

    async def running(self, label: str) -> dict[str, bool]:
        """Return which containers with a label there are, and whether each runs."""
        words = ["ps", "--all", f"--filter=label={label}", f"--format={parse.STATUS_FORMAT}"]
        return parse.running(await self._said(*words))

    async def ends(self, names: Sequence[str], label: str) -> Mapping[str, parse.Ended]:
        """Return how containers ended; those that are gone, or lack the label, are left out."""
        done = await run([self.bin, "inspect", "--type=container", *names])
        if done.rc != 0 and not parse.only_unknown(done.stderr):
            raise TransientError(parse.message(done.stderr))
        return parse.ends(done.stdout, label)

    async def last_words(self, name: str) -> str:
        """Return the last lines that the first command of a container has written."""
        done = await run([self.bin, "logs", "--tail=5", name])
        return " ".join((done.stdout + done.stderr).split("\n")).strip() if done.rc == 0 else ""

    async def stop(self, names: Sequence[str], grace: float, label: str) -> None:
        """End those containers that have a label and run.

        TERM first and, after ``grace`` seconds, KILL. One that disappears meanwhile does not
        keep the others: without ``--ignore``, Podman stops none of them if one is gone.

        Raises
        ------
        TransientError
            If some could not be stopped.
        """
        there = await self.running(label)
        left = [name for name in names if there.get(name)]
        while left:
            words = ["stop", *self._ignoring(), f"--time={max(1, round(grace))}", *left]
            done = await run([self.bin, *words], patience=grace + _STOP_PATIENCE)
            if done.rc == 0:
                return
            there = await self.running(label)
            before, left = left, [name for name in left if there.get(name)]
            if left == before or not parse.only_unknown(done.stderr):
                raise TransientError(parse.message(done.stderr))

    async def remove(self, names: Iterable[str], label: str) -> None:
        """Remove those containers that have a label, with the volumes that only they had."""
        there = await self.running(label)
        if left := [name for name in names if name in there]:
            await run([self.bin, "rm", "--force", "--volumes", *self._ignoring(), *left])

    def _ignoring(self) -> list[str]:
        """Return the option by which Podman passes over containers that are gone.

        Docker does so by itself (podman-stop(1), podman-rm(1)).
        """
        return ["--ignore"] if self.kind == "podman" else []

    async def has_image(self, image: str) -> bool:
        """Tell whether an image is here."""
        done = await run([self.bin, "image", "inspect", "--format={{.Id}}", image])
        if done.rc != 0 and isinstance(error := parse.pull_refusal(done.stderr), TransientError):
            raise error
        return done.rc == 0

    async def pull(self, image: str) -> None:
        """Fetch an image."""
        done = await run([self.bin, "pull", image], patience=PULL_PATIENCE)
        if done.rc != 0:
            raise parse.pull_refusal(done.stderr)

    async def _said(self, *words: str) -> str:
        done = await run([self.bin, *words])
        if done.rc != 0:
            raise TransientError(parse.message(done.stderr))
        return done.stdout


def _identity(name: str) -> list[str]:
    """Return the options that give a container its name, and tell it to the wrapper in it."""
    return [f"--name={name}", f"--env=PIPEN_JID={name}"]
