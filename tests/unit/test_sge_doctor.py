"""What doctor reads from a Grid Engine, on recorded output."""

from __future__ import annotations

import pytest

from pipen_executors.doctor import Level
from snakemake_executor_plugin_pipen_sge import parse
from snakemake_executor_plugin_pipen_sge.doctor import SeenQueue, _environments, _queues, queues

from .sge_recorded import RELEASES, recorded

pytestmark = pytest.mark.parametrize("release", RELEASES)


def seen(release: str) -> list[SeenQueue]:
    return queues(recorded(release, "qconf-sq.out"), recorded(release, "qstat-g-c.out"))


def test_queues(release: str) -> None:
    found = seen(release)
    assert [queue.name for queue in found] == recorded(release, "qconf-sql.out").split()
    assert found[0] == SeenQueue("all.q", 16, 0, {}, ("smp", "make"))
    assert found[0].describe() == "queue all.q: 16 slots, no limits"
    assert {finding.level for finding in _queues(found)} == {Level.OK}


def test_limits(release: str) -> None:
    text = recorded(release, "qconf-sq.out").replace(
        "h_rt                  INFINITY", "h_rt                  24:00:00,[big=72:00:00]", 1
    )
    limited, other = queues(text, recorded(release, "qstat-g-c.out"))
    assert limited.describe() == "queue all.q: 16 slots, h_rt 24:00:00"
    assert other.limits == {}


def test_queues_that_are_away(release: str) -> None:
    loads = recorded(release, "qstat-g-c.out").replace("16      0      0 ", "16      0     16 ", 1)
    first, second = _queues(queues(recorded(release, "qconf-sq.out"), loads))
    assert (first.level, second.level) == (Level.WARNING, Level.OK)
    assert "disabled" in first.text
    (none,) = _queues([])
    assert none.level is Level.FAILURE


def test_environments(release: str) -> None:
    names = recorded(release, "qconf-spl.out").split()
    rules = {
        name: parse.table(recorded(release, f"qconf-sp-{name}.out"))["allocation_rule"]
        for name in names
    }
    offered = {name for queue in seen(release) for name in queue.pe_list}
    finding = _environments(rules, None, offered)
    assert finding.level is Level.OK
    assert "use smp" in finding.text
    assert "use make" in _environments(rules, "make", offered).text
    assert _environments(rules, "mpi", offered).level is Level.FAILURE
    assert _environments(rules, None, {"make"}).level is Level.WARNING
    assert "--pipen-sge-pe" in _environments({"make": "$round_robin"}, None, offered).advice
