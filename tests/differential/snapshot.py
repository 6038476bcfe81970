"""What runs of Snakemake leave in a directory and say, in a form that can be compared."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Seen = dict[str, str]
"""From what is looked at (``file r1/0``, ``metadata r1/0 params``) to what was found."""

_TIMES = {"starttime", "endtime", "job_hash", "external_jobid"}
"""What is another in every run in Snakemake's metadata."""
_OWN = {"log", "metadata", "pipen", "locks", "iocache", "scripts"}
"""Directories below .snakemake that are looked at in another way, or that are the executor's."""

_SHADOW = re.compile(r"/shadow/tmp\w{8}")
_STARTED = re.compile(r"^\s*(?:local)?(?:rule|checkpoint) (\S+):$", re.MULTILINE)
_FAILED = re.compile(r"^\s*Error in (?:rule |)(\S+?)(?:, jobid: .*)?:$", re.MULTILINE)
_REPEATED = "Exiting because a job execution failed. Look below for error messages"


@dataclass(frozen=True)
class Text:
    """What a run of Snakemake said.

    Attributes
    ----------
    rc
        Its exit status.
    text
        Standard output and standard error.
    """

    rc: int
    text: str

    def started(self) -> Counter[str]:
        """Return how many jobs of each rule were started."""
        return Counter(_STARTED.findall(self.text.partition(_REPEATED)[0]))

    def failed(self) -> set[str]:
        """Return the rules of which a job has failed."""
        return set(_FAILED.findall(self.text.partition(_REPEATED)[0]))

    def restarts(self) -> int:
        """Return how often a job was tried again."""
        return self.text.count("Trying to restart job")


def look(directory: Path, home: Path, benchmarks: Set[str]) -> Seen:
    """Return what is in a directory."""
    seen: Seen = {}

    def named(text: str) -> str:
        text = text.replace(str(directory), "@DIR@").replace(str(home), "@HOME@")
        return _SHADOW.sub("/shadow/@TMP@", text)

    for path, kinds, files in os.walk(directory):
        here = Path(path)
        if here.name == ".snakemake":
            kinds[:] = [name for name in kinds if name not in _OWN and not name.startswith("tmp.")]
            _metadata(here / "metadata", seen, named)
        for name in [*kinds, *files]:
            entry = here / name
            key = _SHADOW.sub("/shadow/@TMP@", str(entry.relative_to(directory)))
            seen |= _entry(entry, key, key in benchmarks, named)
    return seen


def _entry(path: Path, key: str, is_benchmark: bool, named: Any) -> Seen:
    status = path.lstat()
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    if stat.S_ISLNK(status.st_mode):
        return {f"file {key}": f"link to {named(os.readlink(path))}"}
    if stat.S_ISDIR(status.st_mode):
        return {f"file {key}": f"directory {mode}"}
    if not stat.S_ISREG(status.st_mode):
        return {f"file {key}": f"special {mode}"}
    text = path.read_text(errors="backslashreplace")
    if is_benchmark:
        return {f"benchmark {key}": f"{mode} {_benchmark(text)}"}
    seen = {f"file {key}": mode}
    kind = key.rpartition(".")[2]
    if kind in ("place", "inherited"):
        for line in named(text).splitlines():
            name, _, value = line.partition(": ")
            if name == "signals":
                value = _signals(value)
            seen[f"{kind} {key} {name}"] = value
    elif not key.startswith(".snakemake"):
        seen[f"content {key}"] = named(text)
    return seen


def _signals(line: str) -> str:
    """Return the sets of signals of proc(5) without those that the C library keeps for itself.

    They are 32 and 33; its posix_spawn(3) ignores them in the child.
    """
    return re.sub(r"[0-9a-f]{16}", lambda found: f"{int(found[0], 16) & 0x7FFFFFFF:x}", line)


def _benchmark(text: str) -> str:
    """Return the form of a benchmark file: its columns, and what is wrong with its values."""
    header, *rows = (line.split("\t") for line in text.splitlines())
    wrong = []
    for row in rows:
        if len(row) != len(header):
            wrong.append(f"{len(row)} values in a row")
        values = dict(zip(header, row, strict=False))
        if not 0 <= float(values["s"]) < 600:
            wrong.append(f"s is {values['s']}")
        if not re.fullmatch(r"\d+:\d\d:\d\d", values["h:m:s"]):
            wrong.append(f"h:m:s is {values['h:m:s']}")
        for name in ("max_rss", "max_vms", "max_uss", "max_pss", "io_in", "io_out", "cpu_time"):
            if values[name] not in ("NA", "-") and not float(values[name]) >= 0:
                wrong.append(f"{name} is {values[name]}")
    return f"{len(rows)} rows of {' '.join(header)} {wrong or ''}"


def _metadata(directory: Path, seen: Seen, named: Any) -> None:
    for path in directory.rglob("*"):
        if not path.is_file():
            continue
        parts = [part.removeprefix("@") for part in path.relative_to(directory).parts]
        try:
            name = base64.urlsafe_b64decode("".join(parts)).decode(errors="replace")
            record = json.loads(path.read_text())
        except ValueError as error:
            name, record = "/".join(parts), {"unreadable": str(error)}
        for key, value in record.items():
            if key == "input_checksums":  # their files are looked at
                value = sorted(value or ())
            if key not in _TIMES:
                seen[f"metadata {named(name)} {key}"] = named(json.dumps(value, sort_keys=True))
