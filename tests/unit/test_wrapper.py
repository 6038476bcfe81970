from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipen_executors.jobdir import JobDir
from pipen_executors.wrapper import WrapperContext, render

from ..conformance.harness import wait_for
from .specs import job_spec

NAMES = [
    "two  words",
    "it's",
    '"q"',
    "$HOME",
    "$(exit 9)",
    "`exit 9`",
    "new\nline",
    "☃",
    "-rf",
    "\\",
]


def wrapper(
    directory: Path,
    script: str,
    *,
    check_inputs: bool = False,
    rerun: bool = False,
    sweep: bool = True,
    **spec: Any,
) -> Path:
    """Write a wrapper with its script; return its path."""
    job = directory / "job dir"
    (job / "events").mkdir(parents=True)
    (job / "job.script").write_text(script)
    text = render(
        job_spec(cwd=str(directory), script=script, **spec),
        WrapperContext(
            shebang="/bin/bash",
            directory=str(job),
            events=str(job / "events"),
            cwd=str(directory),
            key="key",
            token="token",
            jid="$$",
            check_inputs=check_inputs,
            rerun=rerun,
            sweep=sweep,
            kill_grace=0.2,
        ),
        f"export VALUE=1 NAMES={shlex.quote('|'.join(NAMES))}",
    )
    path = job / "job.wrapped.test"
    path.write_text(text)
    return path


def run(path: Path) -> int:
    return subprocess.run(["/bin/bash", str(path)], timeout=30, stdin=subprocess.DEVNULL).returncode


def events(path: Path) -> list[str]:
    return sorted(event.name for event in (path.parent / "events").iterdir())


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(texts.filter(bool), max_size=3), texts, st.booleans())
def test_text_is_always_valid_bash(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], label: str, flag: bool
) -> None:
    path = wrapper(
        tmp_path_factory.mktemp("w"),
        "true\n",
        inputs=tuple(names),
        removable=tuple(names),
        removable_dirs=tuple(names),
        prescript=f": {shlex.quote(label)}",
        timeout=3 if flag else 0,
        check_inputs=flag,
        rerun=flag,
    )
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_rule_and_label_cannot_leave_their_comment(tmp_path: Path) -> None:
    path = wrapper(tmp_path, "true\n")
    for line in path.read_text().splitlines()[:2]:
        assert line.startswith("#")


def test_success(tmp_path: Path) -> None:
    path = wrapper(tmp_path, "echo out; echo err >&2; echo $VALUE\n")
    assert run(path) == 0
    assert (path.parent / "job.stdout").read_text() == "out\n1\n"
    assert (path.parent / "job.stderr").read_text() == "err\n"
    assert (path.parent / "job.rc").read_text() == "0\n"
    assert (path.parent / "job.status").read_text() == "6\n"
    assert events(path) == ["key.token.end.0", "key.token.start"]
    info = (path.parent / "job.info.token").read_text()
    assert "stage=command" in info


@pytest.mark.parametrize("rc", [1, 2, 99, 100, 124, 126, 255])
def test_exit_status_is_kept(tmp_path: Path, rc: int) -> None:
    path = wrapper(tmp_path, f"exit {rc}\n")
    assert run(path) == rc
    assert (path.parent / "job.rc").read_text() == f"{rc}\n"
    assert (path.parent / "job.status").read_text() == "7\n"


def test_submission_given_up_never_runs(tmp_path: Path) -> None:
    path = wrapper(tmp_path, "touch ran\n")
    (path.parent / "job.info.token").touch()
    assert run(path) == 0
    assert not (tmp_path / "ran").exists()
    assert not (path.parent / "job.rc").exists()
    assert events(path) == []


def test_second_start_of_the_same_submission_is_another_one(tmp_path: Path) -> None:
    """What a scheduler does that starts a job twice under two ids."""
    path = wrapper(tmp_path, "echo x >> runs\n")
    assert run(path) == 0
    assert run(path) == 0
    assert (tmp_path / "runs").read_text() == "x\n"


def test_requeued_job_runs_again_without_its_outputs(tmp_path: Path) -> None:
    path = wrapper(
        tmp_path,
        "ls -A out; mkdir -p 'out/a dir'; touch \"out/it's\" 'out/a dir/x'; exit 5\n",
        removable=("out/it's",),
        removable_dirs=("out/a dir",),
    )
    path.write_text(path.read_text().replace("pipen_jid=$$", "pipen_jid=same"))
    (tmp_path / "out").mkdir()
    assert run(path) == 5
    assert run(path) == 5
    assert (path.parent / "job.stdout").read_text() == ""
    assert (path.parent / "job.rc").read_text() == "5\n"


def test_timeout_ends_a_deaf_command(tmp_path: Path) -> None:
    path = wrapper(tmp_path, "trap '' TERM; sleep 30; sleep 30\n", timeout=0.3)
    assert run(path) == 124
    assert (path.parent / "job.timedout").exists()
    assert (path.parent / "job.rc").read_text() == "124\n"


TIDY: Final = """
    perl -e '$SIG{TERM} = sub { select undef, undef, undef, 0.5; open F, ">", "tidied"; exit 1 };
             open F, ">", "started"; sleep 1 while 1'
    true
"""
"""A shell that ends at once when it is told to, and what it has started, which does not."""


def test_what_is_ending_is_not_killed(tmp_path: Path) -> None:
    path = wrapper(tmp_path, TIDY)
    process = subprocess.Popen(["/bin/bash", str(path)], stdin=subprocess.DEVNULL)
    wait_for((tmp_path / "started").exists, "its start")
    process.terminate()
    assert process.wait(timeout=30) == 143
    assert (tmp_path / "tidied").exists()


def test_a_respawned_snakemake_is_told_once(tmp_path: Path) -> None:
    """Where a scheduler tells all processes, its handler must not be interrupted by itself."""
    counts = """
        my $told = 0;
        $SIG{TERM} = sub { $told = 1; open F, ">>", "told"; print F "once\\n"; close F };
        open F, ">", "started"; sleep 1 until $told;
        select undef, undef, undef, 0.2
    """
    until_it_is_gone = (
        'sleep() { while kill -0 -- "-$pipen_child" 2>/dev/null; do command sleep 0.02; done; }'
    )
    script = f"exec perl -e {shlex.quote(counts)}\n"
    path = wrapper(tmp_path, script, direct=False, prescript=until_it_is_gone)
    process = subprocess.Popen(["/bin/bash", str(path)], stdin=subprocess.DEVNULL)
    wait_for((tmp_path / "started").exists, "its start")
    for member in psutil.Process(process.pid).children(recursive=True):
        member.terminate()
    process.terminate()
    assert process.wait(timeout=30) == 143
    assert (tmp_path / "told").read_text() == "once\n"


def test_told_to_end_while_the_command_is_being_started(tmp_path: Path) -> None:
    """The wrapper knows of no command yet, and nobody else looks for one."""
    prescript = 'set() { builtin set "$@"; [[ $1 != -m ]] || kill -s TERM $$; }'
    path = wrapper(tmp_path, "sleep 600\n", prescript=prescript, sweep=False)
    assert run(path) == 143
    assert "stage=command signal=TERM" in (path.parent / "job.info.token").read_text()
    script = str(path.parent / "job.script")
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [words for words in commands if script in words]


def test_told_to_end_after_the_command(tmp_path: Path) -> None:
    """A command that was told first may have missed to pass it on to what it just started."""
    path = wrapper(tmp_path, "sleep 600 & echo $! > left; kill -s TERM $$\n")
    assert run(path) == 143
    left = int((tmp_path / "left").read_text())
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE
    assert "stage=command signal=\n" in (path.parent / "job.info.token").read_text()


def test_what_is_ending_after_a_timeout_is_not_killed(tmp_path: Path) -> None:
    assert run(wrapper(tmp_path, TIDY, timeout=1)) == 124
    assert (tmp_path / "tidied").exists()


def test_input_that_does_not_appear(tmp_path: Path) -> None:
    (tmp_path / NAMES[0]).touch()
    path = wrapper(
        tmp_path, "touch ran\n", inputs=(NAMES[0], "not here"), latency_wait=1, check_inputs=True
    )
    assert run(path) != 0
    assert "not here" in (path.parent / "job.stderr").read_text()
    assert "stage=input" in (path.parent / "job.info.token").read_text()
    assert not (tmp_path / "ran").exists()


def test_hostile_names(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).touch()
    path = wrapper(
        tmp_path,
        'printf %s "$NAMES"\n',
        inputs=tuple(NAMES),
        removable=tuple(f"out/{name}/x" for name in NAMES),
        check_inputs=True,
    )
    assert run(path) == 0
    assert (path.parent / "job.stdout").read_text() == "|".join(NAMES)
    assert {p.name for p in (tmp_path / "out").iterdir()} == set(NAMES)


def test_working_directory_that_is_not_there(tmp_path: Path) -> None:
    path = wrapper(tmp_path, "touch ran\n")
    path.write_text(path.read_text().replace(f"cd -- {tmp_path}", "cd -- /no/such/directory"))
    assert run(path) == 1
    assert (path.parent / "job.rc").read_text() == "1\n"


def test_missing_interpreter(tmp_path: Path) -> None:
    path = wrapper(tmp_path, "true\n")
    path.write_text(path.read_text().replace("    /bin/bash\n", "    /no/such/shell\n"))
    assert run(path) == 127


def test_peak_of_memory_only_from_a_control_group_of_its_own(
    tmp_path: Path, small_cgroup: Path
) -> None:
    path = wrapper(tmp_path, "x=$(head -c 20000000 /dev/zero | tr '\\0' x)\n")
    info = JobDir(str(path.parent))
    subprocess.run(["/bin/bash", path], check=True)
    assert "memory" not in info.info("token"), "the control group of the tests is not the job's"
    (path.parent / "job.info.token").unlink()
    entering = f'echo $$ > {small_cgroup}/cgroup.procs; exec /bin/bash "$1"'
    subprocess.run(["/bin/bash", "-c", entering, "sh", path], check=True)
    assert 20_000_000 < int(info.info("token")["memory"]) <= 100 << 20
