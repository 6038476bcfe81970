"""The script of a group: what it does around each member, run by bash itself."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pipen_executors import shadow
from pipen_executors.exceptions import UserError
from pipen_executors.layers import _times
from pipen_executors.meter import read_usage
from pipen_executors.preview import planned_jobs
from pipen_executors.purity import is_settled, is_settled_expression
from pipen_executors.spec import JobSpec

from ..conformance.harness import wait_for

# Of all executors that run groups, this one needs no cluster.
EXECUTOR = ("--executor", "pipen", "--pipen-scheduler", "local", "--jobs", "8")


class Planned:
    """The group that a workflow would submit, with the files it needs in their places."""

    def __init__(self, directory: Path, snakefile: str, target: str, *arguments: str) -> None:
        self.dir = directory
        (directory / "Snakefile").write_text(dedent(snakefile))
        jobs, _ = planned_jobs([*EXECUTOR, *arguments], target, wrapped=False)
        (job,) = jobs
        self.spec: JobSpec = job.spec
        self.script = Path(next(iter(job.files)))
        self.script.parent.mkdir(parents=True, exist_ok=True)
        self.script.write_text(self.spec.script)
        for name, content in self.spec.files.items():
            (self.script.parent / name).write_bytes(content)

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.spec.argv, str(self.script)],
            cwd=self.dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self) -> subprocess.CompletedProcess[str]:
        with self.start() as process:
            stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess([], process.returncode, stdout, stderr)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_at_its_own_moment(here: Path) -> None:
    """What the next member sees is what it would see with the local executor."""
    group = Planned(
        here,
        """
        rule all:
            input: "third"
        rule first:
            output:
                touched=touch("made/touched"), folder=touch(directory("made/folder")),
                guarded=protected("guarded"), guarded_folder=protected(directory("guarded.d")),
                used_up=temp("used up"), used_up_folder=temp(directory("used_up.d")),
                unread=temp("unread"), later=temp("later"), copied="copied"
            log: "logs/first.log"
            group: "g"
            shell:
                "ls third copied > seen.first || true; test -d made -a -d logs;"
                "mkdir {output.guarded_folder} {output.used_up_folder};"
                "touch {output.guarded_folder}/x {output.guarded} {output.used_up_folder}/x;"
                "touch '{output.used_up}' {output.unread} {output.later};"
                "touch -d 2001-01-01 {output.copied}"
        rule second:
            input: [file for file in rules.first.output if file != "unread"]
            output: "second"
            group: "g"
            shell:
                "stat -c '%a %n' guarded guarded.d guarded.d/x > seen.second;"
                "ls -d made/* logs/* guarded.d/.snakemake_timestamp 'used up' later >> seen.second;"
                "ls unread || find copied -newermt 2002-01-01 >> seen.second;"
                "mv 'used up' {output}; ls third >> seen.second"
        rule third:
            input: "second", "later"
            output: "third"
            group: "g"
            shell: "ls 'used up' used_up.d || ls later > {output}; ls third > seen.third"
        """,
        "third",
    )
    (here / "copied").write_text("of before\n")
    (here / "third").write_text("of before\n")
    result = group.run()
    assert result.returncode == 0, result.stderr
    # Its own old output is gone when a member starts, that of those behind it is not.
    assert (here / "seen.first").read_text().split() == ["third"]
    assert (here / "seen.second").read_text().splitlines() == [
        "444 guarded", "555 guarded.d", "555 guarded.d/x",
        "guarded.d/.snakemake_timestamp", "later", "logs/first.log", "made/folder",
        "made/touched", "used up", "copied", "third",
    ]  # fmt: skip
    assert (here / "seen.third").read_text().split() == ["third"]
    assert (here / "third").read_text().split() == ["later"]
    assert not (here / "later").exists()
    # What it makes and uses up is not waited for.
    assert set(group.spec.outputs) == {"guarded", "guarded.d", "copied", "second", "third"}


def test_temporary_files_that_are_asked_for_stay(here: Path) -> None:
    snakefile = """
        rule all:
            input: "b", "outside"
        rule a:
            output: temp("read_outside"), temp("target"), temp("inside")
            group: "g"
            shell: "touch {output}"
        rule b:
            input: "read_outside", "target", "inside"
            output: "b"
            group: "g"
            shell: "touch {output}"
        rule outside:
            input: "read_outside"
            output: "outside"
            shell: "touch {output}"
        """
    group = Planned(here, snakefile, "b", "all", "target")
    assert group.run().returncode == 0
    left = {"read_outside", "target", "b"}
    assert {name for name in ("read_outside", "target", "inside", "b") if Path(name).exists()} == (
        left
    )
    assert set(group.spec.outputs) == left
    group = Planned(here, snakefile, "b", "--notemp", "--forceall")
    assert group.run().returncode == 0
    assert (here / "inside").exists()
    assert set(group.spec.outputs) == {*left, "inside"}
    respawned = snakefile.replace("rule b:", "rule b:\n            benchmark: repeat('bench', 2)")
    for option, there in (("--notemp", True), ("--printshellcmds", False)):
        group = Planned(here, respawned, "b", option, "--forceall")
        assert not group.spec.direct
        assert ("--notemp" in group.spec.script.split()) == there


@pytest.mark.parametrize(
    ("command", "flag", "rc", "words"),
    [
        ("exit 7", "", 7, "rule a (w=x) failed with exit status 7"),
        ("kill -s KILL $$", "", 137, "rule a (w=x) failed with exit status 137"),
        ("true", "", 1, "output is missing: out.x"),
        ("mkdir {output}", "", 1, "output is a directory, without directory() in its rule: out.x"),
        ("touch {output}", "directory", 1, "output is missing, or no directory: out.x"),
        ("touch {output}", "ensure_size", 1, "output is empty, and ensure() wants some: out.x"),
        ("echo 1 > {output}", "ensure_sum", 1, "another checksum than ensure() wants: out.x"),
        ("echo 2 > {output}", "ensure_sum", 0, ""),
    ],
)
def test_member_that_fails_ends_the_group(
    here: Path, command: str, flag: str, rc: int, words: str
) -> None:
    output = {
        "": '"out.{w}"',
        "directory": 'directory("out.{w}")',
        "ensure_size": 'ensure("out.{w}", non_empty=True)',
        "ensure_sum": 'ensure("out.{w}", md5=lambda w: "26ab0db90d72e28ad0ba1e22ee510510")',
    }[flag]
    group = Planned(
        here,
        f"""
        rule a:
            output: {output}
            group: "g"
            shell: "{command}"
        rule b:
            input: "out.{{w}}"
            output: "b.{{w}}"
            group: "g"
            shell: "touch {{output}}"
        """,
        "b",
        "b.x",
    )
    result = group.run()
    assert (result.returncode, (here / "b.x").exists()) == (rc, rc == 0)
    assert words in result.stderr


def test_the_others_end_with_the_first_that_fails(here: Path) -> None:
    group = Planned(
        here,
        """
        rule all:
            input: "slow", "bad"
            output: touch("all")
            group: "g"
        rule slow:
            output: "slow"
            group: "g"
            shell: "trap 'echo told > told; exit 5' TERM; touch up; sleep 60 & wait"
        rule bad:
            output: "bad"
            group: "g"
            shell: "until [ -e up ]; do sleep 0.05; done; exit 3"
        """,
        "slow",
        "all",
    )
    result = group.run()
    assert result.returncode == 3
    assert "rule bad failed" in result.stderr
    assert (here / "told").exists()


def test_signals_of_members_are_at_their_defaults(here: Path) -> None:
    """Bash ignores SIGINT and SIGQUIT in what it runs in the background."""
    group = Planned(
        here,
        """
        import sys
        PYTHON = sys.executable
        rule a:
            output: "a"
            group: "g"
            shell:
                "{PYTHON} -c 'import signal; "
                "print(*(signal.getsignal(n) for n in map(signal.Signals, [2, 3, 10, 12, 15])))' "
                "> {output}; bash -c 'kill -s PIPE $$' || echo $? >> {output}"
        rule b:
            input: "a"
            output: "b"
            group: "g"
            shell: "touch {output}"
        """,
        "b",
        "b",
    )
    assert group.run().returncode == 0
    caught, broken_pipe = (here / "a").read_text().splitlines()
    default = int(signal.SIG_DFL)
    assert caught.split()[-4:] == [str(default)] * 4
    assert "default_int_handler" in caught, "Python's own, unless SIGINT is ignored"
    assert broken_pipe == str(128 + signal.SIGPIPE)


def test_warning_of_a_scheduler_reaches_the_members_alone(here: Path) -> None:
    group = Planned(
        here,
        """
        rule a:
            output: "a"
            group: "g"
            shell: "trap 'touch {output}; exit 0' USR1; touch up; while :; do sleep 0.1; done"
        rule b:
            input: "a"
            output: "b"
            group: "g"
            shell: "touch {output}"
        """,
        "b",
        "b",
    )
    with group.start() as process:
        wait_for((here / "up").exists, "the member")
        os.killpg(process.pid, signal.SIGUSR1)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert (here / "b").exists()


def test_the_users_own_shell_changes_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions and settings for every bash are the members', not the script's around them."""
    (here / "rc").write_text("kill() { touch killed; }\n")
    for name, value in {
        "BASH_ENV": str(here / "rc"),
        "BASH_FUNC_wait%%": "() {  touch waited; return 5; }",
        "POSIXLY_CORRECT": "1",
        "FUNCNEST": "1",
        "REPLY": "the user's",
    }.items():
        monkeypatch.setenv(name, value)
    group = Planned(
        here,
        """
        rule a:
            output: "a"
            group: "g"
            benchmark: "bench.tsv"
            shell: "echo $POSIXLY_CORRECT $FUNCNEST $REPLY > {output}"
        rule b:
            input: "a"
            output: "b"
            group: "g"
            shell: "wait || echo $? > {output}"
        """,
        "b",
        "b",
    )
    result = group.run()
    assert (result.returncode, result.stderr) == (0, "")
    assert (here / "a").read_text() == "1 1 the user's\n"
    assert (here / "b").read_text() == "5\n"
    assert (here / "waited").exists()
    assert not (here / "killed").exists()


def test_benchmark_of_a_member(here: Path) -> None:
    group = Planned(
        here,
        """
        rule a:
            output: "a"
            benchmark: "bench/a.tsv"
            group: "g"
            shell: "sleep 1.2; touch {output}"
        rule b:
            input: "a"
            output: "b"
            group: "g"
            shell: "touch {output}"
        """,
        "b",
        "b",
    )
    result = group.run()
    assert (result.returncode, result.stderr) == (0, "")
    (measured,) = group.script.parent.glob("job.*.usage")
    usage = read_usage(measured.read_text())
    assert usage is not None
    assert usage.seconds >= 1.2
    assert usage.rss > 0


_SHADOWS = """
    rule made:
        output: "made/a", directory("made.d")
        group: "g"
        shell: "echo a > {output[0]}; mkdir {output[1]}; echo x > {output[1]}/x"
    rule linked:
        input: "made/a", "made.d", "data/in x"
        output: "linked/out", "linked/link", protected("linked/guarded")
        log: "logs/linked.log"
        group: "g"
        shadow: "minimal"
        shell:
            "readlink made/a 'data/in x' > {output[0]};"
            "cat {input[0]} 'data/in x' made.d/x >> {output[0]};"
            "ls -A >> {output[0]}; ln -s out {output[1]}; touch junk {output[2]};"
            "echo l > {log}; STOP"
    rule all_of_it:
        input: "linked/out"
        output: "all/out", touch("all/touched")
        group: "g"
        shadow: "shallow"
        shell: "ls -A | sort > {output[0]}; touch junk"
    rule copied:
        input: "all/out"
        output: "copied/out"
        group: "g"
        shadow: "copy-minimal"
        shell: "stat -c %F all/out > {output}; pwd >> {output}"
    """


def test_shadow_directories_at_their_own_moment(here: Path) -> None:
    (here / "data").mkdir()
    (here / "data/in x").write_text("data\n")
    group = Planned(here, _SHADOWS.replace("STOP", "true"), "copied", "copied")
    assert group.spec.direct, group.spec.why_respawned
    result = group.run()
    assert (result.returncode, result.stderr) == (0, "")
    lines = (here / "linked/out").read_text().splitlines()
    # From .snakemake/shadow/<name>/made and .../data.
    assert lines[:2] == ["../../../../made/a", "../../../../data/in x"]
    assert lines[2:] == ["a", "data", "x", "data", "linked", "logs", "made", "made.d"]
    assert os.readlink(here / "linked/link") == "out"
    assert stat.S_IMODE((here / "linked/guarded").stat().st_mode) == 0o444
    assert (here / "logs/linked.log").read_text() == "l\n"
    everything = (here / "all/out").read_text().split()
    assert {".snakemake", "Snakefile", "all", "data", "linked"} <= set(everything)
    assert (here / "all/touched").exists()
    kind, place = (here / "copied/out").read_text().splitlines()
    assert kind == "regular file"
    assert Path(place).parent == here / ".snakemake/shadow"
    assert not (here / "junk").exists()
    assert list((here / ".snakemake/shadow").iterdir()) == []


@pytest.mark.parametrize("arguments", [(), ("--keep-incomplete",)])
def test_shadow_directory_of_a_member_that_fails(here: Path, arguments: tuple[str, ...]) -> None:
    """Its logs come back, as with the local executor."""
    (here / "data").mkdir()
    (here / "data/in x").touch()
    snakefile = _SHADOWS.replace("STOP", "exit 4")
    result = Planned(here, snakefile, "copied", "copied", *arguments).run()
    assert result.returncode == 4
    assert (here / "logs/linked.log").read_text() == "l\n"
    assert not (here / "linked/out").exists()
    kept = list((here / ".snakemake/shadow").iterdir())
    assert len(kept) == len(arguments)
    assert ("the shadow directory is kept" in result.stderr) == bool(arguments)


_TWO = """
    import os
    from pathlib import Path
    SAMPLES = {{"x": {{"kind": "one"}}}}
    def sized(wildcards, input):
        return os.path.getsize(input[0])
    def called(wildcards, input):
        return sized(wildcards, input)
    rule a:
        output: "a.{{s}}", "a.{{s}}.py"
        group: "g"
        shell: "touch {{output}}"
    rule b:
        input: "a.{{s}}"
        output: "b.{{s}}"
        group: "g"
        {body}
    """


SHOW = '\n        shell: "echo {params.k} > {output}"'
SHOW_FIRST = SHOW.replace("params.k", "params[0]")
SIZED = "\n        resources: mem_mb=sized"
AGAIN = "\n        resources: mem_mb=lambda w, attempt: 100 * attempt"
ONE_AT_LEAST = "resources: mem_mb=lambda w, input: max(1, sized(w, input))\n        "


@pytest.mark.parametrize(
    "body",
    [
        'params: k=lambda wildcards: SAMPLES[wildcards.s]["kind"]' + SHOW,
        'params: k=lambda w, input, output: (len(input), os.path.dirname(output[0]))' + SHOW,
        'params: k=lambda w, threads, resources: threads * resources.mem_mb' + AGAIN + SHOW,
        'params: k=lambda w, output: Path(output[0]).with_suffix(".k")' + SHOW,
        ONE_AT_LEAST + 'shell: "echo {input} > {output}"',
        'shell: f"echo {len(SAMPLES)} > {{output}}"',
        'shell: "echo {SAMPLES[x][kind]} > {output}"',
        'params: k=3\n        script: "plain.py"',
        ONE_AT_LEAST + 'script: "plain.py"',
    ],
)  # fmt: skip
def test_direct_where_nothing_can_change(here: Path, body: str) -> None:
    (here / "plain.py").write_text("open(snakemake.output[0], 'w').write(snakemake.wildcards.s)\n")
    (here / "a.x").write_text("of before\n")
    group = Planned(here, _TWO.format(body=body), "b", "b.x", "--forceall")
    assert group.spec.direct, group.spec.why_respawned
    result = group.run()
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('params: k=lambda w, input: open(input[0]).read()' + SHOW, "params k"),
        ('params: k=sized' + SHOW, "params k"),
        ('params: k=called' + SHOW, "params k"),
        ('params: k=lambda w, input: max(input, key=os.path.getmtime)' + SHOW, "params k"),
        ('params: lambda w, input: Path(input[0]).stat().st_size' + SHOW_FIRST, "params"),
        ('params: k=lambda w, resources: resources.mem_mb' + SIZED + SHOW, "params k"),
        ('threads: sized\n        shell: "touch {output}"', "threads"),
        ('resources: mem_mb=sized\n        shell: "echo {resources.mem_mb} > {output}"', "mem_mb"),
        ('resources: mem_mb=sized\n        shell: "echo {resources.mem} > {output}"', "mem_mb"),
        ('resources: mem_mb=sized\n        script: "asks.py"', "mem_mb"),
        ('resources: mem_mb=sized\n        script: "hands_on.py"', "mem_mb"),
        ('shell: f"echo {Path(\'a.x\').stat().st_size} > {{output}}"', "expression"),
        ('input: "a.{s}.py"\n        script: "a.{wildcards.s}.py"', "its script"),
    ],
)  # fmt: skip
def test_second_snakemake_where_files_of_the_group_decide(here: Path, body: str, why: str) -> None:
    """The values of an earlier run would be taken: they are there, and another."""
    (here / "asks.py").write_text("print(snakemake.resources.mem_mb)\n")
    (here / "hands_on.py").write_text("from helper import f; f(snakemake)\n")
    for name in ("a.x", "a.x.py"):
        (here / name).write_text("1\n")
    if body.startswith("input"):
        snakefile = _TWO.format(body=body).replace('        input: "a.{s}"\n', "")
    else:
        snakefile = _TWO.format(body=body)
    group = Planned(here, snakefile, "b", "b.x", "--forceall")
    assert not group.spec.direct
    assert "rule b of the group" in group.spec.why_respawned
    assert why in group.spec.why_respawned


def test_defaults_that_depend_on_sizes_matter_only_where_they_are_read(here: Path) -> None:
    (here / "a.x").write_text("of before\n")
    defaults = ("--default-resources", "mem_mb=max(2*input.size_mb, 100)", "io=attempt")
    told = _TWO.format(body='shell: "echo {resources.mem_mb} > {output}"')
    untold = _TWO.format(body='shell: "echo {resources.io} > {output}"')
    assert Planned(here, untold, "b", "b.x", "--forceall", *defaults).spec.direct
    assert not Planned(here, told, "b", "b.x", "--forceall", *defaults).spec.direct


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("attempt * 3", True),
        ("threads * 100", True),
        ("'word'", True),
        ("n1-standard-4", True),
        ("/scratch/x", True),
        ("2 * input.size_mb", False),
        ("max(2 * input.size_mb, 1000) if input else 50000", False),
        ("exists('x')", False),
        ("open('x').read()", False),
        ("shutil.disk_usage('/').free", False),
    ],
)
def test_expressions(text: str, settled: bool) -> None:
    names = ("attempt", "input", "threads", "wildcards")
    assert is_settled_expression(text, names, ("exists", "shutil"), frozenset()) is settled


CONFIG: dict[str, Any] = {"template": "{input.size}", "level": 3}


@pytest.mark.parametrize(
    ("function", "settled"),
    [
        (lambda w: "{}.x".format(w.s), True),  # noqa: UP032
        (lambda w: CONFIG["level"] + 1, True),
        (lambda w: [str(i) for i in range(3)], True),
        (lambda w, input: CONFIG["template"].format(input=input), False),
        (lambda w, input: "{input.size}".format(input=input), False),  # noqa: UP032
        (lambda w: os.rename("a", "b"), False),
        (lambda w: Path("a").replace("b"), False),
        (lambda w: getattr(w, "s"), False),  # noqa: B009
        (lambda w: time.time(), False),
        (len, False),
    ],
)
def test_functions(function: Any, settled: bool) -> None:
    assert is_settled(function, frozenset({"s"})) is settled


def test_each_function_of_a_factory_is_reviewed() -> None:
    def calls(inner: Any) -> Any:
        return lambda w: inner(w)

    harmless, looks = calls(lambda w: "x"), calls(lambda w: os.path.getsize("x"))

    def both(w: Any) -> Any:
        return harmless(w), looks(w)

    assert is_settled(calls(harmless))
    assert not is_settled(both)


@pytest.mark.parametrize(
    ("checksum", "direct"), [("'0' * 32", True), ("lambda w: w.n", True), ("looked_up", False)]
)
def test_checksum_that_is_asked_for_when_the_job_has_ended(
    here: Path, checksum: str, direct: bool
) -> None:
    group = Planned(
        here,
        f"""
        def looked_up(wildcards):
            with open("sums") as file:
                return file.read()
        rule a:
            output: ensure("a.{{n}}", md5={checksum})
            group: "g"
            shell: "touch {{output}}"
        rule b:
            input: "a.1"
            output: "b"
            group: "g"
            shell: "touch {{output}}"
        """,
        "b",
        "b",
    )
    assert group.spec.direct is direct


def test_environment_of_members(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a setting or a prescript says of a variable holds, as for a job by itself."""
    monkeypatch.setenv("CHANGED", "")  # so that it goes when the test ends
    monkeypatch.delenv("CHANGED")
    group = Planned(
        here,
        """
        import os
        os.environ["CHANGED"] = "by the Snakefile"
        rule a:
            output: "a"
            group: "g"
            shell: "echo $CHANGED > {output}"
        rule b:
            input: "a"
            output: "b"
            group: "g"
            shell: "echo $CHANGED > {output}"
        """,
        "b",
        "b",
    )
    assert group.spec.env["CHANGED"] == "by the Snakefile"
    monkeypatch.setenv("CHANGED", "by the prescript")
    assert group.run().returncode == 0
    assert (here / "b").read_text() == "by the prescript\n"


def test_preview_of_targets_behind_two_hyphens(here: Path) -> None:
    (here / "Snakefile").write_text("rule a:\n    output: 'a'\n    shell: 'touch a'\n")
    (job,), unknown = planned_jobs([*EXECUTOR, "--", "a"], "a", wrapped=False)
    assert (job.spec.rule, unknown) == ("a", [])


def test_shallow_shadow_of_a_big_directory(here: Path) -> None:
    names = {f"{number}{'x' * 200}" for number in range(9000)}
    (here / "from").mkdir()
    (here / "to").mkdir()
    for name in names:
        (here / "from" / name).touch()
    script = f"{shadow.FUNCTIONS}\npipen_shadow={here}/to\npipen_link_all"
    subprocess.run(["bash", "-c", script], cwd=here / "from", check=True)
    assert set(os.listdir(here / "to")) == names


# -- what is asked for -------------------------------------------------------------------------


def asked(directory: Path, members: str, target: str, *arguments: str) -> Any:
    return Planned(directory, members, target, *arguments).spec.resources


_THREE = """
    rule all:
        input: expand("o.{{i}}", i=range(3))
    rule a:
        output: "o.{{i}}"
        threads: 2
        resources: {resources}
        shell: "touch {{output}}"
    """


def test_members_side_by_side(here: Path) -> None:
    resources = "nodes=1, tasks=2, mem_mb=100, disk_mb=10, gpu=1, runtime=5, mem_mb_per_cpu=7"
    found = asked(
        here,
        _THREE.format(resources=f"{resources}, exclusive=True, io=4, pipen_num_retries=2"),
        "a",
        *("--groups", "a=g", "--group-components", "g=3"),
    )
    assert (found.threads, found.mem_mb, found.disk_mb, found.gpus) == (6, 300, 30, 3)
    assert found.runtime == 5
    expected = {"nodes": 1, "tasks": 2, "mem_mb_per_cpu": 7, "io": 12, "pipen_num_retries": 2}
    assert {name: found.extra[name] for name in expected} == expected
    assert found.extra["exclusive"] is True


def test_what_a_run_may_use_makes_members_run_one_after_the_other(here: Path) -> None:
    found = asked(
        here,
        _THREE.format(resources="mem_mb=100, runtime=5, gpu=1"),
        "a",
        *("--groups", "a=g", "--group-components", "g=3", "--resources", "gpu=1"),
    )
    assert (found.threads, found.mem_mb, found.gpus, found.runtime) == (2, 100, 1, 15)


def test_members_in_series(here: Path) -> None:
    found = asked(
        here,
        """
        rule a:
            output: "a"
            threads: 4
            group: "g"
            resources: nodes=2, mem_mb=100, runtime=5, tasks=3
            shell: "touch {output}"
        rule b:
            input: "a"
            output: "b"
            group: "g"
            resources: nodes=1, mem_mb=300, runtime=7
            shell: "touch {output}"
        """,
        "b",
        "b",
    )
    assert (found.threads, found.mem_mb, found.runtime) == (4, 300, 12)
    assert (found.extra["nodes"], found.extra["tasks"]) == (2, 3)


def test_memory_of_members_that_count_it_differently(here: Path) -> None:
    snakefile = """
        rule all:
            input: "a", "b"
            output: touch("all")
            group: "g"
        rule a:
            output: "a"
            threads: 2
            group: "g"
            resources: mem_mb=100
            shell: "touch {output}"
        rule b:
            output: "b"
            threads: 3
            group: "g"
            resources: mem_mb_per_cpu=50
            shell: "touch {output}"
        """
    for name in ("a", "b"):  # of before: the defaults depend on their sizes
        (here / name).touch()
    found = asked(here, snakefile, "b", "all", "--forceall")
    assert (found.mem_mb, "mem_mb_per_cpu" in found.extra) == (250, False)
    defaults = ("--default-resources", "mem_mb_per_cpu=20")
    found = asked(here, snakefile, "b", "all", "--forceall", *defaults)
    assert (found.mem_mb, "mem_mb_per_cpu" in found.extra) == (250, False)


def test_only_defaults_ask_for_memory(here: Path) -> None:
    arguments = ("--groups", "a=g", "--group-components", "g=3", "--default-resources")
    found = asked(here, _THREE.format(resources="io=1"), "a", *arguments, "mem_mb_per_cpu=20")
    assert found.extra["mem_mb_per_cpu"] == 20
    assert {"mem_mb", "mem_mb_per_cpu"} <= found.defaulted
    own = _THREE.format(resources="mem_mb=100")
    found = asked(here, own, "a", *arguments, "mem_mb_per_cpu=20")
    assert found.mem_mb == 300
    assert "mem_mb" not in found.defaulted
    assert "mem_mb_per_cpu" in found.defaulted


_TEXTS = """
    rule a:
        output: "a"
        group: "g"
        resources: partition="x"
        shell: "touch {{output}}"
    rule b:
        input: "a"
        output: "b"
        group: "g"
        resources: {resources}
        shell: "touch {{output}}"
    """


def test_texts_that_differ_are_refused_before_anything_runs(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Snakemake itself says so when the group is ready, maybe hours later."""
    message = (
        "Resource partition is a text and must be the same for all jobs of a group, but in group "
        "g it is 'x' for a, 'y' for b."
    )
    with pytest.raises(UserError):
        Planned(here, _TEXTS.format(resources='partition="y"'), "b", "b")
    assert message in capfd.readouterr().err
    found = asked(here, _TEXTS.format(resources="io=1"), "b", "b")
    assert found.extra["partition"] == "x"


@pytest.mark.parametrize(
    ("resources", "seconds"),
    [('pipen_timeout="2m"', 240), ("pipen_timeout=60", 120), ("io=1", 0)],
)
def test_timeouts_of_members_in_series_are_added_up(
    here: Path, resources: str, seconds: float
) -> None:
    snakefile = _TEXTS.format(resources=resources).replace('partition="x"', resources)
    assert Planned(here, snakefile, "b", "b").spec.timeout == seconds


def test_counts_in_texts() -> None:
    assert _times("gpu:a100:2,disk:10G,gpu", 3) == "gpu:a100:6,disk:30G,gpu:3"
    assert _times("gpu", 1) == "gpu"


def test_protected_outputs_of_a_failed_group_can_be_made_again(here: Path) -> None:
    from pipen_executors.group import unprotect

    class Job:
        protected_output = ("f", "d")

    class Group:
        jobs = (Job(),)

    (here / "d/e").mkdir(parents=True)
    (here / "d/e/x").touch()
    (here / "f").touch()
    for path in ("d/e/x", "d/e", "d", "f"):
        os.chmod(path, 0o555)
    unprotect(Group())
    assert all(os.stat(path).st_mode & stat.S_IWUSR for path in ("d/e", "d", "f"))
