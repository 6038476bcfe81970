"""Snakemake's own test base for executors (``snakemake.common.tests``), for every backend.

A backend is one subclass of :class:`ExecutorTestBase` with ``__test__ = True`` and its name.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import snakemake.common.tests
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry
from snakemake_interface_executor_plugins.settings import ExecutorSettingsBase


class ExecutorTestBase(snakemake.common.tests.TestWorkflowsLocalStorageBase):  # type: ignore[misc]
    """What the backends have in common.

    Attributes
    ----------
    executor
        The name after ``--executor``.
    settings
        Fields of its settings that differ from their defaults.
    """

    __test__ = False

    executor: str
    settings: dict[str, Any] = {}  # noqa: RUF012 - replaced by subclasses, never changed

    @pytest.fixture(autouse=True)
    def _needs_plugin(self) -> None:
        if not ExecutorPluginRegistry().is_installed(self.executor):
            message = f"executor plugin {self.executor!r} is not installed"
            if os.environ.get("PIPEN_TEST_REQUIRE_ALL"):
                pytest.fail(message, pytrace=False)
            pytest.skip(message)

    def get_executor(self) -> str:
        return self.executor

    def get_executor_settings(self) -> ExecutorSettingsBase:
        plugin = ExecutorPluginRegistry().get_plugin(self.executor)
        settings: ExecutorSettingsBase = plugin.settings_cls(**self.settings)
        return settings


class TestPipenLocal(ExecutorTestBase):
    """pipen-local."""

    __test__ = True
    executor = "pipen-local"
