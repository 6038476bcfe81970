"""What the page is drawn from."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from pipen_executors.report import _command_line, _failures, write_html
from pipen_executors.runs import Attempt, JobStory, Run
from pipen_executors.states import ExitReason, Phase
from pipen_executors.table import rows, write_csv

figures = pytest.importorskip("pipen_executors.report.figures")


def job(run: Run, rule: str, *attempts: Attempt) -> JobStory:
    story = JobStory(run, f"{rule}-key", rule, jobid=rule)
    story.attempts.extend(attempts)
    run.jobs[story.key] = story
    return story


def done(submitted: float, started: float, ended: float) -> Attempt:
    times = {"submitted": submitted, "started": started, "ended": ended}
    return Attempt(phase=Phase.DONE, node="n", **times)  # type: ignore[arg-type]


def failed(number: int) -> Attempt:
    return Attempt(number, Phase.FAILED, reason=ExitReason.NONZERO_EXIT, rc=1)


def drawn(run: Run, name: str) -> list[Any]:
    (figure,) = (f["figure"] for f in figures.draw([run]).figures if f["id"] == name)
    return list(figure["data"])


def test_jobs_that_start_before_their_submission_is_noted() -> None:
    """Their clocks differ, or they are quick: nobody waits for less than no time."""
    run = Run("r", Path("/nowhere"), over=130.0)
    job(run, "a", done(100.2, 100.0, 120.0))
    job(run, "b", done(100.001, 100.002, 125.0))
    (running,) = drawn(run, "at-once")
    assert min(running["y"]) == 0
    assert max(running["y"]) == 2
    job(run, "c", done(100.0, 110.0, 130.0))
    _, pending = drawn(run, "at-once")
    assert list(pending["y"]) == [1, 0]


def test_what_failed_in_the_end_comes_first() -> None:
    run = Run("r", Path("/nowhere"))
    first = job(run, "mended", failed(1), Attempt(2, Phase.DONE))
    second = job(run, "broken", failed(1), failed(2))
    shown, left_out = _failures([first, second])
    assert [(entry["job"], entry["attempt"]) for entry in shown] == [
        ("broken", 2),
        ("broken", 1),
        ("mended", 1),
    ]
    assert left_out == 0


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/x/snakemake", "-j", "4", "a b"], "snakemake -j 4 'a b'"),
        (["snakemake", "--config", "token=abc", "n=3", "-n"], "snakemake --config token=… n=… -n"),
        (["snakemake", "--config=token=abc"], "snakemake --config=token=…"),
        (["snakemake", "-C", "token=abc"], "snakemake -C token=…"),
        (["snakemake", "--s3-secret-key", "abc", "all"], "snakemake --s3-secret-key … all"),
        (["snakemake", "--s3-secret-key=abc"], "snakemake --s3-secret-key=…"),
        ([], ""),
    ],
)  # fmt: skip
def test_report_keeps_secrets(words: list[str], shown: str) -> None:
    assert _command_line(words).replace("'…'", "…").replace("'", "") == shown.replace("'", "")


def test_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name of which not all is UTF-8 is no reason not to; what was there stays."""
    run = Run("r", tmp_path, over=130.0, cwd="/nowhere", command=("snakemake", "a\udcff"))
    job(run, "a", done(1.0, 2.0, 3.0))
    path = tmp_path / "report.html"
    write_html(path, [run])
    assert "\\udcff" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr("os.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_html(path, [run])
    assert list(tmp_path.iterdir()) == [path]


def test_tables_hold_no_formulas() -> None:
    run = Run("r", Path("/nowhere"), over=130.0)
    job(run, "=cmd", done(1.0, 2.0, 3.0)).wildcards = {"a": "\udcff"}
    stream = io.StringIO()
    write_csv(stream, rows([run]))
    (line,) = csv.DictReader(io.StringIO(stream.getvalue()))
    assert line["rule"] == "'=cmd"
    assert line["wildcards"] == "a=\udcff"
