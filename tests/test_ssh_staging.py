"""pipen-ssh on two real machines that share no files with this one.

The conformance suite, where jobs of a test that looks for what they leave beside their outputs
run on one of them, and what there is to carrying files.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conformance.base import ConformanceBase
from .conformance.cancelling import Cancelling
from .conformance.ending import Failures, Success, Timeouts
from .conformance.environment import Environment, Scripts
from .conformance.extremes import Extremes
from .conformance.harness import Workflow, wait_for
from .conformance.hooking import Hooks
from .conformance.kinds import BOTH, Code, Kinds, Outputs
from .conformance.resuming import Resuming
from .conformance.settings import BadSettings, Execution, GoodSettings, Metadata
from .conformance.strategies import Halt, KeepGoing, Retries
from .services.ssh import SshHosts
from .ssh_support import PLAIN, ApartWorkflow, hosts_or_skip, staging_on

pytestmark = pytest.mark.ssh

NAMES = ["a b", "q'\"$(touch pwned)`id`", "new\nline", "tail\n", "é☃", "-x", "*?[x]", "a\\b;c&d|e"]


@pytest.fixture(scope="module")
def machines() -> Iterator[SshHosts]:
    """Machines where no path of this one exists, beside the Python of the tests."""
    with hosts_or_skip(private=True, python=True) as running:
        yield running


class Apart(ConformanceBase):
    """The suite on machines that share nothing with this one."""

    backend = PLAIN

    @pytest.fixture(scope="class", autouse=True)
    def on_hosts(self, request: pytest.FixtureRequest, machines: SshHosts) -> None:
        request.cls.backend = staging_on(machines)

    @pytest.fixture
    def workflow(self, tmp_path: Path, machines: SshHosts) -> Iterator[ApartWorkflow]:
        self.machines = machines
        self.apart = ApartWorkflow(tmp_path, machines)
        try:
            yield self.apart
        finally:
            self.apart.close()

    def needs_shared_files(self) -> None:
        """See what the jobs of the test leave where they run, on one machine."""
        self.apart.pin()


class TestSshStaging(Apart, Success, Failures, Retries, Outputs, Kinds):
    """What carrying files can do wrong."""

    __test__ = True

    def kill_wrapper(self, workflow: Workflow) -> None:
        """Kill it there: it has another process id here."""
        for name in ("wrapper", "pid"):  # the second may have been ended by the wrapper's guard
            kill = ("kill", "-s", "KILL", workflow.read(name).strip())
            self.machines.run("big1", *kill, check=name == "wrapper")

    def test_retry_has_a_fresh_shadow_directory(self, workflow: Workflow) -> None:
        """The rule writes to a path of this machine."""
        self.apart.lead()
        super().test_retry_has_a_fresh_shadow_directory(workflow)


@pytest.mark.slow
class TestSshStagingFurther(
    Apart,
    Timeouts,
    KeepGoing,
    Halt,
    Cancelling,
    Code,
    Environment,
    Scripts,
    Hooks,
    Extremes,
    BadSettings,
    GoodSettings,
    Execution,
    Metadata,
    Resuming,
):
    """The rest of the suite."""

    __test__ = True

    def test_all_kinds_of_jobs_are_known_again(self, workflow: Workflow) -> None:
        """The rule with a shadow directory writes to a path of this machine."""
        self.apart.lead()
        super().test_all_kinds_of_jobs_are_known_again(workflow)

    @BOTH
    def test_changes_of_the_environment_in_the_snakefile(
        self, workflow: Workflow, execution: str
    ) -> None:
        """The tool in the ``PATH`` of the Snakefile is no input of the rule: it is not sent."""
        self.apart.lead()
        self.apart.put(self.apart.file("bin/my-tool", "#!/bin/sh\necho mine\n", mode=0o755))
        super().test_changes_of_the_environment_in_the_snakefile(workflow, execution)

    def test_scripts_and_run_rules(self, workflow: Workflow) -> None:
        """A module beside a script is no input of the rule: it is not sent."""
        self.apart.lead()
        self.apart.put(self.apart.file("scripts/helper.py", "helped = 'helped'\n"))
        super().test_scripts_and_run_rules(workflow)


@pytest.fixture
def hosts(machines: SshHosts) -> Iterator[SshHosts]:
    """Machines that are whole again after the test."""
    yield machines
    for name in machines.machines:
        machines.plug_in(name)


@pytest.fixture
def workflow(tmp_path: Path, hosts: SshHosts) -> Iterator[ApartWorkflow]:
    workflow = ApartWorkflow(tmp_path, hosts)
    try:
        yield workflow
    finally:
        workflow.close()


class TestThereAndBack:
    def test_chain_over_both_machines(self, workflow: ApartWorkflow) -> None:
        """Files, directories and logs; times and modes; absolute paths and ones outside."""
        outside = workflow.home / "outside dir"
        outside.mkdir()
        (outside / "in.txt").write_text("outside\n")
        workflow.file("data/in.txt", "inside\n")
        workflow.snakefile(
            f"""
            rule all:
                input: "last.txt", {str(outside / "out.txt")!r}
            rule first:
                input: inside="data/in.txt", outside={str(outside / "in.txt")!r}
                output: "mid/a.txt", directory("mid/dir"), exe="mid/run.sh"
                log: "logs/first.log"
                resources: pipen_server="big1"
                shell:
                    "echo log > {{log}}; cat {{input.inside}} {{input.outside:q}} > {{output[0]}}; "
                    "echo $HOSTNAME >> {{output[0]}}; mkdir -p mid/dir/sub/empty; "
                    "echo x > mid/dir/sub/x; ln -s x mid/dir/sub/link; chmod 750 mid/dir/sub; "
                    "echo 'echo ran' > {{output.exe}}; chmod 755 {{output.exe}}; "
                    "touch -d '2020-01-02 03:04:05.678901234' mid/dir/sub/x"
            rule second:
                input: "mid/a.txt", "mid/dir", "mid/run.sh"
                output: "last.txt", {str(outside / "out.txt")!r}
                resources: pipen_server="big2"
                shell:
                    "cat mid/a.txt mid/dir/sub/link > {{output[0]}}; "
                    "./mid/run.sh >> {{output[0]}}; "
                    "[ -d mid/dir/sub/empty ]; cp {{output[0]}} {{output[1]:q}}"
            """
        )
        workflow.run().ok()
        assert workflow.lines("last.txt") == ["inside", "outside", "big1", "x", "ran"]
        assert (outside / "out.txt").read_text() == workflow.read("last.txt")
        assert workflow.read("logs/first.log") == "log\n"
        assert workflow.path("mid/run.sh").stat().st_mode & 0o777 == 0o755
        assert workflow.path("mid/dir/sub").stat().st_mode & 0o777 == 0o750
        assert os.readlink(workflow.path("mid/dir/sub/link")) == "x"
        assert workflow.path("mid/dir/sub/x").stat().st_mtime_ns % 10**9 == 678901234
        workflow.run().ok().has("Nothing to be done")

    def test_hostile_names(self, workflow: ApartWorkflow) -> None:
        names = [f"in/{name}" for name in NAMES]
        for name in names:
            workflow.file(name, name)
        workflow.snakefile(
            f"""
            NAMES = {NAMES!r}
            wildcard_constraints:
                name=r"[^/]+"
            rule all:
                input: ["out/" + name + "/" + name for name in NAMES]
            rule a:
                input: "in/{{name}}"
                output: "out/{{name}}/{{name}}"
                shell: "cat {{input:q}} > {{output:q}}"
            """
        )
        workflow.run().ok()
        for name in NAMES:
            assert workflow.read(f"out/{name}/{name}") == f"in/{name}"
        assert not workflow.exists("pwned")

    def test_kinds_of_files(self, workflow: ApartWorkflow, hosts: SshHosts) -> None:
        """As with a job of this machine: modes, times, links, holes, and what may not be read."""
        tree = workflow.path("data")
        (tree / "sub" / "empty").mkdir(parents=True)
        for name in ("-dash", "two\nlines", "\udcff", "sub/plain"):
            (tree / name).write_text("x\n")
        (tree / "sub" / "run").write_text("#!/bin/sh\necho ran\n")
        (tree / "sub" / "run").chmod(0o755)
        (tree / "sub" / "locked").write_text("locked\n")
        (tree / "sub" / "locked").chmod(0o444)
        os.link(tree / "sub" / "plain", tree / "hard")
        (tree / "loop").symlink_to(".")
        (tree / "outside").symlink_to(workflow.file("elsewhere.txt", "elsewhere\n"))
        os.utime(tree / "sub" / "plain", ns=(1, 1_600_000_000_123_456_789))
        (tree / "sub").chmod(0o555)
        with workflow.path("holes").open("wb") as stream:
            stream.truncate(50_000_000)
        workflow.file("kept.txt", "kept\n")
        workflow.snakefile(
            """
            rule all:
                input: "copy", "said", "holes.out", "kept.txt.done"
            rule copy:
                input: "data"
                output: directory("copy"), protected("said"), temp("temporary")
                shell:
                    "find {input} -type f | wc -l > said; ./{input}/sub/run >> said; "
                    "cat {input}/loop/loop/outside >> said; cp -a {input} {output[0]}; "
                    "rm {output[0]}/outside; ln -s ../data/hard {output[0]}/to-input; "
                    "touch temporary; chmod 4775 {output[0]}/hard"
            rule holes:
                input: "holes", "temporary"
                output: "holes.out"
                shell: "cp {input[0]} {output}"
            rule update:
                input: "copy"
                output: update("kept.txt"), touch("kept.txt.done")
                shell: "echo more >> kept.txt"
            """
        )
        try:
            workflow.run(*PLAIN.option("servers", "big1,slots=4")).ok()
            workflow.run().ok().has("Nothing to be done")
            inside = f"{workflow.tree()}/data"
            before = hosts.run("big1", "stat", "-c", "%i", inside)
            workflow.run("--forcerun", "copy", *PLAIN.option("servers", "big1,slots=4")).ok()
            assert hosts.run("big1", "stat", "-c", "%i", inside) == before, "it is not sent again"
        finally:
            (tree / "sub").chmod(0o755)
        copy = workflow.path("copy")
        assert workflow.lines("said") == ["9", "ran", "elsewhere"]
        assert workflow.path("said").stat().st_mode & 0o777 == 0o444
        assert not workflow.exists("temporary")
        assert workflow.read("kept.txt").startswith("kept\nmore\n")
        assert (copy / "sub").stat().st_mode & 0o7777 == 0o555
        assert (copy / "sub" / "run").stat().st_mode & 0o7777 == 0o755
        assert (copy / "hard").stat().st_mode & 0o7777 == 0o775
        assert (copy / "sub" / "plain").stat().st_mtime_ns == 1_600_000_000_123_456_789
        assert (copy / "two\nlines").read_text() == (copy / "\udcff").read_text() == "x\n"
        assert os.readlink(copy / "loop") == "."
        assert os.readlink(copy / "to-input") == "../data/hard"
        assert workflow.path("holes.out").stat().st_size == 50_000_000
        assert workflow.path("holes.out").stat().st_blocks < 1000

    def test_links_to_other_files_do_not_come(self, workflow: ApartWorkflow) -> None:
        """They would be followed where the directory is sent next, to another file of here."""
        workflow.snakefile(
            """
            rule a:
                output: directory("d")
                shell: "mkdir {output}; ln -s ../../../.ssh/id_ed25519 {output}/link"
            """
        )
        message = workflow.run().failed().failure("a").message
        assert "'d/link' is a symbolic link to '../../../.ssh/id_ed25519'" in message
        assert "let the rule copy what it points at" in message
        assert not workflow.exists("d")

    def test_as_in_the_working_directory(self, workflow: ApartWorkflow, hosts: SshHosts) -> None:
        """What a job finds and leaves is what it would be here."""
        outside = workflow.home / "outside.txt"
        outside.write_text("outside\n")
        workflow.file("say.sh", 'cat "${snakemake_input[0]}" > "${snakemake_output[0]}"\n')
        workflow.file(
            "say.py",
            """\
            with open(snakemake.output[0], "w") as out, open(snakemake.input[0]) as text:
                out.write(text.read())
            """,
        )
        workflow.snakefile(
            f"""
            import os
            rule all:
                input: "sh.out", "py.out", "link", "named", "filled"
            rule bash:
                input: {str(outside)!r}
                output: "sh.out"
                log: "logs/bash.log"
                shadow: "minimal"
                script: "say.sh"
            rule python:
                input: "sh.out"
                output: "py.out"
                shadow: "shallow"
                script: "say.py"
            rule links:
                input: "py.out"
                output: target="target", to_target="link", same="same", copied="copy"
                shell:
                    "echo made > {{output.target}}; ln -s target {{output.to_target}}; "
                    "ln -s $PWD/{{input}} {{output.same}}; "
                    "echo elsewhere > aside; ln -s aside {{output.copied}}"
            rule names:
                output: "named"
                params: name=os.path.basename(os.getcwd())
                shell: "[ {{params.name}} = ${{{{PWD##*/}}}} ] && touch {{output}}"
            rule filled:
                output: touch("filled"), touch("empty")
                shell: "echo more > filled"
            """
        )
        workflow.run().ok()
        assert workflow.read("py.out") == "outside\n"
        assert os.readlink(workflow.path("link")) == "target"
        assert os.readlink(workflow.path("same")) == "py.out"
        assert not workflow.path("copy").is_symlink()
        assert workflow.read("copy") == "elsewhere\n"
        assert workflow.read("filled") == "more\n"
        assert workflow.read("empty") == ""
        for machine in hosts.machines:  # what is in a shadow directory is to be thrown away
            shadows = f"{workflow.tree()}/.snakemake/shadow"
            assert not hosts.run(machine, "ls", "-A", shadows, check=False)

    def test_nothing_is_sent_twice(self, workflow: ApartWorkflow, hosts: SshHosts) -> None:
        """A job goes where its inputs lie, and an unchanged file stays where it is."""
        workflow.file("big.in", b"x" * 100_000)
        workflow.snakefile(
            """
            rule all:
                input: "a.out", "b.out", "c.out"
            rule a:
                input: "big.in"
                output: "a.out"
                shell: "cp {input} {output}; echo $HOSTNAME > where.a; stat -c %i {input} >&2"
            rule b:
                input: "a.out"
                output: "b.out"
                shell: "echo $HOSTNAME > {output}; stat -c %i big.in >&2"
            rule c:
                input: "b.out", "big.in"
                output: "c.out"
                resources: pipen_server="big1"
                shell: "stat -c %i big.in > {output}"
            """
        )
        workflow.run().ok()
        first = workflow.job("a").read("job.stderr")
        assert workflow.job("b").read("job.stderr") == first, "it ran where its input lay"
        workflow.run("--forcerun", "c").ok()
        where = workflow.read("b.out").strip()
        inode = hosts.run(where, "stat", "-c", "%i", f"{workflow.tree()}/big.in")
        assert inode == first, "another run sends nothing again either"
        workflow.file("big.in", b"y" * 100_000)
        workflow.run("--forceall").ok()
        assert workflow.read("a.out") == "y" * 100_000

    def test_script_in_another_language(self, workflow: ApartWorkflow) -> None:
        """The script and its inputs go along; nothing but bash is on the machine."""
        workflow.file("in.txt", "text\n")
        workflow.file(
            "say.sh",
            """\
            #!/usr/bin/env bash
            cat "${snakemake_input[0]}" > "${snakemake_output[0]}"
            echo "${snakemake_wildcards[n]}" >> "${snakemake_output[0]}"
            """,
        )
        workflow.snakefile(
            """
            rule all:
                input: "1.out"
            rule a:
                input: "in.txt"
                output: "{n}.out"
                script: "say.sh"
            """
        )
        workflow.run().ok()
        assert workflow.lines("1.out") == ["text", "1"]

    def test_staging_is_asked_for_by_name(self, workflow: ApartWorkflow) -> None:
        workflow.file("in.txt", "text\n")
        workflow.snakefile(
            """
            rule a:
                input: "in.txt"
                output: "a.out"
                shell: "cp {input} {output}"
            """
        )
        usage = (
            "input-output persistence source-cache sources software-deployment storage-local-copies"
        )
        arguments = ["--shared-fs-usage", *usage.split(), *PLAIN.option("staging", "sftp")]
        workflow.run(*arguments).ok()
        assert workflow.read("a.out") == "text\n"
        workflow.run(*PLAIN.option("staging", "rsync")).failed().has(
            "--pipen-ssh-staging is 'rsync': expected one of none, sftp"
        )


class TestFaults:
    def test_full_disk(self, workflow: ApartWorkflow, hosts: SshHosts) -> None:
        """On the way there, and in the job; nothing here is damaged."""
        for name in ("big1", "big2"):
            hosts.run(name, "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", "/srv")
        try:
            workflow.file("large.in", os.urandom(4_000_000))
            workflow.snakefile(
                """
                rule all:
                    input: "sent.out", "made.out"
                rule sent:
                    input: "large.in"
                    output: "sent.out"
                    shell: "touch {output}"
                rule made:
                    output: "made.out"
                    shell: "head -c 4000000 /dev/zero > {output}"
                """
            )
            servers = ("big1,slots=4,workdir=/srv/x", "big2,slots=4,workdir=/srv/x")
            result = workflow.run("--keep-going", *PLAIN.option("servers", *servers)).failed()
        finally:
            for name in ("big1", "big2"):
                hosts.run(name, "umount", "--lazy", "/srv")
        message = result.failure("sent").message
        assert "could not be submitted" in message
        assert "No space left on device" in message
        # Its stderr has no room either, but the name of an event has.
        assert result.failure("made").message == "the command failed, exit status 1"
        assert workflow.path("large.in").stat().st_size == 4_000_000
        assert not workflow.exists("made.out")

    def test_broken_transfer_leaves_no_half_output(
        self, workflow: ApartWorkflow, hosts: SshHosts
    ) -> None:
        """What is on its way is not there until it is whole; it is fetched again by itself."""
        size = 300_000_000
        workflow.snakefile(
            f"""
            rule a:
                output: "a.out"
                shell: "head -c {size} /dev/zero | tr '\\\\0' x > {{output}}; echo x >> effects"
            """
        )
        process = workflow.start(*PLAIN.option("servers", "big1"))

        def partial() -> list[Path]:
            return [p for p in workflow.dir.glob(".a.out*") if p.stat().st_size > 1_000_000]

        process.wait_for(partial, "the beginning of the transfer")
        assert not workflow.exists("a.out")
        hosts.drop_connections("big1")
        process.says("The connection to big1 was lost")
        assert not workflow.exists("a.out")
        process.wait().ok()
        assert workflow.path("a.out").stat().st_size == size
        assert hosts.run("big1", "cat", f"{workflow.tree()}/effects") == "x\n"
        assert not list(workflow.dir.glob(".a.out*"))

    def test_killed_run_is_taken_up(self, workflow: ApartWorkflow, hosts: SshHosts) -> None:
        """Eight jobs on two machines; half of them end while nobody looks."""
        workflow.snakefile(
            """
            rule all:
                input: expand("out.{n}", n=range(8))
            rule a:
                output: "out.{n}"
                shell:
                    "echo {wildcards.n} >> effects; "
                    "until [ -e go.$HOSTNAME ]; do sleep 0.05; done; echo $HOSTNAME > {output}"
            """
        )

        def effects() -> list[str]:
            text = "".join(
                hosts.run(name, "cat", f"{workflow.tree()}/effects", check=False)
                for name in ("big1", "big2")
            )
            return sorted(text.split())

        process = workflow.start(jobs=8)
        process.wait_for(lambda: len(effects()) == 8, "the start of eight jobs")
        process.kill9()
        hosts.run("big1", "touch", f"{workflow.tree()}/go.big1")
        ended = f"ls -d {workflow.tree()}/.snakemake/pipen/ssh/.events/*.end.0 | wc -l"
        wait_for(
            lambda: hosts.run("big1", "bash", "-c", ended, check=False).strip() == "4",
            "the end of four jobs",
        )
        process = workflow.start("--nolock", "--rerun-incomplete", jobs=8)
        process.says("taken up again", times=4)
        process.says("collected", times=4)
        hosts.run("big2", "touch", f"{workflow.tree()}/go.big2")
        process.wait().ok()
        assert effects() == sorted(map(str, range(8)))
        names = sorted(workflow.read(f"out.{n}").strip() for n in range(8))
        assert names == ["big1"] * 4 + ["big2"] * 4
        workflow.assert_nothing_runs()

    def test_cancel_leaves_nothing(self, workflow: ApartWorkflow, hosts: SshHosts) -> None:
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "touch started; sleep 100 & wait"
            """
        )
        process = workflow.start(*PLAIN.option("servers", "big1"))
        started = shlex.quote(f"{workflow.tree()}/started")
        process.wait_for(
            lambda: hosts.run("big1", "bash", "-c", f"ls {started}", check=False), "the job's start"
        )
        assert workflow.processes()
        process.interrupt()
        process.wait().failed()
        workflow.assert_nothing_runs()

    @pytest.mark.slow
    def test_job_of_a_lost_machine_is_retried_elsewhere(
        self, workflow: ApartWorkflow, hosts: SshHosts
    ) -> None:
        workflow.file("in.txt", "text\n")
        workflow.snakefile(
            """
            rule a:
                input: "in.txt"
                output: "a.out"
                shell:
                    "echo $HOSTNAME > {output}; touch started; "
                    "[ $HOSTNAME = big2 ] || sleep 100"
            """
        )
        arguments = [
            *PLAIN.option("host_timeout", "3s"),
            *PLAIN.option("error_strategy", "retry"),
        ]
        process = workflow.start(*arguments)
        process.wait_for(
            lambda: hosts.run("big1", "ls", f"{workflow.tree()}/started", check=False),
            "the job's start",
        )
        hosts.cut("big1")
        process.wait(90).ok().has("host lost")
        assert workflow.read("a.out") == "big2\n"

    def test_rule_that_needs_snakemake_there(self, workflow: ApartWorkflow) -> None:
        """It is said which rule needs it, and why; here a login does not find it."""
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                run:
                    open(output[0], "w").close()
            """
        )
        result = workflow.run(*PLAIN.option("prescript", "PATH=/usr/bin:/bin")).failed()
        message = result.failure("a").message
        assert "rule a needs Snakemake on big" in message
        assert "a run: block is Python inside the Snakefile" in message


class TestSecondSnakemake:
    """Where machines have Snakemake, though no files in common with this one."""

    @pytest.mark.parametrize("by", ["directive", "option"])
    def test_snakefile_outside_of_the_working_directory(
        self, workflow: ApartWorkflow, by: str
    ) -> None:
        """It is found where it was sent to, as the files that it includes and --configfile."""
        workflow.file("rules/names.smk", "NAME = config['name']\n")
        workflow.file("config.yaml", "name: given\n")
        workflow.snakefile(
            ("workdir: 'below'\n" if by == "directive" else "")
            + """
include: "rules/names.smk"
rule a:
    output: "a.out"
    run:
        open(output[0], "w").write(NAME)
"""
        )
        option = ("--directory", "below") if by == "option" else ()
        workflow.run("--configfile", "config.yaml", *option).ok()
        assert workflow.read("below/a.out") == "given"

    def test_run_rule_and_python_script(self, workflow: ApartWorkflow) -> None:
        workflow.file("in.txt", "text\n")
        workflow.file("config.yaml", "word: configured\n")
        workflow.file("rules/more.smk", "WORD = config['word']\n")
        workflow.file(
            "scripts/say.py",
            """\
            with open(snakemake.output[0], "w") as out, open(snakemake.input[0]) as text:
                out.write(text.read() + snakemake.wildcards.n)
            """,
        )
        workflow.snakefile(
            """
            configfile: "config.yaml"
            include: "rules/more.smk"
            rule all:
                input: "1.out", "user.txt"
            rule run:
                input: "in.txt"
                output: "mid.txt", touch("touched"), temp("used_up")
                group: "g"
                log: "logs/run.log"
                benchmark: "bench.tsv"
                run:
                    with open(output[0], "w") as out, open(input[0]) as text:
                        out.write(text.read() + WORD + "\\n")
                    print("logged", file=open(log[0], "w"))
                    shell("touch used_up")
            rule user:
                input: "used_up"
                output: "user.txt"
                group: "g"
                shell: "cp {input} {output}"
            rule script:
                input: "mid.txt", "touched"
                output: "{n}.out"
                script: "scripts/say.py"
            """
        )
        workflow.run().ok()
        assert workflow.lines("1.out") == ["text", "configured", "1"]
        assert workflow.lines("logs/run.log") == ["logged"]
        assert workflow.lines("bench.tsv")
        workflow.run().ok().has("Nothing to be done")
