from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipen_executors.exceptions import SettingError, UserError
from pipen_executors.spec import JobSpec, Resources
from snakemake_executor_plugin_pipen_container.directives import (
    apptainer_words,
    checked_arguments,
    checked_options,
    limits,
    option_words,
    ownership,
    run_words,
)
from snakemake_executor_plugin_pipen_container.images import image_name
from snakemake_executor_plugin_pipen_container.mounts import Mount, Surroundings, parse_volume
from snakemake_executor_plugin_pipen_container.parse import Facts

from .specs import job_spec

FACTS = Facts(False, 8, frozenset({"cpus", "memory"}))


def job(cwd: str = "/w", **changes: Any) -> JobSpec:
    resources = Resources(**changes.pop("resources", {}))
    return job_spec(cwd=cwd, resources=resources, **changes)


@pytest.mark.parametrize(
    ("image", "engine", "apptainer"),
    [
        ("debian:12", "debian:12", "docker://debian:12"),
        ("docker://debian:12", "debian:12", "docker://debian:12"),
        ("quay.io/a/b@sha256:00", "quay.io/a/b@sha256:00", "docker://quay.io/a/b@sha256:00"),
        ("library://a/b", None, "library://a/b"),
        ("oras://x/y:1", None, "oras://x/y:1"),
        ("missing.sif", None, None),
        ("", None, None),
        ("two words", None, None),
        ("--privileged", None, None),
        ("-v/:/host", None, None),
        ("docker://--help", None, None),
        ("docker://", None, None),
        ("a\x1b[31mb", None, None),
    ],
)
def test_names_of_images(image: str, engine: str | None, apptainer: str | None) -> None:
    for kind, right in (("docker", engine), ("podman", engine), ("apptainer", apptainer)):
        if right is None:
            with pytest.raises(ValueError, match=r"image|does not exist"):
                image_name(image, kind)
        else:
            assert image_name(image, kind) == right


def test_file_is_an_image_of_apptainer(tmp_path: Path) -> None:
    file = tmp_path / "tool.sif"
    file.touch()
    assert image_name(str(file), "apptainer") == str(file)
    with pytest.raises(ValueError, match="registry"):
        image_name(str(file), "docker")


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/usr:/x", Mount("/usr", "/x")),
        ("/usr:/x:ro", Mount("/usr", "/x", False)),
        ("/usr", Mount("/usr", "/usr")),
        ("/usr:ro", Mount("/usr", "/usr", False)),
        ("DATA=/usr", Mount("/usr", "/mnt/disks/DATA", True, "DATA")),
        ("DATA=/usr:ro", Mount("/usr", "/mnt/disks/DATA", False, "DATA")),
        ("/usr:/x:z", Mount("/usr", "/x", True, "", "z")),
        ("/usr:/x:ro,Z", Mount("/usr", "/x", False, "", "ro,Z")),
        ("/usr:rslave,ro", Mount("/usr", "/usr", False, "", "rslave,ro")),
        ("DATA=/usr:ro,U", Mount("/usr", "/mnt/disks/DATA", False, "DATA", "ro,U")),
        ("cache:/x", Mount("cache", "/x")),
        ("cache:/x:nocopy", Mount("cache", "/x", True, "", "nocopy")),
        (
            "type=bind,source=/usr,target=/x,readonly",
            Mount("/usr", "/x", False, field_list="type=bind,source=/usr,target=/x,readonly"),
        ),
        (
            "type=tmpfs,dst=/x/,tmpfs-size=1m",
            Mount("", "/x", field_list="type=tmpfs,dst=/x/,tmpfs-size=1m"),
        ),
    ],
)
def test_volumes(text: str, mount: Mount) -> None:
    assert parse_volume(text) == mount


@pytest.mark.parametrize(
    "text",
    [
        "/no/such",
        "/usr:x",
        "",
        ":",
        "A=/usr:/x",
        "/usr:/x:/y",
        "no-such-dir",
        "/no:/x",
        "type=bind,source=/no/such,target=/x",
        "type=bind,source=/usr",
        "type=tmpfs,target=/x\n",
        "type=tmpfs,\ntarget=/x",
        'type=tmpfs,"target=/x',
        "./a:/x",
    ],
)
def test_bad_volumes(text: str) -> None:
    with pytest.raises(ValueError):
        parse_volume(text)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A workflow's directory, and others beside it."""
    for name in ("work/in", "data/deep", "far", "out", "tmp"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("work/in/a", "data/x", "data/deep/y", "far/z"):
        (tmp_path / name).touch()
    (tmp_path / "work/link").symlink_to(tmp_path / "data/hop")
    (tmp_path / "data/hop").symlink_to("../far/z")
    return tmp_path


def mounts_of(tree: Path, **changes: object) -> list[tuple[str, bool]]:
    work = str(tree / "work")
    changes.setdefault("resources", {"extra": {"tmpdir": str(tree / "tmp")}})
    found = Surroundings((work,), ()).of_job(job(work, **changes))
    assert all(mount.source == mount.target for mount in found)
    return [(os.path.relpath(mount.target, tree), mount.writable) for mount in found]


def test_mounts_of_a_job_that_stays_inside(tree: Path) -> None:
    assert mounts_of(tree, inputs=("in/a",), outputs=("b",)) == [("tmp", True), ("work", True)]


def test_inputs_elsewhere_are_read_only(tree: Path) -> None:
    inputs = (str(tree / "data/x"), str(tree / "data/deep/y"))
    assert mounts_of(tree, inputs=inputs)[0] == ("data", False)
    assert len(mounts_of(tree, inputs=inputs)) == 3


def test_links_are_followed_hop_by_hop(tree: Path) -> None:
    found = mounts_of(tree, inputs=("link",))
    assert ("data", False) in found
    assert ("far", False) in found


def test_outputs_and_logs_elsewhere_are_writable(tree: Path) -> None:
    found = mounts_of(
        tree, inputs=(str(tree / "data/x"),), products=("../out/new/o",), logs=("../data/log",)
    )
    assert found == [("data", True), ("out/new", True), ("tmp", True), ("work", True)]
    assert (tree / "out/new").is_dir()


def test_directories_of_the_system_stay_the_images_own(tree: Path) -> None:
    found = mounts_of(tree, inputs=("/etc/hostname", "/etc/passwd", "/dev/null", "/"))
    targets = {name for name, _ in found}
    assert os.path.relpath("/etc/passwd", tree) in targets
    assert os.path.relpath("/etc", tree) not in targets
    assert os.path.relpath("/", tree) not in targets
    assert os.path.relpath("/dev/null", tree) not in targets
    with pytest.raises(UserError, match="/usr/share/new"):
        mounts_of(tree, products=("/usr/share/new/o",))


def test_a_volume_of_the_user_wins(tree: Path) -> None:
    work, other = str(tree / "work"), str(tree / "far")
    here = Surroundings((work,), (), (Mount(other, work), Mount("/usr", "/usr", False)))
    assert Mount(other, work) in here.of_job(job(work))


def test_limits() -> None:
    asked = job(resources={"threads": 4, "mem_mb": 2000, "gpus": 2})
    assert limits(asked, "docker", FACTS, enforce=True) == {
        "cpus": 4, "memory": "2000m", "gpus": 2
    }  # fmt: skip
    assert limits(asked, "podman", FACTS, enforce=False) == {
        "device": ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    }
    small = job(resources={"threads": 16, "mem_mb": 1})
    assert limits(small, "docker", FACTS, enforce=True) == {"memory": "6m"}
    assert limits(small, "docker", Facts(True, 8, frozenset()), enforce=True) == {}


def test_ownership(mocker: object) -> None:
    mocker.patch("os.getuid", return_value=1000)  # type: ignore[attr-defined]
    mocker.patch("os.getgid", return_value=100)  # type: ignore[attr-defined]
    mocker.patch("os.getgroups", return_value=[100, 27])  # type: ignore[attr-defined]
    rootless = Facts(True, 8, frozenset())
    assert ownership(None, "docker", FACTS) == {"user": "1000:100", "group-add": [27]}
    assert ownership(None, "docker", rootless) == {"user": "0:0"}
    keep_id = {"user": "1000:100", "userns": "keep-id"}
    assert ownership(None, "podman", rootless) == {**keep_id, "group-add": []}
    crun = replace(rootless, keeps_groups=True)
    assert ownership(None, "podman", crun) == {**keep_id, "group-add": ["keep-groups"]}
    remapped = replace(FACTS, remaps=True)
    assert ownership("me", "docker", remapped) == {"user": "me", "userns": "host"}
    assert ownership(None, "docker", remapped)["userns"] == "host"
    assert ownership("me", "podman", rootless) == {"user": "me"}


def test_options() -> None:
    options = {"network": "host", "init": True, "tty": False, "v": ["/a:/b", "/c:/d"]}
    assert list(option_words(options)) == ["--network=host", "--init", "-v", "/a:/b", "-v", "/c:/d"]
    assert checked_options({"shm_size": "1g"}, "options", "docker") == {"shm-size": "1g"}
    with pytest.raises(SettingError, match="entrypoint"):
        checked_options({"entrypoint": "x"}, "options", "docker")


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ({"gpus": "all"}, {"gpus": "all"}),
        ({"--gpus": "device=0"}, {"gpus": "device=0"}),
        ({"-v": ["/a:/b:ro,Z"]}, {"v": ["/a:/b:ro,Z"]}),
        ({"mount": "type=tmpfs,target=/x"}, {"mount": "type=tmpfs,target=/x"}),
        ({"rm": True, "detach": True, "restart": "no", "init": True}, {"init": True}),
        ({"pull": "missing", "init_path": "/x"}, {"init-path": "/x"}),
    ],
)
def test_options_go_through(given: dict[str, Any], spelled: dict[str, Any]) -> None:
    assert checked_options(given, "options", "docker") == spelled


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"name": "x"}, "jobname-prefix"),
        ({"detach": False}, "in the background"),
        ({"pull": "always"}, "setting pull"),
        ({"restart": "always"}, "num-retries"),
        ({"cidfile": "/x"}, "labels"),
        ({"two words": "x"}, "the name of an option"),
    ],
)
def test_what_the_executor_sets_is_refused_with_the_reason(
    option: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SettingError, match=reason):
        checked_options(option, "options", "podman")


def test_arguments() -> None:
    def kept(*words: str, kind: str = "docker") -> list[str]:
        return checked_arguments(words, "bin_args", kind)

    assert kept("--rm", "-it", "--gpus", "all") == ["-it", "--gpus", "all"]
    assert kept("-d", "-dit", "--pull", "missing", "--pull=missing") == ["-it"]
    assert kept("-v", "/a b:/c:ro", "--label", "x=--rm") == [
        "-v",
        "/a b:/c:ro",
        "--label",
        "x=--rm",
    ]
    assert kept("-d", "--name", kind="apptainer") == ["-d", "--name"]
    for wrong in (("--name", "x"), ("--name=x",), ("--entrypoint=sh",), ("--pull", "always")):
        with pytest.raises(SettingError, match="pipen-container sets this option"):
            kept(*wrong)


def test_mounts_as_each_runtime_takes_them() -> None:
    plain, odd = Mount("/a", "/b", False), Mount("/a\nb\\", "/c")
    options, volume = Mount("/a", "/b", False, "", "ro,Z"), Mount("cache", "/x")
    fields = Mount("/a", "/b", field_list="type=bind,src=/a,dst=/b")
    mounts = [plain, odd, options, volume, fields]
    words = run_words(mounts, [], {}, [], "im", ["/bin/sh"])
    for word in (
        "--mount=type=bind,source=/a,target=/b,readonly",
        '--mount=type=bind,"source=/a\nb\\",target=/c',
        *("--volume=/a:/b:ro,Z", "--volume=cache:/x", "--mount=type=bind,src=/a,dst=/b"),
    ):
        assert word in words
    words = apptainer_words("apptainer", job(), mounts, {"home": "/x"}, [], "/i", ["w"])
    assert words[7:17] == [
        *("--bind", "/a:/b:ro", "--mount", 'type=bind,"source=/a\nb\\",destination=/c'),
        *("--bind", "/a:/b:ro,Z", "--bind", "cache:/x", "--mount", "type=bind,src=/a,dst=/b"),
    ]


def test_command_lines() -> None:
    mounts = [Mount('/a,b "c"', "/x"), Mount("/d", "/e", False)]
    words = run_words(mounts, ["l=1"], {"init": True}, ["--tty"], "im:1", ["/bin/bash", "-l", "w"])
    assert words[-6:] == ["--init", "--tty", "--entrypoint=/bin/bash", "im:1", "-l", "w"]
    assert '--mount=type=bind,"source=/a,b ""c""",target=/x' in words
    assert "--mount=type=bind,source=/d,target=/e,readonly" in words
    assert "--label=l=1" in words

    gpu = job(resources={"gpus": 1})
    words = apptainer_words("apptainer", gpu, mounts, {}, [], "/i.sif", ["/bin/bash", "w"])
    assert words[:2] == ["/bin/sh", "-c"]
    assert words[4:8] == ["apptainer", "exec", "--cleanenv", "--no-home"]
    assert words[8:12] == [
        "--mount", 'type=bind,"source=/a,b ""c""",destination=/x', "--bind", "/d:/e:ro"
    ]  # fmt: skip
    assert words[-4:] == ["--nv", "/i.sif", "/bin/bash", "w"]
