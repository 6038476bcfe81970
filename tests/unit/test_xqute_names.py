"""Every word of xqute's constructors means something here, and the page says what."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import xqute

from pipen_executors.settings import ONLY_OPTIONS, PIPENS_OWN, ExecutorSettings

_PAGE = Path(__file__).parents[2] / "docs" / "profiles.md"
_CLASSES = {
    "local": "local_scheduler.LocalScheduler",
    "slurm": "slurm_scheduler.SlurmScheduler",
    "sge": "sge_scheduler.SgeScheduler",
    "ssh": "ssh_scheduler.scheduler.SshScheduler",
    "container": "container_scheduler.ContainerScheduler",
    "gbatch": "gbatch_scheduler.GbatchScheduler",
}


def words_of(name: str) -> set[str]:
    """Return the parameters of a class and of its base, and what it takes out of ``**kwargs``."""
    module, _, class_name = _CLASSES[name].rpartition(".")
    scheduler = getattr(import_module(f"xqute.schedulers.{module}"), class_name)
    words: set[str] = set()
    for one in (scheduler, xqute.Scheduler):
        words |= inspect.signature(one.__init__).parameters.keys()
        words |= set(re.findall(r'kwargs\.(?:pop|get)\("(\w+)"', inspect.getsource(one.__init__)))
    return words - {"self", "args", "kwargs"}


@pytest.mark.parametrize("backend", _CLASSES)
def test_every_word_is_known(backend: str) -> None:
    settings = import_module(f"snakemake_executor_plugin_pipen_{backend}").ExecutorSettings
    known = {f.name for f in fields(settings)} | settings.also_called.keys() | ONLY_OPTIONS.keys()
    known |= settings.not_needed
    assert words_of(backend) - known == set()


def test_every_default_of_pipen_is_known() -> None:
    """A key of pipen's own configuration is a setting, or known to be pipen's business."""
    from pipen.defaults import CONFIG

    known = {f.name for f in fields(ExecutorSettings)} | {"scheduler", "scheduler_opts"}
    assert CONFIG.keys() - known - PIPENS_OWN == set()
    assert {"workdir", "plugins"} == known & PIPENS_OWN
    page = _PAGE.read_text()
    assert {key for key in CONFIG if f"`{key}`" not in page} == set()


@pytest.mark.parametrize("backend", _CLASSES)
def test_every_word_is_on_the_page(backend: str) -> None:
    table = _PAGE.read_text().partition("## Names of pipen and xqute")[2].partition("## Values")[0]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("| `")]
    told: set[str] = set()
    for names, schedulers, _ in rows:
        if "all" in schedulers or backend in schedulers:
            told |= set(re.findall(r"`(\w+)`", names))
    assert words_of(backend) - told == set()
