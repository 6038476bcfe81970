"""pipen: rules of one workflow on several schedulers, and profiles shared with pipen itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from .conformance.base import ConformanceBase
from .conformance.harness import Backend, JobFiles, Process, Workflow, wait_for
from .conformance.settings import is_refused
from .container_support import started
from .services.containers import IMAGE, VOLUMES, Podman
from .services.slurm import SlurmCluster
from .slurm_support import cluster_or_skip
from .ssh_support import hosts_or_skip
from .test_pipen import HOMELESS
from .third_party import install

PLAIN = Backend("pipen", drives="local", environment=HOMELESS)

PROFILES = """
    [here]
    scheduler = "local"
    [cluster]
    scheduler = "slurm"
    forks = 4
    error_strategy = "retry"
    num_retries = 1
    lang = "bash"
    [cluster.scheduler_opts]
    partition = "short"
    sbatch = "/usr/bin/sbatch"
    """


def held(name: str, resources: str, command: str = "") -> str:
    """Return a rule whose job runs until the test lets it end, and leaves a line when it starts."""
    return f"""
            rule {name}:
                output: "{name}.out"
                resources: {resources}
                shell:
                    "echo {name} >> effects; {command}"
                    "until [ -e go.{name} ]; do sleep 0.05; done; echo x > {{output}}"
    """


def everything(*names: str) -> str:
    """Return a rule that asks for what rules make."""
    files = ", ".join(f"'{name}.out'" for name in names)
    return f"""
            rule all:
                input: {files}
    """


def job(workflow: Workflow, lane: str, rule: str) -> JobFiles:
    """Return the directory of the one job of a rule."""
    (path,) = (workflow.job_root.parent / lane / rule).iterdir()
    return JobFiles(path)


def _has_succeeded(files: JobFiles) -> bool:
    return files.rc == 0


def all_started(process: Process, workflow: Workflow, *names: str) -> None:
    """Wait until jobs run."""
    process.wait_for(lambda: set(workflow.lines("effects")) >= set(names), f"the start of {names}")


class TestLanes(ConformanceBase):
    """What needs no cluster: both lanes are on this machine."""

    __test__ = True
    backend = PLAIN

    @pytest.fixture
    def workflow(self, tmp_path: Path) -> Iterator[Workflow]:
        workflow = Workflow(tmp_path, self.backend)
        workflow.file(
            ".pipen.toml",
            """
            [default]
            jobname_prefix = "mine"
            [small]
            scheduler = "local"
            forks = 1
            prescript = "echo small >> prescripts"
            [big]
            scheduler = "local"
            forks = 3
            [cluster]
            scheduler = "slurm"
            [cluster.scheduler_opts]
            partition = "none"
            """,
        )
        try:
            yield workflow
        finally:
            workflow.close()

    def test_each_lane_has_its_own_settings(self, workflow: Workflow) -> None:
        """Forks, prescript and directory; named by static, computed and set resources."""
        workflow.snakefile(
            """
            rule all:
                input: expand("{rule}.{n}", rule=["small", "big", "computed", "set"], n=range(3))
            rule small:
                output: "small.{n}"
                resources: pipen_profile="small"
                shell: "mkdir lock; sleep 0.1; rmdir lock; touch {output}"
            rule big:
                output: "big.{n}"
                resources: pipen_profile="big"
                shell:
                    "touch big.started.{wildcards.n}; "
                    "until [ $(ls big.started.* | wc -l) -eq 3 ]; do sleep 0.05; done; "
                    "touch {output}"
            rule computed:
                output: "computed.{n}"
                resources: pipen_profile=lambda wildcards: "small" if wildcards.n == "1" else "big"
                shell: "touch {output}"
            rule set:
                output: "set.{n}"
                shell: "touch {output}"
            """
        )
        result = workflow.run(
            *("--set-resources", "set:pipen_scheduler=local", "--pipen-show-config"), jobs=20
        ).ok()
        lanes = workflow.job_root.parent
        assert {
            path.name: sorted(rule.name for rule in path.glob("[!.]*/")) for path in lanes.iterdir()
        } == {
            "local": ["set"],
            "local@big": ["big", "computed"],
            "local@small": ["computed", "small"],
        }
        assert workflow.lines("prescripts") == ["small"] * 4
        assert "profile small of ./.pipen.toml" in result.line("| forks ", "| 1 ")
        assert "profile big of ./.pipen.toml" in result.line("| forks ", "| 3 ")
        result.has("setting of local@small", "setting of local@big")

    def test_command_line_beats_profile(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "touch {output}"
            """
        )
        result = workflow.run(
            *("--pipen-profile", "small", "--pipen-prescript", "echo line >> prescripts"),
            "--pipen-show-config",
            env={"PIPEN_small_timeout": "2h"},
        ).ok()
        assert workflow.lines("prescripts") == ["line"]
        assert "command line" in result.line("| prescript ")
        assert "profile small of ./.pipen.toml" in result.line("| scheduler ")
        assert "the environment" in result.line("| timeout ", "2h")
        assert "profile default of ./.pipen.toml" in result.line("| jobname_prefix ")
        assert "default " in result.line("| execution ")
        # The profile's scheduler can be overruled: its options are for the other one.
        workflow.run("--pipen-profile", "cluster", "--pipen-scheduler", "local", "--force").ok()

    def test_single_executors_read_the_same_tables(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "touch {output}"
            """
        )
        workflow.run("--pipen-local-profile", "small", executor="pipen-local").ok()
        assert workflow.lines("prescripts") == ["small"]
        result = workflow.run(
            "--force", "--pipen-local-profile", "cluster", executor="pipen-local"
        ).failed()
        result.line("--pipen-local-profile is 'cluster'", "'slurm'", "--executor pipen")

    @pytest.mark.parametrize(
        ("resources", "words"),
        [
            (
                'pipen_profile="bgi"',
                ("resource pipen_profile of rule b is 'bgi'", "big, cluster, small"),
            ),
            (
                'pipen_scheduler="slrum"',
                ("resource pipen_scheduler of rule b", "'slrum'", "local", "module:Class"),
            ),
            (
                'pipen_scheduler="pipen.scheduler:ContainerScheduler"',
                ("resource pipen_scheduler of rule b", "shared file system"),
            ),
            (
                'pipen_profile="big", pipen_scheduler="pathlib:Path"',
                ("resource pipen_scheduler of rule b", "not a subclass"),
            ),
        ],
    )
    def test_refused_before_the_first_job(
        self, workflow: Workflow, resources: str, words: tuple[str, ...]
    ) -> None:
        workflow.snakefile(
            f"""
            rule all:
                input: "a.out", "b.out"
            rule a:
                output: "a.out"
                shell: "echo x >> ran; touch {{output}}"
            rule b:
                input: "a.out"
                output: "b.out"
                resources: {resources}
                shell: "touch {{output}}"
            """
        )
        is_refused(workflow, workflow.run(), *words)

    def test_lane_that_is_found_wanting_later(self, workflow: Workflow) -> None:
        """A computed name cannot be checked before; that job fails, and the others run."""
        workflow.snakefile(
            """
            rule all:
                input: "a.out", "b.out"
            rule a:
                output: "a.out"
                shell: "touch {output}"
            rule b:
                output: "b.out"
                resources: pipen_profile=lambda wildcards: "bgi"
                shell: "touch {output}"
            """
        )
        result = workflow.run("--keep-going").failed()
        result.line("resource pipen_profile of rule b is 'bgi'")
        assert workflow.exists("a.out")

    def test_groups(self, workflow: Workflow) -> None:
        """A group is one job; Snakemake refuses one whose rules name different lanes."""
        text = """
            rule all:
                input: "b.out"
            rule a:
                output: "a.out"
                group: "g"
                resources: pipen_profile="small"
                shell: "touch {output}"
            rule b:
                input: "a.out"
                output: "b.out"
                group: "g"
                resources: pipen_profile="NAME"
                shell: "touch {output}"
            """
        workflow.snakefile(text.replace("NAME", "big"))
        workflow.run().failed().has("pipen_profile")
        assert not workflow.exists("a.out")
        workflow.snakefile(text.replace("NAME", "small"))
        workflow.run().ok()
        assert workflow.lines("prescripts") == ["small"]

    def test_halt_ends_all_lanes(self, workflow: Workflow) -> None:
        workflow.snakefile(
            everything("long", "bad")
            + held("long", "pipen_profile='big'")
            + """
            rule bad:
                output: "bad.out"
                resources: pipen_profile="small", pipen_error_strategy="halt"
                shell: "until [ -e effects ]; do sleep 0.05; done; exit 3"
            """
        )
        workflow.run("--keep-going").failed().has("error strategy is 'halt'")
        workflow.assert_nothing_runs()
        assert job(workflow, "local@big", "long").rc == 143

    def test_job_of_an_earlier_run_stays_where_it_is(self, workflow: Workflow) -> None:
        """Although its rule names another lane by now; nothing runs twice."""
        text = everything("a") + held("a", "pipen_profile='big'")
        workflow.snakefile(text)
        process = workflow.start()
        all_started(process, workflow, "a")
        process.kill9()
        workflow.snakefile(text.replace("big", "small"))
        process = workflow.start("--nolock", "--rerun-incomplete")
        process.says("an earlier run has given a job to local@big; it stays there")
        process.says("taken up again")
        workflow.file("go.a")
        process.wait().ok()
        assert workflow.lines("effects") == ["a"]
        # Once that is over, the rule runs where it says.
        workflow.run("--nolock", "--forceall").ok()
        assert job(workflow, "local@small", "a").rc == 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with cluster_or_skip(accounting=False, options={"JobAcctGatherParams": "UsePss"}) as running:
        yield running


@dataclass
class Elsewhere:
    """Schedulers that run beside Slurm.

    Attributes
    ----------
    profiles
        Tables that name them.
    lanes
        By the rule that is to run there: name of the lane, and resources of the rule.
    environment
        What Snakemake needs for them.
    """

    profiles: str = ""
    lanes: dict[str, tuple[str, str]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    """A machine that is reached over ssh, and Podman; both see the files."""
    with hosts_or_skip(names=["big1"]) as hosts, started(Podman()) as podman:
        yield Elsewhere(
            f"""
    [remote]
    scheduler = "ssh"
    [remote.scheduler_opts]
    servers = ["big1,slots=4"]
    ssh_config = "{hosts.config}"
    [image]
    scheduler = "container"
    [image.scheduler_opts]
    bin = "{podman.bin}"
    image = "{IMAGE}"
    volumes = {list(VOLUMES)}
    network = "host"
    """,
            {
                "remote": ("ssh@remote", "pipen_profile='remote'"),
                "boxed": ("container@image", "pipen_profile='image'"),
            },
            podman.env,
        )


@pytest.mark.slurm
@pytest.mark.ssh
@pytest.mark.container
class TestOnSlurm(ConformanceBase):
    """With a real Slurm as one of the schedulers."""

    __test__ = True
    backend = PLAIN

    @pytest.fixture(scope="class", autouse=True)
    def on_cluster(
        self,
        request: pytest.FixtureRequest,
        cluster: SlurmCluster,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        site = install(tmp_path_factory.mktemp("site"))
        environment = {**cluster.env, **HOMELESS, "PYTHONPATH": str(site)}
        request.cls.backend = replace(PLAIN, environment=environment, settle=20.0)

    def test_pipen_and_snakemake_with_the_same_profile(
        self, workflow: Workflow, cluster: SlurmCluster
    ) -> None:
        """A pipeline of pipen, ``--executor pipen`` and ``--executor pipen-slurm``."""
        workflow.file(".pipen.toml", PROFILES)
        workflow.file(
            "pipeline.py",
            """
            from pipen import Pipen, Proc

            class Hello(Proc):
                input = "n:var"
                input_data = [1]
                output = "out:file:pipen.out"
                script = "echo $SLURM_JOB_PARTITION > {{out.out}}"

            Pipen(name="Pipe", outdir="out").set_starts(Hello).run("cluster")
            """,
        )
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "echo $SLURM_JOB_PARTITION > {output}"
            """
        )
        done = subprocess.run(
            [sys.executable, "pipeline.py"],
            cwd=workflow.dir,
            env={**os.environ, **self.backend.environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert workflow.read("out/Hello/pipen.out") == "short\n"
        workflow.run("--pipen-profile", "cluster").ok()
        assert workflow.read("a.out") == "short\n"
        workflow.path("a.out").unlink()
        workflow.run("--jobs", "1", "--pipen-slurm-profile", "cluster", executor="pipen-slurm").ok()
        assert workflow.read("a.out") == "short\n"

    def test_killed_and_taken_up(
        self, workflow: Workflow, cluster: SlurmCluster, elsewhere: Elsewhere
    ) -> None:
        """One rule on each scheduler, in one run; half of the jobs end while nobody looks."""
        workflow.file(".pipen.toml", PROFILES + elsewhere.profiles)
        lanes = {
            "here": ("local@here", "pipen_profile='here'"),
            "far": ("slurm@cluster", "pipen_profile='cluster'"),
            "plain": ("slurm", "pipen_scheduler='slurm'"),
            "house": ("mysched", "pipen_scheduler='mysched'"),
            **elsewhere.lanes,
        }
        inputs = ", ".join(f"'{rule}.out'" for rule in lanes)
        last = f"""
            rule last:
                input: {inputs}
                output: "last.out"
                shell: "echo last >> effects; cat {{input}} > {{output}}"
            """
        rules = "".join(held(rule, resources) for rule, (_, resources) in lanes.items())
        workflow.snakefile(everything("last") + rules + last)
        process = workflow.start(jobs=10, env=elsewhere.environment)
        all_started(process, workflow, *lanes)
        partitions = cluster.run("squeue", "--noheader", "--format=%P").stdout.split()
        assert sorted(partitions) == ["main", "short"]
        process.kill9()
        missed = list(lanes)[1::2]
        for rule in missed:
            workflow.file(f"go.{rule}")
            ended = job(workflow, lanes[rule][0], rule)
            wait_for(partial(_has_succeeded, ended), f"the end of {rule}")
        assert workflow.processes()
        workflow.run("--unlock").ok()
        process = workflow.start("--rerun-incomplete", jobs=10, env=elsewhere.environment)
        process.says("taken up again", times=len(lanes) - len(missed))
        process.says("collected", times=len(missed))
        for rule in lanes:
            workflow.file(f"go.{rule}")
        process.wait().ok()
        assert Counter(workflow.lines("effects")) == dict.fromkeys([*lanes, "last"], 1)
        for rule, (lane, _) in lanes.items():
            assert job(workflow, lane, rule).rc == 0
        assert workflow.read("last.out") == "x\n" * len(lanes)
        workflow.run().ok().has("Nothing to be done")
        workflow.assert_nothing_runs()

    def test_interrupt_ends_all(self, workflow: Workflow, cluster: SlurmCluster) -> None:
        workflow.snakefile(
            everything("here", "far", "house")
            + held("here", "pipen_scheduler='local'")
            + held("far", "pipen_scheduler='slurm'")
            + held("house", "pipen_scheduler='mysched'")
        )
        process = workflow.start()
        all_started(process, workflow, "here", "far", "house")
        process.interrupt()
        process.wait().failed().has("3 jobs have been cancelled")
        workflow.assert_nothing_runs()
        cluster.wait_idle()  # a cancelled job is listed as CG until its node has cleaned up


@pytest.mark.ssh
class TestNoSharedFiles(ConformanceBase):
    """A machine that does not see this one's files, beside this one."""

    __test__ = True
    backend = PLAIN

    def test_files_are_sent_and_fetched_where_they_have_to_be(self, workflow: Workflow) -> None:
        """Without staging the difference is found before the first job."""
        workflow.snakefile(
            """
            rule all:
                input: "c.out"
            rule a:
                output: "a.out"
                shell: "echo x >> ran; hostname > {output}"
            rule b:
                input: "a.out"
                output: "b.out"
                resources: pipen_profile="remote"
                shell: "cat {input} > {output}; hostname >> {output}"
            rule c:
                input: "b.out"
                output: "c.out"
                shell: "cat {input} > {output}"
            """
        )
        with hosts_or_skip(names=["big1"], private=True) as hosts:
            profile = f"""
                [remote]
                scheduler = "ssh"
                [remote.scheduler_opts]
                servers = ["big1,slots=4"]
                ssh_config = "{hosts.config}"
                """
            workflow.file(".pipen.toml", profile)
            is_refused(workflow, workflow.run(), "big1: it does not see", "staging: sftp")
            workflow.file(".pipen.toml", profile + 'staging = "sftp"\n')
            workflow.run().ok()
        here = os.uname().nodename
        assert workflow.lines("c.out") == [here, "big1"]


HOUSE = """
from xqute.schedulers.slurm_scheduler import SlurmScheduler

class House(SlurmScheduler):
    name = "house"

    def jobcmd_init(self, job):
        return super().jobcmd_init(job) + "\\nexport FROM_HOUSE=yes"

    async def kill_job(self, job):
        with open("killed", "a") as stream:
            print(job.spec.rule, file=stream)
        await super().kill_job(job)
"""


@pytest.mark.slurm
class TestThirdPartyOnSlurm(ConformanceBase):
    """A third-party class, named as module:Class, on a real cluster."""

    __test__ = True
    backend = Backend("pipen", arguments=("--pipen-scheduler", "house:House"), drives="house.House")

    @pytest.fixture(scope="class", autouse=True)
    def on_cluster(self, request: pytest.FixtureRequest, cluster: SlurmCluster) -> None:
        environment = {**HOMELESS, **cluster.env}
        request.cls.backend = replace(self.backend, environment=environment)

    def test_success_failure_retry_and_halt(self, workflow: Workflow) -> None:
        workflow.file("house.py", HOUSE)
        workflow.snakefile(
            """
            rule all:
                input: "good.out", "flaky.out", "long.out", "held.out", "bad.out"
            rule good:
                output: "good.out"
                shell: "echo $FROM_HOUSE > {output}"
            rule flaky:
                input: "good.out"
                output: "flaky.out"
                resources: pipen_error_strategy="retry", pipen_num_retries=1
                shell: "echo >> n; touch {output}; [ $(wc -l < n) -eq 2 ]"
            rule long:
                input: "flaky.out"
                output: "long.out"
                shell: "touch started; sleep 600"
            rule held:
                input: "flaky.out"
                output: "held.out"
                resources: pipen_options="begin=now+1hour"
                shell: "touch {output}"
            rule bad:
                input: "flaky.out"
                output: "bad.out"
                resources: pipen_error_strategy="halt"
                shell: "until [ -e started ]; do sleep 0.1; done; exit 3"
            """
        )
        result = workflow.run(env={"PYTHONPATH": str(workflow.dir)}).failed()
        assert workflow.read("good.out") == "yes\n"
        result.has("retry 1 of 1", "its error strategy is 'halt'")
        assert "exit status 3" in result.failure("bad").message
        assert sorted(workflow.lines("killed")) == ["held", "long"]
        workflow.assert_nothing_runs()

    def test_interrupted(self, workflow: Workflow) -> None:
        """With one job that runs and one that waits in the queue."""
        workflow.file("house.py", HOUSE)
        workflow.snakefile(
            """
            rule all:
                input: "long.out", "held.out"
            rule long:
                output: "long.out"
                shell: "touch started; sleep 600"
            rule held:
                output: "held.out"
                resources: pipen_options="begin=now+1hour"
                shell: "touch {output}"
            """
        )
        process = workflow.start(env={"PYTHONPATH": str(workflow.dir)})
        process.wait_for(lambda: workflow.exists("started"), "the start")
        process.wait_for(lambda: workflow.job("held").jid, "the submission")
        process.interrupt()
        process.wait().failed().has("2 jobs have been cancelled")
        assert sorted(workflow.lines("killed")) == ["held", "long"]
        workflow.assert_nothing_runs()
