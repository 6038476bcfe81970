"""Jobs of pipen and xqute in containers (see :mod:`pipen_executors.pipen_api`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from panpath import PanPath
from xqute.schedulers.container_scheduler import ContainerScheduler as XquteContainerScheduler
from xqute.utils import sanitize_mounts

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
        volumes = [_without_mode(one) for one in self._named_volumes()]
        mounts, self._path_envs = await sanitize_mounts(volumes, self.DEFAULT_MOUNTED_ROOT)
        beginning = os.getcwd()
        if self._kwargs["volume_as_cwd"]:
            beginning = str(self._kwargs["volume_as_cwd"])
            self.cwd = f"{self.DEFAULT_MOUNTED_ROOT}/.cwd"
            mounts.insert(0, (PanPath(beginning), Path(self.cwd)))
        elif self.cwd:
            for host, mounted in mounts:
                if Path(self.cwd).is_relative_to(mounted):
                    beginning = str(host / Path(self.cwd).relative_to(mounted))
                    break
        workdir = os.path.abspath(os.path.join(beginning, str(self.workdir)))
        self.workdir = xqute.path.SpecPath(workdir)
        self.volumes = [f"{host}:{mounted}" for host, mounted in (*mounts, (workdir, workdir))]

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

    def _named_volumes(self) -> list[str]:
        volumes = self._options.get("volumes") or self._options.get("mount") or []
        return [str(volumes)] if isinstance(volumes, (str, Path)) else list(map(str, volumes))

    def _given(self) -> dict[str, Any]:
        names = ("volumes", "mount", "volume_as_cwd", "mount_as_cwd")
        options = {name: value for name, value in self._options.items() if name not in names}
        outdirs = [f"{outdir}:{outdir}" for outdir in self._outdirs]
        options["volumes"] = [*self._named_volumes(), *outdirs]
        if volume := self._kwargs["volume_as_cwd"]:
            options["volume_as_cwd"] = f"{volume}:{self.cwd}"
        return options

    def _usual_cwd(self) -> str:
        """Return xqute's working directory of containers: that of the jobs."""
        return str(self.workdir)


def _without_mode(volume: str) -> str:
    """Return a volume as xqute knows it, which has no ``host:container:ro``."""
    host, colon, rest = volume.partition(":")
    return f"{host}{colon}{rest.partition(':')[0]}"
