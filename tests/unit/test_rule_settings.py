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
