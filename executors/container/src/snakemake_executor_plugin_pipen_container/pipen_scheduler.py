"""Jobs of pipen and xqute in containers (see :mod:`pipen_executors.pipen_api`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from xqute.schedulers.container_scheduler import ContainerScheduler as XquteContainerScheduler

from pipen_executors.import_xqute import xqute
from pipen_executors.pipen_api import PipenScheduler


class ContainerScheduler(PipenScheduler, XquteContainerScheduler):
    """Runs jobs of pipen or xqute in containers, which see their directories at the same paths.

    Parameters
    ----------
    *args, **kwargs
        As for xqute's class.
    """

    backend = "container"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._outdirs: list[str] = []

    async def post_init(self) -> None:
        """Find out where the working directory lies; containers see it there too."""
        await super().post_init()  # type: ignore[no-untyped-call]
        workdir = os.path.abspath(str(self.workdir))
        self.volumes = [one for one in self.volumes if not one.startswith(f"{self.workdir}:")]
        self.volumes.append(f"{workdir}:{workdir}")
        self.workdir = xqute.path.SpecPath(workdir)

    async def init_proc(self, proc: Any) -> None:
        """Make ready for a process of pipen; its output directory is mounted.

        Parameters
        ----------
        proc
            The process.
        """
        await super().init_proc(proc)
        beginning = self._kwargs["volume_as_cwd"] or os.getcwd()
        outdir = os.path.abspath(os.path.join(str(beginning), str(proc.pipeline.outdir)))
        os.makedirs(outdir, exist_ok=True)
        self._outdirs.append(outdir)
        self.volumes.append(f"{outdir}:{outdir}")
        proc._export_dir = xqute.path.SpecPath(outdir) / proc.name

    def _given(self) -> dict[str, Any]:
        options = dict(self._options)
        volumes = options.pop("volumes", None) or options.pop("mount", None) or []
        options["volumes"] = [
            *([volumes] if isinstance(volumes, (str, Path)) else volumes),
            *(f"{outdir}:{outdir}" for outdir in self._outdirs),
        ]
        options.pop("mount_as_cwd", None)
        if volume := self._kwargs["volume_as_cwd"]:
            options["volume_as_cwd"] = f"{volume}:{self.cwd}"
        return options

    def _usual_cwd(self) -> str:
        """Return xqute's working directory of containers: that of the jobs."""
        return str(self.workdir)
