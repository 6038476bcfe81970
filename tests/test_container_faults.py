"""What goes wrong with containers, and what pipen-container makes of it, on real runtimes."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from .commands_support import pipen_executors
from .conformance.base import ConformanceBase
from .conformance.harness import Workflow
from .container_support import (
    PLAIN,
    Apptainer,
    Counted,
    apptainer,
    backend_on,
    backend_on_apptainer,
    containers_of,
    one_container,
    runtime_named,
    started,
)
from .services.containers import (
    BARE_IMAGE,
    IMAGE,
    Podman,
    Registry,
    Runtime,
    image_layer,
    small_layer,
)
from .services.users import TEST_USER, ensure_user

pytestmark = pytest.mark.container

HELD = """
rule a:
    output: "a.out"
    shell: "touch {output} started; sleep 60"
"""
HELD_THREE = """
rule all:
    input: expand("{n}.out", n=range(3))
rule a:
    output: "{n}.out"
    shell: "echo running; touch {wildcards.n}.started; sleep 60; touch {output}"
"""
TRIVIAL = """
rule all:
    input: expand("{n}.out", n=range(3))
rule a:
    output: "{n}.out"
    shell: "touch {output}"
"""


class OnOne(ConformanceBase):
    """The tests of a class share a runtime, and none leaves a container behind."""

    runtime: Runtime

    @pytest.fixture(scope="class", autouse=True)
    def on_runtime(self, request: pytest.FixtureRequest) -> Iterator[None]:
        with started(runtime_named(getattr(request, "param", "podman"))) as runtime:
            request.cls.runtime = runtime
            request.cls.backend = backend_on(runtime)
            yield

    @pytest.fixture(autouse=True)
    def nothing_is_left(self, on_runtime: None, workflow: Workflow) -> Iterator[None]:
        """After each test, whatever went wrong in it, no container is left behind."""
        yield
        left = containers_of(self.runtime, workflow)
        if left:
            self.runtime.run("rm", "--force", *left)
        assert left == []


on_both = pytest.mark.parametrize("on_runtime", ["podman", "docker"], indirect=True, scope="class")


@on_both
class TestEnds(OnOne):
    """Ends that the command does not choose."""

    __test__ = True
    backend = PLAIN

    def test_cancelling_ends_the_container_and_not_its_client(self, workflow: Workflow) -> None:
        """Also one that is deaf to TERM."""
        workflow.snakefile(
            """
            rule all:
                input: "deaf.out", "plain.out"
            rule deaf:
                output: "deaf.out"
                shell: "trap '' TERM INT; touch deaf.started; sleep 60; sleep 60"
            rule plain:
                output: "plain.out"
                shell: "touch plain.started; sleep 60"
            """
        )
        process = workflow.start("--pipen-container-kill-grace", "1")
        for name in ("deaf.started", "plain.started"):
            process.wait_for(lambda name=name: workflow.exists(name), name)  # type: ignore[misc]
        process.interrupt()
        process.wait().failed().has("2 jobs have been cancelled")
        workflow.assert_nothing_runs()

    @pytest.mark.parametrize(
        ("command", "reason"), [("kill", "SIGKILL"), ("stop", "SIGTERM")], ids=["kill", "stop"]
    )
    def test_ended_from_outside(self, workflow: Workflow, command: str, reason: str) -> None:
        """A signal is never a success, whoever sends it."""
        workflow.snakefile(HELD)
        process = workflow.start()
        process.wait_for(lambda: workflow.exists("started"), "the start")
        self.runtime.run(command, one_container(self.runtime, workflow))
        failure = process.wait().failed().failure("a")
        assert failure.message.startswith("killed by a signal"), failure.message
        assert reason in failure.message
        assert not workflow.exists("a.out")
        workflow.assert_nothing_runs()

    def test_removed_from_outside(self, workflow: Workflow) -> None:
        workflow.snakefile(HELD)
        process = workflow.start()
        process.wait_for(lambda: workflow.exists("started"), "the start")
        self.runtime.run("rm", "--force", one_container(self.runtime, workflow))
        message = process.wait().failed().failure("a").message
        assert "somebody has removed its container" in message or "SIGTERM" in message, message

    def test_cancelling_when_one_is_gone_already(self, workflow: Workflow) -> None:
        """One that was removed from outside keeps no other from being stopped and removed."""
        workflow.snakefile(HELD_THREE)
        process = workflow.start()
        process.wait_for(
            lambda: all(workflow.exists(f"{n}.started") for n in range(3)), "all three starts"
        )
        names = containers_of(self.runtime, workflow)
        assert len(names) == 3
        self.runtime.run("rm", "--force", names[1])
        process.interrupt()
        process.wait().failed()
        workflow.assert_nothing_runs()
        assert containers_of(self.runtime, workflow) == []

    def test_commands_while_containers_run(self, workflow: Workflow) -> None:
        """The id of a job is the name of a container, not the number of a process."""
        workflow.snakefile(HELD_THREE)
        process = workflow.start()
        process.wait_for(
            lambda: all(workflow.exists(f"{n}.started") for n in range(3)), "all three starts"
        )
        said = pipen_executors(workflow, "status", "--json").ok()
        jobs = said.json["runs"][0]["jobs"]
        assert {job["state"] for job in jobs} == {"running"}
        assert sorted(job["external_id"] for job in jobs) == sorted(
            containers_of(self.runtime, workflow)
        )
        assert "running" in pipen_executors(workflow, "logs", "a").ok().out
        assert "sleep 60" in pipen_executors(workflow, "script", "1.out").ok().out
        pipen_executors(workflow, "report", "--output", "run.csv").ok()
        pipen_executors(workflow, "cancel", env=self.runtime.env).ok()
        process.wait().failed().has("as `pipen-executors cancel` asked")
        workflow.assert_nothing_runs()

    def test_containers_and_job_directories_of_others(self, workflow: Workflow) -> None:
        """A copy of a workflow's directory names containers that are not its own."""
        workflow.snakefile(HELD)
        process = workflow.start()
        process.wait_for(lambda: workflow.exists("started"), "the start")
        copy = workflow.home / "copy"
        shutil.copytree(workflow.dir, copy, symlinks=True)
        (copy / "Snakefile").write_text(
            'rule a:\n    output: "a.out"\n    shell: "touch {output}"\n'
        )
        elsewhere = ("--directory", str(copy), "--snakefile", str(copy / "Snakefile"))
        done = workflow.run(*elsewhere, "--nolock", "--rerun-incomplete")
        still = containers_of(self.runtime, workflow)
        process.interrupt()
        process.wait().failed()
        done.ok()
        assert len(still) == 1

    def test_out_of_memory(self, workflow: Workflow) -> None:
        """Whichever process of the job it is that the kernel kills, and what becomes of it."""
        workflow.snakefile(
            """
            rule all:
                input: "plain.out", "hidden.out"
            rule plain:
                output: "plain.out"
                resources: mem_mb=50
                shell: "touch {output}; exec python3 -c 'x = bytearray(200 << 20)'"
            rule hidden:
                output: "hidden.out"
                resources: mem_mb=50
                shell: "python3 -c 'x = bytearray(200 << 20)' || exit 3"
            """
        )
        result = workflow.run("--keep-going").failed()
        for rule, status in (("plain", 137), ("hidden", 3)):
            message = result.failure(rule).message
            assert message == f"out of memory, exit status {status}: more than mem_mb=50"

    def test_10_MB_of_output_before_anybody_reads(self, workflow: Workflow) -> None:
        """There is no pipe to drain: it goes to a file, and a tail into the message."""
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "head -c 10000000 /dev/zero | tr '\\\\0' x | tee /dev/stderr; exit 4"
            """
        )
        failure = workflow.run().failed().failure("a")
        assert failure.message == "the command failed, exit status 4"
        for name in ("job.stdout", "job.stderr"):
            assert (workflow.job("a").path / name).stat().st_size == 10_000_000


@on_both
class TestStarts(OnOne):
    """Containers that do not come up."""

    __test__ = True
    backend = PLAIN

    def test_image_that_there_is_not(self, workflow: Workflow) -> None:
        """Looked for once, whatever the number of jobs; with the runtime's own words."""
        workflow.snakefile(TRIVIAL)
        result = workflow.run(
            "--keep-going", "--pipen-container-image", "localhost:1/no-such:1"
        ).failed()
        messages = {failure.message for failure in result.failures()}
        assert len(result.failures()) == 3
        (message,) = messages
        assert message.startswith("its image cannot be had"), message
        assert "localhost:1" in message
        result.line("Pulling image localhost:1/no-such:1")

    def test_cancelled_while_an_image_is_pulled(self, workflow: Workflow) -> None:
        """From a registry that takes connections and says nothing."""
        workflow.snakefile(TRIVIAL)
        with socket.create_server(("localhost", 0)) as silent:
            image = f"localhost:{silent.getsockname()[1]}/tool:1"
            process = workflow.start("--pipen-container-image", image)
            process.says("Pulling image")
            process.interrupt()
            process.wait(30).failed().has("3 jobs have been cancelled")
        workflow.assert_nothing_runs()

    def test_image_that_is_not_to_be_pulled(self, workflow: Workflow) -> None:
        workflow.snakefile(TRIVIAL)
        result = workflow.run(
            "0.out", *("--pipen-container-image", "no-such:1", "--pipen-container-pull", "never")
        ).failed()
        assert "no-such:1 is not here, and the setting pull is 'never'" in (
            result.failure("a").message
        )
        result.lacks("Pulling")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--pipen-container-image", BARE_IMAGE), ("/usr/bin/bash", "no such file")),
            (("--pipen-container-entrypoint", "/etc"), ("cannot run /etc", "permission denied")),
            (("--pipen-container-options", "no-such-flag=1"), ("unknown flag", "125")),
            (("--pipen-container-user", "12345"), ("Permission denied",)),
        ],
        ids=["no-shell", "not-executable", "bad-option", "unreadable"],
    )
    def test_cannot_be_started(
        self, workflow: Workflow, arguments: tuple[str, ...], words: tuple[str, ...]
    ) -> None:
        """Exit status 125, 126, 127 of the runtime, or a first command that does not get far."""
        workflow.snakefile(TRIVIAL)
        message = workflow.run("0.out", *arguments).failed().failure("a").message
        assert message.startswith("could not be started"), message
        for word in words:
            assert word in message

    def test_job_directory_that_cannot_be_written(self, workflow: Workflow) -> None:
        workflow.snakefile(TRIVIAL)
        volumes = ("--pipen-container-volumes", "/usr:/usr:ro", f"{workflow.dir}:ro")
        message = workflow.run("0.out", *volumes).failed().failure("a").message
        assert message.startswith("could not be started"), message
        assert "the job directory cannot be written" in message

    def test_exit_statuses_of_the_command_are_its_own(self, workflow: Workflow) -> None:
        """Those that runtimes use are no exception."""
        workflow.snakefile(
            """
            rule a:
                output: "{n}.out"
                shell: "exit {wildcards.n}"
            """
        )
        statuses = ("1", "125", "126", "127", "255")
        targets = [f"{status}.out" for status in statuses]
        result = workflow.run("--keep-going", *targets).failed()
        for failure in result.failures():
            status = failure.facts["output"].partition(".")[0]
            assert failure.message.startswith(f"the command failed, exit status {status}")
        assert len(result.failures()) == len(statuses)


@on_both
class TestImages(OnOne):
    """Images that have what a job needs at other paths than this machine, or have it not."""

    __test__ = True
    backend = PLAIN

    @pytest.fixture
    def alone(self, on_runtime: None, workflow: Workflow) -> None:
        """Let containers see nothing of this machine but the workflow."""
        workflow.backend = replace(
            self.backend,
            arguments=(
                *("--pipen-container-options", "network=host"),
                *("--pipen-container-bin", self.runtime.bin),  # takes one word
            ),
        )

    @pytest.mark.parametrize(
        ("name", "layer", "changes", "arguments"),
        [
            ("unmerged", {"bash": "bin"}, (), ()),
            ("local", {"bash": "usr/local/bin"}, ("ENV PATH=/usr/local/bin:/bin",), ()),
            ("not-in-path", {"bash": "opt/conda/bin"}, ("ENV PATH=/bin",), ()),
            ("dash", {"sh": "dash"}, (), ()),
            ("no-sh", {"bash": "bin", "sh": None}, (), ()),
            (
                "configured",
                {"bash": "usr/bin"},
                (
                    *('ENTRYPOINT ["/bin/false"]', 'CMD ["x"]', "USER 4321", "WORKDIR /not/mine"),
                    *("STOPSIGNAL SIGUSR1", "ENV HOME=/nowhere"),
                ),
                (),
            ),
            (
                "read-only",
                {"bash": "bin", "tmp": False},
                (),
                ("--pipen-container-bin-args=--read-only",),
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_bash_wherever_the_image_has_it(
        self,
        workflow: Workflow,
        alone: None,
        name: str,
        layer: dict[str, str | None],
        changes: tuple[str, ...],
        arguments: tuple[str, ...],
    ) -> None:
        """The rule's shell too; the image's own settings of how to start do not matter."""
        if self.runtime.name == "docker":  # whose import does not know it
            changes = tuple(change for change in changes if "STOPSIGNAL" not in change)
        image = self.runtime.import_image(small_layer(**layer), f"localhost/{name}:1", *changes)  # type: ignore[arg-type]
        workflow.snakefile(
            """
            rule all:
                input: "a.out", "c.out"
            rule a:
                output: "a.out"
                resources: tmpdir="scratch"
                shell: "echo $BASH $(id -u) > {output}; echo x > $TMPDIR/x; umask >> {output}"
            rule b:
                output: "b.out"
                group: "g"
                shell: "echo $BASH > {output}"
            rule c:
                input: "b.out"
                output: "c.out"
                group: "g"
                shell: "mkdir -p made; cp {input} made; cp made/b.out {output}"
            """
        )
        workflow.run("--pipen-container-image", image, *arguments).ok()
        place = layer.get("bash", "usr/local/bin")
        assert workflow.lines("a.out")[0] == f"/{place}/bash {os.getuid()}"
        assert workflow.lines("c.out") == [f"/{place}/bash"]
        assert workflow.path("a.out").stat().st_uid == os.getuid()

    @pytest.mark.parametrize(
        ("name", "layer", "words"),
        [
            ("ash", {"bash": None}, ("no bash 4.2 or later in this image", "apk add bash", "127")),
            ("nothing", {"bash": None, "sh": None}, ("neither /bin/sh nor bash", "nothing:1")),
        ],
        ids=["ash", "nothing"],
    )
    def test_no_bash(
        self,
        workflow: Workflow,
        alone: None,
        name: str,
        layer: dict[str, str | None],
        words: tuple[str, ...],
    ) -> None:
        image = self.runtime.import_image(small_layer(**layer), f"localhost/{name}:1")  # type: ignore[arg-type]
        workflow.snakefile(TRIVIAL)
        message = (
            workflow.run("0.out", "--pipen-container-image", image).failed().failure("a").message
        )
        assert message.startswith("could not be started"), message
        for word in words:
            assert word in message


class Files(ConformanceBase):
    """Files of this machine, the same with each runtime."""

    shuts_out_tmp = True
    """Whether containers do not see /tmp, where the tests are, unless it is mounted."""

    def test_links_are_followed_and_homes_stay_closed(self, workflow: Workflow) -> None:
        """Also links that an earlier rule has made, and names that are hard to pass on."""
        home, disk = workflow.home / "user", workflow.home / 'a disk,\nwith: odd "name"'
        for path in (home / ".ssh", disk / "results", disk / "logs", disk / "state", disk / "far"):
            path.mkdir(parents=True)
        (home / ".ssh" / "key").write_text("secret\n")
        (home / "x.txt").write_text("x\n")
        (disk / "far" / "y.txt").write_text("y\n")
        for name, target in (("results", "results"), ("logs", "logs"), (".snakemake", "state")):
            workflow.path(name).symlink_to(disk / target)
        workflow.snakefile(
            """
            rule count:
                input: "results/links", os.environ["HOME"] + "/x.txt"
                output: "results/deep/sum.txt"
                log: "logs/deep/count.log"
                params: home=os.environ["HOME"]
                shell:
                    "cat {input[0]}/more/y.txt {input[0]}/x.txt {input[1]} > {output}; "
                    "ls -A {params.home} > {log}; echo more > results/beside.txt"
            rule link:
                output: directory("results/links")
                params: far=os.environ["FAR"], home=os.environ["HOME"]
                shell:
                    "mkdir {output}; ln -s {params.far:q} {output}/more; ln -s . {output}/loop; "
                    "ln -s {params.home:q}/x.txt {params.home:q} /no/such {output}"
            """
        )
        (workflow.home / "tmp").mkdir()
        env = {"HOME": str(home), "FAR": str(disk / "far"), "TMPDIR": str(workflow.home / "tmp")}
        workflow.run(env=env).ok()
        assert (disk / "results" / "deep" / "sum.txt").read_text() == "y\nx\nx\n"
        assert (disk / "results" / "beside.txt").exists()
        seen = (disk / "logs" / "deep" / "count.log").read_text().split()
        assert seen == (["x.txt"] if self.shuts_out_tmp else [".ssh", "x.txt"])

    def test_outputs_in_a_home_are_refused(self, workflow: Workflow) -> None:
        home = workflow.home / "user"
        home.mkdir()
        workflow.snakefile(
            """
            rule all:
                input: "first.out", os.environ["HOME"] + "/b.out"
            rule first:
                output: "first.out"
                shell: "touch {output}"
            rule b:
                output: os.environ["HOME"] + "/b.out"
                shell: "touch {output}"
            """
        )
        line = workflow.run(env={"HOME": str(home)}).failed().line(f"all of {home}")
        assert "Rule b writes" in line
        assert not workflow.exists("first.out")
        on_purpose = ("--pipen-container-volumes", "/usr:/usr:ro", str(home))
        workflow.run(*on_purpose, env={"HOME": str(home)}).ok()
        assert (home / "b.out").exists()


@on_both
class TestSurroundings(OnOne, Files):
    """What a job sees of this machine."""

    __test__ = True
    backend = PLAIN

    def test_mounts(self, workflow: Workflow) -> None:
        """Inputs that lie elsewhere are read only, links are followed, outputs are written."""
        elsewhere = workflow.home / 'else, "where"'
        for name in ("in", "far", "out"):
            (elsewhere / name).mkdir(parents=True)
        (elsewhere / "in" / "x.txt").write_text("x\n")
        (elsewhere / "in" / "x.txt.index").write_text("index\n")
        (elsewhere / "far" / "y.txt").write_text("y\n")
        workflow.path("link.txt").symlink_to(elsewhere / "far" / "y.txt")
        workflow.snakefile(
            f"""
            E = {str(elsewhere)!r}
            rule all:
                input: E + "/out/here.out", "ro.out"
            rule a:
                input: E + "/in/x.txt", "link.txt"
                output: E + "/out/here.out"
                log: E + "/logs/a.log"
                shell: "cat {{input:q}} {{input[0]:q}}.index > {{output:q}}; echo l > {{log:q}}"
            rule b:
                input: E + "/in/x.txt"
                output: "ro.out"
                params: E + "/in/new"
                shell: "if touch {{params:q}}; then exit 1; fi; echo $TMPDIR > {{output}}"
            """
        )
        workflow.run(env={"TMPDIR": str(elsewhere)}).ok()
        assert (elsewhere / "out" / "here.out").read_text() == "x\ny\nindex\n"
        assert (elsewhere / "logs" / "a.log").read_text() == "l\n"
        assert workflow.read("ro.out") == f"{elsewhere}\n"
        assert "Read-only file system" in workflow.job("b").read("job.stderr")

    def test_volumes(self, workflow: Workflow) -> None:
        data = workflow.home / "data"
        data.mkdir()
        (data / "x").write_text("x\n")
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell:
                    "cat $DATA/x /elsewhere/x > {output}; echo $DATA $PWD >> {output}; "
                    "touch /fast/x /named/x"
            """
        )
        workflow.run(
            "--pipen-container-volumes",
            *("/usr:/usr:ro", f"DATA={data}", f"{data}:/elsewhere:ro,Z"),
            *("type=tmpfs,target=/fast", f"{self.runtime.base.name}:/named"),
            *("--pipen-container-volume-as-cwd", f"{workflow.dir}:/work"),
        ).ok()
        assert workflow.lines("a.out") == ["x", "x", "/mnt/disks/DATA /work"]
        assert self.runtime.run("volume", "rm", self.runtime.base.name).returncode == 0

    def test_limits_and_labels(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                resources: mem_mb=123, pipen_options="pids-limit=99"
                shell: "touch started; until [ -e go ]; do sleep 0.05; done; touch {output}"
            """
        )
        process = workflow.start("--pipen-container-bin-args=--label='mine=one two'")
        process.wait_for(lambda: workflow.exists("started"), "the start")
        name = one_container(self.runtime, workflow)
        asked = (
            "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} "
            '{{index .Config.Labels "pipen.job"}} {{index .Config.Labels "mine"}}'
        )
        said = self.runtime.run("inspect", f"--format={asked}", name).stdout.split()
        workflow.file("go")
        process.wait().ok()
        cpus = "1000000000" if (os.cpu_count() or 1) > 1 else "0"
        assert said == [cpus, str(123 << 20), "99", "a", "job", "one", "two"]
        assert name.startswith("container-a-")

    def test_environments_are_their_own(self, workflow: Workflow) -> None:
        """What is set for one job is not set for the next; odd values arrive as they are."""
        workflow.snakefile(
            r"""
            import os
            os.environ["ODD"] = "it's \"$x\" `y`\nsecond\t☃"
            rule all:
                input: expand("{n}.out", n=range(3))
            rule a:
                output: "{n}.out"
                resources: pipen_prescript=lambda wildcards: f"export N{wildcards.n}=set"
                shell: "{{ printf '%s|' \"$ODD\"; env | grep -c '^N[0-9]='; }} > {output}"
            """
        )
        workflow.run().ok()
        for number in range(3):
            assert workflow.read(f"{number}.out") == 'it\'s "$x" `y`\nsecond\t☃|1\n'

    def test_what_is_added_to_path_is_added_to_that_of_the_image(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            import os
            os.environ["PATH"] = os.getcwd() + "/bin:" + os.environ["PATH"] + ":/behind"
            rule a:
                output: "a.out"
                shell: "echo $PATH > {output}"
            """
        )
        image_path = ("--pipen-container-bin-args=--env=PATH=/bin:/of/the/image",)
        workflow.run(*image_path).ok()
        assert workflow.read("a.out") == f"{workflow.dir}/bin:/bin:/of/the/image:/behind\n"

    def test_images_of_rules_and_jobs_outside_containers(self, workflow: Workflow) -> None:
        """``container:``, ``pipen_image`` and ``localrules``."""
        for number in (1, 2):
            self.runtime.run("tag", IMAGE, f"localhost/other:{number}")
        workflow.snakefile(
            """
            localrules: here, python
            rule all:
                input: "own.out", "asked.out", "here.out", "python.out"
            rule own:
                output: "own.out"
                container: "docker://localhost/other:1"
                shell: "touch {output}"
            rule asked:
                output: "asked.out"
                container: "localhost/other:1"
                resources: pipen_image="localhost/other:2"
                shell: "touch {output}"
            rule here:
                output: "here.out"
                shell: "echo ${{PIPEN_JID-outside}} > {output}"
            rule python:
                output: "python.out"
                run:
                    open(output[0], "w").close()
            """
        )
        counted = Counted(self.runtime, workflow.home / "shim")
        workflow.run("--pipen-container-bin", counted.bin).ok()
        images = [word for call in counted.of("run") for word in call.split() if "other:" in word]
        assert sorted(images) == ["localhost/other:1", "localhost/other:2"]
        assert workflow.read("here.out") == "outside\n"

    def test_nothing_of_the_runtime_is_left(self, workflow: Workflow) -> None:
        """Images that declare volumes: each container's goes with it, named ones stay."""
        image = "localhost/with-volume:1"
        self.runtime.import_image(image_layer(), image, "VOLUME /scratch")
        before = self.runtime.run("volume", "ls", "--quiet").stdout.split()
        workflow.snakefile(
            """
            rule all:
                input: "good.out", "bad.out"
            rule good:
                output: "good.out"
                shell: "echo x > /scratch/x; cp /scratch/x {output}"
            rule bad:
                output: "bad.out"
                shell: "echo x > /scratch/x; exit 3"
            """
        )
        kept = f"kept-{os.getpid()}"
        self.runtime.run("volume", "create", kept)
        workflow.run(
            *("--keep-going", "--pipen-container-image", image),
            *("--pipen-container-bin-args", f"--volume {kept}:/kept"),
        ).failed()
        assert workflow.exists("good.out")
        after = self.runtime.run("volume", "ls", "--quiet").stdout.split()
        self.runtime.run("volume", "rm", kept)
        assert sorted(after) == sorted([*before, kept])

    def test_few_calls(self, workflow: Workflow) -> None:
        """One ``run`` for each job; all else is asked and done for many at a time."""
        workflow.snakefile(TRIVIAL.replace("range(3)", "range(12)"))
        counted = Counted(self.runtime, workflow.home / "shim")
        workflow.run("--pipen-container-bin", counted.bin, jobs=12).ok()
        assert len(counted.of("run")) == 12
        assert len(counted.calls) - 12 <= 12, counted.calls

    def test_pulled_once(self, workflow: Workflow) -> None:
        """Before the first job that needs it, with a word to the user, and by the policy."""
        with Registry(self.runtime) as registry:
            image = registry.publish(IMAGE, "tool:1")
            workflow.snakefile(TRIVIAL)
            counted = Counted(self.runtime, workflow.home / "shim")
            arguments = ("--pipen-container-bin", counted.bin, "--pipen-container-image", image)
            result = workflow.run(*arguments, jobs=3).ok()
            result.line(f"Pulling image {image}")
            result.line(f"Pulled image {image} in ")
            workflow.run(*arguments, "--forceall", jobs=3).ok().lacks("Pulling")
            assert len(counted.of("pull")) == 1
            always = ("--pipen-container-pull", "always")
            workflow.run(*arguments, *always, "--forceall", jobs=3).ok()
            assert len(counted.of("pull")) == 2


class TestRefusals(OnOne):
    """What is found before any job runs."""

    __test__ = True
    backend = PLAIN

    def test_python_that_is_not_in_the_image(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule all:
                input: "a.out", "b.out"
            rule plain:
                output: "a.out"
                shell: "touch {output}"
            rule coded:
                output: "b.out"
                script: "say.py"
            """
        )
        workflow.file("say.py", "open(snakemake.output[0], 'w').close()\n")
        line = workflow.run().failed().line("Rule coded needs the Python")
        assert "a script in Python" in line
        assert "--pipen-container-python" in line
        assert not workflow.exists("a.out")
        workflow.run("--pipen-container-python", "host").ok()

    def test_no_image(self, workflow: Workflow) -> None:
        workflow.snakefile(TRIVIAL)
        backend = replace(self.backend, arguments=("--pipen-container-bin", self.runtime.bin))
        workflow.backend = backend
        line = workflow.run().failed().line("Rule a has no container image")
        assert "--pipen-container-image" in line

    @pytest.mark.parametrize(
        ("name", "value", "right"),
        [
            ("bin", "no-such-runtime", "there is no such command"),
            ("bin_type", "lxc", "docker, podman, apptainer"),
            ("image", "tool.sif", "takes only names of images in a registry"),
            ("image", "two words", "the name of an image"),
            ("volumes", "/no/such:/x", "/no/such does not exist"),
            ("volumes", "/usr:relative", "an absolute path in the container"),
            ("pull", "sometimes", "missing, always, never"),
            ("python", "mine", "none, host"),
            ("remove", "perhaps", "expected yes or no"),
            ("kill_grace", "soon", "a time such as"),
            ("entrypoint", "'", "words, quoted as for a shell"),
            ("options", "name=x", "pipen-container sets this option"),
            ("bin_args", "--name x", "pipen-container sets this option"),
            ("image", "--privileged", "does not begin with a hyphen"),
        ],
    )
    def test_bad_value(self, workflow: Workflow, name: str, value: str, right: str) -> None:
        workflow.snakefile(TRIVIAL)
        line = workflow.run(f"{self.backend.flag(name)}={value}").failed().line(right)
        assert value.partition("=")[0] in line
        assert not workflow.exists("0.out")


class TestOtherWays(ConformanceBase):
    """Other ways to the same runtimes."""

    __test__ = True
    backend = PLAIN

    def test_docker_client_on_the_socket_of_podman(self, workflow: Workflow) -> None:
        """Through it, ``run --rm`` answers 0 whatever the command does."""
        with started(Podman()) as podman:
            assert isinstance(podman, Podman)
            service = podman.socket()
            service.start()
            try:
                service.wait_ready(lambda: (podman.base / "podman.sock").exists())
                backend = backend_on(podman)
                index = backend.arguments.index("--pipen-container-bin") + 1
                arguments = list(backend.arguments)
                arguments[index] = "/usr/bin/docker"
                socket = {"DOCKER_HOST": f"unix://{podman.base}/podman.sock"}
                workflow.backend = replace(
                    backend, arguments=tuple(arguments), environment={**podman.env, **socket}
                )
                workflow.snakefile(
                    """
                    rule all:
                        input: "good.out", "bad.out"
                    rule good:
                        output: "good.out"
                        shell: "touch {output}"
                    rule bad:
                        output: "bad.out"
                        shell: "touch {output}; exit 9"
                    """
                )
                result = workflow.run("--keep-going").failed()
                assert result.failure("bad").message == "the command failed, exit status 9"
                assert workflow.exists("good.out")
                workflow.assert_nothing_runs()
            finally:
                service.stop()

    def test_files_belong_to_the_user(self, tmp_path: Path) -> None:
        """Of an ordinary user's run with a Docker that is root's."""
        user = ensure_user()
        with started(runtime_named("docker")) as docker:
            (docker.base / "sock").chmod(0o666)
            docker.base.chmod(0o755)
            scratch = docker.base / "scratch"
            scratch.mkdir()
            backend = replace(backend_on(docker), user=TEST_USER, root=scratch)
            workflow = Workflow(tmp_path, backend)
            try:
                workflow.snakefile(
                    """
                    rule a:
                        output: "deep/a.out"
                        shell: "id -u > {output}; touch $HOME/x"
                    """
                )
                workflow.run().ok()
                assert workflow.read("deep/a.out") == f"{user.pw_uid}\n"
                for path in (workflow.dir / "deep").rglob("*"):
                    assert path.stat().st_uid == user.pw_uid
                workflow.assert_nothing_runs()
            finally:
                workflow.close()

    def test_daemon_that_does_not_answer(self, workflow: Workflow) -> None:
        workflow.backend = replace(PLAIN, arguments=("--pipen-container-bin", "/usr/bin/docker"))
        workflow.snakefile(TRIVIAL)
        image = ("--pipen-container-image", IMAGE)
        result = workflow.run(*image, env={"DOCKER_HOST": f"unix://{workflow.home}/none"}).failed()
        assert "Docker daemon" in result.line("Scheduler container cannot be used")

    def test_killed_run_leaves_nothing_once_it_is_run_again(self, workflow: Workflow) -> None:
        """Taken up by its label; what has ended meanwhile is collected and removed."""
        with started(Podman()) as podman:
            workflow.backend = backend_on(podman)
            workflow.snakefile(
                """
                rule a:
                    output: "a.out"
                    shell:
                        "echo x >> effects; until [ -e go ]; do sleep 0.05; done; touch {output}"
                """
            )
            process = workflow.start()
            process.wait_for(lambda: workflow.lines("effects"), "the start")
            process.kill9()
            name = one_container(podman, workflow)
            process = workflow.start("--nolock", "--rerun-incomplete")
            process.says("taken up again")
            assert one_container(podman, workflow) == name
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            workflow.file("go")
            workflow.run("--nolock", "--rerun-incomplete").ok()
            assert workflow.lines("effects") == ["x"]
            workflow.assert_nothing_runs()


class TestApptainer(Files):
    """Apptainer's command line; a job is a session of this machine."""

    __test__ = True
    shuts_out_tmp = False
    backend = PLAIN

    @pytest.fixture(scope="class", autouse=True)
    def on_apptainer(self, request: pytest.FixtureRequest) -> Iterator[Apptainer]:
        with apptainer() as found:
            request.cls.backend = backend_on_apptainer(found)
            yield found

    def test_image_is_converted_once(self, workflow: Workflow, on_apptainer: Apptainer) -> None:
        if on_apptainer.is_real:
            pytest.skip("needs a registry that the real one can reach")
        workflow.snakefile(TRIVIAL)
        arguments = ("--pipen-container-image", "localhost/tool:1")
        workflow.run(*arguments, jobs=3).ok().line("Pulling image docker://localhost/tool:1")
        workflow.run(*arguments, "--forceall", jobs=3).ok().lacks("Pulling")
        log = (on_apptainer.registry / "log").read_text().splitlines()
        assert log == ["pull docker://localhost/tool:1"]
        result = workflow.run(
            "--forceall", "0.out", "--pipen-container-image", "localhost/not:1"
        ).failed()
        message = result.failure("a").message
        assert message.startswith("its image cannot be had"), message
        assert "manifest unknown" in message

    def test_mounts_and_isolation(self, workflow: Workflow) -> None:
        """The image's own files are what a job sees, beside what is mounted."""
        data = workflow.home / 'da,ta: "x"'
        data.mkdir()
        (data / "x").write_text("x\n")
        workflow.snakefile(
            f"""
            D = {str(data)!r}
            rule a:
                input: D + "/x"
                output: "a.out"
                shell:
                    "cat {{input:q}} $DATA/x > {{output}}; if touch $DATA/new; then exit 1; fi; "
                    "cat /etc/passwd | wc -l >> {{output}}"
            """
        )
        volumes = ("--pipen-container-volumes", "/usr:/usr:ro", f"DATA={workflow.home}:ro")
        (workflow.home / "x").write_text("named\n")
        workflow.run(*volumes).ok()
        lines = workflow.lines("a.out")
        assert lines[:2] == ["x", "named"]
        assert int(lines[2]) < len(Path("/etc/passwd").read_text().splitlines())

    def test_bash_of_the_image(self, workflow: Workflow, on_apptainer: Apptainer) -> None:
        """Wherever it lies; without one, the message says what is missing."""
        workflow.backend = replace(
            workflow.backend, arguments=("--pipen-container-bin", on_apptainer.bin)
        )
        workflow.snakefile('rule a:\n    output: "{n}.out"\n    shell: "echo $BASH > {output}"\n')
        for place in ("opt/conda/bin", None):
            image = on_apptainer.registry / f"bash-in-{str(place).replace('/', '-')}"
            image.mkdir()
            with tarfile.open(fileobj=io.BytesIO(small_layer(bash=place))) as layer:
                layer.extractall(image, filter="fully_trusted")
            result = workflow.run("1.out" if place else "2.out", f"--pipen-container-image={image}")
            if place:
                result.ok()
                assert workflow.lines("1.out") == [f"/{place}/bash"]
            else:
                message = result.failed().failure("a").message
                assert "no bash 4.2 or later in this image" in message, message

    def test_image_that_cannot_be_started(self, workflow: Workflow) -> None:
        workflow.snakefile(TRIVIAL)
        message = (
            workflow.run("0.out", "--pipen-container-options", "no-such-flag=1")
            .failed()
            .failure("a")
            .message
        )
        assert message.startswith("could not be started"), message
        assert "unknown flag" in message

    def test_taken_up(self, workflow: Workflow) -> None:
        """By the number of its session, whatever its leader calls itself."""
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "echo x >> effects; until [ -e go ]; do sleep 0.05; done; touch {output}"
            """
        )
        process = workflow.start()
        process.wait_for(lambda: workflow.lines("effects"), "the start")
        process.kill9()
        process = workflow.start("--nolock", "--rerun-incomplete")
        process.says("taken up again")
        workflow.file("go")
        process.wait().ok()
        assert workflow.lines("effects") == ["x"]
        workflow.assert_nothing_runs()
