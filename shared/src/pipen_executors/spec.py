"""What is to be run, in terms that neither Snakemake nor a scheduler owns."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from .work import ScriptFile, words_of


class Origin(IntEnum):
    """Who asks for a resource; of several ways to ask for the same thing, the highest counts."""

    SNAKEMAKE = 0
    DEFAULT = 1
    RULE = 2
    OVERWRITTEN = 3


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources that a job asks for; None where the workflow says nothing.

    Parameters
    ----------
    threads
        CPU cores.
    mem_mb, disk_mb
        Memory and scratch space in MiB-sized megabytes, as Snakemake counts them.
    runtime
        Wall time in minutes; 0 for no limit.
    gpus
        Number of GPUs.
    extra
        All other resources of the rule by name, untranslated; with them ``gpu``, where it
        is a text that names types of GPUs too (``a100:2``).
    defaulted
        Names of resources that the rule did not ask for: ``--default-resources`` did.
    assumed
        Those of them that the user did not ask for either: Snakemake's own defaults.
    overwritten
        Names of resources that ``--set-resources`` asks for.
    """

    threads: int = 1
    mem_mb: int | None = None
    disk_mb: int | None = None
    runtime: int | None = None
    gpus: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    defaulted: frozenset[str] = frozenset()
    assumed: frozenset[str] = frozenset()
    overwritten: frozenset[str] = frozenset()

    def origin(self, name: str) -> Origin:
        """Return who asks for a resource, of which the names above tell."""
        if name in self.overwritten:
            return Origin.OVERWRITTEN
        if name in self.assumed:
            return Origin.SNAKEMAKE
        return Origin.DEFAULT if name in self.defaulted else Origin.RULE


@dataclass(slots=True)
class JobSpec:
    """One job, ready to be handed to any scheduler.

    Parameters
    ----------
    rule, wildcards
        What a person calls the job.
    products
        All outputs by their names in the workflow; with the rule they identify the
        job from one run to the next.
    jobid
        Snakemake's id of the job in this run.
    argv, script
        The interpreter with its arguments, and the text it is given as a file.
    files
        Further files that belong into the job directory, by name.
    direct
        Whether the script is the rule's own command (False: a second Snakemake).
    why_respawned
        Why it needs a second Snakemake, if it does.
    cwd
        Working directory of the command as the job sees it, absolute.
    base
        Where relative paths of the workflow begin on this machine; the same directory
        as ``cwd`` unless the node has it elsewhere.
    env
        Environment variables to set, or (None) to remove, beside those that the
        node has.
    work
        What the job does, as far as its rule says it (:mod:`pipen_executors.work`).
    movable
        Words of the command that each process may write in another order.
    volatile
        Texts in script and files that are others in every run, and no part of what the
        job does.
    inputs
        Files that must be visible on the node before the command starts.
    outputs
        Files that must exist when the command has succeeded.
    touched
        ``touch()`` outputs, which Snakemake makes if the command has not.
    logs
        Its log and benchmark files.
    addresses
        Where files lie in Snakemake's storage (``gs://…``), by their path in the workflow.
        This and all paths above are as the workflow has them: a job may see them
        elsewhere (``SchedulerPostInit.seen``).
    stored
        Where files of the job lie in storage that it copies to its node and back by itself
        (``--default-storage-provider fs``), by their path in the workflow. Its inputs,
        outputs and logs are these.
    removable, removable_dirs
        Outputs that are removed before the command runs a second time.
    kept
        ``update()`` outputs that are there already.
    measured
        Whether what the command uses is measured while it runs (``benchmark:``).
    shadow_dir
        Snakemake's shadow directory of the job, if it has one.
    tmpdir_code
        Bash that gives a direct job its temporary directory on the node, and completes those
        of its files that name it.
    script_file
        Name of the file that the interpreter is given, if the node makes it of the script; empty
        if ``argv`` is the whole command.
    resources, options
        What is asked of the scheduler: neutral terms, and the scheduler's own.
    images
        The container images that its rules name themselves (``container:``), each once;
        empty text for a rule that names none.
    on_host
        Whether the job is to run where Snakemake runs and outside any container: one of the
        ``localrules``, or one whose container Snakemake starts.
    python_for
        What the command needs this Snakemake's Python for; empty if it needs none.
    prescript, postscript
        Bash run before and after the command in the same shell.
    timeout
        Seconds after which the command is ended; 0 for never.
    error_strategy, num_retries
        ``ignore``, ``retry`` or ``halt``, and how often to retry.
    latency_wait
        Seconds to wait for files on a shared file system.
    """

    rule: str
    wildcards: Mapping[str, str]
    products: tuple[str, ...]
    jobid: str
    argv: tuple[str, ...]
    script: str
    cwd: str
    base: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    direct: bool = True
    why_respawned: str = ""
    env: Mapping[str, str | None] = field(default_factory=dict)
    work: str = ""
    movable: frozenset[str] = frozenset()
    volatile: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    touched: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()
    addresses: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)
    removable: tuple[str, ...] = ()
    removable_dirs: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    measured: bool = False
    shadow_dir: str | None = None
    tmpdir_code: str = ""
    script_file: str = "job.script"
    resources: Resources = field(default_factory=Resources)
    options: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[str, ...] = ("",)
    on_host: bool = False
    python_for: str = ""
    prescript: str = ""
    postscript: str = ""
    timeout: float = 0
    error_strategy: str = "ignore"
    num_retries: int = 3
    latency_wait: float = 5

    @property
    def key(self) -> str:
        """Identifier that is the same in the next run (see :func:`job_key`)."""
        return job_key(self.rule, self.products, self.wildcards)

    @property
    def label(self) -> str:
        """What a person tells the job by (see :func:`job_label`)."""
        return job_label(self.wildcards)

    def fingerprint(self) -> str:
        """Return what the job would do, hashed: its script, and its inputs' size and time.

        Two submissions with the same key and fingerprint are the same work; with
        another fingerprint the rule or its inputs have changed in between.
        """
        digest = hashlib.sha256()
        # A second Snakemake is told on its command line how to run, and a file what to.
        files = sorted(self.files) if self.direct else []
        for part in (self.work, *self.argv, self.cwd, *files):
            digest.update(part.encode(errors="surrogateescape") + b"\0")
        contents = [self.script.encode(errors="surrogateescape")] if self.direct else []
        # As with `env`, what the environment happens to be makes it no other work.
        contents += [self.files[name] for name in files if not name.endswith(".env")]
        movable = frozenset(word.encode(errors="surrogateescape") for word in self.movable)
        for content in contents:
            if isinstance(content, ScriptFile):
                digest.update(content.work.encode(errors="surrogateescape") + b"\0")
                continue
            for text in self.volatile:
                content = content.replace(text.encode(errors="surrogateescape"), b"")
            digest.update(words_of(content, movable) + b"\0")
        for path in sorted(self.inputs):
            try:
                stat = os.stat(os.path.join(self.base, path))
            except OSError:
                continue
            digest.update(
                f"{path}\0{stat.st_mtime_ns}\0{stat.st_size}".encode(errors="surrogateescape")
            )
        return digest.hexdigest()[:20]


def job_key(rule: str, products: Sequence[str], wildcards: Mapping[str, str]) -> str:
    """Return what identifies a job from one run to the next: rule and outputs, hashed.

    Wildcards stand in for a job without outputs.
    """
    told_apart_by = sorted(products) or [f"{k}={v}" for k, v in wildcards.items()]
    text = "\0".join([rule, *told_apart_by])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:20]


def job_label(wildcards: Mapping[str, str]) -> str:
    """Return the wildcards as a readable name that is safe in a path, at most 60 long."""
    text = ",".join(f"{k}={v}" for k, v in wildcards.items()) or "job"
    return re.sub(r"[^A-Za-z0-9_.,=+-]", "_", text)[:60].lstrip(".-") or "job"
