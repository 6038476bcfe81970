"""From what a rule asks for to qsub's options."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from pipen_executors.exceptions import SettingError, UserError
from pipen_executors.spec import JobSpec, Resources
from pipen_executors.units import parse_options
from snakemake_executor_plugin_pipen_sge.directives import (
    Site,
    command_line,
    qsub_options,
    resource_names,
)

from .specs import job_spec

SMP = Site(environment="smp")


def spec(
    options: Any = (), *, threads: int = 1, mem_mb: int | None = None, **resources: Any
) -> JobSpec:
    """Return a job that asks for something."""
    known = {name: resources.pop(name, None) for name in ("runtime", "gpus", "disk_mb")}
    whose: dict[str, Any] = {
        name: frozenset(resources.pop(name, ())) for name in ("defaulted", "overwritten")
    }
    return job_spec(
        resources=Resources(threads=threads, mem_mb=mem_mb, extra=resources, **known, **whose),
        options=parse_options(options),
    )


def line(job: JobSpec, site: Site = SMP) -> str:
    """Return the command line of a job's options."""
    return shlex.join(command_line(qsub_options(job, site)))


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({}, ""),
        ({"mem_mb": 1000}, "-l h_vmem=1000M"),
        ({"mem_mb": 1000, "threads": 3}, "-pe smp 3 -l h_vmem=334M"),
        ({"mem_mb_per_cpu": "2G", "threads": 3}, "-pe smp 3 -l h_vmem=2048M"),
        ({"runtime": 90}, "-l h_rt=5400"),
        ({"runtime": 0}, "-l h_rt=INFINITY"),
        ({"time": "1:30"}, "-l h_rt=5400"),
        ({"time": "00:01:30"}, "-l h_rt=90"),
        ({"time": 20}, "-l h_rt=1200"),
        ({"gpus": 2}, "-l gpu=2"),
        ({"disk_mb": 500}, ""),
        ({"scratch_size": "1G"}, "-l tscratch=1024M"),
        ({"sge_queue": "long.q"}, "-q long.q"),
        ({"sge_pe": "mpi"}, "-pe mpi 1"),
        ({"sge_pe": "mpi", "threads": 8}, "-pe mpi 8"),
        ({"sge_project": "p"}, "-P p"),
        ({"sge_priority": -100}, "-p -100"),
        ({"sge_requeue": True}, "-r y"),
        ({"sge_requeue": "false"}, "-r n"),
        ({"sge_reservation": True}, "-R y"),
        ({"sge_notify": True}, "-notify"),
        ({"sge_notify": False}, ""),
        ({"sge_export_env": True}, "-V"),
        ({"sge_mail_on": "ea", "sge_mail_address": "a@b"}, "-m ea -M a@b"),
        ({"sge_hold_jid": 17}, "-hold_jid 17"),
        ({"sge_task_concurrency": 4}, "-tc 4"),
        ({"sge_resources": {"arch": "lx-amd64", "gpu": 1}}, "-l arch=lx-amd64 -l gpu=1"),
        ({"sge_resources": "arch=lx-amd64,gpu=1"}, "-l arch=lx-amd64 -l gpu=1"),
        ({"sge_extra": "-l gpu=1 -l a=2,b -q x.q"}, "-q x.q -l gpu=1 -l a=2 -l b"),
        ({"sge_extra": "-V -p -5 -binding linear:2"}, "-V -p -5 -binding linear:2"),
        ({"sge_extra": "-ac 'A=x y'"}, "-ac 'A=x y'"),
        ({"sge_extra": "queue=x.q runtime=2:0:0 mem=4G V"}, "-q x.q -V -l h_rt=2:0:0 -l h_vmem=4G"),
        (
            {"sge_extra": "-soft -l a=1 -hard -l b=2", "runtime": 1},
            "-l h_rt=60 -l b=2 -soft -l a=1",
        ),
        ({"name": "x"}, "-N x"),
        ({"mem_mb": 0}, ""),
    ],
)
def test_resources(resources: dict[str, Any], words: str) -> None:
    assert line(spec(**resources)) == words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("q=all.q", "-q all.q"),
        ("qsub_q=all.q", "-q all.q"),
        ("sge_l=[h_vmem=2G, gpu=1]", "-l h_vmem=2G -l gpu=1"),
        ("l=[h_vmem=2G, gpu=1]", "-l h_vmem=2G -l gpu=1"),
        (["l=h_vmem=2G", "l=gpu=1"], "-l h_vmem=2G -l gpu=1"),
        ("l=exclusive", "-l exclusive"),
        ("V=true notify=false", "-V"),
        ("cwd=true", ""),
        (["pe=smp 4"], "-pe smp 4"),
        ("pe=mpi", "-pe mpi 1"),
        (["M=[a@b, c@d]"], "-M a@b -M c@d"),
        (['ac=A="x y"'], "-ac 'A=x y'"),
    ],
)
def test_options(options: Any, words: str) -> None:
    assert line(spec(options)) == words


def test_options_win_over_resources() -> None:
    job = spec("l=h_vmem=9G q=b.q", mem_mb=1000, runtime=1, sge_queue="a.q")
    assert line(job) == "-q b.q -l h_vmem=9G -l h_rt=60"
    job = spec({"l": {"h_vmem": False}}, mem_mb=1000)
    assert line(job) == ""
    job = spec("l=gpu=3", sge_extra="-l gpu=2,b=1", gpus=1)
    assert line(job) == "-l gpu=3 -l b=1"


@pytest.mark.parametrize(
    ("site", "words"),
    [
        (Site("smp", per_slot=False), "-pe smp 4 -l h_vmem=1000M"),
        (Site("smp", memory=("mem_free", "h_vmem")), "-pe smp 4 -l mem_free=250M -l h_vmem=250M"),
        (Site("smp", memory=()), "-pe smp 4"),
        (Site(None), "-l h_vmem=250M"),
    ],
)
def test_sites(site: Site, words: str) -> None:
    assert line(spec(mem_mb=1000, threads=4), site) == words


def test_sites_with_other_names() -> None:
    site = Site(gpu=("ngpus",), disk=("scratch",))
    assert line(spec(gpus=1, disk_mb=10), site) == "-l ngpus=1 -l scratch=10M"
    assert line(spec(gpus=1), Site(gpu=())) == ""


def test_memory_is_divided_by_the_slots_that_are_asked_for() -> None:
    assert line(spec(["pe=mpi 2-8"], mem_mb=1000, threads=4)) == "-pe mpi 2-8 -l h_vmem=500M"
    job = spec(mem_mb_per_cpu=100, threads=4)
    assert line(job, Site("smp", per_slot=False)) == "-pe smp 4 -l h_vmem=400M"


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (spec("t=1-5"), "option t of rule r"),
        (spec("S=/bin/zsh"), "option S of rule r"),
        (spec("terse=false verify=true"), "option verify of rule r"),
        (spec("sync=y"), "option sync of rule r is 'y': .* the end of a job is waited for"),
        (spec(sge_priority="high"), "resource sge_priority of rule r"),
        (spec(sge_priority=2000), "resource sge_priority of rule r"),
        (spec(sge_requeue="maybe"), "resource sge_requeue of rule r"),
        (spec(time="soon"), "resource time of rule r"),
        (spec(mem_mb_per_cpu="much"), "resource mem_mb_per_cpu of rule r"),
        (spec(sge_extra="q x.q"), "resource sge_extra of rule r"),
        (spec(sge_extra="-q 'x"), "resource sge_extra of rule r"),
    ],
)
def test_what_cannot_be_right(job: JobSpec, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        qsub_options(job, SMP)


@pytest.mark.parametrize(
    ("resources", "requests"),
    [
        ({"mem_mb": 5, "mem_mb_per_cpu": 7, "defaulted": ["mem_mb"]}, {"h_vmem": "7M"}),
        ({"mem_mb": 5, "mem_mb_per_cpu": 7, "defaulted": ["mem_mb_per_cpu"]}, {"h_vmem": "5M"}),
        ({"mem_mb": 5, "mem_mb_per_cpu": 7, "overwritten": ["mem_mb"]}, {"h_vmem": "5M"}),
        ({"runtime": 1, "time": 2, "defaulted": ["runtime"]}, {"h_rt": "120"}),
        ({"runtime": 1, "time": 2, "defaulted": ["time"]}, {"h_rt": "60"}),
        ({"runtime": 1, "sge_resources": "h_rt=9"}, {"h_rt": "9"}),
        ({"runtime": 1, "sge_resources": "h_rt=9", "defaulted": ["runtime"]}, {"h_rt": "9"}),
        (
            {"runtime": 1, "sge_resources": "h_rt=9,lic=1", "defaulted": ["sge_resources"]},
            {"h_rt": "60", "lic": "1"},
        ),
    ],
)
def test_the_rule_before_the_default(resources: Any, requests: dict[str, str]) -> None:
    assert qsub_options(spec(**resources), SMP)["l"] == requests


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"mem_mb": 5, "mem_mb_per_cpu": 7}, r"mem_mb_per_cpu \(7\) and mem_mb \(5\)"),
        ({"runtime": 1, "time": 2}, r"runtime \(1\) and time \(2\)"),
    ],
)
def test_two_of_the_rules_own(resources: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"Rule r asks for {words}; give only one"):
        qsub_options(spec(**resources), SMP)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("j=true", "-j y"),
        ("j=no", "-j n"),
        ("R=on", "-R y"),
        ("r=1", "-r y"),
        ("notify=yes", "-notify"),
        ("notify=off", ""),
        ("V=1", "-V"),
        ("h=true", "-h"),
        ("S=/bin/bash", ""),
        ("t=1-1", ""),
        ("terse=true sync=no b=n now=false shell=y verify=no clear=0", ""),
        ("binding=linear:1", "-binding linear:1"),
    ],
)
def test_switches_and_options_that_change_nothing(option: str, words: str) -> None:
    assert line(spec(option)) == words


def test_names_of_resources() -> None:
    assert resource_names("h_vmem") == ("h_vmem",)
    assert resource_names("mem_free, tmem") == ("mem_free", "tmem")
    assert resource_names("none") == ()
    with pytest.raises(ValueError, match="names of resources"):
        resource_names("h_vmem=2G")
