"""Schedulers by name, and what is said of those that cannot be had."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipen_executors import get_scheduler
from pipen_executors.exceptions import NoSuchSchedulerError, WrongSchedulerTypeError
from pipen_executors.registry import available, find_scheduler
from pipen_executors.scheduler import xqute
from snakemake_executor_plugin_pipen_local.pipen_scheduler import LocalScheduler
from snakemake_executor_plugin_pipen_slurm.pipen_scheduler import SlurmScheduler

from ..third_party import install


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site"))


@pytest.fixture
def third_party(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(installed)
    yield
    sys.modules.pop("pipen_mysched", None)


def test_own_names_and_classes() -> None:
    assert get_scheduler("local") is LocalScheduler
    assert get_scheduler("slurm") is SlurmScheduler
    assert get_scheduler(SlurmScheduler) is SlurmScheduler
    path = "snakemake_executor_plugin_pipen_slurm.pipen_scheduler:SlurmScheduler"
    assert get_scheduler(path) is SlurmScheduler
    assert get_scheduler("pipen-executors-slurm") is SlurmScheduler
    for name in ("slurm", path, "pipen-executors-slurm", SlurmScheduler):
        found = find_scheduler(name, print)
        assert isinstance(found, types.ModuleType), "Snakemake's jobs need the executor"
        assert found.__name__ == "snakemake_executor_plugin_pipen_slurm"
    assert isinstance(find_scheduler("local", print), types.ModuleType)


def test_entry_points(third_party: None) -> None:
    """A class, and a module with the class in it, as pipen's documentation has it."""
    mine = get_scheduler("mysched")
    assert mine.__name__ == "MyScheduler"
    assert issubclass(mine, xqute.Scheduler)
    assert get_scheduler("mysched_class") is mine
    assert get_scheduler("pipen_mysched:MyScheduler") is mine
    assert get_scheduler("xqute_only").__name__ == "XquteOnly"
    assert {"local", "slurm", "mysched", "broken"} <= set(available())


def test_broken_package_is_reported_and_skipped(third_party: None) -> None:
    said: list[str] = []
    with pytest.raises(NoSuchSchedulerError, match="There is no scheduler 'broken'"):
        find_scheduler("broken", said.append)
    (line,) = said
    assert "pipen-mysched is skipped" in line
    assert "no_such_thing" in line


def test_no_such_scheduler_lists_what_there_is(third_party: None) -> None:
    with pytest.raises(NoSuchSchedulerError) as raised:
        get_scheduler("slrum")
    for word in ("'slrum'", "local", "slurm", "mysched", "module:Class"):
        assert word in str(raised.value)


def test_own_scheduler_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipen_executors.registry.backends", lambda: ["local"])
    with pytest.raises(NoSuchSchedulerError, match="Install snakemake-executor-plugin-pipen-gbat"):
        get_scheduler("gbatch")


def test_own_scheduler_that_pipen_cannot_use() -> None:
    with pytest.raises(NoSuchSchedulerError, match="use pipen's own, or Snakemake with --exec"):
        get_scheduler("gbatch")
    assert isinstance(find_scheduler("gbatch", print), types.ModuleType)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_module:Class", "No module named"),
        ("pathlib:NoSuchClass", "no 'NoSuchClass'"),
        (":x", "ValueError"),
    ],
)
def test_path_that_leads_nowhere(name: str, why: str) -> None:
    with pytest.raises(NoSuchSchedulerError, match=why):
        get_scheduler(name)


@pytest.mark.parametrize("wrong", ["pathlib:Path", Path, 5, "no_class"])
def test_no_subclass(wrong: object, third_party: None) -> None:
    with pytest.raises(WrongSchedulerTypeError, match=r"not a subclass of xqute\.Scheduler"):
        get_scheduler(wrong)  # type: ignore[arg-type]
    assert issubclass(WrongSchedulerTypeError, TypeError)


def test_module_with_none_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("house")
    monkeypatch.setitem(sys.modules, "house", module)

    class Found:
        name, value, dist = "sched", "house", None

        def load(self) -> types.ModuleType:
            return module

    monkeypatch.setattr("pipen_executors.registry.entry_points", lambda **_: [Found()])
    with pytest.raises(WrongSchedulerTypeError, match="module without a subclass"):
        get_scheduler("sched")
    for name in ("One", "Two"):
        setattr(module, name, type(name, (xqute.Scheduler,), {"__module__": "house", "name": name}))
    with pytest.raises(WrongSchedulerTypeError, match=r"several schedulers \(One, Two\)"):
        get_scheduler("sched")
    module.Two.name = "sched"
    assert get_scheduler("sched") is module.Two


def test_pipen_itself_gets_the_same(third_party: None) -> None:
    """Names mean there what they mean here, but for whose class of the six it is."""
    from pipen.scheduler import get_scheduler as pipens

    policy = asyncio.get_event_loop_policy()
    for name in ("local", "slurm", "sge"):
        assert pipens(name).name == get_scheduler(name).name
    assert asyncio.get_event_loop_policy() is policy


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import pipen_executors, sys; "
        "print([m for m in ('xqute', 'pipen', 'asyncio', 'simpleconf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
