"""Checks of the place where jobs are to run, before a first run.

A backend has a module ``doctor`` with

``checks(place)``
    An asynchronous generator of findings about its commands, its limits, its accounting.
``entries(place)``
    An asynchronous generator of :class:`Entry`: what a Snakemake profile for this place
    would say.

Both may raise :class:`~pipen_executors.exceptions.SchedulerError`, which becomes a failure.
What holds for every backend is checked here: the programs, the directory, and one job of a
second that goes through the scheduler as jobs of a run do.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import platform
import re
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .exceptions import SchedulerError, UserError
from .jobdir import JOB_DIRECTORIES, prepare_root
from .process import run
from .settings import Checked
from .spec import JobSpec
from .standalone import BACKENDS, checked_settings, make_scheduler, plugin_of

if TYPE_CHECKING:
    from .job import Job

_SKEW: Final = 2.0
"""Seconds that clocks may differ: file times are compared by Snakemake."""
_PROBE: Final = """\
printf 'bash=%s\\n' "$BASH_VERSION"
printf 'host=%s\\n' "${HOSTNAME-}"
printf 'user=%s\\n' "$(id -un 2>/dev/null || id -u)"
if [[ -e here.@NONCE@ ]]; then echo sees=yes; else echo sees=no; fi
{ : > there.@NONCE@; } 2>/dev/null
sleep 1
printf 'time=%s\\n' "${EPOCHREALTIME:-$(date +%s)}"
"""


class Level(StrEnum):
    """How well something is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor.

    Parameters
    ----------
    level
        How well it is.
    text
        What was found.
    advice
        What to do; empty if there is nothing to do.
    """

    level: Level
    text: str
    advice: str = ""


def ok(text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(Level.OK, text)


def warning(text: str, advice: str) -> Finding:
    """Return a finding that a run may do without."""
    return Finding(Level.WARNING, text, advice)


def failure(text: str, advice: str) -> Finding:
    """Return a finding that no run can do without."""
    return Finding(Level.FAILURE, text, advice)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a Snakemake profile.

    Parameters
    ----------
    key, value
        As in the profile; ``default-resources/<name>`` for one of the default resources.
    comment
        Why, in one line.
    certain
        Whether it can be taken as it is; otherwise the line is commented out.
    """

    key: str
    value: Any
    comment: str
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """Where jobs are to run.

    Parameters
    ----------
    backend
        Name of the scheduler.
    directory
        Working directory of the workflow, absolute.
    given
        Settings of the executor that are not defaults.
    checked
        All of them, read.
    """

    backend: str
    directory: Path
    given: dict[str, Any]
    checked: Checked


def installed() -> list[str]:
    """Return the backends whose executors are installed."""
    found = []
    for backend in BACKENDS:
        with contextlib.suppress(UserError):
            plugin_of(backend)
            found.append(backend)
    return found


def place_of(backend: str, directory: Path, given: dict[str, Any]) -> Place:
    """Return the place of a backend.

    Raises
    ------
    UserError
        If its executor is not installed, or a setting cannot be right.
    """
    checked = checked_settings(backend, given)
    return Place(backend, directory.absolute(), given, checked)


def _module_of(backend: str) -> Any:
    """Return the backend's module of this name; None if it has none."""
    name = f"{plugin_of(backend).__name__}.doctor"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


async def examine(place: Place, patience: float) -> AsyncIterator[Finding]:
    """Yield what is found, as it is found.

    Parameters
    ----------
    place
        Where.
    patience
        Seconds that the probe job may wait and run; 0 for none.
    """
    for finding in [*_programs(place), _directory(place)]:
        yield finding
    module = _module_of(place.backend)
    usable = True
    if module is not None:
        try:
            async for finding in module.checks(place):
                usable = usable and finding.level is not Level.FAILURE
                yield finding
        except SchedulerError as error:
            usable = False
            yield failure(str(error), f"see docs/{place.backend}.md")
    if patience and usable:
        for finding in await asyncio.to_thread(_probe, place, patience):
            yield finding


async def entries(place: Place) -> list[Entry]:
    """Return what a Snakemake profile for a place would say.

    Raises
    ------
    SchedulerError
        If the scheduler could not be asked.
    """
    common = [
        Entry("executor", f"pipen-{place.backend}", ""),
    ]
    module = _module_of(place.backend)
    if module is None:
        return common
    return common + [entry async for entry in module.entries(place)]


def _programs(place: Place) -> Iterator[Finding]:
    """Look at what runs here."""
    names = ["snakemake", "pipen-executors", f"snakemake-executor-plugin-pipen-{place.backend}"]
    versions = [f"Python {platform.python_version()}"]
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    yield ok(", ".join(versions))


def _directory(place: Place) -> Finding:
    """Look whether job directories can be kept here, and how much room there is."""
    root = place.directory / JOB_DIRECTORIES / f".doctor-{secrets.token_hex(4)}"
    try:
        prepare_root(root)
        shutil.rmtree(root)
    except OSError as error:
        return failure(
            f"the job directories cannot be kept in {place.directory}: {error}",
            f"run it elsewhere, or set --pipen-{place.backend}-workdir",
        )
    free = shutil.disk_usage(place.directory).free
    text = f"{place.directory} can be written, {free / 1e9:,.1f} GB are free"
    if free < 1e9:
        return warning(text, "make room: outputs and logs of jobs go there")
    return ok(text)


async def command(words: Sequence[str], setting: str) -> tuple[Finding, str]:
    """Run a command that says its version; return what was found, and what it printed.

    Parameters
    ----------
    words
        The command and its arguments.
    setting
        The option that names its path.
    """
    try:
        done = await run(words, patience=20)
    except SchedulerError as error:
        return failure(str(error), f"install it, load its module, or set {setting}"), ""
    said = (done.stdout or done.stderr).strip().partition("\n")[0]
    where = shutil.which(words[0]) or words[0]
    if done.rc != 0:
        return failure(f"{where}: {said}", f"run `{' '.join(words)}` by hand"), ""
    return ok(f"{where}: {said}"), done.stdout


# -- the probe -------------------------------------------------------------------------------


class _Probe:
    """Runs one job through a scheduler; the engine's client."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.submitted: float | None = None
        self.ended_at = 0.0
        self.ended = threading.Event()
        self.job: Job | None = None

    def on_submitted(self, job: Job) -> None:
        self.submitted = time.time()

    def on_ended(self, jobs: Sequence[Job]) -> None:
        self.ended_at = time.time()
        (self.job,) = jobs
        self.ended.set()

    def on_halt(self, job: Job) -> None: ...

    def on_cancelled(self) -> None: ...

    def on_broken(self, error: BaseException) -> None:
        self.messages.append(repr(error))
        self.ended.set()

    def on_message(self, text: str, *, warning: bool = False) -> None:
        self.messages.append(text)

    def prepare(self, job: Job) -> None: ...


def _probe(place: Place, patience: float) -> list[Finding]:
    """Run a job of a second, and look at what it saw."""
    nonce = secrets.token_hex(4)
    root = place.directory / JOB_DIRECTORIES / f".doctor-{nonce}"
    prepare_root(root)
    here, there = (place.directory / f"{side}.{nonce}" for side in ("here", "there"))
    here.touch()
    try:
        return list(_run_probe(place, root, nonce, there, patience))
    finally:
        here.unlink(missing_ok=True)
        there.unlink(missing_ok=True)
        shutil.rmtree(root, ignore_errors=True)


def _run_probe(
    place: Place, root: Path, nonce: str, there: Path, patience: float
) -> Iterator[Finding]:

    from .client import Limits
    from .engine import Engine

    scheduler = make_scheduler(place.backend, root, place.given)
    probe = _Probe()
    engine = Engine(scheduler, str(root), Limits(submit_patience=30), scheduler.hooks, probe)
    spec = JobSpec(
        rule="pipen_doctor",
        wildcards={},
        products=(),
        jobid="0",
        argv=("/bin/bash",),
        script=_PROBE.replace("@NONCE@", nonce),
        cwd=str(place.directory),
        base=str(place.directory),
        options=dict(place.checked.options),
        prescript=place.checked.prescript,
    )
    spec.cwd = os.path.abspath(scheduler.working_directory(spec))
    begun = time.time()
    try:
        scheduler.check(spec)
        engine.start()
    except (SchedulerError, UserError) as error:
        yield failure(f"a job cannot be submitted: {error}", f"see docs/{place.backend}.md")
        return
    try:
        engine.submit([engine.make_job(spec)])
        in_time = probe.ended.wait(patience)
        if not in_time:
            engine.cancel()
    finally:
        engine.stop()
    said = "; ".join(probe.messages)
    if not in_time:
        yield warning(
            f"a job of a second has not run within {patience:g} s{': ' if said else ''}{said}",
            "see why it waits (squeue, qstat …), or ask for more patience with --patience",
        )
        return
    job = probe.job
    if job is None or job.outcome is None or not job.outcome.ok:
        why = said if job is None or job.outcome is None else job.outcome.describe()
        tail = job.directory.tail("job.stderr", 3) if job is not None else []
        yield failure(f"a job of a second failed: {'; '.join([why, *tail])}", "mend that first")
        return
    yield from _what_it_saw(scheduler.fs_shared, job, probe, begun, there)


def _what_it_saw(
    shared: bool, job: Job, probe: _Probe, begun: float, there: Path
) -> Iterator[Finding]:
    text = job.directory.read("job.stdout")
    seen = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    took = probe.ended_at - begun
    yield ok(
        f"a job of a second ran on {seen.get('host') or 'a node'} as {seen.get('user')}, "
        f"with bash {seen.get('bash')}; {took:.1f} s from here and back"
    )
    if shared:
        deadline = time.monotonic() + 10
        while not there.exists() and time.monotonic() < deadline:
            os.listdir(there.parent)  # makes NFS look again
            time.sleep(0.2)
        if seen.get("sees") == "yes" and there.exists():
            yield ok("the node sees the files of this directory, and this machine those of jobs")
        else:
            yield failure(
                "this directory is not the same on the node",
                "run Snakemake in a directory that all nodes have, such as a home or scratch file "
                "system",
            )
    try:
        on_node = float(seen["time"].replace(",", "."))
    except (KeyError, ValueError):
        return
    yield _skew(on_node, begun, probe.ended_at)


def _skew(on_node: float, before: float, after: float) -> Finding:
    """Compare a node's clock, read between two readings of this one."""
    skew = on_node - after if on_node > after else min(0.0, on_node - before)
    if abs(skew) > _SKEW:
        return warning(
            f"the node's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}",
            "have both machines take their time from a server (NTP): Snakemake compares file times",
        )
    return ok(f"the clocks of this machine and the node agree (within {after - before:.0f} s)")
