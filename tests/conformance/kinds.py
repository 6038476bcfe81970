"""Kinds of outputs, rules and jobs that Snakemake has."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from .base import ConformanceBase
from .harness import Workflow, wait_for

BOTH = pytest.mark.parametrize("execution", ["direct", "snakemake"])
"""For what must not depend on who runs the command."""


class Outputs(ConformanceBase):
    """Flags of outputs."""

    @BOTH
    def test_flags_of_outputs(self, workflow: Workflow, execution: str) -> None:
        workflow.snakefile(
            """
            rule all:
                input: "final.out", "dir", "touched", "updated", "kept/deep/er.out"
            rule temporary:
                output: temp("tmp.out"), temp(directory("tmp.dir"))
                shell: "echo t > {output[0]}; mkdir -p {output[1]}; touch {output[1]}/x"
            rule guarded:
                input: "tmp.out", "tmp.dir"
                output: protected("guarded.out")
                shell: "ls {input[1]} | cat {input[0]} - > {output}"
            rule final:
                input: "guarded.out"
                output: ensure("final.out", non_empty=True)
                shell: "cp {input} {output}; chmod u+w {output}"
            rule into_directory:
                output: directory("dir")
                shell: "mkdir {output}; echo 1 > {output}/one; echo 2 > {output}/two"
            rule flagged:
                output: touch("touched")
                shell: "true"
            rule updates:
                output: update("updated")
                shell: "echo second >> {output}"
            rule nested:
                output: "kept/deep/er.out"
                shell: "echo n > {output}"
            """
        )
        workflow.file("updated", "first\n")
        workflow.run("--forcerun", "updates", *self.backend.option("execution", execution)).ok()
        assert not workflow.exists("tmp.out")
        assert not workflow.exists("tmp.dir")
        assert workflow.read("final.out") == "t\nx\n"
        mode = workflow.path("guarded.out").stat().st_mode
        assert not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
        assert (workflow.read("dir/one"), workflow.read("dir/two")) == ("1\n", "2\n")
        assert workflow.read("touched") == ""
        assert workflow.read("updated") == "first\nsecond\n"
        workflow.dry_run().has("Nothing to be done")

    def test_outputs_of_failed_jobs(self, workflow: Workflow) -> None:
        """What fails leaves no output behind, and takes nothing away that was there before."""
        workflow.snakefile(
            """
            rule all:
                input: "empty.out", "updated", "dir", "guarded.out"
            rule empty:
                output: ensure("empty.out", non_empty=True)
                shell: "touch {output}"
            rule updates:
                output: update("updated")
                shell: "echo partial >> {output}; exit 3"
            rule into_directory:
                output: directory("dir")
                shell: "mkdir {output}; echo 1 > {output}/one; exit 3"
            rule guarded:
                output: "guarded.out"
                shell: "touch {output}"
            """
        )
        workflow.file("updated", "first\n")
        workflow.file("guarded.out", "precious\n", mode=0o444)
        result = workflow.run("--keep-going", "--forcerun", "updates", "guarded").failed()
        result.has("empty.out")
        assert workflow.read("updated") == "first\n", "Snakemake brings back what was there"
        assert not workflow.exists("dir")
        if self.backend.user is not None or os.geteuid() != 0:  # nothing is protected from root
            assert workflow.read("guarded.out") == "precious\n"
            result.has("Write-protected output files for rule guarded")
        # Each failed for its own reason and stopped nobody else.
        assert {failure.rule for failure in result.failures()} >= {"updates", "into_directory"}

    @pytest.mark.parametrize("way", ["direct", "snakemake", "group"])
    def test_failed_update(self, workflow: Workflow, way: str) -> None:
        """The file of before is there again, whoever ran the job."""
        workflow.snakefile(
            f"""
            rule all:
                input: "updated", "other.out"
            rule updates:
                output: update("updated")
                {'group: "both"' if way == "group" else ""}
                shell: "echo partial >> {{output}}; exit 3"
            rule other:
                input: "updated"
                output: "other.out"
                {'group: "both"' if way == "group" else ""}
                shell: "touch {{output}}"
            """
        )
        workflow.file("updated", "first\n")
        arguments = [] if way == "group" else self.backend.option("execution", way)
        workflow.run("--keep-going", "--forcerun", "updates", *arguments).failed()
        assert workflow.read("updated") == "first\n"

    def test_keep_incomplete(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "echo half > {output}; exit 3"
            """
        )
        workflow.run("--keep-incomplete").failed()
        assert workflow.read("a.out") == "half\n"

    def test_pipe_and_service(self, workflow: Workflow) -> None:
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: "upper.out", "client.0.out", "client.1.out"
            rule produce:
                output: pipe("numbers")
                shell: "seq 1000 > {output}"
            rule consume:
                input: "numbers"
                output: "upper.out"
                shell: "wc -l < {input} > {output}"
            rule server:
                output: service("port")
                shell: "echo serving > {output}; while true; do sleep 0.2; done"
            rule client:
                input: "port"
                output: "client.{n}.out"
                shell: "cp {input} {output}"
            """
        )
        workflow.run(jobs=8).ok()
        assert workflow.read("upper.out").strip() == "1000"
        assert workflow.read("client.0.out") == workflow.read("client.1.out") == "serving\n"
        # Snakemake ends the shell of the service, and its sleep(1) ends by itself.
        wait_for(lambda: not workflow.processes(), "the end of the service")


class Kinds(ConformanceBase):
    """Groups, checkpoints, shadow, logs, benchmarks."""

    def test_groups(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule all:
                input: expand("c.{n}", n=range(3)), "f.out"
            rule a:
                output: temp("a.{n}")
                group: "chain"
                threads: 2
                shell: "echo a{wildcards.n} > {output}"
            rule b:
                input: "a.{n}"
                output: "b.{n}"
                group: "chain"
                shell: "cat {input} > {output}; echo b >> {output}"
            rule c:
                input: "b.{n}"
                output: "c.{n}"
                shell: "cp {input} {output}"
            rule d:
                output: "d.out"
                group: "bad"
                shell: "touch {output}"
            rule e:
                input: "d.out"
                output: "e.out"
                group: "bad"
                shell: "echo cause-in-group >&2; exit 11"
            rule f:
                input: "e.out"
                output: "f.out"
                shell: "touch {output}"
            """
        )
        result = workflow.run("--keep-going", "--group-components", "chain=2").failed()
        assert [workflow.read(f"c.{n}") for n in range(3)] == [f"a{n}\nb\n" for n in range(3)]
        assert not workflow.exists("a.0")
        assert not workflow.exists("f.out")
        result.has("cause-in-group")
        result.has("e.out")

    def test_groups_as_the_local_executor_runs_their_jobs(
        self, workflow: Workflow, tmp_path: Path
    ) -> None:
        """Each member at its own moment: outputs, logs, temp() files, values from files."""
        text = """
            rule all:
                input: "last", "told", "guarded"
            rule first:
                output: touch("made/first"), protected("guarded"), temp("moved"), "kept"
                log: "logs/first.log"
                group: "moments"
                shell: "touch {output[1]} {output[2]}; ls -d made logs > {output[3]}"
            rule second:
                input: rules.first.output
                output: "second"
                params: number=lambda wildcards, input: len(input)
                group: "moments"
                shell:
                    "ls made logs > {output}; stat -c %a guarded >> {output};"
                    "echo {params.number} >> {output}; mv moved also.moved"
            rule last:
                input: "second", "kept"
                output: ensure("last", non_empty=True)
                group: "moments"
                shell: "cat {input} > {output}; ls moved >> {output} || true"
            rule tell:
                output: "number"
                params: number=config["number"]
                group: "values"
                shell: "echo {params.number} > {output}"
            rule told:
                input: "number"
                output: "told"
                params: number=lambda wildcards, input: open(input[0]).read().strip()
                group: "values"
                shell: "echo {params.number} > {output}"
            """
        reference = Workflow(tmp_path / "reference", self.backend)
        for one, executor in ((reference, "local"), (workflow, None)):
            one.snakefile(text)
            for number in (1, 2):
                if (guarded := one.path("guarded")).exists():
                    guarded.chmod(0o644)
                one.run("--forceall", "--config", f"number={number}", executor=executor).ok()
                assert one.read("told") == f"{number}\n"
        for name in ("kept", "second", "last"):
            assert workflow.read(name) == reference.read(name)
        assert workflow.path("guarded").stat().st_mode == reference.path("guarded").stat().st_mode
        assert workflow.exists("logs/first.log")
        assert not workflow.exists("moved")
        workflow.dry_run("--config", "number=2").has("Nothing to be done")

    @BOTH
    def test_checkpoints(self, workflow: Workflow, execution: str) -> None:
        workflow.snakefile(
            """
            import os
            def parts(wildcards):
                folder = checkpoints.split.get().output[0]
                return expand("done/{i}", i=sorted(os.listdir(folder)))
            rule all:
                input: "gathered"
            checkpoint split:
                output: directory("parts")
                shell: "mkdir {output}; for i in 1 2 3; do echo part$i > {output}/p$i; done"
            rule process:
                input: "parts/{i}"
                output: "done/{i}"
                shell: "tr a-z A-Z < {input} > {output}"
            rule gather:
                input: parts
                output: "gathered"
                shell: "cat {input} > {output}"
            """
        )
        workflow.run(*self.backend.option("execution", execution)).ok()
        assert workflow.read("gathered") == "PART1\nPART2\nPART3\n"

    def test_shadow(self, workflow: Workflow) -> None:
        """All four kinds; what a job leaves beside its outputs goes away with its directory."""
        kinds = {
            "minimal": '"minimal"',
            "shallow": '"shallow"',
            "full": '"full"',
            "copyminimal": '"copy-minimal"',
        }
        rules = "\n".join(
            f"""
            rule {name}:
                input: "data/in.txt"
                output: "{name}/result.out"
                log: "logs/{name}.log"
                shadow: {kind}
                shell:
                    "cat {{input}} > {{output}}; echo $PWD >> {{output}}; "
                    "touch junk.{name}; echo logged > {{log}}"
            rule {name}_bad:
                input: "data/in.txt"
                output: "{name}_bad/result.out"
                log: "logs/{name}_bad.log"
                shadow: {kind}
                shell: "touch {{output}} junk.{name}; echo logged > {{log}}; exit 3"
            """
            for name, kind in kinds.items()
        )
        workflow.snakefile(
            f"""
            {rules}
            """
        )
        workflow.file("data/in.txt", "data\n")
        # One after the other: Snakemake walks in circles when it makes a full shadow
        # directory while a shallow one is there.
        for name in kinds:
            targets = (f"{name}/result.out", f"{name}_bad/result.out")
            result = workflow.run("--keep-going", *targets).failed()
            assert {failure.rule for failure in result.failures()} == {f"{name}_bad"}
            first, where = workflow.lines(f"{name}/result.out")
            assert first == "data"
            if self.backend.sees_files:
                assert Path(where) != workflow.dir
                assert not Path(where).exists(), "the shadow directory has been removed"
            assert not workflow.exists(f"junk.{name}")
            assert workflow.read(f"logs/{name}.log") == "logged\n"
            assert workflow.read(f"logs/{name}_bad.log") == "logged\n"
            assert not workflow.exists(f"{name}_bad/result.out")

    @BOTH
    def test_logs(self, workflow: Workflow, execution: str) -> None:
        workflow.snakefile(
            """
            rule all:
                input: "good.out", "bad.out"
            rule good:
                output: "good.out"
                log: "logs/{rule}/good.log" if False else "logs/good.log"
                shell: "echo fine > {log}; touch {output}"
            rule bad:
                output: "bad.out"
                log: out="logs/bad.out.log", err="logs/bad.err.log"
                shell: "echo o > {log.out}; echo the-reason > {log.err}; exit 3"
            """
        )
        # A log of an earlier run is not appended to.
        workflow.file("logs/bad.err.log", "old\n")
        result = workflow.run(
            "--keep-going", "--show-failed-logs", *self.backend.option("execution", execution)
        ).failed()
        assert workflow.read("logs/good.log") == "fine\n"
        assert workflow.read("logs/bad.err.log") == "the-reason\n"
        assert workflow.read("logs/bad.out.log") == "o\n"
        assert "logs/bad.err.log" in result.failure("bad").text
        result.has("the-reason")

    def test_benchmark(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule all:
                input: "one.out", "three.out", "run.out"
            rule one:
                output: "one.out"
                benchmark: "bench/one.tsv"
                resources: pipen_execution="direct"
                shell: "text=$(head -c 50M /dev/zero | base64 -w0); sleep 1.5; touch {output}"
            rule three:
                output: "three.out"
                benchmark: repeat("bench/three.tsv", 3)
                shell: "echo x > {output}"
            rule ran:
                output: "run.out"
                benchmark: "bench/run.tsv"
                run:
                    open(output[0], "w").write("x")
            """
        )
        workflow.run().ok()
        header, row = (line.split("\t") for line in workflow.lines("bench/one.tsv"))
        values = dict(zip(header, row, strict=True))
        # Snakemake's clock starts when the command has started, maybe long after on a busy node.
        assert 1 < float(values["s"]) < 30
        assert 50 < float(values["max_rss"]) <= float(values["max_vms"])
        assert 50 < float(values["max_uss"]) <= float(values["max_pss"]) + 1
        assert 0 < float(values["cpu_time"]) < float(values["s"])
        assert values["h:m:s"].startswith("0:00:")
        assert header[:3] == ["s", "h:m:s", "max_rss"]
        assert len(workflow.lines("bench/three.tsv")) == 4
        assert len(workflow.lines("bench/run.tsv")) == 2

    def test_benchmark_in_more_words(self, workflow: Workflow) -> None:
        workflow.file("in", "x" * 1024 * 1024)
        workflow.snakefile(
            """
            rule one:
                input: "in"
                output: "{name}.out"
                params: level=3
                benchmark: "bench/{name}.jsonl"
                resources: pipen_execution="direct"
                shell: "echo x > {output}"
            """
        )
        workflow.run("a.out", "--benchmark-extended").ok()
        (line,) = workflow.lines("bench/a.jsonl")
        values = json.loads(line)
        assert (values["rule_name"], values["wildcards"]) == ("one", {"name": "a"})
        assert (values["params"], values["input_size_mb"]) == ({"level": 3}, {"in": 1.0})


class Code(ConformanceBase):
    """Rules whose command is not a shell text, and what reaches the command."""

    def test_scripts_and_run_rules(self, workflow: Workflow) -> None:
        languages = ["python", "bash", "run"] + (["r"] if shutil.which("Rscript") else [])
        workflow.snakefile(
            f"""
            rule all:
                input: {", ".join(f'"{name}.out"' for name in languages)}
            rule python:
                input: "Snakefile"
                output: "python.out"
                log: "python.log"
                params: number=3, text="it's $x", mapping={{"k": [1, None, True]}}
                threads: 2
                resources: mem_mb=17
                script: "scripts/say.py"
            rule bash:
                input: "Snakefile"
                output: "bash.out"
                params: text="it's $x"
                script: "scripts/say.sh"
            rule r:
                output: "r.out"
                params: text="it's $x"
                script: "scripts/say.R"
            rule run:
                input: "Snakefile"
                output: "run.out"
                params: value=lambda wildcards, input: len(input)
                run:
                    with open(output[0], "w") as stream:
                        print(params.value, rule, threads, file=stream)
                    shell("echo by-shell >> {{output}}")
            """
        )
        workflow.file(
            "scripts/say.py",
            """
            import os
            from helper import helped
            s = snakemake
            with open(s.output[0], "w") as stream:
                print(s.params.number, s.params.text, s.params.mapping, file=stream)
                print(s.threads, s.resources.mem_mb, s.rule, s.input[0], helped, file=stream)
                print(os.path.basename(s.scriptdir), file=stream)
            with open(s.log[0], "w") as stream:
                print("logged", file=stream)
            """,
        )
        workflow.file("scripts/helper.py", "helped = 'helped'\n")
        workflow.file(
            "scripts/say.sh",
            """
            echo "${snakemake_params[text]} ${snakemake_input[0]}" > "${snakemake_output[0]}"
            """,
        )
        workflow.file(
            "scripts/say.R", 'writeLines(snakemake@params[["text"]], snakemake@output[[1]])\n'
        )
        workflow.run().ok()
        assert workflow.lines("python.out") == [
            "3 it's $x {'k': [1, None, True]}",
            "2 17 python Snakefile helped",
            "scripts",
        ]
        assert workflow.read("python.log") == "logged\n"
        assert workflow.lines("bash.out") == ["it's $x Snakefile"]
        assert workflow.lines("run.out") == ["1 run 1", "by-shell"]
        if "r" in languages:
            assert workflow.lines("r.out") == ["it's $x"]

    def test_failures_in_scripts_and_run_rules(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule all:
                input: "python.out", "run.out"
            rule python:
                output: "python.out"
                script: "say.py"
            rule run:
                output: "run.out"
                run:
                    raise ValueError("raised in the rule")
            """
        )
        workflow.file("say.py", "raise ValueError('raised in the script')\n")
        result = workflow.run("--keep-going")
        assert result.rc > 0
        result.has("raised in the script", "raised in the rule")
        assert {failure.rule for failure in result.failures()} >= {"python", "run"}

    @BOTH
    def test_params_and_resources(self, workflow: Workflow, tmp_path: Path, execution: str) -> None:
        """All types, dynamic or not: the same text as with the built-in local executor."""
        text = r"""
            import pathlib
            def sized(wildcards, input, attempt, threads):
                return 100 * attempt + threads + int(input.size)
            rule all:
                input: "a.out", "b.x-y.out"
            rule a:
                input: "in.txt"
                output: "a.out"
                threads: 3
                params:
                    "positional", 2.5,
                    integer=3, boolean=True, nothing=None, text="a b'c\"d$e`f",
                    listed=[1, "two", 3.0], mapping={"k": "v"}, path=pathlib.Path("p/q"),
                    computed=lambda wildcards, input, output, threads, resources:
                        f"{input}|{output}|{threads}|{resources.mem_mb}",
                    empty="", large=10**30, many={"only"}, nonascii="naïve ☃",
                resources:
                    mem_mb=sized, runtime="2h", disk="1GB", custom="word", number=5,
                shell:
                    "cat > {output} << 'END'\n"
                    "{params}\n{params[0]}\n{params[1]}\n{params.integer}\n{params.boolean}\n"
                    "{params.nothing}\n{params.text}\n{params.text:q}\n{params.listed}\n"
                    "{params.listed:q}\n{params.mapping}\n{params.mapping[k]}\n{params.path}\n"
                    "{params.computed}\n{params.empty}\n{params.large}\n{params.many}\n"
                    "{params.nonascii}\n"
                    "{threads}\n{resources.mem_mb}\n{resources.runtime}\n{resources.disk_mb}\n"
                    "{resources.custom}\n{resources.number}\n{resources.tmpdir}\n{rule}\n{input:q}\n"
                    "{config[key]}\n{{literal}}\nEND\n"
            rule b:
                output: out="b.{one}-{two,[a-z]+}.out"
                params: both=lambda wildcards: dict(wildcards), one="{one}"
                resources: mem_mb=lambda wildcards: len(wildcards.one)
                shell:
                    "echo {wildcards.one} {wildcards} {params.both} {params.one} "
                    "{resources.mem_mb} {output.out} > {output}"
            """
        arguments = ("--config", "key=value", "--default-resources", "tmpdir='/tmp'", "disk_mb=7")
        reference = Workflow(tmp_path / "reference", self.backend)
        for one in (workflow, reference):
            one.snakefile(text)
            one.file("in.txt", "12345")
        reference.run(*arguments, executor="local").ok()
        workflow.run(*arguments, *self.backend.option("execution", execution)).ok()
        assert workflow.read("a.out") == reference.read("a.out")
        assert workflow.read("b.x-y.out") == reference.read("b.x-y.out")
        assert "108" in workflow.lines("a.out"), "resources are computed"
        workflow.dry_run(*arguments).has("Nothing to be done")

    def test_default_resources_and_local_rules(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            localrules: here
            rule all:
                input: "there.out", "here.out"
            rule there:
                input: "in.txt"
                output: "there.out"
                shell: "echo {resources.mem_mb} {resources.disk_mb} {resources.mine} > {output}"
            rule here:
                output: "here.out"
                shell: "echo {resources.mem_mb} > {output}"
            """
        )
        workflow.file("in.txt", "x")
        defaults = ("mem_mb=max(2*input.size_mb, 123)", "disk_mb=55", "mine='word'")
        workflow.run("--default-resources", *defaults).ok()
        assert workflow.read("there.out").split() == ["123", "55", "word"]
        assert workflow.exists("here.out")
        assert len(workflow.jobs("there")) == 1
        if not self.backend.local:
            assert workflow.jobs("here") == [], "localrules run beside Snakemake itself"
