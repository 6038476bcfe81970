"""The files of one job on disk.

The directory of a job is the same in the next run, which is what taking up a
killed run needs: ``<root>/<rule>/<label>-<key>/``. File names and status numbers
are xqute's (``job.script``, ``job.status``, ``job.rc``, ``job.jid`` …), so tools
that know them keep working. What is there before a submission is written under names
that did not exist; what the job writes is complete or empty, and every reader takes a
missing or empty file for "not there yet".

The directories are the user's only (mode 0700): scripts may hold secrets.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from . import filesystem, meter
from .plain_text import plain
from .spec import JobSpec

JOB_DIRECTORIES: Final = Path(".snakemake", "pipen")
"""Where a workflow has its job directories, below one directory for each scheduler."""
EVENTS: Final = ".events"
OPEN: Final = ".open"
"""Directory with a file for each job that has a record, named by the job's key; the file holds
the path of the job directory below the root. So what earlier runs have left is found by listing
one directory, however many jobs there have ever been."""
INFO: Final = "job.info"
"""File that claims a submission, ``job.info.<token>``, and takes the wrapper's notes."""
ALIVE: Final = "job.alive"
"""File on which a wrapper holds a lock, where its scheduler may forget it."""
_PER_ATTEMPT: Final = (
    *("job.stdout", "job.stderr", "job.status", "job.rc", "job.jid"),
    meter.FILE,
)
_TAIL_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Record:
    """What is written down about a submission before it is made.

    Parameters
    ----------
    token
        Random name of this submission. A wrapper runs only if it can claim its
        token, so that a submission given up by a later run can never start.
    fingerprint
        :meth:`JobSpec.fingerprint` of what was submitted.
    attempt
        Number of the attempt within this run, from 1.
    rule, jobid, products
        For people and tools that read the directory.
    shadow_dir
        Snakemake's shadow directory of the job.
    submitted
        Time of the submission, seconds since the epoch.
    kept
        ``update()`` outputs that were there before it.
    direct
        Whether the rule's own command was submitted (False: a second Snakemake).
    """

    token: str
    fingerprint: str
    attempt: int
    rule: str
    jobid: str
    products: tuple[str, ...]
    shadow_dir: str | None
    submitted: float
    kept: tuple[str, ...] = ()
    direct: bool = True


def new_record(spec: JobSpec, attempt: int, fingerprint: str) -> Record:
    """Return what a new submission is written down by, with a token of its own."""
    return Record(
        token=secrets.token_hex(4),
        fingerprint=fingerprint,
        attempt=attempt,
        rule=spec.rule,
        jobid=spec.jobid,
        products=spec.products,
        shadow_dir=spec.shadow_dir,
        submitted=time.time(),
        kept=spec.kept,
        direct=spec.direct,
    )


_TIMES: Final = re.compile(r"^(\d+)m([\d.,]+)s (\d+)m([\d.,]+)s$", re.MULTILINE)
"""What bash's ``times`` prints; the second line is the shell's children."""


def _number(text: str) -> float:
    return float(text.replace(",", "."))


class JobDir:
    """The directory of one job.

    Parameters
    ----------
    path
        Where the directory lies for this process.
    mounted
        The same directory as the job sees it; the same path by default.
    """

    __slots__ = ("mounted", "path")

    def __init__(self, path: str, mounted: str | None = None) -> None:
        self.path = path
        self.mounted = mounted or path

    @classmethod
    def of(cls, root: str, spec: JobSpec, mounted_root: str | None = None) -> JobDir:
        """Return the directory of a job under the directory of its scheduler."""
        below = place(spec.rule, spec.label, spec.key)
        return cls(f"{root}/{below}", f"{mounted_root or root}/{below}")

    def file(self, name: str) -> str:
        """Return the path of one of the job's files."""
        return f"{self.path}/{name}"

    # -- writing ---------------------------------------------------------------

    def open_attempt(self, spec: JobSpec, attempt: int, fingerprint: str) -> Record:
        """Make the directory ready for a submission and write down that it comes.

        The files of an earlier attempt of this run move to ``job.retry/<n>/``; those
        of an earlier run are removed, with every claim, so that a wrapper of that
        run that has not started yet never will.

        Raises
        ------
        OSError
            If the directory cannot be written.
        """
        record = new_record(spec, attempt, fingerprint)
        try:
            os.mkdir(self.path, 0o700)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            self._put_aside(attempt)
        self._write_script(spec)
        for name, content in spec.files.items():
            self.write(name, content)
        self._list_as_open()
        self.write("job.record", json.dumps(asdict(record)))
        return record

    def _write_script(self, spec: JobSpec) -> None:
        self.write("job.script", spec.script)

    @property
    def key(self) -> str:
        """The key of the job."""
        return self.path.rpartition("-")[2]

    @property
    def _entry(self) -> str:
        root = os.path.dirname(os.path.dirname(self.path))
        return f"{root}/{OPEN}/{self.key}"

    @property
    def _below(self) -> str:
        """The path of the directory below that of its scheduler."""
        return "/".join(self.path.rsplit("/", 2)[-2:])

    def _list_as_open(self) -> None:
        below = self._below.encode(errors="surrogateescape")
        try:
            _write(self._entry, below)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._entry), mode=0o700, exist_ok=True)
            _write(self._entry, below)

    def _put_aside(self, attempt: int) -> None:
        """Clear away what an earlier attempt has left, so that all that is written is new.

        Nothing is overwritten in place: bash may be reading an old wrapper.
        """
        retry = self.file("job.retry")
        kept = None
        if attempt > 1:
            kept = f"{retry}/{attempt - 1}"
            os.makedirs(kept, mode=0o700, exist_ok=True)
        for entry in list(os.scandir(self.path)):
            info = entry.name.startswith(INFO)
            if entry.is_dir(follow_symlinks=False):
                if kept is None:
                    shutil.rmtree(entry.path)
            elif kept is not None and (info or entry.name in _PER_ATTEMPT):
                os.replace(entry.path, f"{kept}/{INFO if info else entry.name}")
            else:
                os.unlink(entry.path)

    def write(self, name: str, content: str | bytes) -> None:
        """Write one of the job's files, which must not be there, for the user only."""
        data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
        _write(self.file(name), data)

    def claim(self, token: str) -> bool:
        """Claim a submission before its wrapper does; False if the wrapper was first.

        Creating a file that must not exist is atomic, on NFS too (open(2), O_EXCL).
        After True the wrapper of that submission will end without doing anything.
        """
        try:
            descriptor = os.open(
                self.file(f"{INFO}.{token}"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
            )
        except FileExistsError:
            return False
        os.close(descriptor)
        return True

    def settle(self) -> None:
        """Forget that the job is under way: its result has been taken in."""
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.file("job.record"), self.file("job.settled"))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._entry)

    # -- reading ---------------------------------------------------------------

    def record(self) -> Record | None:
        """Return what was written down about a submission that is not settled yet."""
        text = self.read("job.record")
        if not text:
            return None
        try:
            data = json.loads(text)
            lists = {name: tuple(data.get(name, ())) for name in ("products", "kept")}
            return Record(**{**data, **lists})
        except (ValueError, TypeError, AttributeError):
            return None

    def read(self, name: str) -> str:
        """Return one of the job's files; empty if it is not there."""
        try:
            with open(self.file(name), encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def rc(self) -> int | None:
        """Return the exit status that the wrapper wrote, or None."""
        return exit_status(self.read("job.rc").strip())

    def is_held(self) -> bool:
        """Tell whether a wrapper lives that holds the lock of the job (flock(2), on NFS too)."""
        try:
            descriptor = os.open(self.file(ALIVE), os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # no locks on this file system
        finally:
            os.close(descriptor)
        return False

    def jid(self, token: str = "") -> str:
        """Return the scheduler's id of the job; empty if it is not known.

        The submitter writes it to ``job.jid``; if it was killed in between, the
        wrapper's claim of the submission ``token`` holds the same.
        """
        return self.read("job.jid").strip() or self.info(token).get("jid", "")

    def info(self, token: str) -> Mapping[str, str]:
        """Return what the wrapper of a submission noted.

        ``jid``, ``node``, ``start``, ``end`` (seconds since the epoch), ``stage``,
        ``signal``, ``cpu``, the seconds that the job's processes used, and ``memory``, their
        peak in bytes, where the job had a control group of its own.
        """
        text = self.read(f"{INFO}.{token}")
        words = (word.partition("=") for word in text.split())
        notes = {key: value for key, equals, value in words if equals}
        if used := _TIMES.findall(text):
            minutes, seconds, more_minutes, more_seconds = map(_number, used[-1])
            notes["cpu"] = f"{60 * (minutes + more_minutes) + seconds + more_seconds:.3f}"
        return notes

    def tail(self, name: str, lines: int = 10) -> list[str]:
        """Return the last lines of an output file of the job."""
        return tail(self.file(name), lines)


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        written = 0
        while written < len(data):
            written += os.write(descriptor, data[written:])
    finally:
        os.close(descriptor)


def is_open(root: str, key: str) -> bool:
    """Tell whether a job is under way, or its result has not been taken in.

    Raises
    ------
    OSError
        If that cannot be found out.
    """
    return filesystem.exists(f"{root}/{OPEN}/{key}")


def open_jobs(root: str) -> dict[str, tuple[JobDir, Record]]:
    """Return the jobs that are under way, or whose results have not been taken in, by key."""
    found = {}
    try:
        keys = os.listdir(f"{root}/{OPEN}")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    for key in keys:
        with contextlib.suppress(FileNotFoundError):  # settled in this moment by another run
            with open(f"{root}/{OPEN}/{key}", "rb") as stream:
                below = stream.read().decode(errors="surrogateescape")
            directory = JobDir(f"{root}/{below}")
            if (record := directory.record()) is not None:
                found[key] = directory, record
    return found


def tail(path: str, lines: int = 10) -> list[str]:
    """Return the last lines of a file, to be shown, of 16 KiB of it at most.

    No lines if it cannot be read; escape sequences and control characters are left out.
    """

    def read() -> str:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            return stream.read().decode(errors="replace")

    text = filesystem.at_once(read, "")  # for messages only
    return [plain(line) for line in text.splitlines()[-lines:]]


def start_of_last_lines(stream: BinaryIO, lines: int) -> int:
    """Return where the last lines of a file begin, reading it backwards from its end."""
    position = end = stream.seek(0, os.SEEK_END)
    if not lines:
        return end
    wanted = lines
    while position:
        size = min(_TAIL_BYTES, position)
        position -= size
        stream.seek(position)
        block = stream.read(size)
        if position + size == end and block.endswith(b"\n"):
            wanted += 1  # the last line ends there, and none begins
        breaks = block.count(b"\n")
        if breaks >= wanted:
            for _ in range(wanted):
                at = block.rindex(b"\n")
                block = block[:at]
            return position + at + 1
        wanted -= breaks
    return 0


def exit_status(text: str) -> int | None:
    """Read an exit status, 0 to 255 (wait(2)); None for what is none."""
    if not re.fullmatch("[0-9]{1,3}", text):
        return None
    return int(text) if int(text) <= 255 else None


def is_script(name: str) -> bool:
    """Tell whether a file of a job is what it runs: of a group, its members' scripts too."""
    return name.endswith(".script") or name == "job.command"


def place(rule: str, label: str, key: str) -> str:
    """Return the path of a job directory below the directory of its scheduler."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", rule)[:100].lstrip(".") or "job"
    return f"{name}/{label}-{key}"


def root_below(workdir: Path) -> Path:
    """Return where the job directories of the workflow in this working directory lie.

    A setting that lies outside of the workflow's directory may be that of many workflows (in a
    profile): each has a directory of its own below it.
    """
    here = os.getcwd()
    path = Path(here, workdir)
    if path.resolve().is_relative_to(here):
        return path
    digest = hashlib.sha256(os.fsencode(here)).hexdigest()[:10]
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", os.path.basename(here))[:40].lstrip(".-")
    return path / f"{name or 'workflow'}-{digest}"


def prepare_root(root: Path) -> None:
    """Create the directory of a scheduler with its events directory.

    Raises
    ------
    OSError
        If it cannot be created or written.
    """
    # What was there keeps its mode.
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    events = root / EVENTS
    events.mkdir(exist_ok=True, mode=0o700)
    (root / OPEN).mkdir(exist_ok=True, mode=0o700)
    probe = events / f".probe-{secrets.token_hex(4)}"
    probe.touch()
    filesystem.repeat(probe.unlink, True)  # whoever tries all of this again makes another one
