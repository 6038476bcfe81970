"""What is refused before anything is submitted, and with which words: one table for all backends.

``docs/messages.md`` is written from it::

    python -m tests.messages > docs/messages.md
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipen_executors.exceptions import UserError
from pipen_executors.settings import READERS, read
from pipen_executors.spec import JobSpec, Resources
from pipen_executors.standalone import make_scheduler
from pipen_executors.units import parse_gpus, parse_megabytes, parse_minutes

_NEEDED: Final[Mapping[str, Mapping[str, Any]]] = {
    "ssh": {"servers": ["a"]},
    "container": {"bin": "/bin/true", "bin_type": "podman", "image": "debian:12"},
    "gbatch": {"project": "p", "location": "us-central1", "remote_workdir": "gs://bucket/x"},
}
"""Settings without which a backend takes no others."""


@dataclass(frozen=True)
class Case:
    """A setting of a backend, or what a rule ``align`` asks for."""

    backend: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def shown(self) -> str:
        """Return what a user writes."""
        if self.settings:
            prefix = f"--pipen-{self.backend}-"
            pairs = [(prefix + name.replace("_", "-"), v) for name, v in self.settings.items()]
            return " ".join(
                f"{name} {' '.join(map(str, v)) if isinstance(v, list) else v}" for name, v in pairs
            )
        asked = [f"{name}={value!r}" for name, value in self.resources.items()]
        return ", ".join([*asked, *(f"option {k}={v}" for k, v in self.options.items())])

    def message(self) -> str:
        """Return with which words it is refused; empty if it is not."""
        try:
            with tempfile.TemporaryDirectory() as root:
                given = {**_NEEDED.get(self.backend, {}), **self.settings}
                scheduler = make_scheduler(self.backend, Path(root), given)
                if not self.settings:
                    scheduler.check(_spec(self.resources, self.options))
        except UserError as error:
            return str(error)
        return ""


def _spec(resources: Mapping[str, Any], options: Mapping[str, Any]) -> JobSpec:
    """Return a job that asks for something, as the bridge reads it."""
    rule = "align"
    for name, value in resources.items():
        reader = READERS.get(name.removeprefix("pipen_")) if name.startswith("pipen_") else None
        if reader is not None:
            read(f"resource {name} of rule {rule}", value, reader)
    known: dict[str, Any] = {}
    for name, attribute, reader in (
        ("mem_mb", "mem_mb", parse_megabytes),
        ("disk_mb", "disk_mb", parse_megabytes),
        ("runtime", "runtime", parse_minutes),
        ("gpu", "gpus", parse_gpus),
    ):
        if name in resources:
            known[attribute] = read(f"resource {name} of rule {rule}", resources[name], reader)
    extra = {n: v for n, v in resources.items() if n not in ("mem_mb", "disk_mb", "runtime", "gpu")}
    return JobSpec(
        rule, {}, (), "1", (), "", "/", "/", resources=Resources(extra=extra, **known),
        options=options,
    )  # fmt: skip


def _settings(backend: str, **values: Any) -> Iterator[Case]:
    for name, value in values.items():
        yield Case(backend, {name: value})


def _rules(backend: str, *asked: Mapping[str, Any]) -> Iterator[Case]:
    for resources in asked:
        yield Case(backend, resources=resources)


def _options(backend: str, **options: Any) -> Iterator[Case]:
    for name, value in options.items():
        yield Case(backend, options={name: value})


SHARED: Final = (
    *_settings(
        "local",
        execution="sideways",
        forks="0",
        error_strategy="give-up",
        num_retries="many",
        timeout="soon",
        submission_batch="1.5",
        submit_rate="fast",
        recheck_interval="0",
        history="perhaps",
        options=["=nokey"],
        workdir="$NO_SUCH_VARIABLE/jobs",
        cwd="~no-such-user/x",
        profile="no_such_profile",
        kill_grace="x",
    ),
    *_rules(
        "local",
        {"mem_mb": "much"},
        {"runtime": "soon"},
        {"gpu": "a100"},
        {"pipen_timeout": "soon"},
        {"pipen_execution": "sideways"},
        {"pipen_num_retries": -3},
        {"pipen_prescript": 5},
    ),
)
SLURM: Final = (
    *_settings("slurm", partition_config="/no/such.yaml", sbatch="$NO_SUCH_VARIABLE/sbatch"),
    *_rules(
        "slurm",
        {"nodes": "two"},
        {"tasks": 0},
        {"cpus_per_task": "x"},
        {"mem_mb_per_cpu": "much"},
        {"mpi": "srun"},
        {"mem_mb": 1000, "mem_mb_per_cpu": 500},
        {"slurm_extra": "nonsense"},
        {"slurm_extra": "--comment 'open"},
    ),
    *_options("slurm", array="1-5", wrap="true", wait=True),
    Case("slurm", options={"cpus-per-task": 2, "cpus-per-gpu": 1}),
)
SGE: Final = (
    *_settings("sge", memory="h vmem", memory_per="node", gpu="a-b", host_timeout="x"),
    *_rules(
        "sge",
        {"sge_priority": 5000},
        {"sge_requeue": "maybe"},
        {"time": "soon"},
        {"mem_mb": 1000, "mem_mb_per_cpu": 500},
        {"runtime": 5, "time": "1:00"},
        {"sge_extra": "q x.q"},
    ),
    *_options("sge", t="1-5", S="/bin/zsh", sync=True),
)
SSH: Final = (
    *_settings(
        "ssh",
        servers=["a,slots=0"],
        staging="rsync",
        connect_timeout="x",
        host_timeout="x",
    ),
    Case("ssh", {"servers": ["a", "a"]}),
    Case("ssh", {"servers": ["a,colour=red"]}),
    Case("ssh", {"servers": ["-oProxyCommand=x"]}),
    *_rules("ssh", {"pipen_server": "b"}),
)
CONTAINER: Final = (
    *_settings(
        "container",
        bin="no-such-runtime",
        bin_type="lxc",
        volumes=["/no/such:/x"],
        volume_as_cwd="$NO_SUCH_VARIABLE",
        remove="perhaps",
        limits="2",
        pull="sometimes",
        python="here",
        entrypoint="'open",
    ),
    *_rules("container", {"pipen_image": "two words"}, {"pipen_image": "/no/such.sif"}),
    *_options("container", name="mine"),
)
GBATCH: Final = (
    *_settings(
        "gbatch",
        project="",
        location="",
        remote_workdir="bucket/x",
        mount=["gs://bucket"],
        mount_as_cwd="x",
        provisioning_model="CHEAP",
        max_spot_attempts="11",
        runnables="{}",
        secrets=["x=y"],
        jobname_prefix="1st",
    ),
    *_rules(
        "gbatch",
        {"gpu": 1},
        {"gbatch_labels": "Team=x"},
        {"gbatch_no_such_field": 1},
        {"googlebatch_memory": "much"},
        {"googlebatch_no_such": 1},
    ),
    *_options("gbatch", name="mine", priority="high"),
)
TABLES: Final = {
    "All executors": SHARED,
    "pipen-slurm": SLURM,
    "pipen-sge": SGE,
    "pipen-ssh": SSH,
    "pipen-container": CONTAINER,
    "pipen-gbatch": GBATCH,
}

_HEAD: Final = """\
# Messages about wrong values

What cannot be right is refused before anything is submitted, with one line that names the setting
or the rule, the value, and what is wrong with it or was expected. What only the scheduler can
judge goes to it as it is, and its own words are shown. This page is written from a table that the
tests check (`tests/messages.py`).
"""


def page() -> str:
    """Return ``docs/messages.md``."""
    lines = [_HEAD]
    for title, cases in TABLES.items():
        lines += [f"## {title}", "", "| given | message |", "|---|---|"]
        lines += [f"| {_cell(case.shown())} | {_words(case.message())} |" for case in cases]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _words(text: str) -> str:
    """Return a message without what is different on every machine."""
    for name in (os.getcwd(), os.path.expanduser("~")):
        text = text.replace(name, "…") if len(name) > 1 else text
    text = re.sub(r"; installed: [^.]*", "", text)
    text = re.sub(r"\(there: [^)]*\)", "(there: none)", text)
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    print(page(), end="")
