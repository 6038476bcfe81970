"""The configuration files of the test Slurm, as text."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CLUSTER_NAME = "pipentest"
GPU_MODEL = "pretend"


@dataclass(frozen=True)
class SlurmSettings:
    """What can be chosen about a test Slurm.

    Attributes
    ----------
    accounting
        With mariadbd and slurmdbd; without, ``AccountingStorageType=accounting_storage/none``.
    nodes
        Number of nodes (slurmd processes), named ``node1``, ``node2`` and so on.
    cpus
        CPUs that each node pretends to have.
    memory_mb
        Memory in MiB that each node pretends to have.
    gpus
        GPUs of the model ``pretend`` that each node pretends to have.
    min_job_age
        Seconds for which slurmctld remembers a finished job (``MinJobAge``, at least 2).
    bf_interval
        Seconds between two passes of the backfill scheduler (``bf_interval``, at least 1).
    options
        Further slurm.conf parameters, or others than usual, by name.
    extra_lines
        Whole lines added at the end of slurm.conf, such as further partitions.
    default_location
        Also link slurm.conf to where Slurm's commands look without ``SLURM_CONF``, for clients
        that drop the variable. Only one such cluster can be up at a time.
    """

    accounting: bool = True
    nodes: int = 2
    cpus: int = 32
    memory_mb: int = 65536
    gpus: int = 2
    min_job_age: int = 300
    bf_interval: int = 5
    options: Mapping[str, str | int] = field(default_factory=dict)
    extra_lines: tuple[str, ...] = ()
    default_location: bool = False

    @property
    def node_names(self) -> list[str]:
        """Names of the nodes."""
        return [f"node{number}" for number in range(1, self.nodes + 1)]


@dataclass(frozen=True)
class Ports:
    """Loopback TCP ports of the daemons."""

    slurmctld: int
    slurmdbd: int
    database: int
    slurmd: tuple[int, ...]


def host_name() -> str:
    """Return this machine's name as Slurm sees it."""
    return socket.gethostname().split(".")[0]


def slurm_conf(settings: SlurmSettings, ports: Ports, base: Path) -> str:
    """Return slurm.conf (slurm.conf(5)) for a cluster below ``base``."""
    host = host_name()
    last = settings.node_names[-1]
    parameters: dict[str, str | int] = {
        "ClusterName": CLUSTER_NAME,
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": ports.slurmctld,
        # Listen on the loopback interface only, not on every address.
        "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={base}/run/munge.sock",
        "SlurmctldPidFile": f"{base}/run/slurmctld.pid",
        "SlurmdPidFile": f"{base}/run/slurmd-%n.pid",
        "SlurmdSpoolDir": f"{base}/spool/%n",
        "StateSaveLocation": f"{base}/state",
        "SlurmctldLogFile": f"{base}/log/slurmctld.log",
        "SlurmdLogFile": f"{base}/log/slurmd-%n.log",
        # With 2, a node set down by hand would be back at its next message.
        "ReturnToService": 1,
        "MpiDefault": "none",
        # Neither cgroups nor systemd are needed.
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        # Without cgroups this is what kills a job over its memory.
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=2",
        "JobAcctGatherParams": "OverMemoryKill",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": (
            f"sched_interval=5,bf_interval={settings.bf_interval},batch_sched_delay=0"
        ),
        # The nodes are what slurm.conf says, not what this machine has.
        "SlurmdParameters": "config_overrides",
        "MinJobAge": settings.min_job_age,
        "KillWait": 5,
        "InactiveLimit": 0,
        "SlurmctldTimeout": 60,
        "SlurmdTimeout": 120,
        "MessageTimeout": 10,
        "MaxArraySize": 1001,
        "MaxJobCount": 20000,
        "DefMemPerCPU": 1024,
        "JobRequeue": 0,
        "GresTypes": "gpu",
        "LaunchParameters": "send_gids",
    }
    if settings.accounting:
        parameters |= {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": ports.slurmdbd,
            "AccountingStoragePass": f"{base}/run/munge.sock",
            "AccountingStoreFlags": "job_comment",
            "AccountingStorageTRES": "gres/gpu",
        }
    else:
        parameters["AccountingStorageType"] = "accounting_storage/none"
    # A parameter given twice makes every command complain, so replace, do not append.
    parameters.update(settings.options)
    lines = [f"{name}={value}" for name, value in parameters.items()]
    for name, port in zip(settings.node_names, ports.slurmd, strict=True):
        gres = f" Gres=gpu:{GPU_MODEL}:{settings.gpus}" if settings.gpus else ""
        lines.append(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
            f" CPUs={settings.cpus} Boards=1 SocketsPerBoard=1"
            f" CoresPerSocket={settings.cpus} ThreadsPerCore=1"
            f" RealMemory={settings.memory_mb} Feature=common,only_{name}{gres} State=UNKNOWN"
        )
    nodes = f"Nodes=node[1-{settings.nodes}]" if settings.nodes > 1 else f"Nodes={last}"
    lines.append(f"PartitionName=main {nodes} Default=YES MaxTime=INFINITE DefaultTime=60")
    lines.append(f"PartitionName=short {nodes} Default=NO MaxTime=1 DefaultTime=1")
    lines += settings.extra_lines
    return "\n".join(lines) + "\n"


def gpu_files(settings: SlurmSettings, base: Path) -> list[Path]:
    """Return the files that stand for the devices of a node's GPUs; slurmd counts devices."""
    return [base / "gpu" / f"gpu{number}" for number in range(settings.gpus)]


def gres_conf(settings: SlurmSettings, base: Path) -> str:
    """Return gres.conf (gres.conf(5))."""
    return "".join(f"Name=gpu Type={GPU_MODEL} File={file}\n" for file in gpu_files(settings, base))


def cgroup_conf() -> str:
    """Return cgroup.conf (cgroup.conf(5)) for releases that can do without cgroups if told so."""
    return "CgroupPlugin=disabled\n"


def slurmdbd_conf(ports: Ports, base: Path) -> str:
    """Return slurmdbd.conf (slurmdbd.conf(5)); the database listens on loopback only."""
    parameters: dict[str, str | int] = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={base}/run/munge.sock",
        "DbdHost": host_name(),
        "DbdAddr": "127.0.0.1",
        "DbdPort": ports.slurmdbd,
        "SlurmUser": "root",
        "DebugLevel": "info",
        "LogFile": f"{base}/log/slurmdbd.log",
        "PidFile": f"{base}/run/slurmdbd.pid",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1",
        "StoragePort": ports.database,
        "StorageUser": "slurm",
        "StoragePass": "slurm",
        "StorageLoc": "slurm_acct_db",
    }
    return "".join(f"{name}={value}\n" for name, value in parameters.items())


def mariadb_conf(ports: Ports, base: Path) -> str:
    """Return the database server's option file; what it stores need not survive a crash."""
    return f"""[mariadbd]
user=mysql
datadir={base}/mysql
socket={base}/run/mysql/mysqld.sock
pid-file={base}/run/mysql/mysqld.pid
tmpdir={base}/run/mysql
bind-address=127.0.0.1
port={ports.database}
skip-log-bin
skip-name-resolve
innodb-buffer-pool-size=64M
innodb-lock-wait-timeout=900
innodb-flush-log-at-trx-commit=0
innodb-flush-method=nosync
innodb-doublewrite=0
innodb-log-file-size=16M
"""
