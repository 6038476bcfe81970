"""What a job does, apart from how it is told: by this a later run knows the same work again.

A command line of the next run may have other options (``--rerun-incomplete``, ``--cores``, a
log, a cache, the prefix of its environments); jobs have other numbers in it. None of that makes
a job another one, and most of it is in the preamble of a script or on the command line of a
second Snakemake. So scripts and respawned jobs are compared by what they are made from.

What of ``config``, ``threads`` and ``resources`` a script or a ``run:`` block is given is part
of its work if its source mentions it: they are given all of it, used or not.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from snakemake_interface_executor_plugins.settings import DeploymentMethod

_MENTIONED: Final = ("config", "threads", "resources")
_PASSING: Final = frozenset({"tmpdir", "_cores", "_nodes"})
"""Resources that say where or how a job runs: never part of its work, or told otherwise."""
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


class ScriptFile(bytes):
    """A file of a job whose text is another in every run though it does the same.

    Attributes
    ----------
    work
        What it does.
    """

    work: str = ""

    @classmethod
    def of(cls, content: bytes, script: Any) -> ScriptFile:
        """Return the file that Snakemake has made of a script.

        Parameters
        ----------
        content
            The file, with Snakemake's preamble.
        script
            Snakemake's object of the script (``snakemake.script.ScriptBase``).
        """
        file = cls(content)
        source = script.source
        text = source.decode(errors="replace") if isinstance(source, bytes) else str(source)
        file.work = _text(
            {
                "language": type(script).__name__,
                "source": text,
                "input": _named(script.input),
                "output": _named(script.output),
                "log": list(script.log),
                "params": script.params,
                "wildcards": script.wildcards,
                **{name: getattr(script, name) for name in _MENTIONED if name in text},
            }
        )
        return file


def work_of(job: Any, workflow: Any) -> str:
    """Return what a job or group does, as far as its rules and their environments say it."""
    members = sorted(
        job.jobs if job.is_group() else [job], key=lambda m: (m.rule.name, str(m.output))
    )
    return _text([_member(member, workflow, alone=not job.is_group()) for member in members])


def _member(job: Any, workflow: Any, *, alone: bool) -> dict[str, Any]:
    rule = job.rule
    code = "\n".join(
        str(part)
        for part in (
            rule.shellcmd or rule.run_func_src or "",
            *(rule.script, rule.notebook, rule.wrapper, rule.cwl, rule.template_engine),
            _source(job),
        )
        if part
    )
    work = {
        "rule": rule.name,
        "code": code,
        "input": sorted((name or "", str(file)) for name, file in job.input._allitems()),
        "output": [(name, str(file)) for name, file in job.output._allitems()],
        "log": list(map(str, job.log)),
        "wildcards": job.wildcards_dict or {},
        "software": _software(job, workflow),
    }
    if alone:  # those of a member of a group may depend on what another one makes
        work["params"] = job.params
    if "config" in code:
        work["config"] = workflow.config
    if "threads" in code:
        work["threads"] = job.threads
    if "resources" in code:
        work["resources"] = dict(job.resources.items())
    return work


def _source(job: Any) -> str:
    """Return the text of a script or notebook that lies on this machine."""
    path = job.rule.script or job.rule.notebook
    if path:
        with contextlib.suppress(Exception):  # a path that is worked out later, or elsewhere
            file = job._path_to_source_file(path).get_path_or_uri(secret_free=True)
            with open(file, encoding="utf-8", errors="replace") as stream:
                return stream.read()
    return ""


def _software(job: Any, workflow: Any) -> list[str]:
    """Return what the environment of a job is made from, wherever it is kept."""
    methods = workflow.deployment_settings.deployment_method
    parts = []
    if DeploymentMethod.CONDA in methods and job.conda_env:
        with contextlib.suppress(Exception):  # an environment that is known by name only
            parts.append(str(job.conda_env.content_hash))
    if job.container_img_url:
        parts.append(str(job.container_img_url))
    if DeploymentMethod.ENV_MODULES in methods and job.env_modules:
        parts.append(str(job.env_modules))
    return parts


def places_of(job: Any, workflow: Any) -> list[str]:
    """Return where the environments of a job or group are kept, as commands name them."""
    methods = workflow.deployment_settings.deployment_method
    places = []
    for member in job.jobs if job.is_group() else [job]:
        if DeploymentMethod.CONDA in methods and member.conda_env:
            places.append(str(member.conda_env.address))
        if DeploymentMethod.APPTAINER in methods and member.container_img_path:
            places.append(str(member.container_img_path))
    return places


def movable_words(job: Any) -> frozenset[str]:
    """Return the words of a job's command that each process may write in another order.

    They come from a set: among the inputs, of which that cannot be told, or as a parameter.
    """
    members = list(job.jobs) if job.is_group() else [job]
    words = {str(file) for member in members for file in member.input}
    if not job.is_group():
        for _, value in job.params._allitems():
            if isinstance(value, (set, frozenset)):
                words |= {str(item) for item in value}
    return frozenset(words)


def words_of(content: bytes, movable: frozenset[bytes]) -> bytes:
    """Return the words of a command, those that may stand in any order in one of their own."""
    words = content.split()
    ordered = iter(sorted(word for word in words if word in movable))
    return b" ".join(next(ordered) if word in movable else word for word in words)


def _named(files: Any) -> list[tuple[str | None, str]]:
    """Return files with their names, also those of a plain list."""
    items = files._allitems() if hasattr(files, "_allitems") else [(None, f) for f in files]
    return [(name, str(file)) for name, file in items]


def _text(value: Any) -> str:
    return json.dumps(_stable(value), sort_keys=True)


def _stable(value: Any) -> Any:
    """Return a value in a form that is the same in every process."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "_allitems"):  # Snakemake's list with names: params, input, wildcards
        return [[name, _stable(item)] for name, item in value._allitems() if name not in _PASSING]
    if isinstance(value, Mapping):
        return {str(k): _stable(v) for k, v in value.items() if k not in _PASSING}
    if isinstance(value, (set, frozenset)):
        return sorted((_stable(item) for item in value), key=str)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_stable(item) for item in value]
    return _ADDRESS.sub("", repr(value))
