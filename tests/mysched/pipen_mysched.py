"""A scheduler as pipen's documentation has it: a subclass of both bases, and an entry point.

It starts processes of this machine, and gives each an id that the job itself does not know.
"""

import asyncio
import os
import signal
from pathlib import Path

from pipen.scheduler import SchedulerPostInit
from xqute import Scheduler

START = ["setsid", "bash"]


class XquteOnly(Scheduler):
    """What xqute asks for, and no more."""

    name = "xqute_only"

    async def submit_job(self, job):
        script = await self.wrapped_job_script(job)
        with open(job.stderr_file, "ab") as log:
            process = await asyncio.create_subprocess_exec(
                *START, script, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        return f"ticket-{process.pid}"

    async def kill_job(self, job):
        os.killpg(self._pid(await job.get_jid()), signal.SIGKILL)

    async def job_is_running(self, job):
        pid = self._pid(job.jid_file.read_text().strip())
        try:
            return b"job.wrapped." in Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:
            return False

    @staticmethod
    def _pid(ticket):
        return int(ticket.removeprefix("ticket-"))


class MyScheduler(SchedulerPostInit, XquteOnly):
    """Reads its options, looks at the process, and adds to the wrapper."""

    name = "mysched"

    def __init__(self, *args, color="none", **kwargs):
        super().__init__(*args, **kwargs)
        self.color = color

    async def post_init(self):
        self.ready = True

    async def init_proc(self, proc):
        await super().init_proc(proc)
        text = f"{proc.name} {proc.pipeline.name} {proc.pipeline.outdir} {proc.workdir}"
        Path(self.workdir, "init_proc").write_text(f"{text} {self.ready} {self.color}\n")

    def jobcmd_shebang(self, job):
        lines = [f"#MYSCHED {key} {value}" for key, value in sorted(self.config.items())]
        return "\n".join([super().jobcmd_shebang(job), *lines])

    def jobcmd_prep(self, job):
        return f"{super().jobcmd_prep(job)}\nexport FROM_MYSCHED={job.index}"


class Away(MyScheduler):
    """Cannot be used."""

    name = "away"

    async def post_init(self):
        raise RuntimeError("the site is closed")
