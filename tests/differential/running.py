"""Runs a workflow by an executor and keeps what can be seen of it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from tests.conformance.forked import server
from tests.conformance.harness import Backend, _clean_environment

from .plan import Plan
from .render import benchmarks, render, write
from .snapshot import Seen, Text, look

LOCAL = Backend("local", local=True)
_TIME_LIMIT = 180.0
"""Seconds that a run of Snakemake may take, times the backend's slowness."""


@dataclass(frozen=True)
class Observed:
    """What there is to compare of a workflow after its runs.

    Attributes
    ----------
    runs
        What Snakemake said: first run, second run, report, dry runs.
    seen
        The directory after the runs, before the report.
    report
        What the report lists.
    """

    runs: dict[str, Text]
    seen: Seen
    report: tuple[str, ...]


def observe(
    plan: Plan,
    backend: Backend,
    root: Path,
    *,
    keep: bool = False,
) -> Observed:
    """Run a workflow and look at what it has left.

    Parameters
    ----------
    plan
        The workflow.
    backend
        What runs it.
    root
        Directory in which it gets one of its own.
    keep
        Whether that stays.
    """
    root.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix=f"{plan.seed}-{backend.executor}-", dir=root))
    try:
        return _observe(plan, backend, home)
    finally:
        if not keep:
            shutil.rmtree(home, ignore_errors=True)


def _observe(plan: Plan, backend: Backend, home: Path) -> Observed:
    directory = home / "w"
    directory.mkdir()
    (home / "tmp").mkdir()
    write(render(plan), directory)
    # Sources are older than whatever jobs make of them.
    for path in directory.rglob("*"):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    env = _clean_environment(home, None) | {"HOSTILE_TMP": f"{home}/tmp"}
    env.pop("PYTHONPATH", None)
    env |= {"PWD": str(directory), **dict(plan.environment)}
    if plan.has("envvars"):
        env["DECLARED"] = "it's  x"
    if "BASH_ENV" in env:
        env["BASH_ENV"] = f"{directory}/bash_env"
    env |= backend.environment
    timeout = _TIME_LIMIT * backend.slowness
    runs: dict[str, Text] = {}

    def run(name: str, *arguments: str, by: Backend = backend) -> int:
        jobs = 1 if plan.serial else 4
        number = "--cores" if by.local else "--jobs"
        argv = ["--executor", by.executor, number, str(jobs), "--nocolor", "--latency-wait", "1"]
        argv += by.arguments
        argv += [word for option in plan.options for word in option]
        log = home / f"{len(runs)}.log"
        snakemake = server().start(
            [*argv, *arguments], directory, env, log, umask=plan.umask, forks_jobs=by.local
        )
        try:
            rc = snakemake.wait(timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(snakemake.pid, signal.SIGKILL)
            raise
        text = log.read_text(errors="replace").replace(str(directory), "@DIR@")
        runs[name] = Text(rc, text.replace(str(home), "@HOME@"))
        return rc

    rc = run("run")
    if plan.again and rc == 0:
        rc = run("second run", *plan.again)
    seen = look(directory, home, benchmarks(plan))
    report: tuple[str, ...] = ()
    if plan.report and rc == 0:
        run("report", "--report", "report.html", by=LOCAL)
        report = _listed(directory / ("work dir" if plan.has("workdir") else "") / "report.html")
    run("dry run by local", "--dry-run", by=LOCAL)
    if backend != LOCAL:
        run("dry run by itself", "--dry-run")
    return Observed(runs, seen, report)


def _listed(report: Path) -> tuple[str, ...]:
    """Return what a report lists: the names of its results and its rules."""
    if not report.exists():
        return ("no report",)
    text = report.read_text(errors="replace")
    found = []
    for name in ("results", "rules"):
        begun = re.search(rf'<script id="{name}">\s*var {name} = ', text)
        if begun:
            content, _ = json.JSONDecoder().raw_decode(text[begun.end() :].lstrip())
            found += [f"{name}: {key}" for key in content]
    return tuple(sorted(found))


# -- Snakemake's own executor, once for all backends --------------------------------------------


@cache
def _stamp() -> str:
    """Return what a kept result depends on beside the seed."""
    digest = hashlib.sha256(f"{version('snakemake')} {sys.version} {os.getuid()}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def observe_local(plan: Plan, root: Path, kept: Path | None) -> Observed:
    """Return what Snakemake's own executor makes of a workflow, from a former time if possible.

    Parameters
    ----------
    plan, root
        As for :func:`observe`.
    kept
        Directory of the results of this session, which several processes may share.
    """
    if kept is None:
        return observe(plan, LOCAL, root)
    kept.mkdir(parents=True, exist_ok=True)
    place = kept / f"{plan.seed}-{_stamp()}"
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():
            found: Observed = pickle.loads(place.read_bytes())
            return found
        found = observe(plan, LOCAL, root)
        place.write_bytes(pickle.dumps(found))
        return found
