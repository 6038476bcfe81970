from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipen_executors.jobdir import JobDir
from pipen_executors.wrapper import WrapperContext, export, render

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
    lock: bool = False,
    umask: int = 0o022,
    arguments: tuple[str, ...] = (),
    jid: str = "$$",
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
            jid=jid,
            arguments=arguments,
            check_inputs=check_inputs,
            rerun=rerun,
            sweep=sweep,
            lock=lock,
            umask=umask,
            kill_grace=0.2,
        ),
        f"export VALUE=1 NAMES={shlex.quote('|'.join(NAMES))}",
    )
    path = job / "job.wrapped.test"
    path.write_text(text)
    return path


def run(path: Path) -> int:
    return subprocess.run(
        ["/bin/bash", "-p", str(path)], timeout=30, stdin=subprocess.DEVNULL
    ).returncode


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


def test_what_the_wrapper_is_called_with(tmp_path: Path) -> None:
    """Is known to it, whatever the environment calls by the same names, which the command sees."""
    path = wrapper(
        tmp_path,
        "echo $pipen_server\n",
        arguments=("pipen_server", "pipen_bell"),
        jid='"$pipen_server $pipen_bell."',
    )
    environment = {**os.environ, "pipen_server": "theirs"}
    subprocess.run(["/bin/bash", "-p", str(path), "big1"], check=True, env=environment)
    assert (path.parent / "job.info.token").read_text().startswith("jid=big1 . node=")
    assert (path.parent / "job.stdout").read_text() == "theirs\n"


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


def test_nothing_of_a_name_runs(tmp_path: Path) -> None:
    path = wrapper(tmp_path / "a\ntouch ran\n#", "true\n", rule="r\ntouch ran\r", jobid="\x1b[2J")
    assert run(path) == 0
    assert not list(tmp_path.rglob("ran"))
    assert "\r" not in path.read_text()


def environment_of(path: Path, env: dict[str, str], *flags: str) -> dict[str, str]:
    """Run a wrapper whose command prints its environment; return what the user set of it."""
    command = ["/bin/bash", *flags, str(path)]
    subprocess.run(command, env=env, stdin=subprocess.DEVNULL, timeout=30, check=True)
    found = (path.parent / "job.stdout").read_text().split("\0")
    variables = dict(entry.partition("=")[::2] for entry in found if entry)
    return {name: value for name, value in variables.items() if name not in NOT_THE_USERS}


PRINTS_ENVIRONMENT: Final = ("/bin/cat", "/proc/self/environ")
"""With an empty script behind it."""


USERS: Final = {
    "PATH": os.environ["PATH"],
    "rc": "5",
    "cmd": "mine",
    "REPLY": "yes",
    "pipen_kept": "kept",
    "pipen_child": "7",
    "pipen_dir": "/elsewhere",
    "pipen_name": "n",
    "name": "x",
    "kept": "y",
    "a.b": "no identifier",
    "TMOUT": "1",
    "POSIXLY_CORRECT": "y",
    "FUNCNEST": "1",
    "BASH_COMPAT": "4.2",
    "CDPATH": "/usr",
    "GLOBIGNORE": "*",
    "BASH_ENV": "/no/such/file",
    "ENV": "/no/such/file",
    "OLDPWD": "/usr",
    "PROMPT_COMMAND": "touch ran",
    "LC_ALL": "C",
    "TZ": "Asia/Kathmandu",
    "HISTFILE": "/no/such/file",
    "two": "lines\n$(touch ran)",
    "BASH_FUNC_greet%%": "() { echo hello\n}",
}
"""What a user may export: names of the wrapper's, and what bash heeds."""
NOT_THE_USERS: Final = {"SHLVL", "PWD", "_", "VALUE", "NAMES"}
"""What each bash sets for its children, and what the wrappers of these tests export."""


@pytest.mark.parametrize("prescript", ["", "true"], ids=["", "prescript"])
def test_the_users_variables_arrive_as_they_were(tmp_path: Path, prescript: str) -> None:
    path = wrapper(tmp_path, "", argv=PRINTS_ENVIRONMENT, prescript=prescript)
    assert environment_of(path, USERS, "-p") == USERS
    assert not list(tmp_path.rglob("ran"))


def test_the_users_variables_arrive_whoever_starts_the_wrapper(tmp_path: Path) -> None:
    """A third-party scheduler starts it as a script of any bash."""
    function = "BASH_FUNC_greet%%"
    path = wrapper(tmp_path, "", argv=PRINTS_ENVIRONMENT)
    found = environment_of(path, USERS)
    assert "echo hello" in found.pop(function)
    assert found == {name: value for name, value in USERS.items() if name != function}


def test_variables_of_a_job_have_any_name(tmp_path: Path) -> None:
    """A Snakefile may set any, also by the names that the wrapper uses."""
    changes = {
        "rc": "0",
        "cmd": None,
        "pipen_child": "9",
        "TMOUT": None,
        "GLOBIGNORE": "a b",
        "B": "1",
    }
    path = wrapper(tmp_path, "", argv=PRINTS_ENVIRONMENT)
    lines = "\n".join(export(name, value) for name, value in changes.items())
    path.write_text(path.read_text().replace("export VALUE", f"{lines}\nexport VALUE"))
    left = {name: value for name, value in {**USERS, **changes}.items() if value is not None}
    assert environment_of(path, USERS, "-p") == left


def test_options_of_the_users_shells_arrive(tmp_path: Path) -> None:
    users = {"SHELLOPTS": "noclobber:errexit:xtrace", "BASHOPTS": "nullglob"}
    path = wrapper(tmp_path, "", argv=PRINTS_ENVIRONMENT)
    assert environment_of(path, {**USERS, **users}, "-p") == {**USERS, **users}


HOSTILE: Final = """
    set -euCfx
    shopt -s nullglob failglob
    IFS=0123456789/
    trap 'echo from BASH_ENV' EXIT
    cd /usr
    umask 0777
    kill() { :; }; read() { :; }; echo() { :; }; wait() { :; }; trap() { :; }; export -f kill read
    readonly TMOUT=1
"""


@pytest.mark.parametrize("direct", [True, False])
def test_shell_start_up_files_change_nothing(tmp_path: Path, direct: bool) -> None:
    (tmp_path / "start-up").write_text(HOSTILE)
    path = wrapper(tmp_path, "perl -e 'print umask; mkdir q(made)'; exit 3", direct=direct)
    command = ["/bin/bash", "-p", str(path)]
    env = {**os.environ, "BASH_ENV": str(tmp_path / "start-up")}
    env["BASH_FUNC_exit%%"] = "() {  echo no exit\n}"
    script = path.parent / "job.script"
    script.write_text("unset -f exit kill read echo wait trap\n" + script.read_text())
    path.write_text(path.read_text().replace("    /bin/bash\n", "    /bin/bash\n    -p\n"))
    assert subprocess.run(command, env=env, timeout=30).returncode == 3
    assert (path.parent / "job.rc").read_text() == "3\n"
    assert (path.parent / "job.stdout").read_text() == str(0o022)
    assert events(path) == ["key.token.end.3", "key.token.start"]


def test_functions_and_start_up_file_are_there_for_a_prescript(tmp_path: Path) -> None:
    (tmp_path / "start-up").write_text("from_start_up() { echo start-up; }")
    path = wrapper(
        tmp_path,
        "",
        argv=PRINTS_ENVIRONMENT,
        prescript="greet >> said; from_start_up >> said; export FROM_PRESCRIPT=1; set -C; IFS=0",
        postscript='greet >> said; echo "$rc" >> said',
    )
    users = {**USERS, "BASH_ENV": str(tmp_path / "start-up")}
    assert environment_of(path, users, "-p") == {**users, "FROM_PRESCRIPT": "1"}
    assert (tmp_path / "said").read_text().split() == ["hello", "start-up", "hello", "0"]


def test_umask_is_where_snakemake_runs(tmp_path: Path) -> None:
    path = wrapper(tmp_path, "perl -e 'print umask'\n", umask=0o002)
    subprocess.run(["/bin/sh", "-c", 'umask 077; exec /bin/bash -p "$0"', path], check=True)
    assert (path.parent / "job.stdout").read_text() == str(0o002)


def test_working_directory_is_called_as_the_user_calls_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    path = wrapper(tmp_path / "real", 'printf %s "$PWD"\n')
    run_there = ["/bin/bash", "-c", 'cd "$1" && exec /bin/bash -p "$2"', "sh"]
    subprocess.run([*run_there, tmp_path / "link", path], check=True)
    assert (path.parent / "job.stdout").read_text() == str(tmp_path / "link")


# -- file systems that fail for a while ------------------------------------------------------


def start(path: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as stream:
        return subprocess.Popen(
            ["/bin/bash", "-p", str(path)], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
        )


def test_claim_waits_until_it_can_be_written(tmp_path: Path) -> None:
    """What cannot be written has not been given up by anybody."""
    path = wrapper(tmp_path, "echo ran\n")
    moved = tmp_path / "away"
    path.parent.rename(moved)
    process = start(moved / path.name, tmp_path / "log")
    wait_for(lambda: children_of(process.pid, "sleep"), "the wrapper's waiting")
    moved.rename(path.parent)
    assert process.wait(30) == 0
    assert (path.parent / "job.stdout").read_text() == "ran\n"
    assert (path.parent / "job.info.token").read_text().startswith(f"jid={process.pid} ")
    assert (tmp_path / "log").read_text() == ""


def test_lock_is_held_by_the_wrapper_once_it_can_be_written(tmp_path: Path) -> None:
    """It is taken with the claim; what the command leaves running does not hold it."""
    path = wrapper(
        tmp_path, "sleep 60 & echo $! > left; until [ -e go ]; do sleep 0.02; done\n", lock=True
    )
    moved = tmp_path / "away"
    path.parent.rename(moved)
    process = start(moved / path.name, tmp_path / "log")
    wait_for(lambda: children_of(process.pid, "sleep"), "the wrapper's waiting")
    moved.rename(path.parent)
    wait_for(lambda: (tmp_path / "left").exists(), "the command")
    directory = JobDir(str(path.parent))
    assert directory.is_held()
    (tmp_path / "go").touch()
    assert process.wait(30) == 0
    left = psutil.Process(int((tmp_path / "left").read_text()))
    assert left.is_running()
    assert not directory.is_held()
    left.kill()
    assert (tmp_path / "log").read_text() == ""


def test_disk_that_stays_full_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipen_executors.wrapper._INSIST", 0)
    path = wrapper(tmp_path, "echo ran > ran\n")
    moved = tmp_path / "away"
    path.parent.rename(moved)
    assert start(moved / path.name, tmp_path / "log").wait(30) == 1
    said = (tmp_path / "log").read_text()
    assert "the job was not started" in said
    assert "job.info.token cannot be written" in said
    assert not (tmp_path / "ran").exists()


def test_end_is_told_when_it_can_be_written(tmp_path: Path) -> None:
    path = wrapper(tmp_path, "until [ -e go ]; do sleep 0.02; done\n")
    process = start(path, tmp_path / "log")
    wait_for(lambda: (path.parent / "job.status").exists(), "the start")
    (path.parent / "events").rename(tmp_path / "away")
    (tmp_path / "go").touch()
    wait_for(lambda: (path.parent / "job.rc").exists(), "the end")
    wait_for(lambda: children_of(process.pid, "sleep"), "the wrapper's waiting")
    (tmp_path / "away").rename(path.parent / "events")
    assert process.wait(30) == 0
    assert events(path) == ["key.token.end.0", "key.token.start"]


def test_end_is_told_on_a_full_disk(tmp_path: Path) -> None:
    """An event is an empty file; the job does not stay until there is room for its exit status."""
    path = wrapper(tmp_path, 'ln -s /dev/full "${0%/*}/job.rc"; exit 3\n')
    assert start(path, tmp_path / "log").wait(30) == 3
    assert events(path) == ["key.token.end.3", "key.token.start"]


def children_of(pid: int, name: str) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if child.name() == name]
