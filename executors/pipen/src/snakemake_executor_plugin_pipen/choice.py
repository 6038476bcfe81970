"""Which scheduler a rule runs on, and with which settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from pipen_executors.exceptions import NoSuchSchedulerError, UserError, WrongSchedulerTypeError
from pipen_executors.foreign import doubtful_options, make_foreign
from pipen_executors.profiles import DEFAULT, Profile, read_profile
from pipen_executors.registry import available, find_scheduler
from pipen_executors.settings import Checked, ExecutorSettings, check

if TYPE_CHECKING:
    from pipen_executors.executor import PipenExecutor
    from pipen_executors.scheduler import SchedulerPostInit

    MakeScheduler = Callable[[PipenExecutor, Path, Checked], SchedulerPostInit]

PROFILE: Final = "pipen_profile"
SCHEDULER: Final = "pipen_scheduler"
LAST_RESORT: Final = "local"
"""The scheduler where nothing names one, as in pipen."""


@dataclass(frozen=True)
class Choice:
    """A scheduler and the profile with its settings.

    Parameters
    ----------
    profile
        The profile.
    scheduler, where
        Name of the scheduler, or its class (from Snakemake's Python interface), and the setting
        that gave it, for error messages.
    settings
        Those of the command line.
    """

    profile: Profile
    scheduler: str | type[Any]
    where: str
    settings: Any

    @property
    def shown(self) -> str:
        """The scheduler as a name."""
        one = self.scheduler
        return one if isinstance(one, str) else f"{one.__module__}:{one.__qualname__}"

    @property
    def lane(self) -> str:
        """Name of the lane, by which the next run finds its job directories again."""
        # ``module:Class``; names of entry points are free text.
        name = re.sub(r"[^\w.-]", "_", self.shown.replace(":", "."))
        return name if self.profile.name == DEFAULT else f"{name}@{self.profile.name}"

    def prepare(
        self, warn: Callable[[str], None], debug: Callable[[str], None]
    ) -> tuple[Checked, MakeScheduler]:
        """Find the scheduler and check its settings.

        Parameters
        ----------
        warn, debug
            Called with a line for the user.

        Returns
        -------
        tuple
            The settings, and what makes the scheduler (see ``PipenExecutor.make_scheduler``).

        Raises
        ------
        UserError
            If there is no such scheduler, or a setting is wrong.
        """
        try:
            found = find_scheduler(self.scheduler, warn)
        except (NoSuchSchedulerError, WrongSchedulerTypeError) as error:
            raise UserError(f"{error} (From: {self.where}.)") from error
        profile = self.profile
        if profile.options and profile.scheduler not in (None, self.shown):
            debug(
                f"The scheduler_opts of profile {profile.name} are for {profile.scheduler} and are "
                f"nothing to {self.shown}."
            )
            profile = replace(profile, options={})
        shared = {f.name: getattr(self.settings, f.name) for f in fields(ExecutorSettings)}
        if isinstance(found, ModuleType):
            settings = found.ExecutorSettings(**shared)
            return check(settings, "pipen", profile), found.Executor.make_scheduler
        scheduler = found

        def make(run: PipenExecutor, root: Path, checked: Checked) -> SchedulerPostInit:
            for doubt in doubtful_options(scheduler, checked):
                warn(doubt)
            return make_foreign(scheduler, self.where, root, checked)

        return check(ExecutorSettings(**shared), "pipen", profile), make


def choose(settings: Any, resources: Mapping[str, Any], rule: str) -> Choice:
    """Say where jobs of a rule run.

    A rule may name a profile, a scheduler or both; what it leaves open is as on the
    command line, then as in the profile. ``--pipen-options`` are for the scheduler of the
    command line, not for those that rules name.

    Parameters
    ----------
    settings
        The settings of the executor.
    resources
        Resources of the rule.
    rule
        Its name, for error messages.

    Raises
    ------
    SettingError
        If there is no such profile.
    """
    named_profile, named_scheduler = resources.get(PROFILE), resources.get(SCHEDULER)
    if named_profile or named_scheduler:
        usual = choose(settings, {}, rule)
    where = "--pipen-profile"
    if named_profile:
        where = f"resource {PROFILE} of rule {rule}"
    profile = read_profile(str(named_profile or settings.profile or DEFAULT), where)
    scheduler: str | type[Any]
    if named_scheduler:
        scheduler, where = str(named_scheduler), f"resource {SCHEDULER} of rule {rule}"
    elif settings.scheduler and not (named_profile and profile.scheduler):
        scheduler, where = settings.scheduler, "--pipen-scheduler"
    else:
        scheduler, where = profile.scheduler or LAST_RESORT, "default"
        if profile.scheduler:
            where = profile.values["scheduler"].source
    choice = Choice(profile, scheduler, where, settings)
    if named_profile or named_scheduler:
        if choice.lane == usual.lane:
            return usual
        if named_scheduler and not named_profile and profile.scheduler is None:
            # So are scheduler_opts that do not say which scheduler they are for.
            choice = replace(choice, profile=replace(profile, options={}))
        return replace(choice, settings=replace(settings, options=[]))
    return choice


def resources_of(lane: str) -> dict[str, str]:
    """Return the resources that name a lane (see :attr:`Choice.lane`)."""
    scheduler, _, profile = lane.partition("@")
    if scheduler not in available():
        module, _, name = scheduler.rpartition(".")
        scheduler = f"{module}:{name}"
    return {PROFILE: profile or DEFAULT, SCHEDULER: scheduler}
