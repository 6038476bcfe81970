"""What a command finds where it runs, compared with a job of Snakemake's local executor."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .base import ConformanceBase
from .harness import Workflow

USERS: Final = {
    "PROBE": "here",
    "rc": "5",
    "cmd": "mine",
    "REPLY": "yes",
    "pipen_child": "7",
    "TMOUT": "1",
    "POSIXLY_CORRECT": "1",
    "FUNCNEST": "40",
    "CDPATH": "/usr",
    "GLOBIGNORE": "*",
    "a.b": "no identifier",
    "PS4": "+ ",
    "PROMPT_COMMAND": "exit 9",
    "two": "lines\n$(exit 9)",
    "BASH_FUNC_greet%%": "() { echo hello\n}",
    "LC_ALL": "C",
    "TZ": "Asia/Kathmandu",
}
"""Variables of users that mean something to bash, or are called as the wrapper calls its own."""

OURS: Final = ("PIPEN", "pipen", "SLURM_ARRAY", "SGE_TASK", "OLDPWD")
"""Beginnings of names that a job has from nobody but the wrapper, or from an array."""

_GLIBC_OWN: Final = 0x180000000
"""posix_spawn(3) of glibc ignores signals 32 and 33, which are its own, until it uses them."""


class Nodes(ConformanceBase):
    """Variables, modes, signals and open files of a command; its temporary directory."""

    def test_a_command_is_started_as_by_the_local_executor(
        self, workflow: Workflow, tmp_path: Path
    ) -> None:
        """Three jobs, so that schedulers that can make an array of them do."""
        self.needs_shared_files()
        text = r"""
            import os
            os.umask(0o027)
            os.environ["cmd"] = "from the Snakefile"
            os.environ["FROM_SNAKEFILE"] = "yes"
            rule all:
                input: expand("{n}.env", n=range(3))
            rule a:
                output: "{n}.env", "{n}.facts"
                shell:
                    "cat /proc/self/environ > {output[0]}; "
                    "{{ umask; grep -E '^Sig(Blk|Ign)' /proc/self/status; set -o; trap -p; "
                    "  ls /proc/self/fd; "
                    "  sleep 1.2; read -t 0.01 line || echo \"nothing to read\"; }} > {output[1]}"
            """
        reference = Workflow(tmp_path / "reference", self.backend)
        for one in (workflow, reference):
            one.snakefile(text)
            one.file("start-up", "alias cat=false; shopt -s nullglob; kill() { :; }")
        env = {**USERS, "BASH_ENV": "./start-up"}
        reference.run(executor="local", env=env).ok()
        workflow.run(env=env).ok()
        expected = self.variables(reference, 0)
        for number in range(3):
            variables = self.variables(workflow, number)
            facts, as_local = (
                [
                    _without_glibcs_signals(line)
                    for line in lines
                    if not line.startswith("trap -- -")
                ]
                for lines in (workflow.lines(f"{number}.facts"), reference.lines("0.facts"))
            )
            if "PROBE" not in variables:
                as_local = [
                    line.replace("posix          \ton", "posix          \toff") for line in as_local
                ]
            assert facts == as_local
            ours = {
                name: value
                for name, value in variables.items()
                if name.startswith(OURS)
                and name not in expected
                and value != "undefined"
                and not name.startswith("PIPEN_TEST")
            }
            assert not ours
            assert variables["cmd"] == "from the Snakefile"
            assert variables["FROM_SNAKEFILE"] == "yes"
            assert variables["OMP_NUM_THREADS"] == expected["OMP_NUM_THREADS"]
            if "PROBE" in variables:  # the environment of the user comes along
                there = {name: variables.get(name) for name in env}
                assert there == {name: expected.get(name) for name in env}
            else:
                assert not variables.keys() & (env.keys() - {"cmd", "LC_ALL", "TZ", "PS4"})
            if self.backend.scheduler == "local":
                own = {name for name in variables if name.startswith("XQUTE_")} | {"PWD", "_"}
                own |= {"XDG_CACHE_HOME", "XDG_CONFIG_HOME"}  # each workflow's own
                kept = {k: v for k, v in variables.items() if k not in own}
                assert kept == {k: v for k, v in expected.items() if k not in own}

    @staticmethod
    def variables(workflow: Workflow, number: int) -> dict[str, str]:
        """Return the variables of a job."""
        entries = workflow.read(f"{number}.env").split("\0")
        return dict(entry.partition("=")[::2] for entry in entries if entry)

    def test_tmpdir_in_every_form(self, workflow: Workflow) -> None:
        """Worked out where the job runs, made there, and the same wherever a job meets it."""
        self.needs_shared_files()
        workflow.snakefile(
            r"""
            from pathlib import Path
            PRINTS = (
                "printf '%s\n' \"$HOME\" \"$TMPDIR\" \"$TMP$TEMP\" \"$TEMPDIR$TMPDIR\" "
                "'{resources.tmpdir}' {resources.tmpdir:q}; ls -d \"$TMPDIR\""
            )
            NAMES = "default set literal function python bash first second third"
            rule all:
                input: expand("{n}.out", n=NAMES.split())
            rule default:
                output: "default.out"
                resources: pipen_execution="direct"
                shell: "{{ " + PRINTS + "; }} > {output}"
            rule set:
                output: "set.out"
                resources: pipen_execution="direct"
                shell: "{{ " + PRINTS + "; }} > {output}"
            rule literal:
                output: "literal.out"
                resources: tmpdir=str(Path("new", "a $X").resolve()), pipen_execution="direct"
                shell: "{{ " + PRINTS + "; }} > {output}"
            rule function:
                output: "function.out"
                resources: tmpdir=lambda wildcards, attempt: str(Path(f"new/f{attempt}").resolve())
                shell: "{{ " + PRINTS + "; }} > {output}"
            rule python:
                output: "python.out"
                resources: pipen_execution="direct"
                script: "show.py"
            rule bash:
                output: "bash.out"
                resources: pipen_execution="direct"
                script: "show.sh"
            rule first:
                output: "first.out"
                group: "together"
                shell: "{{ " + PRINTS + "; }} > {output}"
            rule second:
                input: "first.out"
                output: "second.out"
                group: "together"
                resources: tmpdir=str(Path("new/second").resolve())
                shell: "{{ " + PRINTS + "; }} > {output}"
            rule third:
                input: "second.out"
                output: "third.out"
                group: "together"
                script: "show.py"
            """
        )
        workflow.file(
            "show.py",
            """\
            import os
            with open(snakemake.output[0], "w") as out:
                place, names = os.environ["TMPDIR"], ("TMP", "TEMP", "TEMPDIR", "TMPDIR")
                values = [os.environ[name] for name in names]
                one, two = values[0] + values[1], values[2] + values[3]
                resources = dict(snakemake.resources.items())
                listed = [value for value in snakemake.resources if value == place]
                print(os.environ["HOME"], place, one, two, snakemake.resources.tmpdir,
                    *listed, place if os.path.isdir(place) else "missing", sep="\\n", file=out)
                assert resources["tmpdir"] == snakemake.resources["tmpdir"] == place
            """,
        )
        workflow.file(
            "show.sh",
            """\
            place=${snakemake_resources[tmpdir]}
            printf '%s\\n' "$HOME" "$TMPDIR" "$TMP$TEMP" "$TEMPDIR$TMPDIR" "$place" "$place" \\
                > "${snakemake_output[0]}"
            ls -d "$TMPDIR" >> "${snakemake_output[0]}"
            """,
        )
        place = workflow.dir / "new"
        workflow.run(
            *("--default-resources", f"tmpdir='{place}/of$HOME'"),
            *("--set-resources", f"set:tmpdir='{place}/' + 'set${{HOME}}${{NO_SUCH}}'"),
        ).ok()
        expected = {"literal": "a $X", "function": "f1", "second": "second"}
        for name in ("default", "set", "python", "bash", "first", "third", *expected):
            home, tmpdir, one, two, *others = workflow.lines(f"{name}.out")
            own = f"set{home}${{NO_SUCH}}" if name == "set" else f"of{home}"
            assert tmpdir == f"{place}/{expected.get(name, own)}", name
            assert one == two == tmpdir * 2
            assert others == [tmpdir] * 3, name


def _without_glibcs_signals(line: str) -> str:
    name, _, mask = line.partition("\t")
    return f"{name}\t{int(mask, 16) & ~_GLIBC_OWN:016x}" if name == "SigIgn:" else line
