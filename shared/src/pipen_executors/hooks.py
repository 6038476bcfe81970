"""Hooks for sites and plugins (pluggy), and the bridge to xqute's own plugins.

A plugin is a module or object with functions named as below, decorated with
:data:`hookimpl`; it is found by the entry point group ``pipen_executors`` or by
``--pipen-<backend>-plugins MODULE``. All hooks run in the engine's thread: a slow hook slows the
run. A hook that raises is reported with its plugin's name, and the job goes on.

Plugins written for xqute (simplug) are called at the same points.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

from .exceptions import SettingError

if TYPE_CHECKING:
    from .job import Job
    from .scheduler import SchedulerPostInit
    from .spec import JobSpec

PROJECT = "pipen_executors"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Specification:
    """The hooks there are, in the order in which a job meets them."""

    @hookspec
    def on_init(self, scheduler: SchedulerPostInit) -> None:
        """Call when the scheduler is ready, before the first job."""

    @hookspec
    def on_shutdown(self, scheduler: SchedulerPostInit) -> None:
        """Call when no job is left and the run ends."""

    @hookspec
    def job_options(self, spec: JobSpec, options: dict[str, Any]) -> None:
        """Change the scheduler's options of a job in place, before it is submitted.

        The place for a site's own translation of resources: ``spec.resources`` is
        what the rule asks for, ``options`` what goes to the scheduler.
        """

    @hookspec
    def on_job_init(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Call when the engine has taken a job."""

    @hookspec
    def on_job_queued(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Call when a job waits for its submission, for a retry too."""

    @hookspec
    def on_job_submitting(self, scheduler: SchedulerPostInit, job: Job) -> bool | None:
        """Call before a job is submitted; False refuses it, and the job fails."""

    @hookspec
    def on_job_submitted(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Call when the scheduler has taken a job; ``job.jid`` is known."""

    @hookspec
    def on_job_taken_up(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Call when a job of an earlier run was found waiting, running or done."""

    @hookspec
    def on_job_waiting(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Call when the scheduler has said why a job waits; ``job.reason`` holds it."""

    @hookspec
    def on_job_started(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Call when a job has been seen to run."""

    @hookspec
    def on_job_polling(self, scheduler: SchedulerPostInit, job: Job, counter: int) -> None:
        """Call for each running job whenever the scheduler has been asked."""

    @hookspec
    def on_job_killing(self, scheduler: SchedulerPostInit, job: Job) -> bool | None:
        """Call before a job is killed; False spares it."""

    @hookspec
    def on_job_killed(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Call when a job that was to be killed has ended."""

    @hookspec
    def on_job_failed(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Call for each failed attempt; ``job.outcome`` says why."""

    @hookspec
    def on_job_succeeded(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Call when a job has succeeded."""

    @hookspec
    def on_jobcmd_init(self, scheduler: SchedulerPostInit, job: Job) -> str | None:
        """Return bash for the wrapper, run before the prescript."""

    @hookspec
    def on_jobcmd_prep(self, scheduler: SchedulerPostInit, job: Job) -> str | None:
        """Return bash for the wrapper, run before the command; it may change ``$cmd``."""

    @hookspec
    def on_jobcmd_end(self, scheduler: SchedulerPostInit, job: Job) -> str | None:
        """Return bash for the wrapper, run after the command; ``$rc`` is its exit status."""


def load_plugins(
    modules: Sequence[str], report: Callable[[str], None], where: str = "plugins"
) -> list[tuple[str, Any]]:
    """Load the plugins of a run: those of installed packages, then the modules that were named.

    Parameters
    ----------
    modules
        Names of modules to load as plugins.
    report
        Called with a line for each package that is skipped because it cannot be loaded.
    where
        The setting that named the modules, for error messages.

    Returns
    -------
    list
        Of each its name and the plugin itself.

    Raises
    ------
    SettingError
        If a module cannot be imported.
    """
    plugins = []
    for entry_point in importlib.metadata.entry_points(group=PROJECT):
        try:
            plugins.append((entry_point.name, entry_point.load()))
        except Exception as error:
            # A broken third-party package must not take the run down.
            report(f"Plugin {entry_point.name} ({entry_point.value}) is skipped: {error!r}")
    for name in modules:
        try:
            plugins.append((name, importlib.import_module(name)))
        except Exception as error:
            raise SettingError(where, name, f"it cannot be imported ({error!r})") from error
    return plugins


class Hooks:
    """The plugins of one scheduler in a run.

    Parameters
    ----------
    plugins
        As :func:`load_plugins` returns them.
    report
        Called with a line for the user when a hook raises.
    tells_xqute
        Whether xqute's plugins are called too; not where xqute itself calls them.
    """

    def __init__(
        self,
        plugins: Sequence[tuple[str, Any]],
        report: Callable[[str], None],
        *,
        tells_xqute: bool = True,
    ) -> None:
        self._report = report
        self._tells_xqute = tells_xqute
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Specification)
        for name, plugin in plugins:
            self._manager.register(plugin, name)
        if tells_xqute:
            _leave_pipen_out()

    def add(self, plugin: object) -> None:
        """Register one more plugin."""
        self._manager.register(plugin)

    def call(self, name: str, **arguments: Any) -> list[Any]:
        """Call a hook of every plugin; return what they answer, without None."""
        answers = []
        for implementation in reversed(getattr(self._manager.hook, name).get_hookimpls()):
            try:
                answer = implementation.function(
                    *(arguments[argument] for argument in implementation.argnames)
                )
            except Exception as error:
                self._report(
                    f"Hook {name} of plugin {implementation.plugin_name} raised {error!r}; ignored."
                )
            else:
                if answer is not None:
                    answers.append(answer)
        return answers

    def call_xqute(self, name: str, *arguments: Any) -> None:
        """Call a hook of xqute's plugins that is not about one job."""
        from xqute.plugin import plugin as xqute_plugin

        if self._tells_xqute and xqute_plugin.get_enabled_plugin_names():
            try:
                getattr(xqute_plugin.hooks, name)(*arguments)
            except Exception as error:
                self._report(f"Hook {name} of an xqute plugin raised {error!r}; ignored.")

    async def fire(self, name: str, scheduler: SchedulerPostInit, job: Job, **more: Any) -> bool:
        """Call a job's hook here and in xqute's plugins; False if one of them answers False."""
        answers = self.call(name, scheduler=scheduler, job=job, **more)
        allowed = not any(answer is False for answer in answers)
        from xqute.plugin import plugin as xqute_plugin

        if self._tells_xqute and xqute_plugin.get_enabled_plugin_names():
            try:
                answer = await getattr(xqute_plugin.hooks, name)(scheduler, job, *more.values())
            except Exception as error:
                self._report(f"Hook {name} of an xqute plugin raised {error!r}; ignored.")
            else:
                allowed = allowed and answer is not False
        return allowed

    def code(self, name: str, scheduler: SchedulerPostInit, job: Job) -> list[str]:
        """Collect the bash that plugins add to the wrapper."""
        return [str(piece) for piece in self.call(name, scheduler=scheduler, job=job) if piece]


def _leave_pipen_out() -> None:
    """Disable what relays xqute's hooks to pipen's, should pipen have been imported.

    Pipen's plugins ask a job for its process, which there is none of.
    """
    from xqute.plugin import plugin as xqute_plugin

    relay = "xqute.pipen"
    if relay in xqute_plugin.get_enabled_plugin_names():
        xqute_plugin.get_plugin(relay).disable()
