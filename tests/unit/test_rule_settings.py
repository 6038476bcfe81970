"""What a rule asks for in its resources ``pipen_<name>``, and is refused before any job runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipen_executors.exceptions import UserError
from pipen_executors.preview import planned_jobs

RULE = """
rule align:
    output: "a"
    resources: {resources}
    shell: "touch a"
"""
EXECUTOR = ("--executor", "pipen", "--pipen-scheduler", "local", "--jobs", "1")


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ("pipen_options='timeout=30'", "timeout is a setting.*use resource pipen_timeout"),
        ("pipen_options='error-strategy=halt'", "error-strategy is a setting and no option"),
        ("pipen_options='cwd=/tmp'", "cwd is a setting.*use resource pipen_cwd"),
        ("pipen_options='forks=1'", "forks is a setting.*it holds for all jobs of a run"),
        ("pipen_options='mounted_workdir=/x'", "mounted_workdir.*it holds for all jobs of a run"),
        ("pipen_options=5", "pipen_options of rule align is 5: expected KEY=VALUE"),
        ("pipen_prescript=5", "pipen_prescript of rule align is 5: expected a text"),
        ("pipen_cwd=5", "pipen_cwd of rule align is 5: expected a text"),
    ],
)
def test_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    resources: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").write_text(RULE.format(resources=resources))
    with pytest.raises(UserError):
        planned_jobs([*EXECUTOR, "a"], "a", wrapped=False)
    text = capfd.readouterr().err
    assert re.search(said, text), text


@pytest.mark.parametrize("executor", ["pipen-local", "pipen"])
def test_refused_before_the_jobs_ahead_of_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    executor: str,
) -> None:
    """Snakemake counts every job as local where the executor is a local one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").write_text(
        """
rule late:
    input: "a"
    output: "b"
    resources: pipen_execution="direct"
    run:
        open(output[0], "w").close()
rule align:
    output: "a"
    shell: "touch a"
"""
    )
    scheduler = ("--pipen-scheduler", "local") if executor == "pipen" else ()
    with pytest.raises(UserError):
        planned_jobs(["--executor", executor, *scheduler, "-j1", "b"], "align", wrapped=False)
    assert "Rule late cannot be run directly" in capfd.readouterr().err


def test_rules_of_a_second_snakemake_are_named_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rule = "rule {0}:\n    output: '{0}'\n    run: open(output[0], 'w').close()\n"
    (tmp_path / "Snakefile").write_text(rule.format("x") + rule.format("y"))
    planned_jobs(["--executor", "pipen-local", "-j1", "x", "y"], "x", wrapped=False)
    said = (
        "Rules x, y are run by a second Snakemake, which takes longer than running their commands"
    )
    assert re.search(said, capfd.readouterr().err)
