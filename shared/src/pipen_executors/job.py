"""The job as xqute knows it, standing on a job specification and a job directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .import_xqute import xqute
from .jobdir import JobDir, Record
from .spec import JobSpec
from .states import JobState, Outcome

if TYPE_CHECKING:
    _Base = xqute.Job
else:
    _Base = object


class EngineJob(_Base):
    """What the engine keeps of a job; mixed into a class of xqute's jobs.

    Attributes
    ----------
    spec
        What to run.
    directory
        Where its files are.
    displaces
        Jobs of earlier runs that write the same files; they are ended before it is submitted.
    """

    if not TYPE_CHECKING:  # the slots are in the classes that it is mixed into
        __slots__ = ()

    spec: JobSpec
    directory: JobDir
    displaces: list[Job]
    fingerprint: str
    state: JobState
    reason: str
    record: Record | None
    outcome: Outcome | None
    seen: float
    settling: bool
    started_told: bool

    def engage(self, spec: JobSpec, directory: JobDir) -> None:
        """Make ready for the engine; nothing is known of an earlier submission."""
        self.spec = spec
        self.directory = directory
        self.displaces = []
        self.fingerprint = ""
        self.state = JobState.QUEUED
        self.reason = ""
        self.record = None
        self.outcome = None
        self.seen = 0.0
        self.settling = False
        self.started_told = False

    @property
    def jid(self) -> str:
        """The scheduler's id of the job; empty before it is submitted."""
        return "" if self._jid is None else str(self._jid)

    @property
    def token(self) -> str:
        """Name of the current submission."""
        assert self.record is not None
        return self.record.token

    @property
    def event_key(self) -> str:
        """What the wrapper puts before each event of the current submission."""
        return f"{self.spec.key}.{self.token}"

    def take_jid(self, jid: str) -> None:
        """Keep the scheduler's id here; :meth:`write_jid` writes it down."""
        self._jid = jid

    def write_jid(self) -> None:
        """Write the scheduler's id into ``job.jid``.

        Raises
        ------
        OSError
            If it cannot be written; a next run then finds it in the wrapper's claim.
        """
        self.directory.write("job.jid", self.jid)

    def set_state(self, state: JobState) -> None:
        """Set the state here; on disk only the wrapper writes it once a job is submitted."""
        self.state = state
        self._status = state.value


class Job(EngineJob, xqute.Job):
    """One job in the engine.

    It has all attributes of ``xqute.Job`` (``index``, ``cmd``, ``metadir``, ``envs``,
    ``trial_count`` and the file properties), so that xqute's schedulers and plugins
    find what they read.

    Parameters
    ----------
    index
        Number of the job within the run, from 0.
    spec
        What to run.
    directory
        Where its files are.
    """

    __slots__ = (
        "directory",
        "displaces",
        "fingerprint",
        "outcome",
        "reason",
        "record",
        "seen",
        "settling",
        "spec",
        "started_told",
        "state",
    )

    def __init__(self, index: int, spec: JobSpec, directory: JobDir) -> None:
        # Not calling super().__init__: it builds cloud-aware paths for every job at
        # once; here they are made when a plugin asks for one.
        self.index = index
        self.cmd = (*spec.argv, f"{directory.mounted}/{spec.script_file}")
        self.trial_count = 0
        self._jid: int | str | None = None
        self._status = 0
        self._rc: int | None = None
        self._error_retry = spec.error_strategy == "retry"
        self._num_retries = spec.num_retries
        self.engage(spec, directory)
        self.envs: dict[str, Any] = {}

    @property
    def metadir(self) -> xqute.path.SpecPath:
        """The job directory as xqute's path type."""
        return xqute.path.SpecPath(self.directory.path, mounted=self.directory.mounted)

    def __repr__(self) -> str:
        return f"<Job {self.index} {self.spec.rule} {self.spec.label} {self.jid or '-'}>"
