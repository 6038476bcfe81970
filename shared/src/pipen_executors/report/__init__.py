"""The report of runs: one HTML file with all that it shows, which opens without a network."""

from __future__ import annotations

import datetime
import json
import os
import re
import shlex
import socket
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from ..exceptions import UserError
from ..runs import JobStory, Run
from ..states import Phase
from ..usage import MIB, RuleUsage, by_rule

_MOST_FAILURES: Final = 200
_SECRET: Final = re.compile("secret|token|passw|credential|key", re.IGNORECASE)
_HIDDEN: Final = "…"


def write_html(path: Path, runs: Sequence[Run]) -> None:
    """Write the report.

    Parameters
    ----------
    path
        The file; written as a whole, for the user only: it holds what jobs wrote to stderr.
    runs
        What it is about; they are shown together.

    Raises
    ------
    UserError
        If plotly is not installed.
    OSError
        If the file cannot be written.
    """
    try:
        from plotly.offline import get_plotlyjs

        from . import figures
    except ImportError:
        raise UserError(
            "the report needs plotly: pip install 'pipen-executors[report]'; --json and "
            "--output FILE.csv do without"
        ) from None
    import jinja2

    drawing = figures.draw(runs)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    )
    page = template.render(
        **_facts(runs),
        figures=drawing.figures,
        # Within a script element only "</" and "<!--" mean anything (HTML, 4.12.1.3).
        data=json.dumps(asdict(drawing), separators=(",", ":")).replace("<", "\\u003c"),
        plotly=get_plotlyjs(),
    )
    # For the user only, under a name that cannot be foreseen (mkstemp(3)).
    descriptor, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(page)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise


def _facts(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the page says in words and numbers."""
    jobs = [job for run in runs for job in run.jobs.values()]
    counts = Counter(job.phase for job in jobs)
    attempts = [attempt for job in jobs for attempt in job.attempts]
    begun = min((run.begun for run in runs), default=0.0)
    last = max((run.over or run.last_sign for run in runs), default=0.0)
    cpu = sum(attempt.cpu or 0.0 for attempt in attempts)
    calls: Counter[str] = Counter()
    for run in runs:
        calls.update(run.calls)
    tiles = [
        (f"{len(jobs):,}", "job" if len(jobs) == 1 else "jobs"),
        *((f"{counts[phase]:,}", phase.value) for phase in Phase if counts[phase]),
        (_time(last - begun), "from first to last"),
        (_time(cpu), "of CPU used"),
    ]
    retried = [job for job in jobs if len(job.attempts) > 1]
    failures, left_out = _failures(jobs)
    return {
        "title": ", ".join(sorted({os.path.basename(run.cwd) or "/" for run in runs})),
        "runs": [
            {
                "scheduler": f"pipen-{run.scheduler}",
                "when": datetime.datetime.fromtimestamp(run.begun).strftime("%Y-%m-%d %H:%M:%S"),
                "host": run.host,
                "command": _command_line(run.command),
            }
            for run in runs
        ],
        "made": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        "where": socket.gethostname(),
        "tiles": tiles,
        "usage": [_usage(usage) for usage in by_rule(jobs)],
        "failures": failures,
        "left_out": left_out,
        "retries": [(job.name, len(job.attempts), job.phase.value) for job in retried[:100]],
        "retried": len(retried),
        "calls": calls.most_common(),
        "job_count": len(jobs),
    }


def _command_line(words: Sequence[str]) -> str:
    """Return a command line as the report shows it: without values that may be secret.

    The report is made to be handed on; ``--config token=…`` and options that are named after a
    secret keep their names only.
    """
    shown: list[str] = []
    hides = config = False
    for word in words:
        if word.startswith("-"):
            option, equals, value = word.partition("=")
            config = option in ("--config", "-C")
            secret = _SECRET.search(option) is not None
            hides = secret and not equals
            if equals and (secret or config):
                word = f"{option}={_without_value(value) if config else _HIDDEN}"
        elif config:
            word = _without_value(word)
        elif hides:
            word, hides = _HIDDEN, False
        shown.append(word)
    return shlex.join([os.path.basename(shown[0]), *shown[1:]]) if shown else ""


def _without_value(assignment: str) -> str:
    name, equals, _ = assignment.partition("=")
    return f"{name}={_HIDDEN}" if equals else assignment


def _usage(usage: RuleUsage) -> Mapping[str, Any]:
    """Return one row of the table of what was used against what was asked for."""
    peak, longest = usage.peak, max(usage.walls)
    memory = peak / MIB / usage.mem_mb if peak is not None and usage.mem_mb else None
    return {
        "rule": usage.rule,
        "jobs": f"{len(usage.walls):,}",
        "cpu": _share(usage.busy),
        "threads": usage.threads,
        "peak": usage.peak_text,
        "mem_mb": f"of {usage.mem_mb:,} MB" if usage.mem_mb else "(none asked for)",
        "memory": _share(memory),
        "longest": _time(longest),
        "runtime": f"of {_time(usage.runtime * 60)}" if usage.runtime else "(none asked for)",
        "time": _share(longest / 60 / usage.runtime if usage.runtime else None),
        "suggestion": usage.suggestion(),
    }


def _share(value: float | None) -> dict[str, Any] | None:
    """Return a share as text and as the width of its bar in percent."""
    if value is None:
        return None
    return {"text": f"{100 * value:.0f} %", "width": round(min(100.0, 100 * value), 1)}


def _failures(jobs: Sequence[JobStory]) -> tuple[list[Mapping[str, Any]], int]:
    """Return the failed attempts for the page, and how many are left out.

    What failed in the end comes before what was tried again with success, the last attempt of a
    job before the others.
    """
    found = [
        (job.phase is Phase.DONE, attempt is not job.last, job, attempt)
        for job in jobs
        for attempt in job.attempts
        if attempt.phase in (Phase.FAILED, Phase.CANCELLED)
    ]
    found.sort(key=lambda entry: entry[:2])
    failed: list[Mapping[str, Any]] = [
        {
            "job": job.name,
            "attempt": attempt.number,
            "of": len(job.attempts),
            "why": attempt.why,
            "id": attempt.jid,
            "node": attempt.node,
            "directory": job.directory,
            "stderr": "\n".join(attempt.stderr),
        }
        for _, _, job, attempt in found
    ]
    return failed[:_MOST_FAILURES], max(0, len(failed) - _MOST_FAILURES)


def _time(seconds: float) -> str:
    """Return a time for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
