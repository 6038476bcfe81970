"""The Snakemake side: turns Snakemake's jobs into job specifications and reports back.

``RemoteExecutor`` brings the respawned command line; its polling thread is left
without work, because results come from the engine's thread.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from snakemake_interface_executor_plugins.executors.base import AbstractExecutor, SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import SharedFSUsage
from snakemake_interface_executor_plugins.utils import encode_target_jobs_cli_args, format_cli_arg

from . import filesystem
from .exceptions import SchedulerError, UserError
from .jobdir import JOB_DIRECTORIES, JobDir, root_below
from .live import Live, is_quiet
from .plain_text import plain
from .profiles import read_profile
from .records import tell_plugins
from .settings import READERS, Checked, ExecutorSettings, check, given, read, table_of
from .signals import defer_sigterm, interruptible
from .spec import JobSpec
from .states import ExitReason

_INTERRUPTED: Final = 130
"""Exit status of a command that Ctrl-C has ended, as a shell says it: 128 + SIGINT."""

if TYPE_CHECKING:
    from .engine import Engine
    from .job import Job
    from .scheduler import SchedulerPostInit
    from .specify import Specifier


@dataclass(frozen=True, eq=False)
class Lane:
    """One scheduler of a run, with its settings and the engine that drives it."""

    name: str
    checked: Checked
    scheduler: SchedulerPostInit
    specifier: Specifier
    engine: Engine


class PipenExecutor(RemoteExecutor):  # type: ignore[misc]
    """Base of all pipen executors.

    A backend sets :attr:`backend` and says which scheduler class it drives.
    """

    backend: ClassVar[str]
    """Name of the scheduler, as in ``--executor pipen-<backend>``."""
    has_accounting: ClassVar[bool] = False
    """Whether the scheduler may know more of what ended jobs used than their wrappers."""

    @property
    def settings(self) -> Any:
        """The settings as Snakemake has them; its Python interface may give none."""
        given_settings = self.workflow.executor_settings
        if given_settings is None:
            given_settings = self.workflow.executor_plugin.settings_cls()
            self.workflow.executor_settings = given_settings
        return given_settings

    # -- what a backend may change -------------------------------------------------

    @staticmethod
    def make_scheduler(run: PipenExecutor, workdir: Path, checked: Checked) -> SchedulerPostInit:
        """Return the scheduler; the imports of its libraries belong in here.

        Parameters
        ----------
        run
            The executor of the run, which may be another one's (``--executor pipen``).
        workdir
            Directory of the job directories.
        checked
            All settings; the backend's own are ``checked.settings``.
        """
        raise NotImplementedError

    def plan(self) -> None:
        """Make ready the lanes of the run, by :meth:`add_lane`."""
        settings = self.settings
        prefix = f"pipen-{self.backend}"
        profile = None
        if settings.profile:
            where = f"--{prefix}-profile"
            profile = read_profile(settings.profile, where)
            if profile.scheduler not in (None, self.backend):
                source = profile.values["scheduler"].source
                raise UserError(
                    f"{where} is {settings.profile!r}, which is for another scheduler: "
                    f"{profile.scheduler!r} ({source}). Give one with scheduler = "
                    f"{self.backend!r}, or use --executor pipen."
                )
        self.add_lane(self.backend, check(settings, prefix, profile), self.make_scheduler)

    def lane_for(self, resources: Mapping[str, Any], rule: str) -> Lane:
        """Return the lane for jobs of a rule with some resources.

        Raises
        ------
        SettingError
            If they name one that there is not.
        """
        return self.lanes[0]

    def lane_that_has(self, spec: JobSpec, lane: Lane) -> Lane:
        """Return the lane on which a job is, should an earlier run have given it to another."""
        return lane

    def root(self, name: str, checked: Checked) -> Path:
        """Return where the job directories of a lane lie."""
        return root_below(checked.workdir or Path(JOB_DIRECTORIES, name))

    @classmethod
    def roots(cls, settings: ExecutorSettings) -> list[Path]:
        """Return where job directories of earlier runs may lie."""
        if settings.workdir:
            where = f"--pipen-{cls.backend}-workdir"
            return [root_below(read(where, settings.workdir, READERS["workdir"]))]
        return [Path(JOB_DIRECTORIES, cls.backend)]

    def settings_of(self, lane: Lane) -> list[tuple[str, str, str]]:
        """Return name, value and origin of each setting of a lane."""
        return table_of(lane.checked)

    def default_forks(self, scheduler: SchedulerPostInit) -> int | None:
        """Return how many jobs a lane has at a time whose settings say nothing; None: no limit."""
        return None

    # -- life of the executor --------------------------------------------------------

    def _wait_thread(self) -> None:
        """Leave the thread that polls in other executors without work."""

    def __post_init__(self) -> None:
        """Check all settings and start the engines; nothing has been submitted yet."""
        self.lanes: list[Lane] = []
        try:
            self._begin()
        except KeyboardInterrupt:  # Snakemake does not expect it before its scheduler runs
            for lane in self.lanes:
                lane.engine.stop()
            raise SystemExit(_INTERRUPTED) from None

    def _begin(self) -> None:
        self._infos: dict[str, SubmittedJobInfo] = {}
        self._seen_apart: Callable[[str], str] | None = None
        self._keys: dict[int, str] = {}
        self._ends_early = False
        self._broken = False
        self._cancelled: list[SubmittedJobInfo] = []
        self._unsettled: list[JobDir] = []
        self.live = Live(self.logger, quiet=is_quiet(self.workflow.output_settings.quiet))
        self._opened: dict[Lane, str | None] = {}
        self._doubts: set[str] = set()
        self._plugins: list[tuple[str, Any]] | None = None
        self.plan()
        try:
            for lane in self._check_run():
                self._open(lane)
        except UserError:
            for lane in self.lanes:
                lane.engine.stop()
            raise
        self._settle_what_was_taken_in()
        self.live.start()

    def _settle_what_was_taken_in(self) -> None:
        """Settle what earlier runs left to be settled: Snakemake holds its lock now."""
        from .takeup import unfinished_of

        unfinished = unfinished_of(self.workflow.dag)
        if unfinished is not None:
            self._unsettled += unfinished.taken_in
            self._settle_all()

    def _check_run(self) -> list[Lane]:
        """Refuse what a rule asks for and cannot get, before the first job of any runs.

        Returns
        -------
        list of Lane
            Those that jobs of this run ask for already.
        """
        from .specify import static_resources

        for rule in self.workflow.rules:
            self.lane_for(static_resources(rule), rule.name).specifier.check_rule(rule)
        seen: set[str | tuple[str, ...]] = set()
        needed = []
        respawned: dict[tuple[Lane, str], list[str]] = {}
        dag = self.workflow.dag
        for job in dag.needrun_jobs():
            # Where the plugin is a local one, all jobs count as local, and it runs them.
            if job.is_local and not self.workflow.local_exec:
                continue
            if not job.is_norun and job.rule.name not in seen:
                seen.add(job.rule.name)
                lane = self.lane_for(static_resources(job.rule), job.rule.name)
                if (why := lane.specifier.check_job(job)) is not None:
                    respawned.setdefault((lane, why), []).append(job.rule.name)
                needed.append(lane)
            group = dag.get_job_group(job)
            if group is not None and (self.workflow.local_exec or not group.is_local):
                # Groups of the same jobs of the same rules ask for the same.
                alike = tuple(sorted(member.rule.name for member in group.jobs))
                if alike not in seen:
                    seen.add(alike)
                    lane = self.lane_for(static_resources(job.rule), job.rule.name)
                    lane.specifier.check_group(group)
        for (lane, why), rules in respawned.items():
            lane.specifier.tell_respawned(why, sorted(rules))
        return needed

    def _open(self, lane: Lane) -> None:
        """Start the engine of a lane, if it has not been started.

        Raises
        ------
        UserError
            If its scheduler cannot be used.
        """
        if lane not in self._opened:
            try:
                lane.engine.start()
            except (SchedulerError, UserError) as error:
                self._opened[lane] = f"Scheduler {lane.name} cannot be used: {error}"
            else:
                self._opened[lane] = None
        if (why := self._opened[lane]) is not None:
            raise UserError(why)

    def add_lane(
        self,
        name: str,
        checked: Checked,
        make_scheduler: Callable[[PipenExecutor, Path, Checked], SchedulerPostInit],
    ) -> Lane:
        """Make a scheduler ready for this run; it is not asked for anything yet.

        Parameters
        ----------
        name
            What it is called: in messages, and in the path of its job directories.
        checked
            Its settings.
        make_scheduler
            Makes it.

        Raises
        ------
        UserError
            If its directory cannot be used.
        """
        from .client import Limits
        from .engine import Engine
        from .history import History
        from .hooks import Hooks, load_plugins
        from .jobdir import prepare_root
        from .specify import Specifier
        from .usage import UsageReport

        root = self.root(name, checked)
        try:
            filesystem.repeat(prepare_root, root)
        except OSError as error:
            raise UserError(
                f"{checked.where('workdir')}: the job directories cannot be kept in {root}: {error}"
            ) from error
        if self._plugins is None:  # which are the same for all lanes
            self._plugins = load_plugins(checked.plugins, self._warn, checked.where("plugins"))
        hooks = Hooks(self._plugins, self._warn)
        run = secrets.token_hex(4)
        if checked.history:
            told = [self.live.take, *tell_plugins(self.logger)]
            history = History(str(root), given(checked.settings), self._warn, told)
            run = history.run
            if checked.efficiency_report:
                hooks.add(UsageReport(str(root), history.run, self.logger.info))
            hooks.add(history)  # the last one added is called first
        scheduler = make_scheduler(self, root, checked)
        scheduler.take_settings(checked)
        if checked.mounted_workdir is not None:
            self._mount_workdir(scheduler, root, checked)
        scheduler.hooks = hooks
        self._check_files(name, scheduler)
        if scheduler.brings_files:
            # What Snakemake leaves to the node where nothing is shared (touch, protected,
            # shadow, update), it has to do here.
            self.workflow.storage_settings.shared_fs_usage = SharedFSUsage.all()
        ceiling = checked.query_ceiling
        limits = Limits(
            forks=checked.forks or self.default_forks(scheduler),
            submitters=checked.submission_batch,
            submit_rate=checked.submit_rate,
            query_ceiling=ceiling if ceiling is not None else scheduler.query_ceiling,
        )
        # A number for plugins, also where only Snakemake's own limit holds.
        most = self.workflow.resource_settings
        scheduler.forks = limits.forks or most.nodes or most.cores or sys.maxsize
        specifier = Specifier(self, checked, scheduler, hooks)
        engine = Engine(scheduler, str(root), limits, hooks, self, run)
        lane = Lane(name, checked, scheduler, specifier, engine)
        self.lanes.append(lane)
        self._tell_settings(lane)
        return lane

    def _check_files(self, name: str, scheduler: SchedulerPostInit) -> None:
        """Refuse a scheduler whose jobs find their files in storage only, where that is not said.

        Snakemake would look for outputs here, and remove from storage what a job has made.

        Raises
        ------
        UserError
            Naming the scheduler and what to do.
        """
        usage = self.workflow.storage_settings.shared_fs_usage
        if scheduler.needs_storage and SharedFSUsage.INPUT_OUTPUT in usage:
            raise UserError(
                f"Scheduler {name} shares no files with this machine, but --shared-fs-usage says "
                "that inputs and outputs are shared. Add --shared-fs-usage none, with "
                "--default-storage-provider and --default-storage-prefix."
            )
        in_storage = [lane.name for lane in self.lanes if lane.scheduler.needs_storage]
        if scheduler.brings_files and in_storage:
            raise UserError(
                f"Schedulers {in_storage[0]} and {name} cannot run jobs of one workflow: for the "
                "first its files have to lie in storage, the second sends them from this machine."
            )

    def _mount_workdir(self, scheduler: SchedulerPostInit, root: Path, checked: Checked) -> None:
        """Let jobs see their directories by another path (xqute's ``mounted_workdir``)."""
        from .scheduler import xqute

        if scheduler.has_own_paths:
            raise UserError(
                f"mounted_workdir is {checked.mounted_workdir!r}: {scheduler.name} decides by "
                "itself where its jobs see their directories; leave mounted_workdir out."
            )
        kept = Path.cwd() / checked.workdir if checked.workdir else root
        mounted = Path(checked.mounted_workdir or "", root.relative_to(kept))
        scheduler.workdir = xqute.path.SpecPath(root, mounted=str(mounted))

    def _tell_settings(self, lane: Lane) -> None:
        """Print all settings where that is asked for, and what of a profile means nothing."""
        if lane.checked.ignored:
            names = ", ".join(lane.checked.ignored)
            self.logger.debug(f"Keys of the profile that are nothing here: {names}.")
        for doubt in lane.checked.doubts:
            if doubt not in self._doubts:  # other lanes may have the same profile
                self._doubts.add(doubt)
                self._warn(doubt)
        if lane.checked.show_config:
            from humanfriendly.tables import format_pretty_table

            columns = [f"setting of {lane.name}", "value", "from"]
            print(format_pretty_table(self.settings_of(lane), columns), flush=True)

    def shutdown(self) -> None:
        """Stop the engines; called when no job is left, or when an engine is broken."""
        if self._ends_early:
            self._cancel_all()
        elif self._broken and self._infos:
            self.logger.error(
                f"{len(self._infos)} submitted jobs have not ended and are not cancelled. "
                "The same command takes them up again."
            )
        for lane in self.lanes:
            lane.engine.stop()
        self.live.stop()
        if self._cancelled:
            self.logger.info(f"{len(self._cancelled)} jobs have been cancelled.")
        for info in self._cancelled:
            if not _handle(info).spec.direct:
                # A second Snakemake removes the marker of incomplete output before the output.
                info.job.register(_marker(info))
        self._settle_all()
        super().shutdown()
        _cancel_reevaluation()

    def cancel(self) -> None:
        """End all jobs and wait until the schedulers agree; called on Ctrl-C and errors."""
        with interruptible(self._on_interrupt):
            self._cancel_all()
            self.shutdown()

    def _on_interrupt(self, number: int) -> None:
        """Answer a Ctrl-C that comes while jobs are being cancelled.

        The second one of a run (the first here) changes nothing, the third ends the waiting.
        """
        if number == 1:
            self.logger.warning(
                "The jobs are being cancelled. Another Ctrl-C ends Snakemake without waiting for "
                "their end."
            )
        else:
            for lane in self.lanes:
                lane.engine.abandon()

    def _cancel_all(self) -> None:
        with ThreadPoolExecutor(max_workers=max(1, len(self.lanes))) as pool:
            list(pool.map(lambda lane: lane.engine.cancel(), self.lanes))

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Do nothing: :meth:`cancel` is overridden as a whole."""

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> Any:
        """Yield all jobs as active: their ends are heard of elsewhere."""
        for info in active_jobs:
            yield info

    # -- submission ------------------------------------------------------------------

    def run_jobs(self, jobs: Sequence[Any]) -> None:
        """Hand all jobs that are ready to the engine at once."""
        defer_sigterm(self.workflow.scheduler)
        ready: dict[Lane, list[Job]] = {}
        for job in jobs:
            self.run_job_pre(job)
            taken = self._take(job)
            if taken is not None:
                lane, handle = taken
                ready.setdefault(lane, []).append(handle)
        for lane, handles in ready.items():
            lane.engine.submit(handles)

    def run_job(self, job: Any) -> None:
        """Hand one job to the engine."""
        self.run_jobs([job])

    def _take(self, job: Any) -> tuple[Lane, Job] | None:
        """Make a job ready; None if it is done with already, well or badly."""
        from snakemake.exceptions import print_exception

        info = SubmittedJobInfo(job)
        if not job.is_group() and job.is_norun:
            self.workflow.async_run(job.prepare())
            self.report_job_submission(info)
            self.report_job_success(info)
            return None
        try:
            if self._fetched_from_cache(job):
                self.report_job_submission(info)
                self.report_job_success(info)
                return None
            rule = ", ".join(sorted(job.rules)) if job.is_group() else job.rule.name
            lane = self.lane_for(job.resources, rule)
            spec = lane.specifier.specify(job)
            holder = self.lane_that_has(spec, lane)
            if holder is not lane:
                lane, spec = holder, holder.specifier.specify(job)
            self._open(lane)
            handle = lane.engine.make_job(spec)
            if handle.record is not None and not self._may_be_taken_up(job, handle):
                filesystem.repeat(handle.directory.settle)
                handle.record = None
            lane.specifier.let_postprocess(job, spec)
            if handle.record is None:
                handle.displaces = self._displaced_by(handle, lane)
                if not handle.displaces:  # which may still be writing the same files
                    lane.specifier.prepare(job, spec)
            elif spec.direct and handle.record.shadow_dir:
                lane.specifier.use_shadow(job, spec, handle.record.shadow_dir)
        except Exception as error:
            print_exception(error, self.workflow.linemaps)
            self.report_job_submission(info, register_job=False)
            self.report_job_error(info, msg="The job could not be made ready.")
            return None
        info.aux = {"handle": handle, "lane": lane}
        info.external_jobid = _marker(info)
        self._infos[spec.key] = info
        self._keys[id(job)] = spec.key
        # Snakemake's marker of incomplete output is written before the submission: a
        # kill in between must not let the next run take half an output for a whole one.
        self.report_job_submission(info)
        return lane, handle

    def _cache(self, job: Any) -> Any:
        """Return the cache between workflows that keeps the output of a job, or None."""
        wanted = self.workflow.workflow_settings.cache is not None and not job.is_group()
        return job.rule.cache.output if wanted and job.rule.cache else None

    def _fetched_from_cache(self, job: Any) -> bool:
        """Take the output of a job from --cache, as the local executor does before it runs."""
        from snakemake.exceptions import CacheMissException

        if not self._cache(job):
            return False
        try:
            self.workflow.async_run(job.rule.cache.fetch(job))
        except CacheMissException:
            return False
        return True

    def _store_in_cache(self, info: SubmittedJobInfo) -> None:
        """Put the output of a job into --cache, then report its success; not in the engine."""
        from snakemake.exceptions import print_exception

        try:
            self.workflow.async_run(info.job.rule.cache.store(info.job))
        except Exception as error:
            print_exception(error, self.workflow.linemaps)
            self.report_job_error(info, msg="Its output could not be stored in the cache.")
        else:
            self.report_job_success(info)

    def _check_ensured(self, info: SubmittedJobInfo) -> None:
        """Check ensure() of outputs that a job has stored; not in the engine's thread."""
        from snakemake.exceptions import print_exception

        from .postprocess import check_ensured

        try:
            self.workflow.async_run(check_ensured(info.job, dict(_handle(info).spec.stored)))
        except Exception as error:
            print_exception(error, self.workflow.linemaps)
            self.report_job_error(info, msg="Its outputs are not what ensure() says.")
        else:
            self.report_job_success(info)

    def _benchmark_failure(self, info: SubmittedJobInfo, handle: Job) -> str | None:
        """Write the benchmark file of a direct job; return why it cannot be written."""
        from .benchmark import write_benchmark
        from .group import usage_file
        from .meter import FILE

        measured = {}
        if info.job.is_group() and handle.spec.direct:
            measured = {job: usage_file(job) for job in info.job.jobs if job.benchmark}
        elif handle.spec.measured:
            measured = {info.job: FILE}
        for job, file in measured.items():
            try:
                path = handle.spec.stored.get(str(job.benchmark), str(job.benchmark))
                write_benchmark(job, self.workflow, handle.directory, path, file)
            except OSError as error:
                return f"The benchmark file of rule {job.rule.name} could not be written: {error}"
        return None

    def _may_be_taken_up(self, job: Any, handle: Job) -> bool:
        """Tell whether an earlier submission of a job is unfinished business.

        A job that has not ended is, and one that ended well and whose result Snakemake has
        not taken in. A job that failed is run again, as in every new run.
        """
        from .takeup import is_taken_in

        rc = filesystem.repeat(handle.directory.rc)
        if rc is None:
            return True
        if rc != 0:
            return False
        assert handle.record is not None
        members = list(job.jobs) if job.is_group() else [job]
        direct = handle.record.direct
        if not direct and not all(map(filesystem.exists, _kept_outputs(members))):
            return False  # its outputs have been removed since
        taken_in = is_taken_in(members, rc, direct, self.workflow.persistence)
        return not self.workflow.async_run(taken_in)

    def _displaced_by(self, handle: Job, lane: Lane) -> list[Job]:
        """Return jobs of earlier runs that write the same files as a new one.

        They are others because a rule has another name now, or because jobs are grouped in
        another way.
        """
        from .takeup import unfinished_of

        unfinished = unfinished_of(self.workflow.dag)
        if unfinished is None:
            return []
        found = unfinished.with_outputs(handle.spec.products)
        return [
            lane.engine.earlier_job(directory)
            for key, (directory, record) in found.items()
            if key != handle.spec.key
            and directory.path.startswith(f"{lane.engine.root}/")
            and directory.record() == record
        ]

    def prepare(self, handle: Job) -> None:
        """Make a job ready for a fresh start (see ``engine.Client``)."""
        info = self._infos[handle.spec.key]
        specifier = _lane(info).specifier
        specifier.take_back(info.job, handle.spec, handle.record)
        specifier.prepare(info.job, handle.spec)

    # -- the respawned command line ------------------------------------------------------

    def get_job_exec_prefix(self, job: Any) -> str:
        """Change to the working directory of the workflow, where the node has it too."""
        if not self.workflow.storage_settings.assume_common_workdir:
            return ""
        return f"cd {shlex.quote(self.workflow.workdir_init)}"

    def get_snakefile(self) -> str:
        """Return the path of the Snakefile, relative where the sources are not shared."""
        path = str(self.snakefile)
        if self._seen_apart is not None:
            return self._seen_apart(os.path.abspath(path))
        shared = SharedFSUsage.SOURCES in self.workflow.storage_settings.shared_fs_usage
        return path if shared else os.path.relpath(path)

    def respawn_command(
        self, job: Any, spec: JobSpec, directory: str, *, apart: Callable[[str], str] | None
    ) -> str:
        """Return the command line of the second Snakemake that runs a job.

        The list of files to wait for goes into the job directory, which outlives this
        process. To one that shares no files with this one, ``apart`` tells where a file is that
        was sent; it runs in the copy of the working directory, whatever the Snakefile says.
        """
        from .staging import node_prefix

        self._respawned = spec, directory
        self._seen_apart = apart
        settings, config = self.workflow.storage_settings, self.workflow.config_settings
        configs, workdir = config.configfiles, self.workflow.overwrite_workdir
        usage, prefix = settings.shared_fs_usage, settings.remote_job_local_storage_prefix
        try:
            if apart is not None:
                settings.shared_fs_usage = frozenset()
                config.configfiles = [Path(apart(os.path.abspath(file))) for file in configs]
                if workdir is not None or os.getcwd() != self.workflow.workdir_init:
                    self.workflow.overwrite_workdir = Path(".")
            settings.remote_job_local_storage_prefix = Path(node_prefix(self.workflow))
            return str(self.format_job_exec(job))
        finally:
            self._seen_apart = None
            config.configfiles, self.workflow.overwrite_workdir = configs, workdir
            settings.shared_fs_usage = usage
            settings.remote_job_local_storage_prefix = prefix

    def get_job_args(self, job: Any, **_: Any) -> str:
        """Return the arguments for one job.

        Other than the base class: all cores that the job asks for, so that
        ``{threads}`` stays what it is.
        """
        arguments = RealExecutor.get_job_args(self, job, cores=max(1, int(job.threads)))
        arguments = with_file_targets(arguments, job)
        if self.workflow.storage_settings.notemp:  # a group removes what it alone needs
            arguments += " --notemp"
        if SharedFSUsage.INPUT_OUTPUT in self.workflow.storage_settings.shared_fs_usage:
            files = [str(file) for file in job.get_wait_for_files() if _is_one_line(str(file))]
            if files:
                # Not as arguments: Snakemake does not quote them for a shell.
                spec, directory = self._respawned
                spec.files = {**spec.files, "job.waitfor": "\n".join(files).encode() + b"\n"}
                path = f"{directory}/job.waitfor"
                arguments += " " + format_cli_arg("--wait-for-files-file", path)
        return str(arguments)

    def additional_general_args(self) -> str:
        """Return arguments that make the second Snakemake quick and leave retries to this one.

        Its rate limiter would keep it waiting at its end, and it would repeat a failed
        job by itself where the rule says so.
        """
        return (
            "--max-jobs-per-timespan 1000000/0s --preemptible-rules --preemptible-retries 0 "
            "--quiet progress rules host"
        )

    # -- what the engine tells (called in its thread) ----------------------------------------

    def on_submitted(self, handle: Job) -> None:
        """Note the scheduler's id for messages."""
        info = self._infos.get(handle.spec.key)
        if info is not None:
            info.external_jobid = handle.jid

    def on_ended(self, handles: Sequence[Job]) -> None:
        """Report results to Snakemake; one that cannot be taken care of is its job's failure."""
        for handle in handles:
            try:
                self._report_end(handle)
            except Exception as error:
                info = self._infos[handle.spec.key]
                why = filesystem.describe(error)
                self.report_job_error(info, msg=f"{_explain(info, handle)}\n    {why}")

    def _report_end(self, handle: Job) -> None:
        """Report the result of one job."""
        from .group import unprotect

        info = self._infos[handle.spec.key]
        assert handle.outcome is not None
        engine = _lane(info).engine
        if not handle.outcome.ok and handle.spec.direct and info.job.is_group():
            unprotect(info.job)
        if engine.cancelling and handle.outcome.reason is ExitReason.CANCELLED:
            self._cancelled.append(info)  # one line for all of them, when the run ends
        elif handle.outcome.ok and (failure := self._benchmark_failure(info, handle)):
            self.report_job_error(info, msg=failure)
        elif handle.outcome.ok and _is_ensured(info):
            threading.Thread(target=self._check_ensured, args=(info,)).start()
        elif handle.outcome.ok and self._cache(info.job):
            threading.Thread(target=self._store_in_cache, args=(info,)).start()
        elif handle.outcome.ok:
            self.report_job_success(info)
        else:
            if not handle.spec.direct:
                _lane(info).specifier.keep_updated(info.job)
            if info.job.is_group():  # Snakemake leaves the message of a group out
                self.logger.error(f"{handle.spec.rule}: {_explain(info, handle)}")
            logs = [handle.directory.file("job.stderr"), handle.directory.file("job.stdout")]
            self.report_job_error(
                info,
                msg=_explain(info, handle),
                aux_logs=[path for path in logs if _has_content(path)],
            )

    def on_halt(self, handle: Job) -> None:
        """End the run with the error of one job (error strategy 'halt').

        Its own scheduler's jobs have ended; :meth:`shutdown` ends those of the others.
        """
        assert handle.outcome is not None
        self._ends_early = True
        self.workflow.scheduler.executor_error_callback(
            UserError(
                f"Rule {handle.spec.rule} failed ({handle.outcome.describe()}) and its error "
                "strategy is 'halt'; all other jobs have been cancelled."
            )
        )

    def on_cancelled(self) -> None:
        """End the run whose jobs have been cancelled from another terminal."""
        self._ends_early = True
        self.workflow.scheduler.executor_error_callback(
            UserError("All jobs have been cancelled, as `pipen-executors cancel` asked.")
        )

    def on_broken(self, error: BaseException) -> None:
        """End the run because the engine cannot go on; its jobs are left to the next run."""
        if self.workflow.scheduler is None:
            return
        self._broken = True
        self.workflow.scheduler.executor_error_callback(error)

    def on_message(self, text: str, *, warning: bool = False) -> None:
        """Show a line to the user."""
        (self.logger.warning if warning else self.logger.info)(plain(text))

    def _warn(self, text: str) -> None:
        self.on_message(text, warning=True)

    # -- what Snakemake tells ------------------------------------------------------------

    def handle_job_success(self, job: Any) -> None:
        """Settle a job whose result and metadata Snakemake has taken in."""
        self._settle(job)

    def handle_job_error(self, job: Any) -> None:
        """Settle a job whose failure Snakemake has taken in."""
        self._settle(job)

    def _settle(self, job: Any) -> None:
        key = self._keys.pop(id(job), None)
        if key is not None:
            self._unsettled.append(_handle(self._infos.pop(key)).directory)
            self._settle_all()

    def _settle_all(self) -> None:
        """Settle jobs; those whose directory cannot be changed now, with the next one."""
        waiting, self._unsettled = self._unsettled, []
        for directory in waiting:
            try:
                directory.settle()
            except OSError as error:
                # A next run finds that the result has been taken in (_may_be_taken_up).
                self.logger.debug(f"{filesystem.describe(error)}: trying again")
                self._unsettled.append(directory)

    def print_job_error(self, job_info: SubmittedJobInfo, msg: Any = None, **kwargs: Any) -> None:
        """Print a failure without the base class's pointer to "the cluster log"."""
        if job_info.external_jobid is not None:
            kwargs["external_jobid"] = job_info.external_jobid
        AbstractExecutor.print_job_error(self, job_info, msg, **kwargs)


def _cancel_reevaluation() -> None:
    """Cancel the timers by which Snakemake would look for jobs that its rate limit held back.

    None are left, and the interpreter would wait a second for the timers before it exits.
    """
    for thread in threading.enumerate():
        if (
            isinstance(thread, threading.Timer)
            and "_schedule_reevalutation" in thread.function.__qualname__
        ):
            thread.cancel()


def _kept_outputs(jobs: Sequence[Any]) -> list[str]:
    """Return the outputs of jobs that are there when they have ended, as far as they lie here."""
    from snakemake.io import is_flagged

    passing = ("temp", "pipe", "service")
    return [
        str(file)
        for job in jobs
        for file in job.output
        if not file.is_storage and not any(is_flagged(file, flag) for flag in passing)
    ]


def _lane(info: SubmittedJobInfo) -> Lane:
    assert info.aux is not None
    lane: Lane = info.aux["lane"]
    return lane


def _handle(info: SubmittedJobInfo) -> Job:
    assert info.aux is not None
    handle: Job = info.aux["handle"]
    return handle


def _is_ensured(info: SubmittedJobInfo) -> bool:
    """Tell whether outputs that a job has stored are still to be checked for ensure()."""
    from snakemake.io import is_flagged

    members = info.job.jobs if info.job.is_group() else [info.job]
    return bool(_handle(info).spec.stored) and any(
        is_flagged(file, "ensure") for member in members for file in member.output
    )


def _marker(info: SubmittedJobInfo) -> str:
    """Return what Snakemake's marker of incomplete output says of a job."""
    return f"{_lane(info).checked.prefix}:{_handle(info).spec.key}"


def _is_one_line(path: str) -> bool:
    """Tell whether a path can be in a list of files to wait for, whose lines Snakemake strips.

    One that cannot is not waited for, but looked for as soon as the job's Snakemake has begun.
    """
    return path.splitlines() == [path.strip()]


def with_file_targets(arguments: str, job: Any) -> str:
    """Return a job's arguments for a second Snakemake with targets that it reads as they are meant.

    It takes a comma in a wildcard's value of ``--target-jobs`` for the beginning of the next
    wildcard (snakemake/target_jobs.py), quoted or not. Then its jobs are named by their outputs,
    as they are spelled in the rule: it changes nothing of them. One that begins with a hyphen it
    would take for an option.
    """
    specs = list(job.get_target_spec())
    values = [value for spec in specs for value in (spec.wildcards_dict or {}).values()]
    members = list(job.jobs) if job.is_group() else [job]
    targets = [str(next(iter(member.output), member.rule.name)) for member in members]
    if not any("," in str(value) for value in values):
        return arguments
    if any(target.startswith("-") for target in targets):
        return arguments
    jobs = format_cli_arg("--target-jobs", encode_target_jobs_cli_args(specs))
    return arguments.replace(jobs, shlex.join(targets), 1)


def _explain(info: SubmittedJobInfo, handle: Job) -> str:
    """Return what the user is told of a failed job."""
    assert handle.outcome is not None
    lines = [handle.outcome.describe()]
    facts = {
        f"{_lane(info).scheduler.name} job": handle.jid,
        "node": _node(handle),
        "directory": os.path.relpath(handle.directory.path),
    }
    lines += [f"    {name}: {value}" for name, value in facts.items() if value]
    tail = handle.directory.tail("job.stderr")
    if tail:
        lines += ["    last lines of stderr:", *(f"        {line}" for line in tail)]
    return "\n".join(lines)


def _node(handle: Job) -> str:
    """Return the node on which a job ran, for messages."""
    if handle.record is None:
        return ""
    try:
        return handle.directory.info(handle.token).get("node", "")
    except OSError:
        return ""


def _has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False
