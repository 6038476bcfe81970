"""Jobs in containers of this machine: Docker, Podman, Apptainer.

Containers of Docker and Podman run in the background and have a name and labels, so that
they are queried, ended and removed as what they are, whatever became of the client: one
``ps`` for all jobs, one ``stop`` for many, one ``rm`` for many. Apptainer has no daemon: its
job is a detached session of this machine (see :mod:`pipen_executors.sessions`), as is a
job that the workflow wants outside any container.

That a job has ended is heard of by its wrapper, which announces it in the events directory
that is mounted into each container; the kernel is the same, so inotify tells at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from xqute.schedulers.container_scheduler import ContainerScheduler as XquteContainerScheduler

from pipen_executors.exceptions import SchedulerError, TransientError, UserError
from pipen_executors.find_bash import start_with_bash
from pipen_executors.job import Job
from pipen_executors.scheduler import BatchScheduler
from pipen_executors.sessions import Sessions
from pipen_executors.settings import ENVIRONMENT_AT_IMPORT
from pipen_executors.spec import JobSpec
from pipen_executors.states import ExitReason, JobState, Outcome, Presence, Report

from . import endings, ends, parse
from .commands import Containers
from .config import BASH, Config, check_python, image_of
from .directives import (
    apptainer_words,
    checked_options,
    container_name,
    limits,
    ownership,
    run_words,
)
from .images import Images, SifFiles, Store
from .inside import beginning, extend_path, working_directory
from .labels import Labels
from .tidy import Tidier


class ContainerScheduler(BatchScheduler, XquteContainerScheduler):  # type: ignore[misc]
    """Runs jobs in containers.

    Parameters
    ----------
    workdir
        Directory of the job directories; containers see it at the same path.
    config
        The settings.
    """

    copies_storage = False
    runs_here = True
    starts_at_once = True
    jid_expression = '"${PIPEN_JID:-$$}"'
    end_notes = ends.OOM_KILLS
    query_ceiling = 5.0
    loss_grace = 1.0
    sweeps_sessions = True
    own_resources = frozenset({"pipen_image"})
    has_own_paths = True

    def __init__(self, workdir: Path, config: Config, jobname_prefix: str | None = None) -> None:
        super().__init__(
            workdir,
            image=config.image or "",
            bin=config.bin,
            entrypoint=list(config.entrypoint),
            user=config.user,
            remove=config.remove,
            bin_args=list(config.bin_args),
            jobname_prefix=jobname_prefix,
        )
        self._config = config
        self.kind = config.kind
        self._containers = Containers(config.bin, config.kind)
        self._sifs = SifFiles.below(config.bin, Path(workdir))
        self._labels = Labels.of_run(workdir)
        self._sessions = Sessions()
        self._names: dict[str, str] = {}
        self._without_sh: set[str] = set()
        self._tidier = Tidier(self._containers, self._labels.root, wanted=config.remove)

    # -- beginning and end ---------------------------------------------------------------

    async def post_init(self) -> None:
        """Find out what the runtime can do, and remove what earlier runs have left.

        Raises
        ------
        SchedulerError
            If it does not answer.
        """
        config = self._config
        self._facts = parse.Facts(False, os.cpu_count() or 1, frozenset())
        if self.kind == "apptainer":
            self._sifs.sweep()
        else:
            self._facts = await self._containers.facts()
            if any(word.startswith("--group-add") for word in config.bin_args):
                self._facts = replace(self._facts, keeps_groups=False)  # it allows no others
            await self._tidier.sweep(self._labels.root)
        store: Store = self._sifs if self.kind == "apptainer" else self._containers
        self._images = Images(store, config.pull, config.tell)

    async def stop(self) -> None:
        """Remove the containers of this run that have ended."""
        await self._images.close()
        if self.kind != "apptainer":
            await self._tidier.close(self._labels.run)
        await super().stop()

    # -- checks --------------------------------------------------------------------------

    def check(self, spec: JobSpec) -> None:
        """Refuse a job without an image, and one that needs what its image has not."""
        checked_options(spec.options, f"options of rule {spec.rule}", self.kind)
        if spec.on_host:
            return
        image_of(spec, self._config)
        check_python(spec, self._config)
        self._config.surroundings.check(spec)

    # -- submission ----------------------------------------------------------------------

    async def submit_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, str | SchedulerError]:
        """Start the container of each job."""
        answers: dict[Job, str | SchedulerError] = {}
        for job in jobs:
            try:
                answers[job] = await self._submit(job)
            except TransientError:
                raise
            except SchedulerError as error:
                answers[job] = error
            except (OSError, UserError) as error:
                answers[job] = SchedulerError(str(error))
        return answers

    async def _submit(self, job: Job) -> str | SchedulerError:
        spec, config = job.spec, self._config
        wrapper = self.wrapper_path(job)
        if spec.on_host:
            return self._sessions.submit(job, ["/bin/bash", "-p", wrapper])
        image = image_of(spec, self._config)
        await self._images.ensure(image, unless=lambda: self._is_unwanted(job))
        if self._is_unwanted(job):
            return SchedulerError("cancelled while its image was awaited")
        # Directories of inputs may hold many files.
        mounts = await asyncio.to_thread(config.surroundings.of_job, spec)
        options = checked_options(spec.options, f"options of rule {spec.rule}", self.kind)
        argv = self._argv(image, wrapper)
        if self.kind == "apptainer":
            sif = self._sifs.path(image)
            words = apptainer_words(config.bin, spec, mounts, options, config.bin_args, sif, argv)
            return self._sessions.submit(job, words)
        options = {
            **ownership(config.user, self.kind, self._facts),
            **limits(spec, self.kind, self._facts, enforce=config.enforce),
            **options,
        }
        labels = self._labels.of_job(spec)

        def command(argv: Sequence[str]) -> list[str]:
            return run_words(mounts, labels, options, config.bin_args, image, argv)

        name = self._name(job)
        try:
            await self._start(name, command(argv), image)
        except SchedulerError as error:
            if not self._needs_no_sh(image, argv, error):
                raise
            await self._containers.remove([name], self._labels.root)
            await self._start(name, command(self._argv(image, wrapper)), image)
        return name

    def _argv(self, image: str, wrapper: str) -> list[str]:
        """Return what starts a wrapper in an image: its own bash, or what the user wants."""
        entrypoint = self._config.entrypoint
        if entrypoint != (BASH,):
            return [*entrypoint, wrapper]
        return [BASH, "-p", wrapper] if image in self._without_sh else start_with_bash(wrapper)

    def _needs_no_sh(self, image: str, argv: Sequence[str], error: SchedulerError) -> bool:
        """Tell whether an image refused ``/bin/sh``; from then on bash is named to it."""
        is_missing = error.reason is ExitReason.LAUNCH_FAILURE and ends.names_program(
            error, argv[0]
        )
        if is_missing and self._config.entrypoint == (BASH,) and argv[0] != BASH:
            self._without_sh.add(image)
            return True
        return False

    def _name(self, job: Job) -> str:
        """Return the name of the container of a new submission."""
        name = container_name(f"{self.jobname_prefix}-{job.spec.rule}", job.token)
        key = job.spec.key
        self._tidier.discard(self._names.pop(key, ""))  # of an earlier attempt
        self._names[key] = name
        return name

    async def _start(self, name: str, words: Sequence[str], image: str) -> None:
        """Start a container."""
        try:
            await self._containers.start(name, words, self._labels.root)
        except TransientError:
            raise
        except SchedulerError as error:
            setting = self._config.where("entrypoint")
            raise ends.of_refusal(error, image, self._config.entrypoint[0], setting) from None

    def _is_unwanted(self, job: Job) -> bool:
        return job.state is JobState.KILLING or job.state.is_final

    def forget(self, job: Job) -> None:
        """Have the container of a job that has ended removed."""
        self._sessions.forget(job)
        name = self._names.pop(job.spec.key, job.jid)
        if not name.isdecimal():
            self._tidier.discard(name)

    # -- queries -------------------------------------------------------------------------

    async def query_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
        """Ask for all containers of this directory with one ``ps``."""
        sessions, contained = _divided(jobs)
        reports = dict(self._sessions.query(sessions))
        if contained:
            there = await self._containers.running(self._labels.root)
            for job in contained:
                runs = there.get(job.jid, False)
                reports[job] = Report(Presence.RUNNING if runs else Presence.GONE)
        return reports

    async def explain_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Outcome]:
        """Say how jobs ended: sessions by the kernel, containers by their runtime."""
        sessions, contained = _divided(jobs)
        outcomes = endings.of_sessions(sessions, self._sessions)
        return outcomes | await endings.of_containers(
            contained, self._containers, self._labels.root, self._config.user
        )

    def judge(self, job: Job, outcome: Outcome) -> Outcome:
        """Tell a command of which the kernel has killed a process for want of memory."""
        return ends.of_command(job, outcome)

    # -- cancellation ----------------------------------------------------------------------

    async def kill_jobs(self, jobs: Sequence[Job]) -> None:
        """End containers with one ``stop``, which addresses them and not their clients."""
        sessions, contained = _divided(jobs)
        ending: list[Awaitable[None]] = [self._sessions.kill(sessions, self.kill_grace)]
        if contained:
            names = [job.jid for job in contained]
            ending.append(self._containers.stop(names, self.kill_grace, self._labels.root))
        await asyncio.gather(*ending)

    # -- the wrapper -------------------------------------------------------------------------

    def cwd_seen(self, job: Job) -> str:
        """Return the path at which a job sees its working directory."""
        cwd = job.spec.cwd
        return cwd if job.spec.on_host else working_directory(cwd, self._config.cwd_volume)

    def job_environment(self, job: Job) -> str:
        """Return bash that exports variables; what was added to PATH is added to the image's."""
        code = super().job_environment(job)
        if job.spec.on_host:
            return code
        wanted, here = job.spec.env.get("PATH") or "", ENVIRONMENT_AT_IMPORT.get("PATH", "")
        return extend_path(code, wanted, here)

    def jobcmd_init(self, job: Job) -> str:
        """Return bash that tells where named volumes are, and gives a home to who has none."""
        from_hooks = super().jobcmd_init(job)
        if job.spec.on_host:
            return from_hooks
        return "\n".join([beginning(self._config.surroundings.volumes), from_hooks])


def _divided(jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
    """Return which jobs are sessions and which are containers."""
    sessions = [job for job in jobs if job.jid.isdecimal()]
    return sessions, [job for job in jobs if not job.jid.isdecimal()]
