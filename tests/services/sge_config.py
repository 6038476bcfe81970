"""The files and tables of a test Grid Engine, made from Debian's own templates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.services.common import ServiceUnavailable

PACKAGE = Path("/usr/lib/gridengine")
"""Daemons, clients and tools of Debian's packages."""
TEMPLATES = Path("/usr/share/gridengine")
"""What Debian's packages make a new cell from."""
ADMIN = "sgeadmin"
"""The user whom the packages made for Grid Engine's files."""
HOST = "localhost"
"""The one name that everything has; the host's own names are aliases of it."""

LOOPBACK_ONLY = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <string.h>
#include <sys/socket.h>

/* Grid Engine's daemons listen on every address; here they must on the loopback only. */
int bind(int descriptor, const struct sockaddr *address, socklen_t length)
{
    int (*original)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    struct sockaddr_in changed;
    if (address->sa_family != AF_INET)
        return original(descriptor, address, length);
    memcpy(&changed, address, sizeof changed);
    if (changed.sin_addr.s_addr == htonl(INADDR_ANY))
        changed.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return original(descriptor, (const struct sockaddr *)&changed, sizeof changed);
}
"""
"""C of the library that is preloaded into the daemons."""


@dataclass(frozen=True)
class SgeSettings:
    """What one test Grid Engine is like.

    Attributes
    ----------
    slots
        Slots that the execution host offers to all queues together.
    accounting_delay
        Seconds that records of ended jobs may wait before they are written
        (``accounting_flush_time``; Debian's default is 15).
    schedd_job_info
        Whether ``qstat -j`` says why a job waits (sched_conf(5); off at many sites).
    kill_by_group
        Whether all processes of a job are ended with it, by its additional group
        (``ENABLE_ADDGRP_KILL``, sge_conf(5)), not only its process group.
    start_mode
        ``shell_start_mode`` of the queues (queue_conf(5)); in Debian's ``posix_compliant``
        the ``#!`` line of a job is ignored and ``/bin/sh`` runs it.
    max_unheard
        Seconds of silence after which an execution host counts as unknown.
    max_aj_tasks, max_u_jobs
        Most tasks of an array; most jobs of one user (0 for no limit).
    environments
        Parallel environments of the queues by name, with their allocation rules.
    consumables
        Further consumable resources (complex(5)) by name, with what the host has of each; 0
        for a resource that no host has.
    options
        Further parameters of the global configuration (sge_conf(5)), by name.
    """

    slots: int = 16
    accounting_delay: int = 0
    schedd_job_info: bool = True
    kill_by_group: bool = True
    start_mode: str = "posix_compliant"
    max_unheard: int = 60
    max_aj_tasks: int = 75000
    max_u_jobs: int = 0
    environments: Mapping[str, str] = field(
        default_factory=lambda: {"smp": "$pe_slots", "make": "$round_robin"}
    )
    consumables: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


def changed(text: str, values: Mapping[str, str | int]) -> str:
    """Return a table of ``name  value`` lines with other values; each name must be in it."""
    for name, value in values.items():
        pattern = re.compile(rf"^{re.escape(name)}\s.*$", re.MULTILINE)
        found = pattern.findall(text)
        if len(found) != 1:
            raise ServiceUnavailable(f"{len(found)} lines for {name} in a template of Grid Engine")
        text = text.replace(found[0], f"{name} {value}")
    return text


def template(name: str) -> str:
    """Return one of the package's templates."""
    return (TEMPLATES / name).read_text()


def clock(seconds: int) -> str:
    """Return a time as Grid Engine writes it."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def bootstrap(base: Path) -> str:
    """Return the bootstrap file (bootstrap(5))."""
    spool = {"spooling_params": f"{base}/spool/db", "qmaster_spool_dir": f"{base}/spool/qmaster"}
    return changed(template("default-bootstrap"), spool)


def host_aliases(names: list[str]) -> str:
    """Return the file that makes all names of this machine one (host_aliases(5))."""
    return " ".join(dict.fromkeys([HOST, *names])) + "\n"


def configuration(settings: SgeSettings, base: Path, first_group: int) -> str:
    """Return the global configuration (sge_conf(5))."""
    flush = f"accounting_flush_time={clock(settings.accounting_delay)}"
    return changed(
        template("default-configuration"),
        {
            "execd_spool_dir": f"{base}/spool/execd",
            # Root runs the tests, and its jobs.
            "min_uid": 0,
            "min_gid": 0,
            "mailer": "/bin/true",
            "administrator_mail": "none",
            "shell_start_mode": settings.start_mode,
            # A job as bash's login shell reads the profile of the tests' user, whatever is in it.
            "login_shells": "csh,tcsh",
            "load_report_time": "00:00:02",
            "max_unheard": clock(settings.max_unheard),
            "loglevel": "log_info",
            "execd_params": f"ENABLE_ADDGRP_KILL={'true' if settings.kill_by_group else 'false'}",
            "reporting_params": "accounting=true reporting=false flush_time=00:00:01 "
            f"{flush} joblog=false sharelog=00:00:00",
            # Of its own: two cells on one machine would end each other's jobs.
            "gid_range": f"{first_group}-{first_group + 99}",
            "max_aj_tasks": settings.max_aj_tasks,
            "max_u_jobs": settings.max_u_jobs,
            **settings.options,
        },
    )


def memory_complex() -> str:
    """Return h_vmem as a consumable; its usual default of 0 would cap every job at 10 MB."""
    name = "util/resources/centry/h_vmem"
    return changed(template(name), {"consumable": "YES", "default": "4G"})


def consumable(name: str) -> str:
    """Return a consumable resource that is counted for each slot."""
    values = {"name": name, "shortcut": name, "type": "INT", "consumable": "YES"}
    return changed(template("util/resources/centry/h_vmem"), values)


def environment(name: str, rule: str) -> str:
    """Return a parallel environment (sge_pe(5))."""
    values = {"pe_name": name, "allocation_rule": rule}
    return changed(template("util/resources/pe/smp"), values)


def scheduler_configuration(current: str, settings: SgeSettings) -> str:
    """Return the scheduler's configuration (sched_conf(5)) for one that acts at once."""
    return changed(
        current,
        {
            "schedule_interval": "0:0:2",
            "flush_submit_sec": 1,
            "flush_finish_sec": 1,
            "job_load_adjustments": "NONE",
            "load_adjustment_decay_time": "0:0:0",
            "schedd_job_info": "true" if settings.schedd_job_info else "false",
        },
    )


def host(settings: SgeSettings) -> str:
    """Return the execution host (host_conf(5))."""
    offered = {"slots": settings.slots, "h_vmem": "96G", **settings.consumables}
    lines = [
        f"hostname {HOST}",
        "load_scaling NONE",
        f"complex_values {','.join(f'{name}={value}' for name, value in offered.items() if value)}",
        *(f"{name} NONE" for name in ("user_lists", "xuser_lists", "projects", "xprojects")),
        "usage_scaling NONE",
        "report_variables NONE",
    ]
    return "\n".join(lines) + "\n"


def queue(current: str, name: str, settings: SgeSettings) -> str:
    """Return a queue (queue_conf(5)) made from the server's own template."""
    return changed(
        current,
        {
            "qname": name,
            "hostlist": "@allhosts",
            "seq_no": 0 if name == "all.q" else 10,
            "slots": settings.slots,
            "pe_list": " ".join(settings.environments) or "NONE",
            "load_thresholds": "NONE",
            "shell_start_mode": settings.start_mode,
            "rerun": "FALSE",
        },
    )
