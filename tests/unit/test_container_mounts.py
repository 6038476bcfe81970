"""What a job in a container sees of this machine: links are followed, homes stay closed."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from pipen_executors.exceptions import UserError
from pipen_executors.spec import Resources
from snakemake_executor_plugin_pipen_container import mounts
from snakemake_executor_plugin_pipen_container.mounts import (
    Mount,
    Surroundings,
    hops,
    links_in,
    may_be_seen,
)

from .specs import job_spec


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a home, a workflow in it, and disks."""
    tmp_path = tmp_path.resolve()
    for name in ("home/wf", "home/.ssh", "scratch/results/deep", "archive/run7", "archive/run8"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("home/x.bam", "home/x.bam.bai", "home/.ssh/id", "archive/run7/a", "archive/b"):
        (tmp_path / name).touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def seen(tree: Path, *volumes: Mount, **changes: Any) -> dict[str, bool]:
    """Return what is mounted of a tree, and whether it can be written."""
    work = str(tree / "home/wf")
    spec = job_spec(cwd=work, resources=Resources(extra={"tmpdir": "tmp"}), **changes)
    surroundings = Surroundings((work,), (), volumes)
    surroundings.check(spec)
    found = surroundings.of_job(spec)
    return {os.path.relpath(mount.target, tree): mount.writable for mount in found}


HERE = {"home/wf": True}


def link(tree: Path, name: str, target: str | Path) -> None:
    (tree / name).symlink_to(target if isinstance(target, str) else str(target))


def test_results_is_a_link_to_another_disk(tree: Path) -> None:
    link(tree, "home/wf/results", tree / "scratch/results")
    made = {"products": ("results/new/b",), "logs": ("results/logs/b",)}
    assert seen(tree, **made) == {**HERE, "scratch/results": True}
    assert (tree / "scratch/results/new").is_dir()
    inputs = ("results/deep/a",)
    assert seen(tree, **made, inputs=inputs) == {**HERE, "scratch/results": True}


def test_links_of_all_kinds_lead_to_outputs(tree: Path) -> None:
    link(tree, "scratch/hop", "results")
    link(tree, "home/wf/relative", "../../scratch/hop/deep")
    found = seen(tree, products=("relative/b",))
    assert found == {**HERE, "scratch/hop/deep": True, "scratch/results/deep": True}
    link(tree, "disk", tree / "scratch")
    assert seen(tree, products=(str(tree / "disk/results/b"),)).keys() > HERE.keys()


def test_job_directories_and_shadow_directories_behind_links(tree: Path) -> None:
    link(tree, "home/wf/.snakemake", tree / "scratch/state")
    (tree / "scratch/state").mkdir()
    work = str(tree / "home/wf")
    here = Surroundings((work, f"{work}/.snakemake/pipen/container"), ())
    found = here.of_job(job_spec(cwd=work, shadow_dir=".snakemake/shadow/x"))
    assert Mount(str(tree / "scratch/state"), str(tree / "scratch/state")) in found


def test_what_is_updated_in_place_behind_a_link(tree: Path) -> None:
    link(tree, "home/wf/db", tree / "archive/b")
    assert seen(tree, products=("db",), kept=("db",))["archive"] is True
    volume = Mount(str(tree / "home/.ssh"), str(tree / "home/.ssh"), False)
    for target, volumes in (("home/.ssh/id", ()), ("home/.ssh/id", (volume,)), ("home/x.bam", ())):
        (tree / "home/wf/db").unlink()
        link(tree, "home/wf/db", tree / target)
        with pytest.raises(UserError, match=r"Rule r updates db, .*volumes"):
            seen(tree, *volumes, products=("db",), kept=("db",))


def test_links_that_a_failed_job_left_are_not_followed(tree: Path) -> None:
    """Its logs stay, its outputs are removed before the next start; neither opens anything."""
    (tree / "home/wf/logs").mkdir()
    for name, target in (
        ("home/wf/logs/a", "home/.ssh/authorized_keys"),
        ("home/wf/logs/b", "home/x.bam"),
        ("home/wf/logs/c", "archive/b"),
        ("home/wf/o", "home/.ssh/id"),
        ("home/wf/d", "home/.ssh"),
    ):
        link(tree, name, tree / target)
    logs, made = ("logs/a", "logs/b", "logs/c"), ("o", "d")
    assert seen(tree, products=made, outputs=made, removable=made, logs=logs) == HERE
    assert seen(tree, products=made, logs=logs) == HERE, "a job of a second Snakemake"


def test_links_of_a_job_do_not_open_places_of_keys_to_the_next(tree: Path) -> None:
    ssh = tree / "home/.ssh"
    (tree / "home/wf/out").mkdir()
    (tree / "home/.aws").mkdir()
    (tree / "home/.netrc").touch()
    link(tree, "home/.aws/far", tree / "archive/run8")
    link(tree, "home/wf/out/a", ssh)
    link(tree, "home/wf/out/b", tree / "home/.aws")
    link(tree, "home/wf/out/c", tree / "home/.netrc")
    link(tree, "home/wf/out/d", tree / "scratch/hop")
    link(tree, "scratch/hop", ssh / "id")
    link(tree, "home/wf/o.txt", ssh / "id")
    link(tree, "home/wf/tmp", ssh)
    found = seen(tree, inputs=("out",))
    assert found == {**HERE, "scratch": False}
    for changes in (
        {"inputs": ("o.txt",)},
        {"inputs": ("out/a",)},
        {"inputs": ("out/a/id",)},
        {"inputs": ("out/d",)},
        {"products": ("out/a/new/authorized_keys",)},
        {"shadow_dir": "out/a/x"},
    ):
        with pytest.raises(UserError, match=r"Rule r .* symbolic link leads to .*/home/\.ssh"):
            seen(tree, **changes)
    work = str(tree / "home/wf")
    with pytest.raises(UserError, match="symbolic link"):
        Surroundings((work,), ()).of_job(job_spec(cwd=work, products=("out/a/new/x",)))
    assert not (ssh / "new").exists()
    on_purpose = Mount(str(ssh), str(ssh), False)
    assert seen(tree, on_purpose, inputs=("o.txt", "out"))["home/.ssh"] is False


def test_link_of_an_administrator_opens_no_more_than_is_used(tree: Path) -> None:
    """As of ``/scratch -> /lustre/scratch``, behind which all users have their files."""
    for name in ("lustre/scratch/u/results/x", "lustre/scratch/u/refs", "lustre/scratch/u/state"):
        (tree / name).mkdir(parents=True)
    (tree / "lustre/scratch/u/refs/hg38.fa").touch()
    link(tree, "disk", tree / "lustre/scratch")
    found = seen(tree, products=(f"{tree}/disk/u/results/x/a",))
    place = "lustre/scratch/u"
    assert found == {**HERE, "disk/u/results/x": True, f"{place}/results/x": True}
    found = seen(tree, inputs=(f"{tree}/disk/u/refs/hg38.fa", f"{tree}/disk/u/results"))
    read = ("disk/u/refs", f"{place}/refs", "disk/u/results", f"{place}/results")
    assert found == {**HERE, **dict.fromkeys(read, False)}
    work = f"{tree}/disk/u/state"
    mine = Surroundings((work,), ()).of_job(job_spec(cwd=work))
    assert {mount.target for mount in mine if "lustre" in mount.target} == {f"{tree}/{place}/state"}


def test_what_lies_where_homes_are(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home is what looks like one; projects and data may lie next to homes."""
    homes = tree / "homes"
    for name in ("project1", "data", "a/.ssh", "b", "c", "d"):
        (homes / name).mkdir(parents=True)
    (homes / "b/.bashrc").touch()
    (homes / "c/.profile").touch()
    (homes / "data/x").touch()
    monkeypatch.setattr(mounts, "_PLACES_OF_HOMES", frozenset({str(homes)}))
    account = pwd.struct_passwd(("d", "x", 7, 7, "", f"{homes}/d/", ""))
    real = pwd.getpwnam
    monkeypatch.setattr(pwd, "getpwnam", lambda n: account if n == "d" else real(n))
    found = {path.name for path in homes.iterdir() if mounts.is_private(str(path))}
    assert found == {"a", "b", "c", "d"}
    assert seen(tree, inputs=(f"{homes}/data/x",)) == {**HERE, "homes/data": False}
    project = f"{homes}/project1"
    Surroundings((project,), ()).check(job_spec(cwd=project))


def test_directory_full_of_links(tree: Path) -> None:
    (tree / "home/wf/reads/more").mkdir(parents=True)
    link(tree, "home/wf/reads/a", tree / "archive/run7/a")
    link(tree, "home/wf/reads/more/run8", tree / "archive/run8")
    link(tree, "archive/run8/far", tree / "scratch/results")
    link(tree, "scratch/results/loop", tree / "archive/run8")
    link(tree, "home/wf/reads/itself", ".")
    link(tree, "home/wf/reads/dangling", "/no/such")
    link(tree, "home/wf/reads/of-the-system", "/etc/hostname")
    link(tree, "home/wf/reads/all-of-home", tree / "home")
    link(tree, "home/wf/reads/one-of-home", tree / "home/x.bam")
    link(tree, "home/wf/reads/key", tree / "home/.ssh/id")  # not followed
    found = seen(tree, inputs=("reads",))
    expected = {
        **HERE,
        **dict.fromkeys(("archive/run7", "archive/run8", "scratch/results"), False),
        "home/x.bam": False,
    }
    relative = {name: writable for name, writable in found.items() if not name.startswith("../")}
    assert relative == expected


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> None:
    """What another test has found in a directory serves none but that."""
    mounts._links_in.cache_clear()


def test_workflow_in_a_directory_that_images_have_too() -> None:
    assert Mount("/mnt", "/mnt") in Surroundings(("/mnt",), ()).of_job(job_spec(cwd="/mnt"))


def test_many_links_are_gathered(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_MOST_MOUNTS", 4)
    (tree / "home/wf/reads").mkdir()
    for number in range(10):
        (tree / f"archive/many/{number}").mkdir(parents=True)
        link(tree, f"home/wf/reads/{number}", tree / f"archive/many/{number}")
    assert seen(tree, inputs=("reads",)) == {**HERE, "archive/many": False}


def test_no_home_is_mounted_because_of_a_file_in_it(tree: Path) -> None:
    home = tree / "home"
    found = seen(tree, inputs=(str(home / "x.bam"), "../x.bam.bai", str(home / ".ssh/id")))
    files = dict.fromkeys(("home/x.bam", "home/x.bam.bai", "home/.ssh/id"), False)
    assert found == {**HERE, **files}
    link(tree, "home/wf/link", home / "x.bam")
    assert seen(tree, inputs=("link",)) == {**HERE, "home/x.bam": False}
    for wrong in (
        {"products": (str(home / "out.txt"),)},
        {"logs": ("../a.log",)},
        {"inputs": (str(home),)},
    ):
        with pytest.raises(UserError, match=f"all of {home}, a home directory"):
            seen(tree, **wrong)
    link(tree, "home/wf/results", home)
    with pytest.raises(UserError, match=f"writes results/b.*all of {home}"):
        seen(tree, products=("results/b",))
    on_purpose = Mount(str(home), str(home))
    assert seen(tree, on_purpose, products=(str(home / "out.txt"),))["home"] is True


def test_workflow_in_the_home_itself(tree: Path) -> None:
    home = str(tree / "home")
    with pytest.raises(UserError, match=r"the directory .*home, for which .* see all of"):
        Surroundings((home,), ()).check(job_spec(cwd=home))
    Surroundings((home,), (), (Mount(home, home),)).check(job_spec(cwd=home))


@pytest.mark.parametrize("name", ["/", "/home", "/etc", "/usr/lib", "/root"])
def test_never_because_of_one_file(name: str) -> None:
    assert not may_be_seen(name)


def test_temporary_files(tree: Path) -> None:
    work = str(tree / "home/wf")

    def of(tmpdir: str) -> list[str]:
        spec = job_spec(cwd=work, resources=Resources(extra={"tmpdir": tmpdir}))
        found = Surroundings((work,), ()).of_job(spec)
        return [os.path.relpath(mount.target, tree) for mount in found if mount.writable]

    assert of(str(tree / "scratch/new")) == ["home/wf", "scratch/new"]
    assert (tree / "scratch/new").is_dir()
    assert of("tmp") == ["home/wf"]
    assert of("$HOME/tmp") == ["home/tmp", "home/wf"]
    assert of("$NO_SUCH_VARIABLE/x") == ["home/wf"], "only the job can know it"
    assert of(str(tree / "home")) == ["home/wf"], "a home is not mounted for that either"


def test_hops(tree: Path) -> None:
    link(tree, "scratch/up", "../archive/run7/..")
    link(tree, "loop", "loop")
    *_, last = hops(str(tree / "scratch/up/b"))
    up, archive = str(tree / "scratch/up"), str(tree / "archive")
    assert last == (f"{archive}/b", up, archive)
    assert last.root([str(tree / "scratch")]) == archive
    assert not last.root([str(tree / "home")])
    assert len(list(hops(str(tree / "loop/x")))) <= 41
    assert list(hops("/no/./such/../file")) == [("/no/file", "", "")]
    assert not links_in(str(tree / "no-such"))
