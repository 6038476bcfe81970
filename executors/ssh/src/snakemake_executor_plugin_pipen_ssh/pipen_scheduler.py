"""Jobs of pipen and xqute on machines over ssh (see :mod:`pipen_executors.pipen_api`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from xqute.schedulers.ssh_scheduler.scheduler import SshScheduler as XquteSshScheduler

from pipen_executors.pipen_api import PipenScheduler

_OF_THE_COMMAND: Final = frozenset({"ctrl_persist", "ctrl_dir"})
"""Options of xqute's servers about the connections that it keeps open, which the executor does."""


class SshScheduler(PipenScheduler, XquteSshScheduler):
    """Runs jobs of pipen or xqute on machines that see the files of this one.

    Parameters
    ----------
    *args, **kwargs
        As for xqute's class: ``servers`` is a list of names, or a table of tables by name.
    """

    backend = "ssh"

    def _make_xqutes(self, *args: Any, **kwargs: Any) -> None:
        """Keep xqute's attributes; its constructor would make its own connections."""
        self.ssh = kwargs.pop("ssh", "ssh")
        servers = kwargs.pop("servers", None) or kwargs.pop("ssh_servers", None)
        super(XquteSshScheduler, self).__init__(*args, **kwargs)
        if not servers:
            raise ValueError("No ssh_servers defined in config, please define at least one server")
        self._listed = None if isinstance(servers, Mapping) else list(servers)
        tables = servers if isinstance(servers, Mapping) else dict.fromkeys(servers)
        self.servers: dict[str, Any] = {
            name: {key: v for key, v in dict(table or {}).items() if key not in _OF_THE_COMMAND}
            for name, table in tables.items()
        }

    def _given(self) -> dict[str, Any]:
        options = {k: v for k, v in self._options.items() if k not in ("ssh", "ssh_servers")}
        return {**options, "servers": self._listed or self.servers}
