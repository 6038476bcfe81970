"""A real Grid Engine on this machine: ``with SgeCell() as cell: cell.run("qsub", ...)``.

By hand::

    python -m tests.services.sge up DIR [--accounting-delay SECONDS]
    python -m tests.services.sge down DIR
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import random
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.services import sge_config as config
from tests.services.common import (
    Daemon,
    ProcessRef,
    ServiceFailed,
    ServiceUnavailable,
    free_ports,
    processes_with,
    wait_until,
    with_descendants,
)
from tests.services.packages import ensure_debian_packages
from tests.services.sge_config import ADMIN, HOST, PACKAGE, SgeSettings
from tests.services.users import TEST_USER, ensure_user, user_env

_PACKAGES = ("gridengine-master", "gridengine-exec", "gridengine-client", "gcc", "libc6-dev")
_SETTINGS_FILE = "cell.json"
_PORTS_FILE = "ports.json"
_MARK = "PIPEN_TEST_SGE"
_QUEUES = ("all.q", "side.q")
# A look at Grid Engine costs a process of some milliseconds.
_CLIENT_INTERVAL = 0.05
_START_PATIENCE = 60.0


class SgeCell:
    """sge_qmaster and sge_execd of a cell of their own, on loopback.

    Several cells can live side by side: each has ports, files and job groups of its own. The
    queues are ``all.q`` and, later in order, ``side.q``, both on the one host.

    Parameters
    ----------
    base
        Directory for everything the cell writes, its ``SGE_ROOT``. It must be empty or
        missing, and every user must be able to reach it. `stop` **removes** it. By default a
        new one in ``/tmp``.
    settings
        Any of the attributes of `SgeSettings`, by keyword.

    Raises
    ------
    ServiceUnavailable
        By `start`, when this machine cannot run it.
    ServiceFailed
        By `start` and the fault methods, when a daemon does not do in time what it should.
    """

    def __init__(self, base: Path | None = None, **settings: Any) -> None:
        self.settings = SgeSettings(**settings)
        if base is None:
            base = Path(tempfile.mkdtemp(prefix="pipen-sge-", dir="/tmp"))
            base.chmod(0o755)
        self.base = base.absolute()
        self._ports: tuple[int, int] = (0, 0)

    @classmethod
    def attach(cls, base: Path) -> SgeCell:
        """Return the cell that another process has started in ``base``."""
        try:
            settings = json.loads((base / _SETTINGS_FILE).read_text())
        except FileNotFoundError:
            raise ServiceUnavailable(f"no cell was started in {base}") from None
        cell = cls(base, **settings)
        qmaster, execd = json.loads((base / _PORTS_FILE).read_text())
        cell._ports = (qmaster, execd)
        return cell

    # What clients need

    @property
    def scratch(self) -> Path:
        """A directory in which every user may write, as in ``/tmp``."""
        return self.base / "scratch"

    @property
    def accounting_file(self) -> Path:
        """Where qmaster writes a line for each job that has ended (accounting(5))."""
        return self.base / "default" / "common" / "accounting"

    @property
    def env(self) -> dict[str, str]:
        """The variables that a client of this cell needs on top of its own."""
        qmaster, execd = self._ports
        return {
            "SGE_ROOT": str(self.base),
            "SGE_CELL": "default",
            "SGE_QMASTER_PORT": str(qmaster),
            "SGE_EXECD_PORT": str(execd),
            # The clients themselves, without the script that Debian puts before each.
            "PATH": os.pathsep.join([str(PACKAGE), os.environ.get("PATH", os.defpath)]),
        }

    def run(
        self,
        *argv: str,
        user: str | None = None,
        check: bool = True,
        stdin: str = "",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 90.0,
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
        variables = {k: v for k, v in os.environ.items() if not k.startswith("SGE_")}
        if user is not None:
            entry = ensure_user(user)
            variables |= user_env(entry)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        result = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
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

    def job_state(self, jobid: str | int) -> str:
        """Return a job's or array task's state as qstat shows it; empty if it is gone."""
        number, _, task = str(jobid).partition(".")
        shown = self.run("qstat", "-xml", "-g", "d", "-u", "*").stdout
        for entry in ElementTree.fromstring(shown).iter("job_list"):
            if entry.findtext("JB_job_number") == number and entry.findtext("tasks", "") == task:
                return entry.findtext("state", "")
        return ""

    def wait_state(self, jobid: str | int, *states: str, timeout: float = 60.0) -> str:
        """Wait until a job is in one of these states (``""`` for gone), and return which."""
        seen = ""

        def reached() -> bool:
            nonlocal seen
            seen = self.job_state(jobid)
            return seen in states

        wanted = " or ".join(state or "gone" for state in states)
        try:
            wait_until(
                reached, f"job {jobid} to be {wanted}", timeout=timeout, interval=_CLIENT_INTERVAL
            )
        except ServiceFailed as error:
            raise ServiceFailed(f"{error}; it is {seen or 'gone'}") from None
        return seen

    def wait_idle(self, *, timeout: float = 60.0) -> None:
        """Wait until no job of anybody is in the queue."""
        wait_until(
            lambda: self.run("qstat", "-u", "*").stdout == "",
            "the queue to be empty",
            timeout=timeout,
            interval=_CLIENT_INTERVAL,
        )

    def wait_accounted(self, jobid: str | int, *, timeout: float = 60.0) -> str:
        """Wait for a job's accounting record, and return it as qacct shows it."""
        shown = ""

        def written() -> bool:
            nonlocal shown
            result = self.run("qacct", "-j", str(jobid), check=False)
            shown = result.stdout
            return result.returncode == 0

        wait_until(written, f"job {jobid} to be accounted for", timeout=timeout, interval=0.1)
        return shown

    # Start and stop

    def start(self) -> SgeCell:
        """Bring everything up; return once the queues take jobs."""
        if os.geteuid() != 0:
            raise ServiceUnavailable("only root can start a test Grid Engine")
        ensure_debian_packages(_PACKAGES)
        ensure_user(TEST_USER)
        self._make_directories()
        try:
            self._write_files()
            self._spool()
            self.start_qmaster()
            self._configure()
            self.start_execd()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every daemon and every job, and remove the directory."""
        # Nothing is asked to end by itself: the qmaster would take nine seconds.
        self._daemon("sge_execd").stop(grace=0)
        self._end_jobs()
        self._daemon("sge_qmaster").stop(grace=0)
        shutil.rmtree(self.base)

    def processes(self) -> list[ProcessRef]:
        """Return the cell's live processes: daemons, shepherds and jobs."""
        return with_descendants(processes_with({_MARK: str(self.base)}) + self.jobs())

    def jobs(self) -> list[ProcessRef]:
        """Return the live processes of jobs, wherever they went, and their shepherds."""
        return with_descendants(
            processes_with({"SGE_ROOT": str(self.base), "ENVIRONMENT": "BATCH"}) + self._shepherds()
        )

    def __enter__(self) -> SgeCell:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Faults

    def stop_qmaster(self) -> None:
        """End qmaster as a crash does; what it has spooled stays, jobs run on."""
        self._daemon("sge_qmaster").stop(grace=0)

    def start_qmaster(self) -> None:
        """Start qmaster (again) and wait until it answers."""
        qmaster = self._daemon("sge_qmaster")
        qmaster.start()
        port = str(self._ports[0])
        # qping tries once; other clients would wait for as long as their own limit.
        qmaster.wait_ready(
            lambda: (
                self.run("qping", "-info", HOST, port, "qmaster", "1", check=False).returncode == 0
            ),
            timeout=_START_PATIENCE,
        )

    def hang_qmaster(self) -> None:
        """Let qmaster hang: clients connect and get no answer until `wake_qmaster`."""
        self._signal_qmaster(signal.SIGSTOP)

    def wake_qmaster(self) -> None:
        """Let a hung qmaster go on."""
        self._signal_qmaster(signal.SIGCONT)

    def stop_execd(self) -> None:
        """End the execution daemon as a crash does; jobs run on, and qmaster finds out late."""
        self._daemon("sge_execd").stop(grace=0)

    def start_execd(self) -> None:
        """Start the execution daemon (again) and wait until the queues take jobs."""
        # A shepherd that has ended and is not reaped yet looks alive to the new daemon, which
        # would wait for it for ever.
        wait_until(lambda: not any(map(_is_zombie, self._shepherd_pids())), "shepherds' reaping")
        execd = self._daemon("sge_execd")
        execd.start()
        execd.wait_ready(lambda: not any(map(self.queue_state, _QUEUES)), timeout=_START_PATIENCE)

    def queue_state(self, name: str = "all.q") -> str:
        """Return the state of a queue on its host, such as ``u`` or ``d``; empty if all is well.

        Until the host's first report it is ``au``.
        """
        shown = self.run("qstat", "-f", "-xml", "-q", name).stdout
        for entry in ElementTree.fromstring(shown).iter("Queue-List"):
            return entry.findtext("state", "")
        raise ServiceFailed(f"there is no queue {name}")

    def wait_queue(self, state: str, name: str = "all.q", *, timeout: float = 60.0) -> None:
        """Wait until a queue has a flag in its state."""
        wait_until(
            lambda: state in self.queue_state(name),
            f"{name} to be in state {state}",
            timeout=timeout,
            interval=0.2,
        )

    def delete(self, jobid: str | int, *options: str) -> None:
        """Delete a job from outside, as an administrator does."""
        self.run("qdel", *options, str(jobid))

    # Inner parts

    def _daemon(self, name: str) -> Daemon:
        return Daemon(
            name=name,
            argv=[str(PACKAGE / name)],
            run_dir=self.base / "run",
            log=self.base / "log" / f"{name}.out",
            env={
                **self.env,
                # Jobs inherit it (INHERIT_ENV, sge_conf(5)): a node's own, not the tests'.
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                _MARK: str(self.base),
                "SGE_ND": "1",  # stay in the foreground
                "LD_PRELOAD": str(self.base / "lib-loopback.so"),
            },
        )

    def _make_directories(self) -> None:
        base = self.base
        if base.exists() and any(base.iterdir()):
            raise ServiceUnavailable(f"{base} is not empty")
        base.mkdir(parents=True, exist_ok=True, mode=0o755)
        for place in (base, *base.parents):
            if not place.stat().st_mode & 0o001:
                raise ServiceUnavailable(f"ordinary users cannot reach {place}, hence not {base}")
        for name in (
            *("default/common", "spool/qmaster/job_scripts", "spool/execd", "spool/db"),
            *("run", "log", "new", "scratch"),
        ):
            (base / name).mkdir(parents=True, mode=0o755)
        for name in ("bin", "lib", "util", "utilbin"):
            (base / name).symlink_to(f"/var/lib/gridengine/{name}")
        self.scratch.chmod(0o1777)

    def _write_files(self) -> None:
        base = self.base
        qmaster, execd = free_ports(2)
        self._ports = (qmaster, execd)
        (base / _SETTINGS_FILE).write_text(json.dumps(asdict(self.settings)))
        (base / _PORTS_FILE).write_text(json.dumps(self._ports))
        common = base / "default" / "common"
        names = [socket.gethostname(), socket.getfqdn(), *_loopback_names()]
        for name, text in (
            ("bootstrap", config.bootstrap(base)),
            ("host_aliases", config.host_aliases(names)),
            ("act_qmaster", f"{HOST}\n"),
            ("cluster_name", "pipentest\n"),
        ):
            (common / name).write_text(text)
        admin = pwd.getpwnam(ADMIN)
        for place in (base / "default", base / "spool"):
            for path in (place, *place.rglob("*")):
                os.chown(path, admin.pw_uid, admin.pw_gid)
        source = base / "new" / "loopback.c"
        source.write_text(config.LOOPBACK_ONLY)
        library = str(base / "lib-loopback.so")
        self.run("gcc", "-shared", "-fPIC", "-O1", "-o", library, str(source), "-ldl")

    def _table(self, name: str, text: str) -> str:
        """Write a table for one of Grid Engine's tools, and return its path."""
        path = self.base / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def _spool(self) -> None:
        """Fill qmaster's database while it is not running yet."""
        resources = config.TEMPLATES / "util" / "resources"
        complexes = self.base / "new" / "centry"
        shutil.copytree(resources / "centry", complexes)
        (complexes / "h_vmem").write_text(config.memory_complex())
        for name in self.settings.consumables:
            (complexes / name).write_text(config.consumable(name))
        for name, rule in self.settings.environments.items():
            self._table(f"pe/{name}", config.environment(name, rule))
        first_group = 100 * random.randrange(1000, 9000)
        configuration = config.configuration(self.settings, self.base, first_group)
        self._as_admin("spoolinit", "berkeleydb", "libspoolb", f"{self.base}/spool/db", "init")
        for words in (
            ("configuration", self._table("configuration", configuration)),
            ("complexes", str(complexes)),
            ("usersets", str(resources / "usersets")),
            *([("pes", f"{self.base}/new/pe")] if self.settings.environments else []),
            ("managers", ADMIN, "root"),
            ("adminhosts", HOST),
        ):
            self._as_admin("spooldefaults", *words)

    def _as_admin(self, tool: str, *arguments: str) -> None:
        self.run(str(PACKAGE / tool), *arguments, user=ADMIN)

    def _configure(self) -> None:
        """Give the running qmaster its scheduler's configuration, its host and its queues."""
        settings = self.settings
        current = self.run("qconf", "-ssconf").stdout
        self._configure_with("-Msconf", config.scheduler_configuration(current, settings))
        self._configure_with("-Ahgrp", f"group_name @allhosts\nhostlist {HOST}\n")
        self._configure_with("-Me", config.host(settings))
        current = self.run("qconf", "-sq").stdout
        for name in _QUEUES:
            self._configure_with("-Aq", config.queue(current, name, settings))
        self.run("qconf", "-as", HOST)

    def _configure_with(self, option: str, text: str) -> None:
        self.run("qconf", option, self._table("table", text))

    def _signal_qmaster(self, number: signal.Signals) -> None:
        ref = self._daemon("sge_qmaster").ref()
        if ref is None:
            raise ServiceFailed("sge_qmaster does not run")
        ref.signal(number)

    def _shepherd_pids(self) -> list[int]:
        """Return the ids that the shepherds of jobs have, or had, by their own files."""
        files = (self.base / "spool" / "execd").glob("*/active_jobs/*/pid")
        return [int(text) for file in files if (text := file.read_text().strip()).isdigit()]

    def _shepherds(self) -> list[ProcessRef]:
        """Return the live shepherds, which have an environment of their own."""
        found = map(ProcessRef.of, self._shepherd_pids())
        return [ref for ref in found if ref is not None]

    def _end_jobs(self) -> None:
        def ended() -> bool:
            # A shepherd may be just starting its job, so look again after each round.
            found = self.jobs()
            for ref in found:
                ref.signal(signal.SIGKILL)
            return not found

        wait_until(ended, "all jobs to end")


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and ProcessRef.of(pid) is None


def _loopback_names() -> list[str]:
    """Return all names that this machine's hosts file gives its loopback addresses."""
    names = []
    for line in Path("/etc/hosts").read_text().splitlines():
        address, *aliases = line.partition("#")[0].split() or [""]
        if address.startswith("127.") or address == "::1":
            names += aliases
    return names


def main() -> None:
    """Bring a cell up, or take it down, by hand."""
    parser = argparse.ArgumentParser(prog="python -m tests.services.sge")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring a cell up; prints what to export")
    up.add_argument("directory", type=Path)
    up.add_argument("--accounting-delay", type=int, default=0, metavar="SECONDS")
    up.add_argument("--slots", type=int, default=16)
    down = commands.add_parser("down", help="take it down and remove the directory")
    down.add_argument("directory", type=Path)
    options = parser.parse_args()
    if options.command == "down":
        SgeCell.attach(options.directory).stop()
        return
    cell = SgeCell(
        options.directory, accounting_delay=options.accounting_delay, slots=options.slots
    ).start()
    for name, value in cell.env.items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
