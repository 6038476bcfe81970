"""pipen-local: the conformance suite, and what is special to processes of this machine."""

from __future__ import annotations

from .conformance.harness import Backend
from .conformance.suite import ExecutorConformance

BACKEND = Backend("pipen-local", local=True)


class TestLocal(ExecutorConformance):
    __test__ = True
    backend = BACKEND
