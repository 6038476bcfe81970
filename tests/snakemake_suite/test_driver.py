"""The driver's own logic, without running the suite."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .driver import Outcome, first_error, merge
from .source import SuiteError
from .verdict import KNOWN_FILE, Kind, judge, load_known


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    """The pytest plugin, which the suite's process loads by name."""
    path = Path(__file__).parent / "redirect" / "snakemake_suite_redirect.py"
    spec = importlib.util.spec_from_file_location("snakemake_suite_redirect", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def redirect(plugin: ModuleType, *, local: bool, **defaults: Any) -> Any:
    """A redirect to an executor ``other`` that is not installed."""
    made = plugin.Redirect("other", ["--other-x", "a b"], defaults)
    made.__dict__.update(is_local=local, _settings={"x": "a b"})
    return made


def run(
    path: str,
    shellcmd: str | None = None,
    executor: str = "local",
    executor_settings: object = None,
    cluster: str | None = None,
    cluster_status: str | None = None,
    cores: int = 3,
    nodes: int | None = None,
) -> dict[str, Any]:
    """Stand-in for ``tests.common.run``."""
    return dict(locals())


def test_local_run_goes_to_the_executor(plugin: ModuleType) -> None:
    made = redirect(plugin, local=True)
    seen = made.wrap(run)("here")
    assert (seen["executor"], seen["executor_settings"]) == ("other", {"x": "a b"})
    assert (seen["nodes"], seen["cores"], made.count, made.cluster) == (None, 3, 1, False)


def test_executor_that_is_not_local_gets_nodes(plugin: ModuleType) -> None:
    assert redirect(plugin, local=False).wrap(run)("here")["nodes"] == 3
    assert redirect(plugin, local=False, nodes=8).wrap(run)("here")["nodes"] == 8
    assert redirect(plugin, local=False).wrap(run)("here", nodes=1)["nodes"] == 1


def test_own_qsub_is_replaced(plugin: ModuleType) -> None:
    made = redirect(plugin, local=False)
    seen = made.wrap(run)("here", cluster="./qsub", nodes=5)
    # Upstream's own code sets three nodes whenever there is a cluster.
    assert (seen["executor"], seen["cluster"], seen["nodes"]) == ("other", None, 3)
    assert made.cluster


def test_defaults_give_way_to_the_test(plugin: ModuleType) -> None:
    made = redirect(plugin, local=True, cores=7)
    assert made.wrap(run)("here")["cores"] == 7
    assert made.wrap(run)("here", cores=1)["cores"] == 1


@pytest.mark.parametrize("executor", ["dryrun", "touch"])
def test_no_execution_stays(plugin: ModuleType, executor: str) -> None:
    made = redirect(plugin, local=True)
    assert made.wrap(run)("here", executor=executor)["executor"] == executor
    assert made.count == 0


@pytest.mark.parametrize(
    ("command", "local", "expected"),
    [
        ("snakemake -c1", True, "snakemake --executor other --other-x 'a b' -c1"),
        ("snakemake -j 1", False, "snakemake --executor other --other-x 'a b' --jobs 3 -j 1"),
        (
            "snakemake --executor local -c 5",
            True,
            "snakemake --executor other --other-x 'a b'  -c 5",
        ),
        (
            "snakemake --executor cluster-generic --cluster-generic-submit-cmd ./qsub --jobs 1",
            True,
            "snakemake --executor other --other-x 'a b'  --jobs 1",
        ),
    ],
)
def test_command_line(plugin: ModuleType, command: str, local: bool, expected: str) -> None:
    assert redirect(plugin, local=local).command(command) == expected


def outcome(test: str, what: str, *, cluster: bool = False) -> Outcome:
    return Outcome(test, what, 1.0, 1, cluster, "")


def test_judge() -> None:
    outcomes = {
        name: outcome(name, what, cluster=name.startswith("cluster"))
        for name, what in {
            "good": "passed",
            "skip": "skipped",
            "listed": "failed",
            "cured": "passed",
            "bad": "failed",
            "tool": "failed",
            "cluster": "failed",
        }.items()
    }
    baseline = {
        "bad": outcome("bad", "passed"),
        "tool": outcome("tool", "skipped"),
        "cluster": outcome("cluster", "failed"),
    }
    expected = {
        "good": Kind.PASSED,
        "skip": Kind.SKIPPED,
        "listed": Kind.KNOWN,
        "cured": Kind.STALE,
        "bad": Kind.REGRESSION,
        "tool": Kind.ENVIRONMENT,
        "cluster": Kind.ENVIRONMENT,
    }
    judged = judge(outcomes, {"listed", "cured"}, baseline, local=True)
    assert {name: one.kind for name, one in judged.items()} == expected
    judged = judge(outcomes, {"listed", "cured"}, baseline, local=False)
    expected["cluster"] = Kind.REGRESSION
    assert {name: one.kind for name, one in judged.items()} == expected


def test_parameters_of_a_test_are_one_outcome() -> None:
    lines = [
        {"test": t, "outcome": o, "seconds": 1, "redirected": 1, "cluster": False, "detail": o}
        for t, o in [("a", "passed"), ("a", "failed"), ("a", "skipped"), ("b", "passed")]
    ]
    merged = merge(json.loads(json.dumps(lines)))
    assert [(o.test, o.outcome, o.seconds, o.detail) for o in merged.values()] == [
        ("a", "failed", 3.0, "failed"),
        ("b", "passed", 1.0, "passed"),
    ]


def test_first_error() -> None:
    assert first_error("x = 1\nE   AssertionError: no\nE   more") == "AssertionError: no"
    assert first_error("no internet connection") == "no internet connection"
    assert first_error("") == ""


def test_known_file_is_well_formed() -> None:
    known = load_known("local", KNOWN_FILE)
    assert all("::" in test for test in {**known.fails, **known.omitted})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[[fails]]\ntests = ["a"]\n', "reason"),
        ('[[fails]]\nreason = "b"\n', "tests"),
        ('[[fails]]\ntests = ["a"]\nreason = "b"\nwhen = "c"\n', "when"),
        ('[[fail]]\ntests = ["a"]\nreason = "b"\n', "fail"),
    ],
)
def test_malformed_list(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "known.toml"
    path.write_text(text)
    with pytest.raises(SuiteError, match=word):
        load_known("local", path)


def test_entries_for_some_executors(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text(
        "".join(
            f'[[fails]]\ntests = ["{test}"]\nreason = "r"\non = "{on}"\n'
            for test, on in [("a", "local"), ("b", "non-local"), ("c", "loc*"), ("d", "any")]
        )
    )
    assert set(load_known("local", path).fails) == {"a", "c", "d"}


def test_unknown_executor() -> None:
    with pytest.raises(SuiteError, match="not installed"):
        load_known("no-such-executor")
