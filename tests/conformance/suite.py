"""The conformance suite: every backend inherits it.

A test that a backend cannot pass for a good reason is overridden in its subclass, with
the reason as the docstring of the override.
"""

from __future__ import annotations

from .cancelling import Cancelling
from .chaos import Chaos
from .ending import Failures, Success, Timeouts
from .environment import Environment, Scripts
from .extremes import Extremes
from .failing import FailingFiles
from .hooking import Hooks
from .kinds import Code, Kinds, Outputs
from .nodes import Nodes
from .resuming import Resuming
from .scheduler_api import SchedulerApi
from .settings import BadSettings, Execution, GoodSettings, Metadata
from .storing import Storage
from .strategies import Halt, KeepGoing, Retries


class ExecutorConformance(
    Success,
    Failures,
    Timeouts,
    Retries,
    KeepGoing,
    Halt,
    Cancelling,
    Outputs,
    Kinds,
    Code,
    Environment,
    Scripts,
    Nodes,
    Hooks,
    Extremes,
    FailingFiles,
    BadSettings,
    GoodSettings,
    Execution,
    Metadata,
    Resuming,
    Chaos,
    Storage,
    SchedulerApi,
):
    """All parts; a backend sets ``__test__ = True`` and ``backend``."""
