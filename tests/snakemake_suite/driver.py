"""Runs the upstream suite in a pytest process of its own and reads what became of each test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .backend import Backend
from .source import FILES, SuiteError, cache_directory, unpack_tests

#: Seconds after which one test counts as hanging. The longest takes about 90 s on two busy cores.
TEST_TIMEOUT = 240

_REDIRECT = Path(__file__).resolve().parent / "redirect"
#: Variables of an outer pytest run that would steer the inner one, and CI, with which the suite
#: takes network access for granted instead of probing for it.
_OUTER = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_CURRENT_TEST", "PYTEST_TIMEOUT", "CI")
_INI = "[pytest]\nmarkers =\n    needs_envmodules\n    needs_s3\n"


@dataclass(frozen=True)
class Outcome:
    """What became of one upstream test (all parameters of a parametrised test together).

    Attributes
    ----------
    test
        ``file.py::function``.
    outcome
        ``passed``, ``failed`` or ``skipped``.
    seconds
        Wall time.
    redirected
        How many workflows of the test were sent to the executor under test.
    cluster
        Whether the test asks for a cluster (it brings a ``qsub``, which is replaced).
    detail
        The failure with the captured output, or the reason for a skip.
    """

    test: str
    outcome: str
    seconds: float
    redirected: int
    cluster: bool
    detail: str


@dataclass(frozen=True)
class Plan:
    """Which tests to run, and how.

    Attributes
    ----------
    only
        The tests to run (``file.py::function``); None for all.
    omit
        Tests to leave out.
    keyword
        An expression for pytest's ``-k``; empty for none.
    workers
        Processes that run tests side by side.
    timeout
        Seconds a test may take.
    """

    only: Collection[str] | None = None
    omit: Collection[str] = ()
    keyword: str = ""
    workers: int = 2
    timeout: int = TEST_TIMEOUT


def run_suite(backend: Backend, plan: Plan, *, show: bool = False) -> dict[str, Outcome]:
    """Run the suite's tests on an executor.

    Parameters
    ----------
    backend
        The executor under test.
    plan
        Which tests to run, and how.
    show
        Pass pytest's own output on instead of keeping it.

    Returns
    -------
    dict of str to Outcome
        By test name, in the order in which they ended.

    Raises
    ------
    SuiteError
        If pytest could not run the suite at all.
    """
    # Short and in the cache, not in /tmp: the tests' own directories go to TMPDIR as ever.
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache_directory()) as directory:
        root = unpack_tests(Path(directory))
        results = root / "results.jsonl"
        results.touch()
        (root / "pytest.ini").write_text(_INI)
        (root / "plan.json").write_text(
            json.dumps(
                {
                    "backend": asdict(backend),
                    "only": None if plan.only is None else sorted(plan.only),
                    "omit": sorted(plan.omit),
                    "results": str(results),
                }
            )
        )
        done = subprocess.run(
            _command(plan),
            cwd=root,
            env=_environment(root),
            stdin=subprocess.DEVNULL,
            stdout=None if show else subprocess.PIPE,
            stderr=None if show else subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines = results.read_text(encoding="utf-8").splitlines()
        # 0: all passed, 1: some failed, 5: none selected.
        if done.returncode not in (0, 1, 5):
            output = (done.stdout or "")[-2000:]
            raise SuiteError(f"pytest ended with exit status {done.returncode}\n{output}")
        return merge([json.loads(line) for line in lines])


def merge(lines: list[Mapping[str, Any]]) -> dict[str, Outcome]:
    """Put the parameters of a test together: one failure fails it, one pass is needed to pass."""
    rank = {"failed": 0, "passed": 1, "skipped": 2}
    merged: dict[str, Outcome] = {}
    for line in lines:
        new = Outcome(
            line["test"],
            line["outcome"],
            float(line["seconds"]),
            int(line["redirected"]),
            bool(line["cluster"]),
            line["detail"],
        )
        old = merged.get(new.test)
        if old is not None:
            first = min(old, new, key=lambda one: rank[one.outcome])
            seconds, redirected = old.seconds + new.seconds, old.redirected + new.redirected
            cluster = old.cluster or new.cluster
            new = Outcome(new.test, first.outcome, seconds, redirected, cluster, first.detail)
        merged[new.test] = new
    return merged


def first_error(detail: str) -> str:
    """Return the one line of an outcome's detail that says most."""
    lines = detail.strip().splitlines() or [""]
    errors = [line[2:].strip() for line in lines if line.startswith("E ")]
    return (errors or lines)[0][:150]


def _command(plan: Plan) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-c", "pytest.ini", "--rootdir", ".", "-q"]
    command += ["-p", "snakemake_suite_redirect", "-p", "no:cacheprovider", "--tb=short"]
    # A hanging executor must not hang the run.
    command += [f"--timeout={plan.timeout}", "--timeout-method=signal"]
    if plan.workers > 1:
        # Tests take from 0.1 to 20 s: idle workers take over what others still have to do.
        command += ["-n", str(plan.workers), "--dist", "worksteal"]
    if plan.keyword:
        command += ["-k", plan.keyword]
    return command + [f"tests/{name}" for name in FILES]


def _environment(root: Path) -> dict[str, str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _OUTER and not name.startswith("PYTEST_XDIST")
    }
    environment["SNAKEMAKE_SUITE_PLAN"] = str(root / "plan.json")
    environment["PYTHONPATH"] = str(_REDIRECT)
    # Some tests call `snakemake` and `python` by name.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # The user's Snakemake profile and source cache must not decide about the outcome.
    environment["XDG_CONFIG_HOME"] = str(root / "xdg-config")
    environment["XDG_CACHE_HOME"] = str(root / "xdg-cache")
    return environment
