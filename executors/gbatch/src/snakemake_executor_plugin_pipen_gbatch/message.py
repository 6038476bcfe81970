"""Options of the Batch API: checked and typed against its own message types, and merged.

A job of Batch is a message (google.cloud.batch.v1.Job). Options come as tables whose keys are
its fields, in either spelling (``taskGroups``, ``task_groups``); nothing here knows a field
by name but those whose lists are merged element by element.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import yaml
from google.cloud import batch_v1
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from pipen_executors.exceptions import SettingError

Table = dict[str, Any]

_DESCRIPTOR: Final[Descriptor] = batch_v1.Job.pb().DESCRIPTOR
_SET_BY_SERVICE: Final = frozenset(
    {"name", "uid", "status", "create_time", "update_time"}  # "Output only" in the API
)
_SET_HERE: Final = frozenset({"task_groups.task_count", "task_groups.name"})
_MERGED_LISTS: Final = frozenset({"task_groups", "instances", "network_interfaces"})
"""Lists of which Batch supports one element (Job, AllocationPolicy): options of several
sources are laid on each other in it."""
_JOINED_LISTS: Final = frozenset({"volumes"})


def is_field(name: str) -> bool:
    """Tell whether a name is a field of a job, in either spelling."""
    return _field(_DESCRIPTOR, name) is not None


def path_of(name: str) -> str | None:
    """Return where in a job a field lies that is no field of the job itself, if there is one.

    >>> path_of("max_run_duration")
    'taskGroups[0].taskSpec.maxRunDuration'
    """
    level = [("", _DESCRIPTOR)]
    seen = set()
    while level:
        deeper = []
        for path, descriptor in level:
            if (found := _field(descriptor, name)) is not None:
                return f"{path}{found.camelcase_name}"
            for field in descriptor.fields:
                below = field.message_type
                if below is None or below.full_name in seen or below.GetOptions().map_entry:
                    continue
                seen.add(below.full_name)
                index = "[0]" if field.is_repeated else ""
                deeper.append((f"{path}{field.camelcase_name}{index}.", below))
        level = deeper
    return None


def checked(table: Mapping[str, Any], where: str) -> Table:
    """Return options with the fields' own names.

    Parameters
    ----------
    table
        Part of a job; values that are text may be YAML or JSON for what is below.
    where
        Where it comes from, for error messages.

    Raises
    ------
    SettingError
        Naming the field that there is not, or the value that is of another type.
    """
    named = {name: _deeper(_DESCRIPTOR, name, value) for name, value in table.items()}
    plain: Table = _named(named, _DESCRIPTOR, where, "")
    for path in (*_SET_BY_SERVICE, *_SET_HERE):
        value = _at(plain, path)
        if value is not None:
            raise SettingError(f"{path} in {where}", value, "pipen-gbatch sets this field itself")
    try:
        json_format.ParseDict(plain, batch_v1.Job.pb()())
    except json_format.ParseError as error:
        reason = str(error).partition(": invalid literal")[0].rstrip(".")
        raise SettingError(
            where, dict(table), f"it does not make a job of Batch ({reason})"
        ) from None
    return plain


def merged(below: Table, above: Table) -> Table:
    """Return options laid on others: tables are merged, all else is replaced."""
    result = dict(below)
    for name, value in above.items():
        under = result.get(name)
        if isinstance(under, dict) and isinstance(value, dict):
            result[name] = merged(under, value)
        elif name in _JOINED_LISTS and under:
            result[name] = [*under, *value]
        elif name in _MERGED_LISTS and under and value:
            first = merged(under[0], value[0])
            result[name] = [first, *(value[1:] or under[1:])]
        else:
            result[name] = value
    return result


def job_message(table: Table) -> batch_v1.Job:
    """Return the message for options that have been checked."""
    message = batch_v1.Job.pb()()
    json_format.ParseDict(table, message)
    job: batch_v1.Job = batch_v1.Job.wrap(message)
    return job


def _field(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    found: FieldDescriptor | None = descriptor.fields_by_name.get(name)
    return found or descriptor.fields_by_camelcase_name.get(name)


def _deeper(descriptor: Descriptor, name: str, value: Any) -> Any:
    """Read text that stands for a table or a list, as the command line gives it."""
    field = _field(descriptor, name)
    if field is None or field.message_type is None or not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value  # of the wrong type, which is told when it is checked


def _named(value: Any, descriptor: Descriptor, where: str, path: str) -> Any:
    """Return a table with the fields' own names, and refuse fields that there are not."""
    if not isinstance(value, Mapping):
        raise SettingError(f"{path or 'the job'} in {where}", value, "expected a table")
    plain = {}
    for name, item in value.items():
        field = _field(descriptor, str(name))
        below = f"{path}.{name}" if path else str(name)
        if field is None:
            known = ", ".join(sorted(descriptor.fields_by_camelcase_name))
            raise SettingError(f"{below} in {where}", item, f"there is no such field, only {known}")
        plain[field.name] = _named_item(item, field, where, below)
    return plain


def _named_item(item: Any, field: FieldDescriptor, where: str, path: str) -> Any:
    kind = field.message_type
    if item is None or kind is None or kind.full_name.startswith("google.protobuf."):
        return item
    if kind.GetOptions().map_entry:
        return item
    if field.is_repeated:
        # One element may be given as itself: ``taskGroups={taskSpec: …}``.
        items = item if isinstance(item, list) else [item]
        return [_named(one, kind, where, f"{path}[{n}]") for n, one in enumerate(items)]
    return _named(item, kind, where, path)


def _at(table: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(table, list):
            table = table[0] if table else {}
        table = table.get(name) if isinstance(table, dict) else None
    return table
