"""What is asked of Batch: pipen's options, and fields of a job by their own names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pipen_executors.exceptions import SettingError
from pipen_executors.settings import closest, read
from pipen_executors.units import parse_switch

from . import message
from .message import Table, merged
from .mounts import Mount, parse_mounts
from .values import (
    parse_labels,
    parse_model,
    parse_retries,
    parse_runnables,
    parse_words,
)


@dataclass(frozen=True)
class Command:
    """How the wrapper is started: pipen's options of that name.

    Parameters
    ----------
    image_uri
        Image of the container that it runs in; empty for none.
    entrypoint
        Of the container.
    commands
        Words before the wrapper, or with ``{lang}`` and ``{script}`` in them.
    runnables
        Further runnables, with their order: negative ones come before the job.
    """

    image_uri: str = ""
    entrypoint: str = ""
    commands: tuple[str, ...] = ()
    runnables: tuple[tuple[int, Table], ...] = ()


@dataclass(frozen=True)
class Request:
    """What a job asks for.

    Parameters
    ----------
    table
        Fields of the job of Batch.
    command
        How the wrapper is started.
    mounts
        Mounts of its own.
    spot_attempts
        How often Batch runs a task again whose Spot machine was taken away; None where
        nobody says.
    """

    table: Table = field(default_factory=dict)
    command: Command = field(default_factory=Command)
    mounts: tuple[Mount, ...] = ()
    spot_attempts: int | None = None


def spec_fields(**fields: Any) -> Table:
    """Return fields of the task specification as part of a job."""
    return {"task_groups": [{"task_spec": fields}]}


def policy_fields(**fields: Any) -> Table:
    """Return fields of the machines' policy as part of a job."""
    return {"allocation_policy": {"instances": [{"policy": fields}]}}


def network_fields(**fields: Any) -> Table:
    """Return fields of the machines' network as part of a job."""
    return {"allocation_policy": {"network": {"network_interfaces": [fields]}}}


FIELDS: Final[Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Table]]]] = {
    "service_account": (str, lambda v: {"allocation_policy": {"service_account": {"email": v}}}),
    "network": (str, lambda v: network_fields(network=v)),
    "subnetwork": (str, lambda v: network_fields(subnetwork=v)),
    "no_external_ip_address": (parse_switch, lambda v: network_fields(no_external_ip_address=v)),
    "machine_type": (str, lambda v: policy_fields(machine_type=v)),
    "provisioning_model": (parse_model, lambda v: policy_fields(provisioning_model=v)),
    "labels": (parse_labels, lambda v: {"labels": v}),
}
"""Pipen's options that are a field of the job: how each is read, and which field it is."""

COMMAND: Final[Mapping[str, Callable[[Any], Any]]] = {
    "image_uri": str,
    "entrypoint": str,
    "commands": parse_words,
    "runnables": parse_runnables,
}


def read_options(given: Mapping[str, Any], where: Callable[[str], str]) -> Request:
    """Read pipen's options and fields of the job of Batch.

    Parameters
    ----------
    given
        By name; what is None is not given.
    where
        From a name to what it is called in messages.

    Raises
    ------
    SettingError
        For the first that there is not, or that has a wrong value.
    """
    table: Table = {}
    words: dict[str, Any] = {}
    mounts: tuple[Mount, ...] = ()
    attempts = None
    for name, value in given.items():
        if value is None:
            continue
        if name in FIELDS:
            reader, make = FIELDS[name]
            table = merged(table, make(read(where(name), value, reader)))
        elif name in COMMAND:
            words[name] = read(where(name), value, COMMAND[name])
        elif name in ("mount", "fast_mount"):
            mounts += read(where(name), value, parse_mounts)
        elif name == "max_spot_attempts":
            attempts = read(where(name), value, parse_retries)
        elif not message.is_field(name):
            raise SettingError(where(name), value, _right_name(name))
    # Fields are stronger than pipen's own options, as in pipen.
    for name, value in given.items():
        if name not in FIELDS and message.is_field(name) and value is not None:
            table = merged(table, message.checked({name: value}, where(name)))
    if "runnables" in words:
        words["runnables"] = tuple(
            (order, _checked_runnable(one, where("runnables"))) for order, one in words["runnables"]
        )
    return Request(table, Command(**words), mounts, attempts)


def _right_name(name: str) -> str:
    """Return what is right in place of an option that there is not."""
    known = sorted({*FIELDS, *COMMAND, "mount", "max_spot_attempts"})
    spelled = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    if (meant := closest(spelled, known)) is not None:
        return f"there is no such option; use {meant}"
    if (path := message.path_of(name)) is not None:
        return f"there is no such option; as a field of a job of Batch it is {path}"
    return f"expected one of {', '.join(known)}, or a field of a job of Batch"


def _checked_runnable(table: Table, where: str) -> Table:
    plain = message.checked(spec_fields(runnables=[table]), where)
    runnable: Table = plain["task_groups"][0]["task_spec"]["runnables"][0]
    return runnable


def over(below: Request, above: Request) -> Request:
    """Return a request laid on another."""
    kept = {name: getattr(above.command, name) or getattr(below.command, name) for name in COMMAND}
    mounts = {mount.path: mount for mount in (*below.mounts, *above.mounts)}
    attempts = below.spot_attempts if above.spot_attempts is None else above.spot_attempts
    table = merged(below.table, above.table)
    return Request(table, Command(**kept), tuple(mounts.values()), attempts)
