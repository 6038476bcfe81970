"""Real machines that are reached over ssh: ``with SshHosts() as hosts: ...``.

Each has an sshd of its own, in a network namespace behind a veth pair, and a host name of its
own. Either they see the files of this machine (as with a shared file system), or they share
nothing with it: then home directories, temporary directories and this repository are their own.

By hand::

    python -m tests.services.ssh [--private]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.services.common import (
    Daemon,
    ProcessRef,
    ServiceFailed,
    ServiceUnavailable,
    end_processes,
    wait_until,
    with_descendants,
)
from tests.services.packages import ensure_debian_packages

_PACKAGES = ("openssh-server", "openssh-client", "iproute2")
_SSHD = "/usr/sbin/sshd"
_REPOSITORY = Path(__file__).resolve().parents[2]
_PRIVATE = ("/tmp", "/var/tmp", "/home", "/root", "/srv")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SSHD_CONFIG = """\
ListenAddress {address}:22
ListenAddress 127.0.0.1:2222
HostKey {base}/hostkey
PidFile none
AuthorizedKeysFile {base}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""
# The second address is reached by those only who have logged in at the first one (ProxyJump).
# MaxSessions and MaxStartups are left at OpenSSH's defaults on purpose.

_SSH_CONFIG = """\
Host {name}
  HostName {address}
  User root
  IdentityFile {key}
  IdentitiesOnly yes
  UserKnownHostsFile {known_hosts}
  StrictHostKeyChecking yes
  ConnectTimeout 5
  LogLevel ERROR
"""

# The first process of a machine. What it mounts is seen by nobody else.
_INIT = """\
set -e
hostname {name}
{mounts}
cd /
exec env -i PATH={path} \\
    {sshd} -D -e -f {config}
"""


@dataclass
class Machine:
    """One machine.

    Attributes
    ----------
    name
        Its name, in the client's configuration too.
    address
        Its IP address.
    namespace, link
        Its network namespace, and the end of the veth pair on this side.
    base
        Directory of its keys and configuration.
    daemon
        Its first process.
    """

    name: str
    address: str
    namespace: str
    link: str
    base: Path
    daemon: Daemon


class SshHosts:
    """Some machines with an sshd each.

    Parameters
    ----------
    names
        What they are called.
    private
        Whether they share no files with this machine.
    python
        Whether private machines have the Python of the tests, with Snakemake, nevertheless; it
        is in the ``PATH`` of a login.

    Raises
    ------
    ServiceUnavailable
        By `start`, when this machine cannot run them.
    """

    def __init__(
        self,
        names: Sequence[str] = ("big1", "big2"),
        *,
        private: bool = False,
        python: bool = False,
    ) -> None:
        self.private = private
        self._python = {sys.prefix, sys.base_prefix} if python else set()
        # Not below /tmp, which private machines have replaced before they read it.
        self.base = Path(tempfile.mkdtemp(prefix="pipen-ssh-", dir="/run"))
        self.base.chmod(0o755)
        self._token = secrets.token_hex(2)
        self._names = names
        self.machines: dict[str, Machine] = {}

    # -- what clients need -------------------------------------------------------------

    @property
    def config(self) -> Path:
        """A client's configuration, for ``ssh -F`` and the like."""
        return self.base / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        """The keys of all machines."""
        return self.base / "known_hosts"

    def run(self, name: str, *argv: str, check: bool = True) -> str:
        """Run a command on a machine, as root and beside sshd; return its output."""
        enter = ["nsenter", f"--target={self._first(name)}", "--mount", "--net", "--uts", "--pid"]
        done = subprocess.run(
            [*enter, *argv], capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd="/"
        )
        if check and done.returncode:
            raise ServiceFailed(f"{shlex.join(argv)} on {name}: {done.stderr}")
        return done.stdout

    def root(self, name: str) -> Path:
        """Return where this machine sees the files of another one (proc(5), root)."""
        return Path(f"/proc/{self._first(name)}/root")

    def _first(self, name: str) -> int:
        ref = self.machines[name].daemon.ref()
        assert ref is not None
        return _leaf(ref).pid

    def connections(self, name: str) -> int:
        """Return how many TCP connections to a machine's sshd there are."""
        listing = self.run(name, "ss", "-Htn", "state", "established", "sport = :22")
        return len(listing.splitlines())

    # -- life --------------------------------------------------------------------------

    def __enter__(self) -> SshHosts:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start all machines and wait until one can log in."""
        if os.geteuid() != 0:
            raise ServiceUnavailable("network namespaces can only be made by root")
        ensure_debian_packages(_PACKAGES)
        Path("/run/sshd").mkdir(exist_ok=True)
        _keygen(self.base / "key", "tests")
        self.config.write_text("")
        self.known_hosts.write_text("")
        try:
            for number, name in enumerate(self._names):
                self._make(number, name)
            for name in self._names:
                self.start_sshd(name)
        except BaseException:
            self.stop()
            raise

    def _make(self, number: int, name: str) -> None:
        base = self.base / name
        base.mkdir()
        namespace, link = f"pipen-{self._token}-{name}", f"pp{self._token}-{number}"
        here, there = _free_subnet(number)
        machine = Machine(name, there, namespace, link, base, self._daemon(name, namespace))
        self.machines[name] = machine
        try:
            _ip("netns", "add", namespace)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            _ip("address", "add", f"{here}/30", "dev", link)
            _ip("link", "set", link, "up")
            _ip("-n", namespace, "address", "add", f"{there}/30", "dev", "eth0")
            _ip("-n", namespace, "link", "set", "eth0", "up")
            _ip("-n", namespace, "link", "set", "lo", "up")
        except ServiceFailed as error:
            raise ServiceUnavailable(f"no network namespaces here: {error}") from None
        _keygen(base / "hostkey", name)
        shutil.copy(self.base / "key.pub", base / "authorized_keys")
        config = _SSHD_CONFIG.format(address=there, base=base)
        if self._python:
            config += f"SetEnv PATH={sys.prefix}/bin:{_PATH}\n"
        (base / "sshd_config").write_text(config)
        (base / "init").write_text(
            _INIT.format(
                path=_PATH,
                name=name,
                mounts=self._mounts(base),
                sshd=_SSHD,
                config=base / "sshd_config",
            )
        )
        algorithm, key, *_ = (base / "hostkey.pub").read_text().split()
        with self.known_hosts.open("a") as stream:
            stream.write(f"{there} {algorithm} {key}\n")
        with self.config.open("a") as stream:
            stream.write(
                _SSH_CONFIG.format(
                    name=name,
                    address=there,
                    key=self.base / "key",
                    known_hosts=self.known_hosts,
                )
            )

    def _mounts(self, base: Path) -> str:
        if not self.private:
            return ""
        lines = ["mount --make-rprivate /"]
        for number, place in enumerate(sorted(self._python)):
            (base / f"python{number}").mkdir()
            lines.append(f"mount --bind {place} {base}/python{number}")
        for number, place in enumerate([*_PRIVATE, str(_REPOSITORY)]):
            if Path(place).is_dir():
                own = base / f"files{number}"
                own.mkdir()
                own.chmod(0o1777 if "tmp" in place else 0o755)
                # One may lie below another, which has hidden it already.
                lines.append(f"[[ ! -d {place} ]] || mount --bind {own} {place}")
        for number, place in enumerate(sorted(self._python)):
            lines += [f"mkdir -p {place}", f"mount --bind {base}/python{number} {place}"]
        return "\n".join(lines)

    def _daemon(self, name: str, namespace: str) -> Daemon:
        unshare = ["unshare", "--mount", "--uts"]
        if self.private:
            unshare += ["--pid", "--fork", "--kill-child", "--mount-proc"]
        argv = ["ip", "netns", "exec", namespace, *unshare, "/bin/bash"]
        return Daemon(
            name,
            [*argv, str(self.base / name / "init")],
            run_dir=self.base,
            log=self.base / f"{name}.log",
            env=os.environ,
        )

    def start_sshd(self, name: str) -> None:
        """Start a machine, and wait until one can log in."""
        daemon = self.machines[name].daemon
        daemon.start()
        daemon.wait_ready(lambda: self.logs_in(name))

    def logs_in(self, name: str) -> bool:
        """Tell whether one can log in now."""
        argv = ["ssh", "-F", str(self.config), "-o", "BatchMode=yes", name, "true"]
        return subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0

    def stop(self) -> None:
        """End all machines with what runs on them; remove all that was made."""
        for machine in self.machines.values():
            ref = machine.daemon.ref()
            if ref is not None:
                end_processes(with_descendants([ref])[::-1], grace=2)
            machine.daemon.stop()
            _ip("link", "delete", machine.link, check=False)
            _ip("netns", "delete", machine.namespace, check=False)
        self.machines = {}
        shutil.rmtree(self.base, ignore_errors=True)

    # -- faults ------------------------------------------------------------------------

    def cut(self, name: str) -> None:
        """Unplug a machine: nothing gets through, and nobody is told."""
        _ip("link", "set", self.machines[name].link, "down")

    def plug_in(self, name: str) -> None:
        """Plug a machine in again."""
        _ip("link", "set", self.machines[name].link, "up")

    def sessions(self, name: str) -> list[ProcessRef]:
        """Return the processes of sshd that serve connections."""
        ref = self.machines[name].daemon.ref()
        assert ref is not None
        main = _leaf(ref)
        return [r for r in with_descendants([main]) if r != main and _command(r) == "sshd"]

    def drop_connections(self, name: str) -> None:
        """End all connections to a machine; sshd itself and the jobs go on."""
        sessions = self.sessions(name)
        for ref in sessions:
            ref.signal(signal.SIGKILL)
        wait_until(lambda: not any(ref.alive() for ref in sessions), "the end of connections")

    def stop_sshd(self, name: str) -> None:
        """End sshd and its connections; the jobs go on (not on a private machine)."""
        machine = self.machines[name]
        sessions = self.sessions(name)
        machine.daemon.stop()
        end_processes(sessions, grace=0)


def _leaf(ref: ProcessRef) -> ProcessRef:
    """Return sshd itself: the process, or the child of the one that waits for it."""
    found = [r for r in with_descendants([ref]) if _command(r) in ("sshd", "bash")]
    return found[0] if found else ref


def _command(ref: ProcessRef) -> str:
    try:
        return Path(f"/proc/{ref.pid}/comm").read_text().strip()
    except OSError:
        return ""


def _ip(*argv: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *argv], capture_output=True, text=True)
    if check and done.returncode:
        raise ServiceFailed(f"ip {' '.join(argv)}: {done.stderr.strip()}")


def _keygen(path: Path, comment: str) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def _free_subnet(number: int) -> tuple[str, str]:
    """Return both addresses of a network of two that nobody uses here."""
    shown = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True).stdout
    while True:
        network = f"10.{secrets.randbelow(100) + 120}.{secrets.randbelow(256)}"
        first = 4 * number
        if f" {network}." not in shown:
            return f"{network}.{first + 1}", f"{network}.{first + 2}"


def main() -> None:
    """Run two machines until the standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--private", action="store_true")
    with SshHosts(private=parser.parse_args().private) as hosts:
        print(f"ssh -F {hosts.config} big1", flush=True)
        with contextlib.suppress(EOFError):
            input()


if __name__ == "__main__":
    main()
