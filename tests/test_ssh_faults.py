"""pipen-ssh when connections, machines or logins fail, and where jobs are put."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from .conformance.harness import Process, Workflow, wait_for
from .services.ssh import SshHosts
from .services.users import ensure_login
from .ssh_support import PLAIN, backend_on, hosts_or_skip

pytestmark = pytest.mark.ssh

HELD = """
    rule a:
        output: "a.out"
        shell:
            "echo $HOSTNAME >> effects; until [ -e go ]; do sleep 0.05; done; echo x > {output}"
    """
EIGHT = """
    rule all:
        input: expand("out.{n}", n=range(8))
    rule a:
        output: "out.{n}"
        shell:
            "echo {wildcards.n} $HOSTNAME >> effects; until [ -e go ]; do sleep 0.05; done; "
            "touch {output}"
    """


@pytest.fixture(scope="module")
def machines() -> Iterator[SshHosts]:
    with hosts_or_skip() as running:
        yield running


@pytest.fixture
def hosts(machines: SshHosts) -> Iterator[SshHosts]:
    """Machines that are whole again after the test."""
    yield machines
    for name, machine in machines.machines.items():
        machines.plug_in(name)
        if not machine.daemon.alive():
            machines.start_sshd(name)


@pytest.fixture
def workflow(tmp_path: Path, hosts: SshHosts) -> Iterator[Workflow]:
    workflow = Workflow(tmp_path, backend_on(hosts))
    try:
        yield workflow
    finally:
        workflow.close()


def start_held(workflow: Workflow, *arguments: str) -> Process:
    """Start :data:`HELD` on big1 and wait until its job runs."""
    workflow.snakefile(HELD)
    process = workflow.start(*arguments)
    process.wait_for(lambda: workflow.lines("effects"), "the job's start")
    assert workflow.lines("effects") == ["big1"]
    return process


class TestLostConnections:
    def test_connection_is_made_again_while_a_job_runs(
        self, workflow: Workflow, hosts: SshHosts
    ) -> None:
        process = start_held(workflow)
        hosts.drop_connections("big1")
        process.says("The connection to big1 was lost")
        process.says("big1 is reachable again")
        workflow.file("go")
        process.wait().ok()
        assert workflow.lines("effects") == ["big1"]
        workflow.assert_nothing_runs()

    def test_job_that_ends_while_sshd_is_down_is_collected(
        self, workflow: Workflow, hosts: SshHosts
    ) -> None:
        process = start_held(workflow)
        hosts.stop_sshd("big1")
        process.says("The connection to big1 was lost")
        workflow.file("go")
        wait_for(lambda: workflow.job("a").rc == 0, "the job's end")
        hosts.start_sshd("big1")
        process.wait().ok()
        assert workflow.lines("effects") == ["big1"]

    def test_failure_while_sshd_is_down_is_told(self, workflow: Workflow, hosts: SshHosts) -> None:
        process = start_held(workflow)
        hosts.stop_sshd("big1")
        process.says("The connection to big1 was lost")
        (pid,) = [line.split()[0] for line in workflow.processes() if "job.script" in line]
        os.kill(int(pid), signal.SIGKILL)
        wait_for(lambda: workflow.job("a").rc is not None, "the job's end")
        hosts.start_sshd("big1")
        result = process.wait().failed()
        assert "SIGKILL" in result.failure("a").message

    def test_cancel_while_the_connection_is_made_again(
        self, workflow: Workflow, hosts: SshHosts
    ) -> None:
        process = start_held(workflow)
        hosts.drop_connections("big1")
        process.interrupt()
        process.wait().failed()
        workflow.assert_nothing_runs()


class TestLostMachines:
    def test_job_of_a_lost_machine_is_retried_elsewhere(
        self, workflow: Workflow, hosts: SshHosts
    ) -> None:
        process = start_held(
            workflow,
            *PLAIN.option("host_timeout", "3s"),
            *PLAIN.option("error_strategy", "retry"),
        )
        hosts.stop_sshd("big1")
        process.says("host lost", times=1)
        process.wait_for(lambda: len(workflow.lines("effects")) == 2, "the job's second start")
        assert workflow.lines("effects") == ["big1", "big2"]
        workflow.file("go")
        process.wait().ok()

    @pytest.mark.slow
    def test_silent_machine_fails_its_jobs_in_time(
        self, workflow: Workflow, hosts: SshHosts
    ) -> None:
        """Nobody says that the cable was pulled: 15 s of silence, 5 s of patience."""
        process = start_held(workflow, *PLAIN.option("host_timeout", "5s"))
        hosts.cut("big1")
        result = process.wait(60).failed()
        failure = result.failure("a")
        assert failure.message.startswith("the node failed: host lost: big1"), failure

    def test_queue_goes_to_the_machine_that_is_left(
        self, workflow: Workflow, hosts: SshHosts
    ) -> None:
        workflow.snakefile(EIGHT)
        process = workflow.start(*PLAIN.option("servers", "big1,slots=1", "big2,slots=1"), jobs=8)
        process.wait_for(lambda: len(workflow.lines("effects")) == 2, "the start of two jobs")
        hosts.stop_sshd("big1")
        process.says("The connection to big1 was lost")
        workflow.file("go")
        process.wait_for(lambda: len(workflow.lines("effects")) == 8, "the start of all jobs")
        hosts.start_sshd("big1")
        process.wait().ok()
        where = Counter(line.split()[1] for line in workflow.lines("effects"))
        assert where["big2"] == 7

    def test_machine_that_refuses_is_set_aside(self, workflow: Workflow, hosts: SshHosts) -> None:
        hosts.stop_sshd("big1")
        workflow.snakefile(EIGHT)
        workflow.file("go")
        result = workflow.run(jobs=8).ok()
        result.has("big1:", "set aside")
        assert {line.split()[1] for line in workflow.lines("effects")} == {"big2"}

    def test_no_machine_at_all(self, workflow: Workflow, hosts: SshHosts) -> None:
        hosts.stop_sshd("big1")
        hosts.stop_sshd("big2")
        workflow.snakefile(HELD)
        result = workflow.run().failed()
        result.has("ssh cannot be used", "big1", "big2")

    def test_all_machines_are_lost(self, workflow: Workflow, hosts: SshHosts) -> None:
        """What waits fails too, and is not waited for for ever."""
        workflow.snakefile(EIGHT)
        servers = PLAIN.option("servers", "big1,slots=1", "big2,slots=1")
        process = workflow.start(
            *servers, *PLAIN.option("host_timeout", "3s"), "--keep-going", jobs=8
        )
        process.wait_for(lambda: len(workflow.lines("effects")) == 2, "the start of two jobs")
        hosts.stop_sshd("big1")
        hosts.stop_sshd("big2")
        result = process.wait(60).failed()
        messages = Counter(failure.message.split(":")[0] for failure in result.failures())
        assert messages == {"the node failed": 2, "could not be submitted": 6}


class TestLogins:
    def test_unknown_host_key(self, workflow: Workflow, hosts: SshHosts) -> None:
        """It says how to add the key, and nothing has run."""
        config = workflow.file("config", hosts.config.read_text())
        empty = workflow.file("empty")
        config.write_text(config.read_text().replace(str(hosts.known_hosts), str(empty)))
        workflow.snakefile(HELD)
        result = workflow.run(*PLAIN.option("ssh_config", config)).failed()
        result.has("the host key of big", "ssh-keyscan", "known_hosts")
        assert not workflow.exists("effects")

    def test_changed_host_key(self, workflow: Workflow, hosts: SshHosts) -> None:
        config = workflow.file("config", hosts.config.read_text())
        lines = hosts.known_hosts.read_text().splitlines()
        first, second = (line.split() for line in lines)
        swapped = f"{first[0]} {second[1]} {second[2]}\n{second[0]} {first[1]} {first[2]}\n"
        known = workflow.file("known", swapped)
        config.write_text(config.read_text().replace(str(hosts.known_hosts), str(known)))
        workflow.snakefile(HELD)
        workflow.run(*PLAIN.option("ssh_config", config)).failed().has("the host key of big")
        assert not workflow.exists("effects")

    def test_refused_login(self, workflow: Workflow, hosts: SshHosts) -> None:
        key = workflow.path("key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        workflow.snakefile(HELD)
        text = hosts.config.read_text().replace(str(hosts.base / "key"), "none")
        config = workflow.file("config", text)
        servers = PLAIN.option("servers", f"big1,keyfile={key}")
        result = workflow.run(*servers, *PLAIN.option("ssh_config", config)).failed()
        result.has("big1 refuses the login", "ssh-agent")

    def test_login_that_may_run_nothing(self, workflow: Workflow) -> None:
        workflow.snakefile(HELD)
        result = workflow.run(*PLAIN.option("servers", "nobody@big1")).failed()
        result.has("nobody@big1 does not run /bin/bash")

    def test_unknown_machine(self, workflow: Workflow) -> None:
        workflow.snakefile(HELD)
        result = workflow.run(*PLAIN.option("servers", "no-such-machine.invalid")).failed()
        result.has("ssh cannot be used", "no-such-machine.invalid")

    def test_no_servers(self, workflow: Workflow) -> None:
        workflow.backend = replace(workflow.backend, arguments=())
        workflow.snakefile(HELD)
        workflow.run().failed().has("--pipen-ssh-servers", "[USER@]HOST")


class TestWaysIn:
    """What ``~/.ssh/config`` can say, and who one may be."""

    SAYS_WHERE = """
        rule a:
            output: "a.out"
            shell: "echo $USER $HOSTNAME $SSH_CONNECTION > {output}"
        """

    @staticmethod
    def behind(workflow: Workflow, hosts: SshHosts, known: str) -> list[str]:
        """Return arguments for a machine that is reached by way of big1 only."""
        text = hosts.config.read_text().replace(
            str(hosts.known_hosts), str(workflow.file("known", known))
        )
        key = hosts.base / "key"
        config = workflow.file(
            "config",
            f"Host inner\n  HostName 127.0.0.1\n  Port 2222\n  User root\n  ProxyJump big1\n"
            f"  IdentityFile {key}\n  UserKnownHostsFile {workflow.path('known')}\n{text}",
        )
        return [*PLAIN.option("servers", "inner"), *PLAIN.option("ssh_config", config)]

    def test_jump(self, workflow: Workflow, hosts: SshHosts) -> None:
        known = hosts.known_hosts.read_text()
        _, algorithm, key = known.splitlines()[0].split()
        known += f"[127.0.0.1]:2222 {algorithm} {key}\n"
        workflow.snakefile(self.SAYS_WHERE)
        workflow.run(*self.behind(workflow, hosts, known)).ok()
        _, name, here, _, there, port = workflow.read("a.out").split()
        assert (name, here, there, port) == ("big1", "127.0.0.1", "127.0.0.1", "2222")

    def test_jump_whose_key_is_not_known(self, workflow: Workflow, hosts: SshHosts) -> None:
        """Neither that of the machine between nor that behind it is taken on trust."""
        address = hosts.machines["big1"].address
        workflow.snakefile(self.SAYS_WHERE)
        for known, whose in (("", address), (hosts.known_hosts.read_text(), "127.0.0.1")):
            result = workflow.run(*self.behind(workflow, hosts, known)).failed()
            result.has("host key", whose, "ssh-keyscan")

    def test_hardened_server_and_configuration_for_a_terminal(
        self, workflow: Workflow, hosts: SshHosts
    ) -> None:
        """One session on a connection, a login that prints, and an agent that stays here."""
        server = hosts.machines["big1"].base / "sshd_config"
        plain = server.read_text()
        noise = "/bin/bash -c 'echo noise; echo noise >&2; eval \"$SSH_ORIGINAL_COMMAND\"'"
        server.write_text(f"{plain}MaxSessions 1\nForceCommand {noise}\n")
        config = workflow.file(
            "config",
            "Host big1   # with a comment\n  ForwardAgent yes\n  RequestTTY force\n"
            "  RemoteCommand tmux\n  LocalForward 127.0.0.1:9 127.0.0.1:9\n"
            f"{hosts.config.read_text()}",
        )
        for number in range(6):
            workflow.file(f"{number}.in", f"{number}\n")
        workflow.snakefile(
            """
            rule all:
                input: expand("{n}.out", n=range(6))
            rule a:
                input: "{n}.in"
                output: "{n}.out"
                shell: "cat {input} > {output}; echo ${{SSH_AUTH_SOCK-}} ${{SSH_TTY-}} >> {output}"
            """
        )
        agent = workflow.home / "agent"
        process = subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL)
        try:
            wait_for(agent.exists, "the agent")
            hosts.stop_sshd("big1")
            hosts.machines["big1"].daemon.start()
            wait_for(lambda: hosts.logs_in("big1"), "a login")
            workflow.run(
                *PLAIN.option("ssh_config", config),
                *PLAIN.option("staging", "sftp"),
                *PLAIN.option("servers", f"big1,slots=6,workdir={workflow.home}/there"),
                jobs=6,
                env={"SSH_AUTH_SOCK": str(agent)},
            ).ok()
        finally:
            process.terminate()
            process.wait()
            server.write_text(plain)
            hosts.stop_sshd("big1")
        assert [workflow.read(f"{n}.out") for n in range(6)] == [f"{n}\n\n" for n in range(6)]

    def test_ordinary_user(self, tmp_path: Path, hosts: SshHosts) -> None:
        """Here and there, with and without a shared file system."""
        user = ensure_login()
        root = Path(tempfile.mkdtemp(prefix="pipen-ssh-", dir="/var/tmp"))
        root.chmod(0o755)
        config = root / "config"
        config.write_text(hosts.config.read_text().replace("User root", f"User {user.pw_name}"))
        backend = backend_on(hosts, user=user.pw_name, root=root)
        workflow = Workflow(tmp_path, backend)
        apart = f"big1,workdir={root}/apart"
        (root / "apart").mkdir()
        shutil.chown(root / "apart", user.pw_name)
        try:
            workflow.snakefile(self.SAYS_WHERE)
            for more in ([], [*PLAIN.option("staging", "sftp"), *PLAIN.option("servers", apart)]):
                workflow.run(*PLAIN.option("ssh_config", config), *more, "--forceall").ok()
                name, where, *_ = workflow.read("a.out").split()
                assert name == user.pw_name
                assert where in ("big1", "big2")
            assert workflow.path("a.out").stat().st_uid == user.pw_uid
            # What the user may not write is said before any job, in the machine's words.
            locked = PLAIN.option("servers", f"big1,workdir={hosts.base}/locked")
            arguments = [*PLAIN.option("ssh_config", config), *PLAIN.option("staging", "sftp")]
            result = workflow.run(*arguments, *locked, "--forceall").failed()
            result.has("ssh cannot be used", "big1: mkdir: cannot create directory", "locked")
        finally:
            workflow.close()
            shutil.rmtree(root)


class TestPlaces:
    def test_kill9_of_a_run_with_eight_jobs_on_two_machines(
        self, workflow: Workflow, hosts: SshHosts
    ) -> None:
        """Taken up by the next run: each job has run once."""
        workflow.snakefile(EIGHT)
        process = workflow.start(jobs=8)
        process.wait_for(lambda: len(workflow.lines("effects")) == 8, "the start of eight jobs")
        process.kill9()
        where = Counter(line.split()[1] for line in workflow.lines("effects"))
        assert where == {"big1": 4, "big2": 4}
        process = workflow.start("--nolock", "--rerun-incomplete", jobs=8)
        process.says("taken up again", times=8)
        assert [hosts.connections(name) for name in ("big1", "big2")] == [1, 1]
        workflow.file("go")
        process.wait().ok()
        assert len(workflow.lines("effects")) == 8
        workflow.assert_nothing_runs()

    def test_jobs_on_a_machine_that_is_no_longer_a_server(
        self, workflow: Workflow, hosts: SshHosts
    ) -> None:
        """They are taken up there, and nothing new is put on it."""
        workflow.snakefile(EIGHT)
        process = workflow.start(jobs=2)
        process.wait_for(lambda: len(workflow.lines("effects")) == 2, "the start of two jobs")
        process.kill9()
        only = PLAIN.option("servers", "big2,slots=4")
        process = workflow.start("--nolock", "--rerun-incomplete", *only, jobs=8)
        process.says("big1 is not among the servers")
        process.says("taken up again", times=2)
        workflow.file("go")
        process.wait().ok()
        where = Counter(line.split()[1] for line in workflow.lines("effects"))
        assert where == {"big1": 1, "big2": 7}

    def test_slots_are_kept_to_and_connections_are_one_each(
        self, workflow: Workflow, hosts: SshHosts
    ) -> None:
        workflow.snakefile(EIGHT)
        process = workflow.start(*PLAIN.option("servers", "big1,slots=2", "big2,slots=1"), jobs=8)
        process.wait_for(lambda: len(workflow.lines("effects")) == 3, "the start of three jobs")
        assert [hosts.connections(name) for name in ("big1", "big2")] == [1, 1]
        assert len(workflow.lines("effects")) == 3
        workflow.file("go")
        process.wait().ok()
        assert len(workflow.lines("effects")) == 8

    def test_memory_is_kept_to(self, workflow: Workflow) -> None:
        workflow.snakefile(EIGHT.replace("shell:", "resources: mem_mb=600\n        shell:"))
        servers = PLAIN.option("servers", "big1,slots=8,mem_mb=1000")
        process = workflow.start(*servers, jobs=8)
        process.wait_for(lambda: workflow.lines("effects"), "the start of a job")
        workflow.file("go")
        process.wait().ok()
        assert len(workflow.lines("effects")) == 8

    @pytest.mark.parametrize(
        ("asks", "says"),
        [
            ("threads: 5", "resource threads of rule a is 5: the largest of the servers"),
            ("resources: mem_mb=2000", "mem_mb of rule a is 2000: the largest of the servers"),
            (
                'resources: pipen_server="big3"',
                "pipen_server of rule a is 'big3': 'big3' is no server",
            ),
        ],
    )
    def test_job_that_no_machine_can_run(self, workflow: Workflow, asks: str, says: str) -> None:
        workflow.snakefile(
            f"""
            rule all:
                input: "a.out", "b.out"
            rule b:
                output: "b.out"
                shell: "touch {{output}}"
            rule a:
                output: "a.out"
                {asks}
                shell: "touch {{output}}"
            """
        )
        servers = PLAIN.option("servers", "big1,slots=4,mem_mb=1000", "big2,slots=2,mem_mb=1G")
        result = workflow.run(*servers, jobs=8).failed()
        result.has(says)
        assert not workflow.exists("b.out"), "told before anything is submitted"

    def test_rules_are_pinned(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule all:
                input: expand("{rule}.out", rule=["named", "grouped"])
            rule named:
                output: "named.out"
                resources: pipen_server="big2"
                shell: "echo $HOSTNAME > {output}"
            rule grouped:
                output: "grouped.out"
                resources: pipen_server="fat"
                shell: "echo $HOSTNAME > {output}"
            """
        )
        servers = PLAIN.option("servers", "big1,slots=4", "big2,slots=4,groups=fat")
        workflow.run(*servers).ok()
        assert workflow.read("named.out") == workflow.read("grouped.out") == "big2\n"

    def test_machine_sizes_are_its_own_by_default(
        self, workflow: Workflow, hosts: SshHosts
    ) -> None:
        cores = int(hosts.run("big1", "nproc"))
        workflow.snakefile(
            f"""
            rule a:
                output: "a.out"
                threads: {cores + 1}
                shell: "touch {{output}}"
            """
        )
        result = workflow.run(*PLAIN.option("servers", "big1", "big2"), jobs=64).failed()
        result.has(f"resource threads of rule a is {cores + 1}", f"has {cores}")
