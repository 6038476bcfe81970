"""Pytest plugin for the upstream suite: its workflows run on the executor under test.

It is loaded into the pytest process that runs the suite (``-p snakemake_suite_redirect``) and
stands alone: that process has the suite's own ``tests`` package on its path, not this one.
The environment variable ``SNAKEMAKE_SUITE_PLAN`` names a JSON file with what to do.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from snakemake import cli
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

PLAN_VARIABLE = "SNAKEMAKE_SUITE_PLAN"
BUILT_IN = "local"
#: Jobs at once when the executor is not local; the suite's own number for clusters.
NODES = 3

_PLAIN = re.compile(r"--executor[ =]local\b")
_BRINGS_QSUB = re.compile(r"--executor cluster-generic --cluster-generic-submit-cmd \S+")


class Redirect:
    """Sends a call of ``tests.common.run`` to another executor.

    Parameters
    ----------
    executor
        Name of the executor under test.
    arguments
        Its settings as command line arguments of Snakemake.
    defaults
        Arguments of ``run`` for calls that do not give them.
    """

    def __init__(self, executor: str, arguments: list[str], defaults: Mapping[str, Any]) -> None:
        self.executor = executor
        self.arguments = arguments
        self.defaults = defaults
        #: Workflows sent to the executor under test since the last reset.
        self.count = 0
        #: Whether one of them asked for a cluster.
        self.cluster = False

    @functools.cached_property
    def _plugin(self) -> Any:
        return ExecutorPluginRegistry().get_plugin(self.executor)

    @functools.cached_property
    def _settings(self) -> Any:
        parser = cli.get_argument_parser()
        given = parser.parse_args(["--executor", self.executor, *self.arguments])
        return self._plugin.get_settings(given)

    @functools.cached_property
    def is_local(self) -> bool:
        """Whether Snakemake counts cores (and not jobs) for this executor."""
        return bool(self._plugin.common_settings.local_exec)

    def call(self, arguments: dict[str, Any], given: set[str]) -> dict[str, Any]:
        """Return the arguments to call ``run`` with.

        Parameters
        ----------
        arguments
            All arguments of the call, defaults of ``run`` applied.
        given
            Which of them the test gave itself.
        """
        changed = dict(arguments)
        if changed["shellcmd"]:
            changed["shellcmd"] = self.command(changed["shellcmd"])
        elif changed["cluster"] is not None or changed["executor"] == BUILT_IN:
            # A test with its own qsub runs its workflow (often with groups) on the executor under
            # test too; those that look into what their qsub wrote are named in known.toml.
            brings_cluster = changed["cluster"] is not None
            self.cluster |= brings_cluster
            changed["cluster"] = changed["cluster_status"] = None
            changed["executor"] = self.executor
            changed["executor_settings"] = copy.deepcopy(self._settings)
            for name, value in self.defaults.items():
                if name not in given:
                    changed[name] = value
            if not self.is_local and (brings_cluster or changed["nodes"] is None):
                changed["nodes"] = self.defaults.get("nodes", NODES)
            self.count += 1
        return changed

    def command(self, command: str) -> str:
        """Return a ``snakemake`` command line of the suite with the executor replaced."""
        self.count += 1
        options = ["--executor", self.executor, *self.arguments]
        self.cluster |= bool(_BRINGS_QSUB.search(command))
        command = _BRINGS_QSUB.sub("", _PLAIN.sub("", command))
        if not self.is_local:
            # In front, so that a test's own --jobs wins.
            options += ["--jobs", str(self.defaults.get("nodes", NODES))]
        return f"snakemake {shlex.join(options)}" + command.removeprefix("snakemake")

    def wrap(self, run: Callable[..., Path | None]) -> Callable[..., Path | None]:
        """Wrap ``tests.common.run``."""
        signature = inspect.signature(run)

        @functools.wraps(run)
        def redirected(*args: Any, **kwargs: Any) -> Path | None:
            bound = signature.bind(*args, **kwargs)
            given = set(bound.arguments)
            bound.apply_defaults()
            return run(**self.call(dict(bound.arguments), given))

        return redirected


class SuitePlugin:
    """Selects tests and writes one line of JSON per finished test."""

    def __init__(self, plan: Mapping[str, Any], redirect: Redirect, is_worker: bool) -> None:
        self.plan = plan
        self.redirect = redirect
        # With xdist the controller sees every report; the workers must not write them again.
        self.writes = not is_worker
        self.phases: dict[str, list[pytest.TestReport]] = {}

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out what the plan leaves out, and keep only what it asks for."""
        only, omit = self.plan["only"], set(self.plan["omit"])
        kept = [i for i in items if _function(i.nodeid) not in omit]
        if only is not None:
            kept = [i for i in kept if _function(i.nodeid) in set(only)]
        config.hook.pytest_deselected(items=[i for i in items if i not in kept])
        items[:] = kept

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Note in the test's report what of it was redirected."""
        self.redirect.count, self.redirect.cluster = 0, False
        try:
            return (yield)
        finally:
            item.user_properties.append(("redirected", self.redirect.count))
            item.user_properties.append(("cluster", self.redirect.cluster))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the outcome of a test when its last phase is over."""
        if not self.writes:
            return
        phases = self.phases.setdefault(report.nodeid, [])
        phases.append(report)
        if report.when in ("setup", "call"):
            return
        # What is left is a teardown, or the report xdist makes up for a worker that died.
        del self.phases[report.nodeid]
        decisive = next((p for p in phases if p.outcome == "failed"), None)
        decisive = decisive or next((p for p in phases if p.outcome == "skipped"), phases[-1])
        properties = dict(phases[-1].user_properties)
        line = {
            "test": _function(report.nodeid),
            "id": report.nodeid.rpartition("/")[2],
            "outcome": decisive.outcome,
            "seconds": round(sum(p.duration for p in phases), 2),
            "redirected": properties.get("redirected", 0),
            "cluster": properties.get("cluster", False),
            "detail": _detail(decisive),
        }
        with open(self.plan["results"], "a", encoding="utf-8") as results:
            results.write(json.dumps(line) + "\n")


def _function(nodeid: str) -> str:
    """``tests/tests.py::test_x[param]`` -> ``tests.py::test_x``."""
    return nodeid.removeprefix("tests/").partition("[")[0]


def _detail(report: pytest.TestReport) -> str:
    if report.outcome == "passed":
        return ""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    # The end of a log is where it says what went wrong.
    sections = [f"--- {title} ---\n{text[-20_000:]}" for title, text in report.sections]
    return "\n".join([str(report.longrepr), *sections])


def pytest_configure(config: pytest.Config) -> None:
    """Replace ``tests.common.run`` before the test modules import it."""
    plan = json.loads(Path(os.environ[PLAN_VARIABLE]).read_text(encoding="utf-8"))
    backend = plan["backend"]
    redirect = Redirect(backend["executor"], backend["arguments"], backend["run"])
    common: Any = importlib.import_module("tests.common")
    common.run = redirect.wrap(common.run)
    is_worker = hasattr(config, "workerinput")
    config.pluginmanager.register(SuitePlugin(plan, redirect, is_worker), "snakemake-suite")
