"""A real Slurm on this machine: ``with SlurmCluster() as cluster: cluster.run("sbatch", ...)``.

By hand::

    python -m tests.services.slurm up DIR [--no-accounting] [--default-location]
    python -m tests.services.slurm down DIR
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.services.common import (
    Daemon,
    ProcessRef,
    ServiceFailed,
    ServiceUnavailable,
    end_processes,
    free_ports,
    processes_with,
    wait_until,
    with_descendants,
)
from tests.services.packages import ensure_debian_packages
from tests.services.slurm_config import (
    CLUSTER_NAME,
    Ports,
    SlurmSettings,
    cgroup_conf,
    gpu_files,
    gres_conf,
    mariadb_conf,
    slurm_conf,
    slurmdbd_conf,
)
from tests.services.users import TEST_USER, ensure_user, user_env

ACCOUNT = "lab"
"""The account of root and of the test user, where there is accounting."""

_PACKAGES = ("slurm-wlm", "munge")
_ACCOUNTING_PACKAGES = ("slurmdbd", "mariadb-server")
_DEFAULT_CONF = Path("/etc/slurm/slurm.conf")
_SETTINGS_FILE = "cluster.json"
_MARK = "PIPEN_TEST_SLURM"
_STEP_MARK = "PIPEN_TEST_SLURM_NODE"
_CLIENT_VARIABLES = ("SLURM", "SBATCH", "SQUEUE", "SACCT", "SCANCEL", "SCONTROL", "SINFO", "SRUN")
# A look at Slurm costs a process of some milliseconds.
_CLIENT_INTERVAL = 0.05
# From this release on slurmd looks for cgroups, whichever plugins are chosen.
_CGROUPS_BY_DEFAULT = (23, 11)


class SlurmCluster:
    """munged, slurmctld, some slurmd and, with accounting, slurmdbd and mariadbd, on loopback.

    Several clusters can live side by side: each has ports, keys and files of its own. Its
    partitions are ``main`` (the default, without limit) and ``short`` (one minute).

    Parameters
    ----------
    base
        Directory for everything the cluster writes. It must be empty or missing, every user
        must be able to reach it, and its path be short (a socket's has at most 107 bytes).
        `stop` **removes** it. By default a new one in ``/tmp``.
    settings
        Any of the attributes of `SlurmSettings`, by keyword.

    Raises
    ------
    ServiceUnavailable
        By `start`, when this machine cannot run it.
    ServiceFailed
        By `start` and the fault methods, when a daemon does not do in time what it should.
    """

    def __init__(self, base: Path | None = None, **settings: Any) -> None:
        self.settings = SlurmSettings(**settings)
        if base is None:
            base = Path(tempfile.mkdtemp(prefix="pipen-slurm-", dir="/tmp"))
            base.chmod(0o755)
        self.base = base.absolute()
        self._daemons = {name: self._daemon(name, argv) for name, argv in self._commands().items()}

    @classmethod
    def attach(cls, base: Path) -> SlurmCluster:
        """Return the cluster that another process has started in ``base``."""
        try:
            settings = json.loads((base / _SETTINGS_FILE).read_text())
        except FileNotFoundError:
            raise ServiceUnavailable(f"no cluster was started in {base}") from None
        settings["extra_lines"] = tuple(settings["extra_lines"])
        return cls(base, **settings)

    # What clients need

    @property
    def conf(self) -> Path:
        """The cluster's slurm.conf, readable by every user."""
        return self.base / "etc" / "slurm.conf"

    @property
    def scratch(self) -> Path:
        """A directory in which every user may write, as in ``/tmp``."""
        return self.base / "scratch"

    @property
    def env(self) -> dict[str, str]:
        """The variables that a client of this cluster needs on top of its own."""
        search = os.environ.get("PATH", os.defpath).split(os.pathsep)
        search += [place for place in ("/usr/bin", "/usr/sbin") if place not in search]
        return {"SLURM_CONF": str(self.conf), "PATH": os.pathsep.join(search)}

    def run(
        self,
        *argv: str,
        user: str | None = None,
        check: bool = True,
        stdin: str = "",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a client command and return its result.

        Parameters
        ----------
        argv
            The command.
        user
            As whom; by default as who runs the tests.
        check
            Whether an exit status other than 0 raises.
        stdin
            Its standard input.
        cwd
            Its working directory; by default `scratch`.
        env
            Variables on top of this process's own and of `env`.
        timeout
            Seconds after which it is ended.

        Raises
        ------
        ServiceFailed
            When ``check`` is true and it failed; with what it wrote.
        """
        identity: dict[str, Any] = {}
        variables = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_CLIENT_VARIABLES)
        }
        if user is not None:
            entry = ensure_user(user)
            variables |= user_env(entry)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        result = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            cwd=cwd or self.scratch,
            env={**variables, **self.env, **(env or {})},
            timeout=timeout,
            **identity,
        )
        if check and result.returncode != 0:
            raise ServiceFailed(
                f"{shlex.join(argv)} gave {result.returncode}: {result.stderr or result.stdout}"
            )
        return result

    def release(self) -> tuple[int, int]:
        """Return the Slurm release in use, such as ``(22, 5)``."""
        version = self.run("sbatch", "--version").stdout.split()[-1]
        major, minor = version.split(".")[:2]
        return int(major), int(minor)

    def job_state(self, jobid: str | int) -> str:
        """Return a job's state as slurmctld has it; empty if it knows no such job."""
        query = self.run("squeue", "-h", "-t", "all", "-j", str(jobid), "-o", "%T", check=False)
        return query.stdout.strip()

    def wait_state(self, jobid: str | int, *states: str, timeout: float = 60.0) -> str:
        """Wait until slurmctld has a job in one of these states, and return which."""
        seen = ""

        def reached() -> bool:
            nonlocal seen
            seen = self.job_state(jobid)
            return seen in states

        try:
            wait_until(
                reached,
                f"job {jobid} to be {' or '.join(states)}",
                timeout=timeout,
                interval=_CLIENT_INTERVAL,
            )
        except ServiceFailed as error:
            raise ServiceFailed(f"{error}; it is {seen or 'unknown'}") from None
        return seen

    def wait_idle(self, *, timeout: float = 60.0) -> None:
        """Wait until no job of anybody is pending, running or completing."""
        wait_until(
            lambda: self.run("squeue", "-h").stdout == "",
            "the queue to be empty",
            timeout=timeout,
            interval=_CLIENT_INTERVAL,
        )

    # Start and stop

    def start(self) -> SlurmCluster:
        """Bring everything up; return once every node is idle."""
        if os.geteuid() != 0:
            raise ServiceUnavailable("only root can start a test Slurm")
        accounting = self.settings.accounting
        ensure_debian_packages(_PACKAGES + (_ACCOUNTING_PACKAGES if accounting else ()))
        ensure_user(TEST_USER)
        self._make_directories()
        try:
            self._write_files()
            self._start_munged()
            if accounting:
                self._start_database()
                self.start_dbd()
                self._add_associations()
            self.start_controller()
            for name in self.settings.node_names:
                self.start_node(name)
            self._wait_nodes_idle()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every daemon and every job, and remove the directory."""
        # First the nodes, so that none starts a job any more; then what runs on them.
        nodes = [self._daemons[_slurmd(name)] for name in self.settings.node_names]
        end_processes([ref for node in nodes if (ref := node.ref()) is not None])
        self._end_jobs()
        for daemon in reversed(self._daemons.values()):
            daemon.stop()
        if _DEFAULT_CONF.is_symlink() and _DEFAULT_CONF.readlink() == self.conf:
            _DEFAULT_CONF.unlink()
        shutil.rmtree(self.base)

    def processes(self) -> list[ProcessRef]:
        """Return the cluster's live processes: daemons, job steps and jobs."""
        return with_descendants(processes_with({_MARK: str(self.base)}) + self._jobs())

    def __enter__(self) -> SlurmCluster:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Faults

    def stop_controller(self) -> None:
        """Stop slurmctld; it saves its state. Jobs run on."""
        self._daemons["slurmctld"].stop()

    def start_controller(self) -> None:
        """Start slurmctld (again) and wait until it answers."""
        controller = self._daemons["slurmctld"]
        controller.start()
        controller.wait_ready(lambda: "is UP" in self.run("scontrol", "ping", check=False).stdout)

    def kill_controller(self) -> None:
        """Kill slurmctld, which saves nothing more of its state."""
        self._signal_controller(signal.SIGKILL)
        self.stop_controller()

    def hang_controller(self) -> None:
        """Let slurmctld hang: clients connect and get no answer until `wake_controller`."""
        self._signal_controller(signal.SIGSTOP)

    def wake_controller(self) -> None:
        """Let a hung slurmctld go on."""
        self._signal_controller(signal.SIGCONT)

    def stop_dbd(self) -> None:
        """Stop slurmdbd: sacct and sacctmgr fail, slurmctld keeps its records for later."""
        self._daemons["slurmdbd"].stop()

    def start_dbd(self) -> None:
        """Start slurmdbd (again) and wait until it answers."""
        dbd = self._daemons["slurmdbd"]
        dbd.start()
        dbd.wait_ready(
            lambda: self.run("sacctmgr", "-n", "show", "cluster", check=False).returncode == 0
        )

    def stop_node(self, name: str) -> None:
        """Stop a node's slurmd, as if the machine had hung; slurmctld finds out by itself."""
        self._daemons[_slurmd(name)].stop()

    def start_node(self, name: str) -> None:
        """Start a node's slurmd again."""
        self._daemons[_slurmd(name)].start()

    def node_state(self, name: str) -> str:
        """Return a node's state, flags included, such as ``IDLE`` or ``MIXED+DRAIN``."""
        shown = self.run("scontrol", "show", "node", "-o", name).stdout
        return next(word for word in shown.split() if word.startswith("State="))[len("State=") :]

    def node_down(self, name: str) -> None:
        """Set a node down: what runs on it ends with NODE_FAIL, or is requeued."""
        self._update_node(name, "down")
        self._wait_node(name, lambda state: state.startswith("DOWN"), "down")

    def drain(self, name: str) -> None:
        """Drain a node: what runs on it goes on, nothing new starts."""
        self._update_node(name, "drain")
        self._wait_node(name, lambda state: "DRAIN" in state, "drained")

    def node_resume(self, name: str) -> None:
        """Put a node that is down or drained back into service."""
        self._update_node(name, "resume")
        self._wait_node(name, _in_service, "in service")

    def cancel(self, jobid: str | int, *options: str) -> None:
        """Cancel a job from outside, as an administrator does."""
        self.run("scancel", *options, str(jobid))

    # Inner parts

    def _commands(self) -> dict[str, list[str]]:
        """Return the daemons' command lines, in the order in which they depend on each other."""
        base = self.base
        commands = {
            "munged": [
                "/usr/sbin/munged",
                "--foreground",
                f"--key-file={base}/munge/munge.key",
                f"--socket={base}/run/munge.sock",
                f"--pid-file={base}/run/munged.pid",
                f"--log-file={base}/log/munged.log",
                f"--seed-file={base}/munge/seed",
                "--num-threads=4",
            ]
        }
        if self.settings.accounting:
            commands["mariadbd"] = ["/usr/sbin/mariadbd", f"--defaults-file={base}/etc/my.cnf"]
            commands["slurmdbd"] = ["/usr/sbin/slurmdbd", "-D"]
        commands["slurmctld"] = ["/usr/sbin/slurmctld", "-D", "-f", str(self.conf)]
        for name in self.settings.node_names:
            commands[_slurmd(name)] = ["/usr/sbin/slurmd", "-D", "-N", name, "-f", str(self.conf)]
        return commands

    def _daemon(self, name: str, argv: list[str]) -> Daemon:
        # Steps (slurmstepd) inherit slurmd's environment, the jobs' processes do not.
        role = {_STEP_MARK: "1"} if name.startswith("slurmd-") else {}
        return Daemon(
            name=name,
            argv=argv,
            run_dir=self.base / "run",
            log=self.base / "log" / f"{name}.out",
            env={**self.env, _MARK: str(self.base), **role},
        )

    def _make_directories(self) -> None:
        base = self.base
        if base.exists() and any(base.iterdir()):
            raise ServiceUnavailable(f"{base} is not empty")
        base.mkdir(parents=True, exist_ok=True, mode=0o755)
        for place in (base, *base.parents):
            if not place.stat().st_mode & 0o001:
                raise ServiceUnavailable(f"ordinary users cannot reach {place}, hence not {base}")
        for name in ("etc", "run", "log", "munge", "state", "spool", "gpu", "scratch"):
            (base / name).mkdir(mode=0o755)
        self.scratch.chmod(0o1777)
        (base / "state").chmod(0o700)
        for name in self.settings.node_names:
            (base / "spool" / name).mkdir()

    def _write_files(self) -> None:
        base = self.base
        first, second, third, *others = free_ports(3 + self.settings.nodes)
        ports = Ports(slurmctld=first, slurmdbd=second, database=third, slurmd=tuple(others))
        (base / _SETTINGS_FILE).write_text(json.dumps(asdict(self.settings)))
        self.conf.write_text(slurm_conf(self.settings, ports, base))
        if self.release() >= _CGROUPS_BY_DEFAULT:
            (base / "etc" / "cgroup.conf").write_text(cgroup_conf())
        (base / "etc" / "gres.conf").write_text(gres_conf(self.settings, base))
        for file in gpu_files(self.settings, base):
            file.symlink_to("/dev/null")
        _write_secret(base / "munge" / "munge.key", secrets.token_bytes(128))
        if self.settings.accounting:
            _write_secret(base / "etc" / "slurmdbd.conf", slurmdbd_conf(ports, base).encode())
            (base / "etc" / "my.cnf").write_text(mariadb_conf(ports, base))
        if self.settings.default_location:
            if _DEFAULT_CONF.exists():
                raise ServiceUnavailable(f"{_DEFAULT_CONF} belongs to another cluster")
            _DEFAULT_CONF.unlink(missing_ok=True)
            _DEFAULT_CONF.parent.mkdir(exist_ok=True)
            _DEFAULT_CONF.symlink_to(self.conf)

    def _start_munged(self) -> None:
        sock = f"--socket={self.base}/run/munge.sock"
        munged = self._daemons["munged"]
        munged.start()
        munged.wait_ready(
            lambda: self.run("munge", "--no-input", sock, check=False).returncode == 0
        )

    def _start_database(self) -> None:
        base = self.base
        mysql = pwd.getpwnam("mysql")
        for place in (base / "mysql", base / "run" / "mysql"):
            place.mkdir()
            os.chown(place, mysql.pw_uid, mysql.pw_gid)
        self.run(
            "mariadb-install-db",
            f"--defaults-file={base}/etc/my.cnf",
            "--user=mysql",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )
        client = ["--no-defaults", f"--socket={base}/run/mysql/mysqld.sock", "--user=root"]
        server = self._daemons["mariadbd"]
        server.start()
        server.wait_ready(
            lambda: self.run("mariadb-admin", *client, "ping", check=False).returncode == 0
        )
        self.run(
            "mariadb",
            *client,
            stdin="CREATE DATABASE slurm_acct_db;"
            "CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';"
            "GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';",
        )

    def _add_associations(self) -> None:
        """Register the cluster, an account and two users, as sites that enforce limits do."""
        self.run("sacctmgr", "-i", "add", "cluster", CLUSTER_NAME)
        self.run("sacctmgr", "-i", "add", "account", ACCOUNT, "Description=lab")
        self.run("sacctmgr", "-i", "add", "user", f"root,{TEST_USER}", f"Account={ACCOUNT}")

    def _wait_nodes_idle(self) -> None:
        for name in self.settings.node_names:
            self._daemons[_slurmd(name)].wait_ready(partial(self._idle, name), timeout=60.0)

    def _idle(self, name: str) -> bool:
        return self.node_state(name) == "IDLE"

    def _update_node(self, name: str, state: str) -> None:
        self.run("scontrol", "update", f"NodeName={name}", f"State={state}", "Reason=test")

    def _wait_node(self, name: str, condition: Callable[[str], bool], what: str) -> None:
        try:
            wait_until(
                lambda: condition(self.node_state(name)),
                f"{name} to be {what}",
                interval=_CLIENT_INTERVAL,
            )
        except ServiceFailed as error:
            raise ServiceFailed(f"{error}; it is {self.node_state(name)}") from None

    def _signal_controller(self, number: signal.Signals) -> None:
        ref = self._daemons["slurmctld"].ref()
        if ref is None:
            raise ServiceFailed("slurmctld does not run")
        ref.signal(number)

    def _jobs(self) -> list[ProcessRef]:
        """Return the live job steps, and the processes of jobs wherever they went."""
        steps = processes_with({_MARK: str(self.base), _STEP_MARK: "1"})
        # What left its step's process tree still has the variables of the job.
        jobs = [
            ref
            for name in self.settings.node_names
            for ref in processes_with({"SLURM_CONF": str(self.conf), "SLURMD_NODENAME": name})
        ]
        return with_descendants(steps + jobs)

    def _end_jobs(self) -> None:
        def ended() -> bool:
            # A step may be just starting its job, so look again after each round.
            found = self._jobs()
            for ref in found:
                ref.signal(signal.SIGKILL)
            return not found

        wait_until(ended, "all jobs to end")


def _slurmd(node: str) -> str:
    return f"slurmd-{node}"


def _in_service(state: str) -> bool:
    # slurmctld asks a resumed node whether it is there, which takes a second.
    return not any(word in state for word in ("DOWN", "DRAIN", "NOT_RESPONDING", "UNKNOWN"))


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def main() -> None:
    """Bring a cluster up, or take it down, by hand."""
    parser = argparse.ArgumentParser(prog="python -m tests.services.slurm")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring a cluster up; prints what to export")
    up.add_argument("directory", type=Path)
    up.add_argument("--no-accounting", dest="accounting", action="store_false")
    up.add_argument("--default-location", action="store_true", help="also link /etc/slurm")
    up.add_argument("--min-job-age", type=int, default=300, metavar="SECONDS")
    down = commands.add_parser("down", help="take it down and remove the directory")
    down.add_argument("directory", type=Path)
    options = parser.parse_args()
    if options.command == "down":
        SlurmCluster.attach(options.directory).stop()
        return
    cluster = SlurmCluster(
        options.directory,
        accounting=options.accounting,
        default_location=options.default_location,
        min_job_age=options.min_job_age,
    ).start()
    for name, value in cluster.env.items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
