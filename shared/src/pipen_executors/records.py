"""Changes of a job's state as records for Snakemake's logger plugins.

Each change is one record with the attribute ``remote_job_state``, a dict::

    version       1
    jobid         Snakemake's id of the job
    rule, wildcards
    external_id   the scheduler's id; empty before it has one
    attempt       from 1
    state         queued, pending, running, done, failed or cancelled
    reason        why it waits, or why it failed (a name of ExitReason)
    node          where it runs or ran
    time, start, end
                  of the change, and of the job where known; seconds since the epoch
    rc            exit status, of an end

The record is of level DEBUG, with the same said in words as its message, and goes only to
handlers that are not Snakemake's own for terminal and log file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .history import Change

VERSION: Final = 1
_OF_SNAKEMAKE: Final = ("DefaultStreamHandler", "DefaultLogFileHandler")


def tell_plugins(logger: logging.Logger) -> list[Callable[[Change], None]]:
    """Return what tells logger plugins of a change; nothing if there are none."""
    handlers = [handler for handler in logger.handlers if handler.name not in _OF_SNAKEMAKE]
    if not handlers:
        return []

    def tell(change: Change) -> None:
        spec, facts = change.job.spec, change.facts
        state = {
            "version": VERSION,
            "jobid": spec.jobid,
            "rule": spec.rule,
            "wildcards": dict(spec.wildcards),
            "external_id": change.job.jid,
            "attempt": facts["attempt"],
            "state": change.phase.value,
            "reason": facts.get("reason", ""),
            "node": facts.get("node", ""),
            "time": facts["time"],
            "start": facts.get("start"),
            "end": facts.get("end"),
            "rc": facts.get("rc"),
        }
        text = f"Job {spec.rule} ({change.job.jid or 'not submitted'}): {change.phase}"
        record = logger.makeRecord(
            logger.name, logging.DEBUG, __name__, 0, text, (), None,
            extra={"remote_job_state": state},
        )  # fmt: skip
        for handler in handlers:
            if record.levelno >= handler.level:
                handler.handle(record)

    return [tell]
