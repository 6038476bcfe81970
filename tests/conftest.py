"""Fixtures that tests of several parts use."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conformance.base import ConformanceBase
from .conformance.harness import wait_for

_OF_THE_SHARED_LAYER = {
    "chaos": ("pipen-local", "pipen-slurm"),
    "failing": ("pipen-local", "pipen-slurm"),
    "hooking": ("pipen-local",),
    "settings": ("pipen-local",),
    "strategies": ("pipen-local",),
}
"""Modules of the suite that are about what no backend has a part in, and the executors on which
they are run each time."""

_outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)

_CLUSTERS = {"slurm", "sge", "ssh", "container", "gbatch"}
_ALONE = (
    "test_docs.py",
    "test_local.py",
    "test_snakemake_testbase.py",
    "test_xqute_defects.py",
)
"""Files whose tests need nothing that is brought up for more than one of them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the tests that take random decisions."""
    chaos = parser.getgroup("chaos", "kills at random moments (tests/conformance/chaos.py)")
    chaos.addoption("--chaos-kills", type=int, help="How often Snakemake is killed (5).")
    chaos.addoption("--chaos-seed", type=int, help="The seed that a failure has printed.")


def pytest_configure() -> None:
    """Let what tests start be interrupted, also where the shell that began this ignores SIGINT.

    A shell does so for what it runs in the background, and it is inherited (signal(7)); a
    handler is not.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):  # as a shell's background and nohup(1) have it
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests run in one worker, and which are run only when asked for.

    The tests of a file share what it brings up (a cluster), so they stay together, and such
    files come first: what is left fills the gaps at the end. What is the shared layer's own, as
    the respawned variants are, only repeats on other backends what one or two have shown; that,
    and what takes long on clusters, is marked ``rest``.
    """
    items.sort(key=_is_alone)
    for item in items:
        if not _is_alone(item):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        on_cluster = not _CLUSTERS.isdisjoint(mark.name for mark in item.iter_markers())
        if (on_cluster and item.get_closest_marker("slow")) or _only_repeats(item):
            item.add_marker("rest")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count what became of the tests of a class."""
    if report.skipped or report.when == "call":
        _outcomes[report.nodeid.partition("[")[0].rpartition("::")[0]][report.outcome] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, fail if all tests of a class were skipped: that is a fixture, not a reason of each."""
    if os.environ.get("PIPEN_TEST_REQUIRE_ALL") and _all_skipped():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name classes of which no test was run."""
    for name in _all_skipped():
        terminalreporter.line(f"NO TEST OF {name} WAS RUN, all were skipped", red=True)


def _all_skipped() -> list[str]:
    return [name for name, seen in _outcomes.items() if seen["skipped"] > 4 and len(seen) == 1]


def _only_repeats(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or not issubclass(item.cls or object, ConformanceBase):
        return False
    assert item.cls is not None
    executor = item.cls.backend.executor
    module = item.function.__module__.rpartition(".")[2]  # the subclass's if it is an override
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    if "snakemake" in parameters and executor != "pipen-local":
        return True
    return executor not in _OF_THE_SHARED_LAYER.get(module, (executor,))


def _is_alone(item: pytest.Item) -> bool:
    return item.path.name in _ALONE or item.path.parent.name == "unit"


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A control group that may use 100 MB of memory, version 2 or version 1."""
    name = f"pipen-test-{os.getpid()}"
    group = Path("/sys/fs/cgroup/memory", name)
    limits = {"memory.limit_in_bytes": 100 << 20}
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        group = Path("/sys/fs/cgroup", name)
        limits = {"memory.max": 100 << 20, "memory.swap.max": 0}
    try:
        group.mkdir()
        for file, value in limits.items():
            (group / file).write_text(str(value))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group with a limit can be made here: {error}")
    try:
        yield group
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), "the end of the processes")
        group.rmdir()
