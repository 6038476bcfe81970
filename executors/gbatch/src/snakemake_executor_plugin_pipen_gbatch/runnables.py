"""The runnables of a job: how its wrapper is started, and what runs before and after it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from pipen_executors.exceptions import SettingError
from pipen_executors.find_bash import start_with_bash

from .message import Table
from .request import Command, Request

SHELL: Final = "/bin/bash"
"""What runs the wrapper on a machine (``{lang}`` in pipen's commands)."""
IMAGE_SHELL: Final = "bash"
"""What runs it in a container: only the image knows where that is."""


def runnables_of(request: Request, script: str) -> list[Table]:
    """Return the runnables of a job: the others with negative order, the job, the rest.

    Parameters
    ----------
    request
        What the job asks for.
    script
        Path of the script that runs the wrapper.

    Raises
    ------
    SettingError
        If fields of the job name several runnables: those have a setting of their own.
    """
    groups = request.table.get("task_groups") or [{}]
    templates = groups[0].get("task_spec", {}).get("runnables") or [{}]
    if len(templates) > 1:
        raise SettingError(
            "task_groups[0].task_spec.runnables",
            templates,
            "expected one at most, the job's own; give further ones as runnables, with order",
        )
    command = request.command
    template = dict(templates[0])
    if command.image_uri or "container" in template:
        template["container"] = _container(command, template.get("container", {}), script)
    else:
        template["script"] = {"text": _script_text(command, script)}
    before = [table for order, table in command.runnables if order < 0]
    after = [table for order, table in command.runnables if order >= 0]
    return [*before, template, *after]


def _container(command: Command, template: Table, script: str) -> Table:
    """Return the container of the job: pipen's three forms of ``commands``."""
    container = dict(template)
    container.setdefault("image_uri", command.image_uri)
    entrypoint = container.get("entrypoint") or command.entrypoint
    words = list(container.get("commands") or command.commands)
    if not entrypoint:
        last = shlex.join([IMAGE_SHELL, script]) if _ends_in_c(words) else script
        entrypoint, *words = start_with_bash(*words, last)
    elif any("{script}" in word for word in words):
        words = [word.replace("{lang}", IMAGE_SHELL).replace("{script}", script) for word in words]
    else:
        words.append(shlex.join([IMAGE_SHELL, script]))
    return {**container, "entrypoint": entrypoint, "commands": words}


def _script_text(command: Command, script: str) -> str:
    """Return the text of the job's script, with ``commands`` before the wrapper or around it."""
    words = command.commands
    if any("{script}" in word for word in words):
        return " ".join(
            word.replace("{lang}", SHELL).replace("{script}", shlex.quote(script))
            if "{" in word
            else shlex.quote(word)
            for word in words
        )
    if _ends_in_c(words):
        return shlex.join([*words, shlex.join([SHELL, script])])
    return shlex.join([*words, SHELL, script])


def _ends_in_c(words: Sequence[str]) -> bool:
    """Tell whether words end in a shell's ``-c``, which takes one word (bash(1), OPTIONS).

    It may come with other options, as in ``-lc``.
    """
    return bool(words) and re.fullmatch(r"-[a-zA-Z]*c", words[-1]) is not None
