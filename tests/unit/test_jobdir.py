from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipen_executors.events import Event, parse_event
from pipen_executors.jobdir import (
    EVENTS,
    OPEN,
    JobDir,
    exit_status,
    open_jobs,
    prepare_root,
    root_below,
    start_of_last_lines,
)
from pipen_executors.spec import JobSpec
from pipen_executors.work import ScriptFile

from .specs import job_spec


def a_spec(rule: str = "a", **more: Any) -> JobSpec:
    values = {"wildcards": {"sample": "s 1"}, "products": ("out/s 1",), "script": "true\n"}
    return job_spec(rule, **values | more)


def test_same_directory_in_every_run(tmp_path: Path) -> None:
    first = JobDir.of(str(tmp_path), a_spec(), "/mnt/there")
    second = JobDir.of(str(tmp_path), a_spec(jobid="77", script="other\n"))
    assert first.path == second.path
    assert first.mounted == first.path.replace(str(tmp_path), "/mnt/there")
    assert JobDir.of(str(tmp_path), a_spec(products=("out/s 2",))).path != first.path
    assert JobDir.of(str(tmp_path), a_spec("b")).path != first.path
    assert Path(first.path).name.startswith("sample=s_1-")


@given(st.text(max_size=300), st.dictionaries(st.text(max_size=50), st.text(max_size=300)))
def test_any_name_gives_a_safe_directory(rule: str, wildcards: dict[str, str]) -> None:
    path = JobDir.of("/root", a_spec(rule, wildcards=wildcards)).path
    _, root, rule_part, job_part = path.split("/")
    for part in (rule_part, job_part):
        assert 0 < len(part) <= 100
        assert part.isascii()
        assert part[0] != "."
        assert not set(part) & set(" \n'\"$`\\;&|<>*?")
    assert root == "root"


def test_only_the_user_can_read(tmp_path: Path) -> None:
    root = tmp_path / "jobs"
    prepare_root(root)
    job = JobDir.of(str(root), a_spec(files={"job.extra": b"\xff\0"}))
    job.open_attempt(a_spec(files={"job.extra": b"\xff\0"}), 1, "f")
    for path in (root, root / EVENTS, Path(job.path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in Path(job.path).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Path(job.file("job.extra")).read_bytes() == b"\xff\0"
    assert list((root / EVENTS).iterdir()) == []


def test_mode_of_a_directory_that_was_there_stays(tmp_path: Path) -> None:
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(0o755)
    prepare_root(root)
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    assert stat.S_IMODE((root / EVENTS).stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("text", "status"),
    [("0", 0), ("255", 255), ("256", None), ("²", None), ("٣", None), ("-1", None), ("", None),
     ("9" * 5000, None)],
)  # fmt: skip
def test_exit_status(text: str, status: int | None) -> None:
    """Whatever stands there; digits are those of ASCII."""
    assert exit_status(text) == status
    assert parse_event(f"k.t.end.{text}") == (None if status is None else Event("k", "t", status))


@pytest.mark.parametrize("ending", ["", "\n"])
@pytest.mark.parametrize("lines", [0, 1, 2, 999, 1000, 5000])
def test_last_lines_of_a_large_file(tmp_path: Path, lines: int, ending: str) -> None:
    path = tmp_path / "log"
    every = [f"line {n} {'x' * (n % 200)}" for n in range(1000)]
    path.write_text("\n".join(every) + ending)
    with path.open("rb") as stream:
        stream.seek(start_of_last_lines(stream, lines))
        shown = stream.read().decode()
    assert shown.splitlines() == (every[-lines:] if lines else [])


def test_last_line_of_a_file_is_found_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # a sparse file of a terabyte
        stream.seek(0, 2)
        stream.write(b"\nfirst\nlast\n")
    with path.open("rb") as stream:
        stream.seek(start_of_last_lines(stream, 1))
        assert stream.read() == b"last\n"


def test_attempts_are_kept_and_a_new_run_begins_anew(tmp_path: Path) -> None:
    job = JobDir.of(str(tmp_path), a_spec())
    first = job.open_attempt(a_spec(), 1, "f1")
    assert job.claim(first.token)
    job.write("job.rc", "3\n")
    job.write("job.stderr", "first\n")
    second = job.open_attempt(a_spec(script="second\n"), 2, "f2")
    assert second.token != first.token
    assert job.rc() is None
    assert JobDir(job.file("job.retry/1")).rc() == 3
    assert JobDir(job.file("job.retry/1")).read("job.stderr") == "first\n"
    assert job.read("job.script") == "second\n"
    job.open_attempt(a_spec(), 1, "f3")
    assert not Path(job.file("job.retry")).exists()
    record = job.record()
    assert record is not None
    assert (record.fingerprint, record.products) == ("f3", ("out/s 1",))
    assert {key: found[1] for key, found in open_jobs(str(tmp_path)).items()} == {job.key: record}
    job.settle()
    job.settle()
    assert job.record() is None
    assert not list((tmp_path / OPEN).iterdir())


def test_only_one_can_claim_a_submission(tmp_path: Path) -> None:
    job = JobDir.of(str(tmp_path), a_spec())
    for _ in range(20):
        token = job.open_attempt(a_spec(), 1, "f").token
        start = threading.Barrier(8)
        won: list[bool] = []

        def race(token: str, start: threading.Barrier, won: list[bool]) -> None:
            start.wait()
            won.append(job.claim(token))

        threads = [threading.Thread(target=race, args=(token, start, won)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(won) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '{"token": "x"}', json.dumps({"products": None})]
)
def test_broken_records_are_none(tmp_path: Path, text: str) -> None:
    job = JobDir(str(tmp_path))
    job.write("job.record", text)
    assert job.record() is None


def test_readers_take_what_is_missing_for_not_there_yet(tmp_path: Path) -> None:
    job = JobDir(str(tmp_path / "nowhere"))
    assert (job.rc(), job.jid("t"), job.read("job.rc"), job.tail("job.stderr")) == (
        None,
        "",
        "",
        [],
    )
    assert dict(job.info("t")) == {}
    job = JobDir(str(tmp_path))
    for text, rc in (("", None), ("\n", None), ("0\n", 0), ("137", 137), ("x", None)):
        job.write("job.rc", text)
        assert job.rc() == rc


def test_tail_of_a_large_file(tmp_path: Path) -> None:
    job = JobDir(str(tmp_path))
    lines = "".join(f"line {n}\n" for n in range(100_000))
    job.write("job.stderr", lines.encode() + b"last \xff line")
    tail = job.tail("job.stderr", 3)
    assert tail == ["line 99998", "line 99999", "last \ufffd line"]


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        prepare_root(tmp_path / "file" / "below")


@given(st.sampled_from(["script", "cwd", "argv", "files"]))
def test_fingerprint_tells_other_work(what: str) -> None:
    other: dict[str, Any] = {
        "script": "false\n",
        "cwd": "/tmp",
        "argv": ("/bin/sh",),
        "files": {"job.x": b"1"},
    }
    assert a_spec().fingerprint() == a_spec(jobid="5").fingerprint()
    assert a_spec(**{what: other[what]}).fingerprint() != a_spec().fingerprint()


def test_fingerprint_without_what_is_another_in_every_run() -> None:
    def direct(directory: str, words: str) -> str:
        script = f"tool {words} --cache {directory}\n"
        movable = frozenset({"a", "b"})
        return a_spec(script=script, volatile=(directory,), movable=movable).fingerprint()

    assert direct("/tmp/x1", "a b") == direct("/tmp/y2", "b a"), "a set is written in any order"
    assert direct("/tmp/x1", "a b") != direct("/tmp/x1", "a c")


def test_fingerprint_of_a_respawned_job_is_not_its_command_line() -> None:
    def respawned(options: str, work: str) -> str:
        return a_spec(direct=False, script=f"snakemake {options}\n", work=work).fingerprint()

    assert respawned("--cores 4", "rule a") == respawned("--cores 8 --rerun-incomplete", "rule a")
    assert respawned("--cores 4", "rule a") != respawned("--cores 4", "rule b")


def test_fingerprint_of_a_script_is_not_its_preamble() -> None:
    def script(preamble: str, work: str) -> str:
        file = ScriptFile(f"{preamble}\nprint()\n".encode())
        file.work = work
        return a_spec(files={"job.s.py": file}).fingerprint()

    assert script("jobid = 4", "print()") == script("jobid = 5", "print()")
    assert script("jobid = 4", "print()") != script("jobid = 4", "print(1)")


def test_fingerprint_sees_inputs(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("1")
    spec = a_spec(cwd=str(tmp_path), base=str(tmp_path), inputs=("in", "missing"))
    before = spec.fingerprint()
    (tmp_path / "in").write_text("12")
    assert spec.fingerprint() != before


def test_each_workflow_has_its_own_directory_below_one_for_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other = tmp_path / "a" / "work", tmp_path / "b" / "work"
    here.mkdir(parents=True)
    other.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert root_below(Path("jobs")) == here / "jobs"
    assert root_below(here / "jobs") == here / "jobs"
    shared, above = root_below(tmp_path / "jobs"), root_below(Path("../jobs"))
    assert shared.parent == tmp_path / "jobs"
    assert shared.name.startswith("work-")
    assert above.name == shared.name
    monkeypatch.chdir(other)
    assert root_below(tmp_path / "jobs") != shared
