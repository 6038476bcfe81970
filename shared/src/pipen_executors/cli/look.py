"""The commands that show: status, logs, script and report."""

from __future__ import annotations

import codecs
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..exceptions import SchedulerError, UserError
from ..jobdir import is_script, start_of_last_lines
from ..live import STYLES, counts_line
from ..plain_text import plain_line
from ..runs import JobStory, Run
from ..states import Phase
from ..table import row, rows, write_csv, write_parquet
from .common import (
    NOT_WELL,
    AsJson,
    Directory,
    Target,
    ago,
    all_runs,
    choose,
    console,
    duration,
    latest_runs,
    print_json,
)

_SHOWN: Final = 15
_LOOK_AGAIN: Final = 2.0
_FOLLOW: Final = 0.2
_PIECE: Final = 1 << 16
_TROUBLE: Final = (Phase.FAILED, Phase.CANCELLED)


def status(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Working directory of the workflow.")
    ] = Path(),
    every: Annotated[bool, typer.Option("--all", help="List every job, those done too.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on showing it until the run is over.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show which jobs of the latest run wait, run and have ended.

    Exit status: 1 if a job has failed or was cancelled.
    """
    runs = latest_runs(directory)
    if follow and not as_json:
        with Live(_status(runs, every), console=console(), auto_refresh=False) as live:
            while any(run.is_alive is not False for run in runs):
                time.sleep(_LOOK_AGAIN)
                runs = latest_runs(directory)
                live.update(_status(runs, every), refresh=True)
    elif as_json:
        print_json({"version": 1, "runs": [_run_as_json(run) for run in runs]})
    else:
        console().print(_status(runs, every), soft_wrap=True)
    if any(job.phase in _TROUBLE for run in runs for job in run.jobs.values()):
        raise typer.Exit(NOT_WELL)


def _run_as_json(run: Run) -> dict[str, Any]:
    return {
        "run": run.id,
        "scheduler": run.scheduler,
        "host": run.host,
        "pid": run.pid,
        "alive": run.is_alive,
        "begun": run.begun,
        "over": run.over,
        "command": run.command,
        "counts": run.counts(),
        "jobs": [row(job, job.last) for job in run.jobs.values()],
    }


def _how_it_stands(run: Run) -> str:
    if run.over is not None:
        return f"ended {ago(run.over)}, after {duration(run.over - run.begun)}"
    alive = run.is_alive
    if alive is None:
        return f"on {run.host}, last heard of {ago(run.last_sign)}"
    if alive:
        return f"under way for {duration(time.time() - run.begun)} (process {run.pid})"
    return f"killed, {ago(run.last_sign)} or later; the same command takes its jobs up again"


def _status(runs: Sequence[Run], every: bool) -> RenderableType:
    parts: list[RenderableType] = []
    for run in runs:
        waiting = Counter(
            job.last.waiting for job in run.jobs.values() if job.last.waiting
            and job.phase is Phase.PENDING
        )  # fmt: skip
        parts.append(Text(f"pipen-{run.scheduler}: {_how_it_stands(run)}", style="bold"))
        parts.append(Text(counts_line(run.counts(), waiting)))
        listed = [job for job in run.jobs.values() if every or job.phase is not Phase.DONE]
        if listed:
            parts.append(_table(listed, every))
    return Group(*parts)


def _table(jobs: Sequence[JobStory], every: bool) -> Table:
    """Return a table of jobs, of each state the first few."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("state", "job", "jobid", "scheduler's id", "node", "waited", "ran", "why"):
        table.add_column(name, overflow="fold")
    now = time.time()
    order = [Phase.FAILED, Phase.CANCELLED, Phase.RUNNING, Phase.PENDING, Phase.QUEUED, Phase.DONE]
    for phase in order:
        alike = [job for job in jobs if job.phase is phase]
        for job in alike if every else alike[:_SHOWN]:
            last = job.last
            begin = last.submitted
            waited = last.wait if last.started or begin is None else now - begin
            ran = last.wall if last.ended else last.started and now - last.started
            name = job.name + (f", attempt {last.number}" if last.number > 1 else "")
            why = last.why or (last.waiting if phase is Phase.PENDING else "")
            cells = (name, job.jobid, last.jid, last.node, duration(waited), duration(ran), why)
            texts = [Text(plain_line(cell)) for cell in cells]
            table.add_row(Text(phase.value, style=STYLES[phase]), *texts)
        if not every and len(alike) > _SHOWN:
            table.add_row("", Text(f"and {len(alike) - _SHOWN} more {phase} (--all lists them)"))
    return table


def logs(
    target: Target,
    directory: Directory = Path(),
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the jobs have ended.")
    ] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=0, help="Only so many last lines.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what jobs have written to stdout and stderr."""
    jobs = choose(directory, target)
    if as_json:
        print_json(
            [
                {**row(job, job.last), "stdout": _log(job, "job.stdout", lines),
                 "stderr": _log(job, "job.stderr", lines)}
                for job in jobs
            ]
        )  # fmt: skip
        return
    terminal = console()
    sizes: dict[str, int] = {}
    for job in jobs:
        for name in ("job.stdout", "job.stderr"):
            _copy(terminal, job, name, lines, sizes)
    if follow:
        _follow(terminal, jobs, sizes)


def _open_log(path: str, lines: int | None) -> BinaryIO | None:
    """Open a log where what is shown of it begins; None if there is none."""
    try:
        stream = open(path, "rb")  # noqa: SIM115 - closed by the caller
    except FileNotFoundError:
        return None
    stream.seek(0 if lines is None else start_of_last_lines(stream, lines))
    return stream


def _log(job: JobStory, name: str, lines: int | None) -> str:
    stream = _open_log(job.files.file(name), lines)
    if stream is None:
        return ""
    with stream:
        return stream.read().decode(errors="replace")


def _copy(
    terminal: Console, job: JobStory, name: str, lines: int | None, sizes: dict[str, int]
) -> None:
    """Show a log from where it is wanted to its end, piece by piece: it may be large."""
    path = job.files.file(name)
    stream = _open_log(path, lines)
    if stream is None:
        return
    with stream:
        head = True
        last = "\n"
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        while piece := stream.read(_PIECE):
            if head:
                terminal.print(Text(_head(job, name), style="bold"), soft_wrap=True)
                head = False
            text = decode(piece)
            sys.stdout.write(text)
            last = text[-1:] or last
        if last != "\n":
            sys.stdout.write("\n")
        sys.stdout.flush()
        sizes[path] = stream.tell()


def _head(job: JobStory, name: str) -> str:
    head = f"==> {job.name} ({job.last.jid or job.phase}), {name.removeprefix('job.')} <=="
    return plain_line(head)


def _show(terminal: Console, job: JobStory, name: str, text: str) -> None:
    if not text:
        return
    terminal.print(Text(_head(job, name), style="bold"), soft_wrap=True)
    print(text, end="" if text.endswith("\n") else "\n", flush=True)


def _follow(terminal: Console, jobs: Sequence[JobStory], sizes: dict[str, int]) -> None:
    """Show what is added to the logs, until each job has its exit status."""
    waiting = list(jobs)
    while waiting:
        ended = [job for job in waiting if job.files.rc() is not None or job.files.record() is None]
        for job in waiting:
            for name in ("job.stdout", "job.stderr"):
                added = _read_from(job.files.file(name), sizes)
                _show(terminal, job, name, added)
        waiting = [job for job in waiting if job not in ended]
        if waiting:
            time.sleep(_FOLLOW)


def _read_from(path: str, sizes: dict[str, int]) -> str:
    try:
        with open(path, "rb") as stream:
            stream.seek(sizes.get(path, 0))
            added = stream.read()
    except OSError:
        return ""
    sizes[path] = sizes.get(path, 0) + len(added)
    return added.decode(errors="replace")


def script(
    target: Target,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- snakemake …]",
            help="A command line of Snakemake; shown is what it would submit. It submits nothing.",
        ),
    ] = None,
    directory: Directory = Path(),
    wrapper: Annotated[
        bool, typer.Option("--wrapper", help="The bash script around it, which the node runs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show exactly what was submitted for a job, or would be."""
    if command:
        os.chdir(directory)
        found = _would_be(command, target, wrapper)
    else:
        found = _was(choose(directory, target), wrapper)
        if not found:
            raise UserError(
                f"nothing has been submitted for {target!r} yet; to see what would be, add "
                "Snakemake's command line: -- snakemake …"
            )
    if as_json:
        print_json([{**facts, "file": path.name, "script": text} for facts, path, text in found])
        return
    for _, path, text in found:
        if len(found) > 1:
            console().print(Text(f"==> {path} <==", style="bold"), soft_wrap=True)
        print(text, end="" if text.endswith("\n") else "\n")


def _was(jobs: Sequence[JobStory], wrapper: bool) -> list[tuple[dict[str, Any], Path, str]]:
    """Return what was submitted: facts of the job, path and text of the file."""
    found = []
    for job in jobs:
        for path in sorted(Path(job.files.path).glob("job.*")):
            if path.name.startswith("job.wrapped.") if wrapper else is_script(path.name):
                found.append((row(job, job.last), path, job.files.read(path.name)))
    return found


def _would_be(
    command: Sequence[str], target: str, wrapper: bool
) -> list[tuple[dict[str, Any], Path, str]]:
    """Return what a command line of Snakemake would submit, in the same form."""
    from ..preview import planned_jobs

    found = []
    planned, unknown = planned_jobs(command, target, wrapped=wrapper)
    for reason in unknown:
        print(f"pipen-executors: {reason}", file=sys.stderr)
    for job in planned:
        spec = job.spec
        facts = {
            "rule": spec.rule,
            "wildcards": dict(spec.wildcards),
            "jobid": spec.jobid,
            "key": spec.key,
            "outputs": list(spec.products),
            "direct": spec.direct,
        }
        for name, text in sorted(job.files.items()):
            path = Path(name)
            found.append(({**facts, "directory": str(path.parent)}, path, text))
    return found


def report(
    directory: Directory = Path(),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write it: .html, .csv or .parquet (pipen-report.html).",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All runs, not the latest only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write what the jobs of a run did and used: one HTML file, or a table."""
    runs = all_runs(directory) if every else latest_runs(directory)
    for run in runs:
        _add_accounting(run)
    if as_json:
        print_json({"version": 1, "rows": rows(runs)})
        return
    path = output or Path("pipen-report.html")
    kind = path.suffix.lower()
    if kind == ".html":
        from ..report import write_html

        write_html(path, runs)
    elif kind == ".csv":
        # Names of files need not be UTF-8; as they are here, so they stand in the table.
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            write_csv(stream, rows(runs))
    elif kind == ".parquet":
        write_parquet(path, rows(runs))
    else:
        raise UserError(
            f"--output is {str(path)!r}: expected a name that ends in .html, .csv or .parquet."
        )
    print(path, file=sys.stderr)


def _add_accounting(run: Run) -> None:
    """Ask accounting about jobs that did not measure all; the report does without, if need be."""
    from ..standalone import add_accounting

    try:
        add_accounting(run)
    except (SchedulerError, UserError) as error:
        print(f"pipen-executors: without accounting: {error}", file=sys.stderr)
