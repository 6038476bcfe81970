"""Schedulers by name: those of this family, and third-party ones.

A name stands for, in this order, as in pipen:

* an executor of this family that is installed: module
  ``snakemake_executor_plugin_pipen_<name>``, whose ``Executor`` has ``backend`` and
  ``make_scheduler``;
* an entry point of the group ``pipen_sched``: a class, or a module with the class in it;
* ``module:Class``.

An entry point is loaded only when its name is asked for, so a broken package is in nobody's
way but of those who name it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from .exceptions import NoSuchSchedulerError, WrongSchedulerTypeError

if TYPE_CHECKING:
    from xqute import Scheduler

GROUP: Final = "pipen_sched"
FAMILY: Final = "snakemake_executor_plugin_pipen_"
_OF_PIPEN: Final = "pipen_scheduler"
"""Name of the module of an executor with its class for pipen and xqute."""
OWN: Final = ("local", "slurm", "sge", "ssh", "container", "gbatch")
"""Names of this family's own schedulers, installed or not."""


def get_scheduler(scheduler: str | type[Scheduler]) -> type[Scheduler]:
    """Return a scheduler class by name, or the class itself.

    Parameters
    ----------
    scheduler
        A class, or a name as at the top of :mod:`pipen_executors.registry`.

    Raises
    ------
    NoSuchSchedulerError
        If there is none of that name that can be loaded; says which there are. So it is with
        an executor that has no class for pipen (``gbatch``).
    WrongSchedulerTypeError
        If it is no subclass of ``xqute.Scheduler``.

    Notes
    -----
    A class of this family is the one for pipen and xqute (:mod:`pipen_executors.pipen_api`).
    """
    if not isinstance(scheduler, str):
        return _checked(scheduler, repr(scheduler))
    found = find_scheduler(scheduler, logging.getLogger(__name__).warning)
    if isinstance(found, ModuleType):
        backend = found.__name__.removeprefix(FAMILY)
        if importlib.util.find_spec(f"{found.__name__}.{_OF_PIPEN}") is None:
            raise NoSuchSchedulerError(
                f"Scheduler {backend!r} has no class for pipen and xqute here: use pipen's own, or "
                f"Snakemake with --executor pipen-{backend}."
            )
        return _class_in(importlib.import_module(f"{found.__name__}.{_OF_PIPEN}"), backend)
    return found


def find_scheduler(
    scheduler: str | type[Scheduler], report: Callable[[str], None]
) -> ModuleType | type[Scheduler]:
    """Return what a scheduler is made by: the plugin module of an executor, or a class.

    Parameters
    ----------
    scheduler
        As for :func:`get_scheduler`, which has the same errors.
    report
        Called with a line for each package that is skipped because it cannot be loaded.
    """
    if not isinstance(scheduler, str):
        return _executor_of(_checked(scheduler, repr(scheduler)))
    if scheduler in backends():
        return _imported(FAMILY + scheduler, scheduler)
    for entry_point in entry_points(group=GROUP, name=scheduler):
        shown = f"{scheduler} ({entry_point.value})"
        try:
            loaded = entry_point.load()
        except Exception as error:
            package = entry_point.dist.name if entry_point.dist is not None else "a package"
            report(f"Scheduler {shown} of {package} is skipped: {error!r}")
            continue
        return _executor_of(_class_in(loaded, scheduler, shown))
    module, colon, path = scheduler.partition(":")
    if colon:
        thing: Any = _imported(module, scheduler)
        for name in path.split("."):
            if not hasattr(thing, name):
                raise NoSuchSchedulerError(f"There is no scheduler {scheduler!r}: no {name!r}.")
            thing = getattr(thing, name)
        return _executor_of(_checked(thing, scheduler))
    hint = ""
    if scheduler in OWN:
        hint = f" Install snakemake-executor-plugin-pipen-{scheduler} to have it."
    raise NoSuchSchedulerError(
        f"There is no scheduler {scheduler!r} that can be used; there are "
        f"{', '.join(available())}, and any class as module:Class.{hint}"
    )


def backends() -> list[str]:
    """Return the names of the installed executors of this family."""
    names = (module.name for module in pkgutil.iter_modules())
    return sorted(name.removeprefix(FAMILY) for name in names if name.startswith(FAMILY))


def available() -> list[str]:
    """Return all names of schedulers, of which third-party ones may turn out broken."""
    others = {one.name for one in entry_points(group=GROUP) if not one.value.startswith(FAMILY)}
    return [*backends(), *sorted(others)]


def _executor_of(scheduler: type[Scheduler]) -> ModuleType | type[Scheduler]:
    """Return the module of the executor whose class for pipen this is, or another class itself.

    Snakemake's jobs are run by what that class itself hands its jobs to.
    """
    package, _, module = scheduler.__module__.partition(".")
    if package.startswith(FAMILY) and module == _OF_PIPEN:
        return importlib.import_module(package)
    return scheduler


def _imported(module: str, scheduler: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise NoSuchSchedulerError(
            f"Scheduler {scheduler!r} cannot be loaded: importing {module} raised {error!r}."
        ) from error


def _class_in(thing: Any, name: str, shown: str = "") -> type[Scheduler]:
    """Return a class as it is, or the scheduler class that a module has brought with it."""
    if not isinstance(thing, ModuleType):
        return _checked(thing, shown or name)
    package = thing.__name__.partition(".")[0]
    own = [
        found
        for found in vars(thing).values()
        if _is_scheduler(found) and found.__module__.partition(".")[0] == package
    ]
    chosen = [found for found in own if getattr(found, "name", None) == name] or own
    if len(chosen) == 1:
        return _checked(chosen[0], shown or name)
    if not chosen:
        raise WrongSchedulerTypeError(
            f"Scheduler {shown or name} is a module without a subclass of xqute.Scheduler."
        )
    names = ", ".join(sorted(found.__name__ for found in chosen))
    raise WrongSchedulerTypeError(
        f"Scheduler {shown or name} is a module with several schedulers ({names}): name one of "
        f"them as {thing.__name__}:Class."
    )


def _checked(thing: Any, shown: str) -> type[Scheduler]:
    if not _is_scheduler(thing):
        raise WrongSchedulerTypeError(f"Scheduler {shown} is not a subclass of xqute.Scheduler.")
    found: type[Scheduler] = thing
    return found


def _is_scheduler(thing: Any) -> bool:
    from .scheduler import xqute

    return isinstance(thing, type) and issubclass(thing, xqute.Scheduler)
