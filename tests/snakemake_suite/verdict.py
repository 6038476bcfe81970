"""Judges the outcome of the suite: which failures are the executor's."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from .backend import BUILT_IN, Backend
from .driver import Outcome, Plan, run_suite
from .source import SuiteError

KNOWN_FILE = Path(__file__).with_name("known.toml")


class Kind(StrEnum):
    """What an outcome says of the executor under test."""

    PASSED = "passed"
    SKIPPED = "skipped by the suite itself"
    KNOWN = "failed as listed in known.toml"
    ENVIRONMENT = "failed, and fails with the local executor too"
    STALE = "listed in known.toml, but passed"
    REGRESSION = "FAILED ONLY ON THIS EXECUTOR"


#: What breaks the rule: a failure of the executor's own, or a list that is not true.
BAD = frozenset({Kind.REGRESSION, Kind.STALE})


@dataclass(frozen=True)
class Judgement:
    """An outcome and what it says."""

    kind: Kind
    outcome: Outcome


@dataclass(frozen=True)
class Known:
    """The exceptions to the rule, each test with its reason.

    Attributes
    ----------
    fails
        Tests expected to fail on this executor.
    omitted
        Tests that are not run at all.
    """

    fails: Mapping[str, str]
    omitted: Mapping[str, str]


def is_local(executor: str) -> bool:
    """Tell whether Snakemake counts an executor as local (``--cores`` and not ``--jobs``).

    Raises
    ------
    SuiteError
        If the executor is not installed.
    """
    registry = ExecutorPluginRegistry()
    if not registry.is_installed(executor):
        raise SuiteError(f"executor plugin {executor!r} is not installed")
    return bool(registry.get_plugin(executor).common_settings.local_exec)


def load_known(executor: str, path: Path = KNOWN_FILE) -> Known:
    """Read the exceptions that concern an executor.

    Parameters
    ----------
    executor
        Name of the executor under test.
    path
        The list.

    Raises
    ------
    SuiteError
        If the executor is not installed, or an entry of the list is malformed.
    """
    local = is_local(executor)
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    unknown = sorted(set(content) - {"fails", "omit"})
    if unknown:
        raise SuiteError(f"{path.name}: unknown table {unknown[0]!r}")
    return Known(
        _entries(content.get("fails", []), executor, local),
        _entries(content.get("omit", []), executor, local),
    )


def _entries(tables: Iterable[Mapping[str, Any]], executor: str, local: bool) -> dict[str, str]:
    entries: dict[str, str] = {}
    for table in tables:
        unknown = set(table) - {"tests", "reason", "on"}
        if unknown or not table.get("tests") or not str(table.get("reason", "")).strip():
            raise SuiteError(f"known.toml: an entry is tests, reason and perhaps on: {table}")
        on = str(table.get("on", "any"))
        if on == "any" or on == ("local" if local else "non-local") or fnmatch(executor, on):
            entries.update(dict.fromkeys(table["tests"], " ".join(str(table["reason"]).split())))
    return entries


def judge(
    outcomes: Mapping[str, Outcome],
    fails: Collection[str],
    baseline: Mapping[str, Outcome],
    *,
    local: bool,
) -> dict[str, Judgement]:
    """Say what each outcome means.

    Parameters
    ----------
    outcomes
        On the executor under test.
    fails
        Tests listed as failing on it.
    baseline
        Outcomes on the built-in local executor of at least the tests that failed and are not
        listed.
    local
        Whether the executor under test is a local one. If not, a test written for a cluster is
        not excused by failing locally: most of those cannot pass there.
    """

    def kind(test: str, outcome: Outcome) -> Kind:
        if outcome.outcome == "skipped":
            return Kind.SKIPPED
        if outcome.outcome == "passed":
            return Kind.STALE if test in fails else Kind.PASSED
        if test in fails:
            return Kind.KNOWN
        comparable = local or not outcome.cluster
        if comparable and test in baseline and baseline[test].outcome != "passed":
            return Kind.ENVIRONMENT
        return Kind.REGRESSION

    return {test: Judgement(kind(test, one), one) for test, one in outcomes.items()}


def examine(
    backend: Backend, plan: Plan, known: Known, *, show: bool = False
) -> dict[str, Judgement]:
    """Run the suite on an executor, then what failed there on the built-in local executor.

    The baseline is taken in the same run, and only of the tests it matters for: so it can
    neither go stale (a tool was installed, Snakemake was updated) nor does it cost a second run.

    Parameters
    ----------
    backend
        The executor under test.
    plan
        Which tests to run; those that `known` omits are added to its ``omit``.
    known
        The exceptions for this executor.
    show
        Pass pytest's own output on.
    """
    local = is_local(backend.executor)
    omit = {*plan.omit, *known.omitted}
    chosen = Plan(plan.only, omit, plan.keyword, plan.workers, plan.timeout)
    outcomes = run_suite(backend, chosen, show=show)
    failed = {o.test for o in outcomes.values() if o.outcome == "failed"} - set(known.fails)
    baseline: Mapping[str, Outcome] = {}
    if backend.executor == BUILT_IN:
        baseline = outcomes
    elif failed:
        again = Plan(only=failed, workers=plan.workers, timeout=plan.timeout)
        baseline = run_suite(Backend(BUILT_IN), again, show=show)
    return judge(outcomes, known.fails, baseline, local=local)
