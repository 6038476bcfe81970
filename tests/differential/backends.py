"""The executors that are compared with Snakemake's own, with what each needs brought up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

from tests import container_support, sge_support, slurm_support, ssh_support
from tests.conformance.harness import Backend
from tests.services.ssh import SshHosts


@contextlib.contextmanager
def _local() -> Iterator[Backend]:
    yield Backend("pipen-local", local=True)


@contextlib.contextmanager
def _slurm() -> Iterator[Backend]:
    with slurm_support.cluster_or_skip() as cluster:
        yield slurm_support.backend_on(cluster)


@contextlib.contextmanager
def _sge() -> Iterator[Backend]:
    with sge_support.cell_or_skip() as cell:
        yield sge_support.backend_on(cell)


def _container(name: str) -> Callable[[], AbstractContextManager[Backend]]:
    @contextlib.contextmanager
    def started() -> Iterator[Backend]:
        with container_support.started(container_support.runtime_named(name)) as runtime:
            arguments = (*container_support.UNLIMITED, *container_support.WITH_PYTHON)
            yield container_support.backend_on(runtime, *arguments)

    return started


def _with_room(hosts: SshHosts) -> list[str]:
    """Return the machines with room for the largest groups, whose members' threads add up."""
    return [f"{name},slots=16" for name in hosts.machines]


@contextlib.contextmanager
def _ssh() -> Iterator[Backend]:
    with ssh_support.hosts_or_skip() as hosts:
        yield ssh_support.backend_on(hosts, *_with_room(hosts))


@contextlib.contextmanager
def _ssh_apart() -> Iterator[Backend]:
    with ssh_support.hosts_or_skip(private=True, python=True) as hosts:
        yield ssh_support.staging_on(hosts, *_with_room(hosts))


BACKENDS: Final[dict[str, Callable[[], AbstractContextManager[Backend]]]] = {
    "pipen-local": _local,
    "pipen-slurm": _slurm,
    "pipen-sge": _sge,
    "pipen-container": _container("podman"),
    "pipen-container-docker": _container("docker"),
    "pipen-ssh": _ssh,
    "pipen-ssh-apart": _ssh_apart,
}
"""By the name that the command line takes: each brings up what it needs."""
