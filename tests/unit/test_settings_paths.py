"""Where a setting that is a path is looked for; what is empty is the default."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipen_executors import settings as shared
from pipen_executors.exceptions import SettingError
from pipen_executors.profiles import read_profile
from pipen_executors.settings import check, with_defaults
from snakemake_executor_plugin_pipen_slurm import ExecutorSettings


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The home directory, and where Snakemake was called; it works in a third one."""
    home, called, work = (tmp_path / name for name in ("home", "called", "work"))
    for place in (home, called, work):
        place.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    monkeypatch.setattr(shared, "DIRECTORY_AT_IMPORT", str(called))
    return home, called


def test_on_the_command_line(places: tuple[Path, Path]) -> None:
    home, called = places
    given = ExecutorSettings(
        partition_config="parts.yaml", sbatch="./bin/sbatch", squeue="~/squeue"
    )
    checked = check(given, "pipen-slurm")
    assert checked.path("partition_config") == called / "parts.yaml"
    assert checked.command("sbatch") == str(called / "bin/sbatch")
    assert checked.command("squeue") == str(home / "squeue")
    assert checked.command("sacct") == "sacct", "found on PATH"
    assert check(ExecutorSettings(), "pipen-slurm").path("partition_config") is None


def test_in_a_profile_of_pipen(places: tuple[Path, Path]) -> None:
    home, called = places
    (home / ".pipen.toml").write_text("[cluster.scheduler_opts]\npartition_config = 'parts.yaml'\n")
    checked = check(ExecutorSettings(), "pipen-slurm", read_profile("cluster", "x"))
    assert checked.path("partition_config") == called / "parts.yaml"
    (home / "parts.yaml").touch()
    assert checked.path("partition_config") == home / "parts.yaml", "beside the profile"


def test_a_variable_that_is_not_set(places: tuple[Path, Path]) -> None:
    checked = check(ExecutorSettings(partition_config="$NO_SUCH/x"), "pipen-slurm")
    with pytest.raises(SettingError, match=r"--pipen-slurm-partition-config .*NO_SUCH is not set"):
        checked.path("partition_config")


def test_what_is_none_or_empty_is_the_default() -> None:
    given = ExecutorSettings(history=None, forks="", options=None, sbatch="")  # type: ignore[arg-type]
    assert with_defaults(given) == ExecutorSettings()
    assert check(given, "pipen-slurm").history is True
