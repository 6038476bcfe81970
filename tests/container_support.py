"""What the suites of pipen-container have in common: runtimes, and backends on them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .conformance.harness import Backend, Workflow
from .services.common import ServiceUnavailable
from .services.containers import (
    IMAGE,
    VOLUMES,
    Docker,
    Podman,
    RootlessPodman,
    Runtime,
    image_layer,
)
from .services.packages import ensure_debian_packages
from .services.require import unavailable
from .services.users import TEST_USER

PLAIN = Backend("pipen-container", local=True)
IN_ANY = (
    *("--pipen-container-volumes", *VOLUMES),
    *("--pipen-container-options", "network=host"),
    *("--pipen-container-image", IMAGE),  # not last what takes all that follows
)
"""Arguments for the tests' image, whose containers have the network of this machine."""
UNLIMITED = ("--pipen-container-limits", "false")
"""Memory is asked for in the suite to see that it arrives, not to be held to it."""
WITH_PYTHON = ("--pipen-container-python", "host")


@contextlib.contextmanager
def started(runtime: Runtime) -> Iterator[Runtime]:
    """A runtime of the test's own; the test is skipped where it cannot be had."""
    try:
        runtime.start()
    except ServiceUnavailable as reason:
        unavailable(reason)
    try:
        yield runtime
    finally:
        runtime.stop()


def runtime_named(name: str) -> Runtime:
    """Return a runtime by its name, not started yet."""
    return Podman() if name == "podman" else Docker()


def backend_on(runtime: Runtime, *arguments: str) -> Backend:
    """Return pipen-container as a backend on Docker or Podman."""

    def remains(workflow: Workflow) -> list[str]:
        return [*containers_of(runtime, workflow), *workflow.local_processes()]

    rootless = runtime if isinstance(runtime, RootlessPodman) else None
    return Backend(
        "pipen-container",
        arguments=("--pipen-container-bin", runtime.bin, *IN_ANY, *arguments),
        environment=runtime.env,
        local=True,
        # Podman and Docker start about eight trivial containers a second on two cores.
        slowness=2.0,
        user=TEST_USER if rootless else None,
        root=rootless.scratch if rootless else None,
        find_processes=remains,
    )


@dataclass(frozen=True)
class Apptainer:
    """An Apptainer with a sandbox image: the real one, or the stand-in over bubblewrap.

    Attributes
    ----------
    bin
        Path of the command.
    image
        The tests' image as a directory.
    registry
        Where the stand-in pulls from; it keeps a log there.
    is_real
        Whether it is Apptainer and not the stand-in.
    """

    bin: str
    image: Path
    registry: Path
    is_real: bool


@contextlib.contextmanager
def apptainer() -> Iterator[Apptainer]:
    """An Apptainer of the test's own; the test is skipped where it cannot be had."""
    real = shutil.which("apptainer")
    if real is None:
        try:
            ensure_debian_packages(["bubblewrap"])
        except ServiceUnavailable as reason:
            unavailable(reason)
    with tempfile.TemporaryDirectory(prefix="pipen-apptainer-", dir="/tmp") as base:
        image = Path(base, "tool:1")
        image.mkdir()
        with tarfile.open(fileobj=io.BytesIO(image_layer())) as layer:
            layer.extractall(image, filter="fully_trusted")
        bin = real or str(Path(__file__).parent / "standins" / "apptainer")
        yield Apptainer(bin, image, Path(base), real is not None)


def backend_on_apptainer(found: Apptainer, *arguments: str) -> Backend:
    """Return pipen-container as a backend on Apptainer."""
    return Backend(
        "pipen-container",
        arguments=(
            *("--pipen-container-bin", found.bin),
            *("--pipen-container-volumes", *VOLUMES),
            *("--pipen-container-image", str(found.image)),
            *arguments,
        ),
        environment={"PIPEN_TEST_REGISTRY": str(found.registry)},
        local=True,
    )


def containers_of(runtime: Runtime, workflow: Workflow) -> list[str]:
    """Return the names of a workflow's containers, running or not."""
    root = hashlib.sha256(os.fsencode(workflow.job_root)).hexdigest()[:12]
    return runtime.containers(f"label=pipen.root={root}")


def one_container(runtime: Runtime, workflow: Workflow) -> str:
    """Return the name of a workflow's one container."""
    (name,) = containers_of(runtime, workflow)
    return name


class Counted:
    """A runtime's command, counted: a small script that is used in its place."""

    def __init__(self, runtime: Runtime, directory: Path) -> None:
        directory.mkdir()
        self._log = directory / "log"
        self._log.touch()
        shim = directory / runtime.name
        shim.write_text(f'#!/bin/sh\necho "$*" >> {self._log}\nexec {runtime.bin} "$@"\n')
        shim.chmod(0o755)
        self.bin = str(shim)

    @property
    def calls(self) -> list[str]:
        """The command lines up to now."""
        return self._log.read_text().splitlines()

    def of(self, name: str) -> list[str]:
        """The command lines of one of its commands."""
        return [call for call in self.calls if call.split()[0] == name]
