"""Jobs of xqute and pipen on the engine: xqute's directory of a job, and xqute's statuses.

A job of ``create_job`` keeps two states apart: ``state`` is the engine's, set in the engine's
thread; ``_status`` is what xqute and pipen read, and changes in their event loop, with xqute's
hooks, when a scheduler is asked (``check_all_done``).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from typing import Any, Final

from . import meter
from .import_xqute import xqute
from .job import EngineJob
from .jobdir import ALIVE, INFO, OPEN, JobDir
from .spec import JobSpec
from .states import JobState

JobStatus: Final = xqute.JobStatus
_WRITTEN_BY_US: Final = (
    *("job.stdout", "job.stderr", "job.status", "job.rc", "job.jid", "job.timedout"),
    *(ALIVE, meter.FILE),
)


class MetaDir(JobDir):
    """The directory that xqute gives a job: ``<workdir>/<index>/``.

    It is not the engine's alone: pipen keeps scripts, signatures and outputs in it.
    """

    __slots__ = ("_key",)

    def __init__(self, path: str, mounted: str, key: str) -> None:
        super().__init__(path, mounted)
        self._key = key

    @property
    def key(self) -> str:
        """The key of the job."""
        return self._key

    @property
    def _entry(self) -> str:
        return f"{os.path.dirname(self.path)}/{OPEN}/{self._key}"

    @property
    def _below(self) -> str:
        return os.path.basename(self.path)

    def _put_aside(self, attempt: int) -> None:
        """Remove what an earlier submission has left; xqute has put away what a retry keeps."""
        for entry in list(os.scandir(self.path)):
            ours = entry.name.startswith((INFO, "job.wrapped.")) or entry.name in _WRITTEN_BY_US
            if ours and not entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)

    def _write_script(self, spec: JobSpec) -> None:
        """Leave ``job.script`` alone, which is pipen's: the command is in the wrapper."""


class ApiJob(EngineJob):
    """Mixed into a class of xqute's jobs, makes it one that an engine can run."""

    followed: bool = False
    """Whether an engine has it, and its end has not been taken in."""
    has_ended: bool = False
    """Whether the engine has told its end."""
    answer: asyncio.Future[str] | None = None
    """Is given the scheduler's id, or why the job was not submitted."""
    is_left_over: bool = False
    """Whether it is asked whether a submission of an earlier run goes on."""

    def set_state(self, state: JobState) -> None:
        """Set the engine's state; xqute's status follows when it is asked for."""
        self.state = state

    @property
    def goes_on(self) -> bool:
        """Whether the engine has it and knows of no end."""
        return self.followed and not (self.has_ended or self.state.is_final)

    @property
    def news(self) -> int:
        """The status as the engine knows it, which may not have been taken in yet."""
        if not self.followed:
            return int(self._status)
        if self.has_ended:
            assert self.outcome is not None
            if self._status == JobStatus.SUBMITTED and self.started_told:
                return int(JobStatus.RUNNING)  # one step after the other
            return int(JobStatus.FINISHED if self.outcome.ok else JobStatus.FAILED)
        known = (JobStatus.SUBMITTED, JobStatus.RUNNING)
        if self.state is JobState.RUNNING and self._status in known:
            return int(JobStatus.RUNNING)
        return int(self._status)

    async def get_status(self, refresh: bool = False) -> int:
        """Return the status, as the engine knows it or, without an engine, from its file."""
        if refresh and self.followed:
            self._status = self.news
            return int(self._status)
        return int(await super().get_status(refresh))

    def texts(self) -> str:
        """Return the texts of those words of the command that are files of the job's own."""
        found = []
        own = f"{self.metadir.mounted}/"
        for word in self.cmd:
            if word.startswith(own):
                found.append(JobDir(str(self.metadir)).read(word.removeprefix(own)))
        return "\0".join(found)


class XquteJob(ApiJob, xqute.Job):
    """A job of ``Xqute``."""


XquteJob.__name__ = "Job"  # as it is shown


@functools.cache
def pipen_job_class() -> type[Any]:
    """Return the class of the jobs of a process of pipen, which is imported already."""
    from pipen.job import Job

    class PipenJob(ApiJob, Job):
        """A job of a process of pipen."""

        @property
        async def cached(self) -> bool:
            """Whether the job need not be run; one that goes on keeps what it has written.

            Without an exit status pipen takes it for one to be run, and removes its outputs.
            """
            if MetaDir(str(self.metadir), "", "").record() is not None:
                return False
            return bool(await super().cached)

    PipenJob.__name__ = PipenJob.__qualname__ = "Job"
    return PipenJob
