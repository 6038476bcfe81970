"""Container runtimes of this machine, each with storage of its own: ``with Podman() as runtime``.

Their one image is made without a registry: empty directories, into which containers mount this
machine's ``/usr``. So it has what this machine has, and is there in no time.

By hand::

    python -m tests.services.containers podman|docker DIR    # until Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.services.common import Daemon, ServiceFailed, ServiceUnavailable, free_ports
from tests.services.packages import ensure_debian_packages
from tests.services.users import ensure_user

IMAGE = "localhost/pipen-test:1"
"""The image, which has bash and Python only with :data:`VOLUMES`."""
BARE_IMAGE = "localhost/pipen-bare:1"
"""The same without the link to a shell."""
VOLUMES = ("/usr:/usr:ro", "/etc/alternatives:/etc/alternatives:ro")
_LINKS = ("bin", "lib", "lib64", "sbin")
_DIRECTORIES = (
    "dev",
    "etc/alternatives",
    "home",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr",
    "var",
)
# The descriptors and processes that containers may have are more than this machine allows.
_LIMITS = ("nofile=4096:4096", "nproc=4096:4096")


def image_layer(*, links: bool = True) -> bytes:
    """Return a file system of empty directories, as a tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in _DIRECTORIES:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        for name in _LINKS if links else ():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(entry)
        users = b"root:x:0:0:root:/root:/bin/bash\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(users)
        archive.addfile(entry, io.BytesIO(users))
    return stream.getvalue()


def small_layer(
    *, bash: str | None = "usr/local/bin", sh: str | None = "busybox", tmp: bool = True
) -> bytes:
    """Return a file system that needs nothing of this machine, as a tar archive.

    BusyBox and, with the libraries that it needs, bash: as Alpine and BioContainers have them.

    Parameters
    ----------
    bash
        Directory of bash; None for no bash.
    sh
        ``/bin/sh``: ``busybox`` or ``dash``; None for none.
    tmp
        Whether there is a ``/tmp``.
    """
    ensure_debian_packages(["busybox-static", "dash"])
    files = {"bin/busybox": "/bin/busybox"}
    programs = ["/bin/bash"] if bash else []
    if bash:
        files[f"{bash}/bash"] = "/bin/bash"
    if sh == "dash":
        files["bin/sh"] = "/bin/dash"
        programs.append("/bin/dash")
    for program in programs:
        needed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
        for path in re.findall(r"/\S+", needed.stdout):
            files[path.strip("/")] = path
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True).stdout
    links = [name for name in applets.split() if name not in ("sh", "ash", "bash", "busybox")]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", dereference=True) as archive:
        for name in ("dev", "proc", "sys", *(("tmp",) if tmp else ())):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        for name, path in files.items():
            archive.add(path, name)
        for name in [*links, *(["sh"] if sh == "busybox" else [])]:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
    return stream.getvalue()


class Runtime:
    """A runtime with storage of its own below ``base``, which :meth:`stop` removes.

    Raises
    ------
    ServiceUnavailable
        By `start`, when this machine cannot run it.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]

    def __init__(self, base: Path | None = None) -> None:
        if base is None:
            base = Path(tempfile.mkdtemp(prefix=f"pipen-{self.name}-", dir="/tmp"))
        self.base = base.absolute()
        self.base.mkdir(exist_ok=True)

    @property
    def bin(self) -> str:
        """Path of the client."""
        return f"/usr/bin/{self.name}"

    @property
    def env(self) -> dict[str, str]:
        """The variables that a client needs on top of its own."""
        raise NotImplementedError

    @property
    def identity(self) -> list[str]:
        """The beginning of a command line that runs the rest as the user whose runtime it is."""
        return []

    def start(self) -> Self:
        """Bring it up, with the images."""
        if os.geteuid() != 0:
            raise ServiceUnavailable(f"not root, as whom the tests run {self.name}")
        ensure_debian_packages(self.packages)
        try:
            self._up()
            for image, links in ((IMAGE, True), (BARE_IMAGE, False)):
                self.import_image(image_layer(links=links), image)
            self._try_out()
        except BaseException:
            self.stop()
            raise
        return self

    def _up(self) -> None:
        """Make it usable."""

    def _try_out(self) -> None:
        """Run a container, since not every machine can."""
        volumes = [word for volume in VOLUMES for word in ("--volume", volume)]
        tried = self.run(
            "run", "--rm", "--network=host", "--pull=never", *volumes, IMAGE, "true", check=False
        )
        if tried.returncode != 0:
            raise ServiceUnavailable(f"{self.name} cannot run a container: {tried.stderr}")

    def stop(self) -> None:
        """End all containers and remove everything."""
        names = self.containers()
        if names:
            self.run("rm", "--force", *names, check=False)
        self._down()
        # Storage and a network namespace stay mounted when their owner has ended.
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for place in reversed(mounts):
            if place.startswith(f"{self.base}/"):
                subprocess.run(["umount", place], capture_output=True)
        shutil.rmtree(self.base, ignore_errors=True)

    def _down(self) -> None:
        """End what has been started."""

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the client.

        Raises
        ------
        ServiceFailed
            If it fails, unless ``check`` is false.
        """
        done = subprocess.run(
            [*self.identity, self.bin, *words],
            env={**os.environ, **self.env},
            cwd=self.base,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check and done.returncode != 0:
            raise ServiceFailed(f"{shlex.join([self.name, *words])}: {done.stderr}")
        return done

    def import_image(self, layer: bytes, image: str, *changes: str) -> str:
        """Make an image of a file system (see ``import --change``); return its name."""
        path = self.base / "layer.tar"
        path.write_bytes(layer)
        self.run("import", *(f"--change={change}" for change in changes), str(path), image)
        return image

    def containers(self, *filters: str) -> list[str]:
        """Return the names of the containers there are, running or not."""
        chosen = [f"--filter={text}" for text in filters]
        said = self.run("ps", "--all", "--format={{.Names}}", *chosen, check=False).stdout
        return said.split()

    def pid(self, name: str) -> int:
        """Return the pid that the first process of a container has here."""
        return int(self.run("inspect", "--format={{.State.Pid}}", name).stdout)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Podman(Runtime):
    """Podman as root."""

    name = "podman"
    packages: ClassVar[tuple[str, ...]] = ("podman", "runc")

    @property
    def env(self) -> dict[str, str]:
        """The variables that name its configuration."""
        return {
            "CONTAINERS_CONF": str(self.base / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.base / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.base / "registries.conf"),
        }

    def _up(self) -> None:
        (self.base / "containers.conf").write_text(
            f"[containers]\ndefault_ulimits = {json.dumps(_LIMITS)}\n"
            # Debian's crun does not start where cgroups of both versions are mounted.
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        (self.base / "storage.conf").write_text(
            '[storage]\ndriver = "overlay"\n'
            f'graphroot = "{self.base}/graph"\nrunroot = "{self.base}/run"\n'
        )
        (self.base / "registries.conf").write_text("")

    def trust(self, registry: str) -> None:
        """Let it speak to a registry without TLS."""
        (self.base / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n'
        )

    def socket(self) -> Daemon:
        """Return Podman's service for clients of Docker, which is not started yet."""
        return Daemon(
            name="podman-service",
            argv=[self.bin, "system", "service", "--time=0", f"unix://{self.base}/podman.sock"],
            run_dir=self.base,
            log=self.base / "podman-service.log",
            env={**os.environ, **self.env},
        )


class RootlessPodman(Podman):
    """Podman of the tests' ordinary user, in a user namespace.

    Attributes
    ----------
    scratch
        A directory of the user's, which the containers can reach.
    """

    packages = (*Podman.packages, "uidmap")

    def __init__(self, base: Path | None = None) -> None:
        super().__init__(base)
        self.scratch = self.base / "scratch"

    @property
    def env(self) -> dict[str, str]:
        """Beside its configuration, the directories in which it would look for the user's own."""
        places = {"HOME": "home", "XDG_RUNTIME_DIR": "runtime", "XDG_CONFIG_HOME": "config"}
        return {**super().env, **{name: str(self.base / at) for name, at in places.items()}}

    @property
    def identity(self) -> list[str]:
        """The beginning of a command line that runs the rest as the ordinary user."""
        user = ensure_user()
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def _up(self) -> None:
        super()._up()
        with (self.base / "storage.conf").open("a") as conf:
            conf.write(f'rootless_storage_path = "{self.base}/graph"\n')
        user = ensure_user()
        os.chown(self.base, user.pw_uid, user.pw_gid)
        for name in ("home", "runtime", "config", "scratch"):
            (self.base / name).mkdir(mode=0o700)
            os.chown(self.base / name, user.pw_uid, user.pw_gid)

    def _down(self) -> None:
        # It keeps the namespace, and the storage that is mounted in it.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pause = self.base / "runtime" / "libpod" / "tmp" / "pause.pid"
            os.kill(int(pause.read_text()), signal.SIGKILL)


class Docker(Runtime):
    """A dockerd without a network of its own."""

    name = "docker"
    packages = ("docker.io", "containerd", "tini", "iptables")

    def __init__(self, base: Path | None = None) -> None:
        super().__init__(base)
        options = ("iptables", "ip6tables", "ip-forward", "ip-masq")
        self.daemon = Daemon(
            name="dockerd",
            argv=[
                "/usr/sbin/dockerd",
                *(f"--{name}=false" for name in options),
                *(f"--default-ulimit={limit}" for limit in _LIMITS[:1]),
                "--bridge=none",
                "--oom-score-adjust=0",
                f"--data-root={self.base}/data",
                f"--exec-root={self.base}/exec",
                f"--pidfile={self.base}/dockerd.pid",
                f"--host=unix://{self.base}/sock",
            ],
            run_dir=self.base,
            log=self.base / "dockerd.log",
            env=os.environ,
        )

    @property
    def env(self) -> dict[str, str]:
        """The variables that name its socket and keep the client from the user's own settings."""
        return {
            "DOCKER_HOST": f"unix://{self.base}/sock",
            "DOCKER_CONFIG": str(self.base / "client"),
        }

    def _up(self) -> None:
        self.daemon.start()
        try:
            self.daemon.wait_ready(lambda: self.run("version", check=False).returncode == 0)
        except ServiceFailed as error:
            raise ServiceUnavailable(str(error)) from None

    def _down(self) -> None:
        self.daemon.stop()


class Registry:
    """A registry of images on the loopback interface, that a runtime trusts."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        (self._port,) = free_ports(1)
        self._base = runtime.base / f"registry-{self._port}"
        self._daemon = Daemon(
            name="registry",
            argv=["/usr/bin/docker-registry", "serve", str(self._base / "config.yml")],
            run_dir=self._base,
            log=self._base / "log",
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )

    def publish(self, image: str, name: str) -> str:
        """Put an image of the runtime into the registry; return its name there."""
        target = f"localhost:{self._port}/{name}"
        self._runtime.run("tag", image, target)
        self._runtime.run("push", target)
        self._runtime.run("rmi", target)
        return target

    def __enter__(self) -> Self:
        ensure_debian_packages(["docker-registry"])
        self._base.mkdir()
        (self._base / "config.yml").write_text(
            "version: 0.1\n"
            f"storage: {{filesystem: {{rootdirectory: {self._base}/data}}}}\n"
            f"http: {{addr: 'localhost:{self._port}'}}\n"
        )
        if isinstance(self._runtime, Podman):  # dockerd trusts what is on this machine
            self._runtime.trust(f"localhost:{self._port}")
        self._daemon.start()
        self._daemon.wait_ready(self._answers)
        return self

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", self._port)):
            return True
        return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._daemon.stop()


def main() -> None:
    """Bring a runtime up by hand, until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.services.containers")
    parser.add_argument("name", choices=["podman", "docker"])
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    kinds: Mapping[str, type[Runtime]] = {"podman": Podman, "docker": Docker}
    with kinds[options.name](options.directory) as runtime:
        for name, value in runtime.env.items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
