"""The jobs of runs as a table: a row for each attempt, for JSON, CSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from .exceptions import UserError
from .runs import Attempt, JobStory, Run

COLUMNS: Final = (
    *("run", "scheduler", "rule", "wildcards", "jobid", "key", "attempt", "state"),
    *("external_id", "node", "waiting", "reason", "detail", "rc"),
    *("queued", "submitted", "started", "ended", "wait", "wall", "cpu"),
    *("memory", "memory_by", "memory_below", "threads", "mem_mb", "runtime"),
    *("direct", "outputs", "directory"),
)
"""Names of the columns; times in seconds (since the epoch), memory in bytes, ``runtime`` in
minutes."""


def row(job: JobStory, attempt: Attempt) -> dict[str, Any]:
    """Return one row, with the names of :data:`COLUMNS`."""
    values: Sequence[Any] = (
        job.run.id,
        job.run.scheduler,
        job.rule,
        dict(job.wildcards),
        job.jobid,
        job.key,
        attempt.number,
        attempt.phase.value,
        attempt.jid,
        attempt.node,
        attempt.waiting,
        attempt.reason.name if attempt.reason else "",
        attempt.detail,
        attempt.rc,
        attempt.queued,
        attempt.submitted,
        attempt.started,
        attempt.ended,
        attempt.wait,
        attempt.wall,
        attempt.cpu,
        attempt.memory,
        attempt.memory_by,
        attempt.memory_below,
        job.threads,
        job.mem_mb,
        job.runtime,
        job.direct,
        list(job.outputs),
        job.files.path,
    )
    return dict(zip(COLUMNS, values, strict=True))


def rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Return a row for each attempt of each job."""
    return [row(job, a) for run in runs for job in run.jobs.values() for a in job.attempts]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with plain values only."""
    wildcards = ",".join(f"{k}={v}" for k, v in values["wildcards"].items())
    return {**values, "wildcards": wildcards, "outputs": " ".join(values["outputs"])}


def write_csv(stream: TextIO, table: Iterable[Mapping[str, Any]]) -> None:
    """Write a table as CSV (RFC 4180) with a line of names.

    What a spreadsheet would take for a formula has an apostrophe before it.
    """
    writer = csv.DictWriter(stream, COLUMNS)
    writer.writeheader()
    for values in table:
        writer.writerow({name: _no_formula(value) for name, value in _flat(values).items()})


def _no_formula(value: Any) -> Any:
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value


def write_parquet(path: Path, table: Iterable[Mapping[str, Any]]) -> None:
    """Write a table as a Parquet file.

    Raises
    ------
    UserError
        If polars is not installed.
    """
    try:
        import polars
    except ImportError:
        raise UserError(
            "a Parquet file needs polars: pip install 'pipen-executors[report]'"
        ) from None
    rows = [{name: _utf8(value) for name, value in _flat(values).items()} for values in table]
    polars.DataFrame(rows, infer_schema_length=None).write_parquet(path)


def _utf8(value: Any) -> Any:
    """Return text that can be written as UTF-8: names of files need not be."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
