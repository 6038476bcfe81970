"""What surrounds the command: variables, job scripts, pre- and postscripts."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from .base import ConformanceBase
from .harness import Workflow
from .kinds import BOTH

SECRET = 's3cr\'et "q" $HOME `id`\n\\second\tline! ☃ end'
MARK = b"s3cr"


class Environment(ConformanceBase):
    """Variables."""

    @BOTH
    def test_envvars_arrive_and_stay_secret(self, workflow: Workflow, execution: str) -> None:
        """Not in a file that others can read, not in the log, not on a command line."""
        self.needs_shared_files()
        workflow.snakefile(
            """
            envvars: "SECRET"
            rule a:
                output: "a.out"
                shell:
                    "touch started; until [ -e go ]; do sleep 0.05; done; "
                    "printf %s \\"$SECRET\\" > {output}"
            """
        )
        process = workflow.start(
            "--verbose", *self.backend.option("execution", execution), env={"SECRET": SECRET}
        )
        process.wait_for(lambda: workflow.exists("started"), "the job's start")
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert MARK not in path.read_bytes(), path
            except (FileNotFoundError, ProcessLookupError):
                continue
        workflow.file("go")
        result = process.wait().ok()
        assert workflow.read("a.out") == SECRET
        assert MARK.decode() not in result.text
        for path in (workflow.dir / ".snakemake").rglob("*"):
            if path.is_file() and MARK in path.read_bytes():
                inside = [path, *path.relative_to(workflow.dir).parents][:-1]
                modes = [(workflow.dir / part).stat().st_mode for part in inside]
                assert not all(mode & (stat.S_IROTH | stat.S_IRGRP) for mode in modes), path
                assert not path.stat().st_mode & (stat.S_IROTH | stat.S_IRGRP), path

    def test_missing_envvar_is_told_before_any_job(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            envvars: "PIPEN_TEST_MISSING"
            rule a:
                output: "a.out"
                shell: "touch {output}"
            """
        )
        workflow.run().failed().has("PIPEN_TEST_MISSING")
        assert not workflow.exists("a.out")

    @BOTH
    def test_changes_of_the_environment_in_the_snakefile(
        self, workflow: Workflow, execution: str
    ) -> None:
        workflow.snakefile(
            r"""
            import os
            os.environ["ADDED"] = "it's \"$x\" `y`\nsecond"
            os.environ["CHANGED"] = "new"
            os.environ.pop("REMOVED", None)
            os.environ["PATH"] = os.getcwd() + "/bin:" + os.environ["PATH"]
            shell.prefix("set -euo pipefail; PREFIXED=yes; ")
            rule a:
                output: "a.out"
                shell:
                    "{{ printf '%s|' \"$ADDED\" \"$CHANGED\" \"${{REMOVED-gone}}\" $PREFIXED; "
                    "my-tool; }} > {output}"
            """
        )
        workflow.file("bin/my-tool", "#!/bin/sh\necho mine\n", mode=0o755)
        workflow.run(
            *self.backend.option("execution", execution),
            env={"CHANGED": "old", "REMOVED": "there"},
        ).ok()
        expected = 'it\'s "$x" `y`\nsecond|new|gone|yes|mine\n'
        if not self.backend.local and execution == "direct":
            # A node has an environment of its own; only what the Snakefile says is ours.
            assert workflow.read("a.out").split("|")[0:2] == expected.split("|")[0:2]
        assert workflow.read("a.out") == expected

    @BOTH
    def test_precommand_jobscript_and_jobname(self, workflow: Workflow, execution: str) -> None:
        self.needs_shared_files()
        workflow.snakefile(
            r"""
            rule a:
                output: "a {n}.out"
                shell: "echo \"$FROM_PRE '$FROM_SCRIPT' {{ok}}\" > {output:q}"
            """
        )
        workflow.file(
            "js.sh",
            """\
            #!/bin/sh
            # properties = {properties}
            export FROM_SCRIPT='a  b'
            {exec_job}
            echo after >> after
            """,
        )
        workflow.run(
            *("--precommand", "export FROM_PRE='c  d'", "--jobscript", "js.sh"),
            *("--jobname", "my.{rule}.{jobid}"),
            *self.backend.option("execution", execution),
            "a 1.out",
        ).ok()
        assert workflow.read("a 1.out") == "c  d 'a  b' {ok}\n"
        assert workflow.read("after") == "after\n"

        workflow.file("bad.sh", "#!/bin/sh\n{nonsense}\n{exec_job}\n")
        result = workflow.run("--jobscript", "bad.sh", "a 2.out").failed()
        result.has("--jobscript", "nonsense")


class Scripts(ConformanceBase):
    """Prescript and postscript."""

    @BOTH
    def test_prescript_and_postscript(self, workflow: Workflow, execution: str) -> None:
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: "good.out", "bad.out", "own.out"
            rule good:
                output: "good.out"
                shell: "echo \\"$FROM_PRE\\" > {output}"
            rule bad:
                output: "bad.out"
                shell: "exit 21"
            rule own:
                output: "own.out"
                resources:
                    pipen_prescript="export FROM_PRE=mine",
                    pipen_postscript=""
                shell: "echo $FROM_PRE > {output}"
            """
        )
        result = workflow.run(
            "--keep-going",
            *self.backend.option("prescript", 'export FROM_PRE="it\'s  $((1 + 1))"'),
            *self.backend.option(
                "postscript", 'echo "$rc" >> "post.$(basename "$(dirname "$PWD/x")").$rc"; exit 77'
            ),
            *self.backend.option("execution", execution),
        ).failed()
        assert workflow.read("good.out") == "it's  2\n"
        assert workflow.read("own.out") == "mine\n"
        assert [failure.rule for failure in result.failures()] == ["bad"]
        assert workflow.job("good").rc == 0, "exit in a postscript does not lose the job"
        posts = {path.name: path.read_text() for path in workflow.glob("post.*")}
        (good,) = (name for name in posts if name.endswith(".0"))
        assert good.startswith("post.work")
        assert posts.pop(good) == "0\n"
        (failed,) = posts.values()
        assert failed.strip() == "21" if execution == "direct" else int(failed)

    @pytest.mark.parametrize(
        "prescript",
        ["echo on >&2; exit 4", "set -e; false", "exit 0", "echo 'unclosed"],
    )
    def test_prescript_that_ends_the_job(self, workflow: Workflow, prescript: str) -> None:
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "touch {output}"
            """
        )
        failure = workflow.run(*self.backend.option("prescript", prescript)).failed().failure("a")
        assert failure.message.startswith("the prescript failed"), failure.message
        assert not workflow.exists("a.out")

    def test_scripts_see_the_job_and_cannot_break_the_wrapper(self, workflow: Workflow) -> None:
        """Shell options, traps and changed directories stay with the one that set them."""
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: expand("{n}.out", n=range(5))
            rule a:
                output: "{n}.out"
                params: lambda wildcards: wildcards.n
                resources:
                    pipen_prescript=lambda wildcards: [
                        "set -euo pipefail",
                        "trap 'echo trapped >> traps' EXIT",
                        "rc=5 pipen_again=1; unset HOSTNAME; set -f; IFS=x; shopt -s extglob",
                        "set -eu; trap 'echo trapped $rc >> traps; exit 3' EXIT",
                        "trap '' TERM INT; exec > /dev/null 2>&1; set -x",
                    ][int(wildcards.n)]
                shell: "echo {params} > {output}; [ {params} != 3 ]"
            """
        )
        result = workflow.run("--keep-going", timeout=60)
        failure = result.failure("a")
        assert failure.facts["output"] == "3.out"
        assert failure.message == "the command failed, exit status 1"
        assert workflow.lines("traps") in (["trapped", "trapped 1"], ["trapped 1", "trapped"])
        for number in (0, 1, 2, 4):
            assert workflow.read(f"{number}.out") == f"{number}\n"
        workflow.assert_nothing_runs()
