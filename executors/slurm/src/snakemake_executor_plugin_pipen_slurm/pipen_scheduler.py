"""Jobs of pipen and xqute on Slurm (see :mod:`pipen_executors.pipen_api`)."""

from xqute.schedulers.slurm_scheduler import SlurmScheduler as XquteSlurmScheduler

from pipen_executors.pipen_api import PipenScheduler


class SlurmScheduler(PipenScheduler, XquteSlurmScheduler):
    """Runs jobs of pipen or xqute on Slurm."""

    backend = "slurm"
