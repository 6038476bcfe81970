"""The conformance suite: every backend inherits it.

A test that a backend cannot pass for a good reason is overridden in its subclass, with
the reason as the docstring of the override.
"""

from __future__ import annotations

from .ending import Failures, Success, Timeouts


class ExecutorConformance(
    Success,
    Failures,
    Timeouts,
):
    """All parts; a backend sets ``__test__ = True`` and ``backend``."""
