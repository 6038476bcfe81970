"""What to look at before a first run on Google Batch (see :mod:`pipen_executors.doctor`).

That jobs may be created, and what the service account of their machines may do, is seen by the
job that goes there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator

import google.auth
from google.auth.exceptions import GoogleAuthError

from pipen_executors.doctor import Entry, Finding, Level, Place, failure, ok, warning
from pipen_executors.exceptions import SchedulerError, TransientError, UserError
from pipen_executors.jobdir import JOB_DIRECTORIES

from . import bucket, place_of
from .calls import EMULATOR, Calls

_LOGIN = "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS=key.json"
_WITHIN = "see whether this machine gets to {}.googleapis.com (proxy, firewall)"


async def checks(place: Place) -> AsyncIterator[Finding]:
    """Look at the settings, the login, Batch in its location, and the bucket."""
    settings = place.checked.settings
    missing = [name for name in ("project", "location") if not getattr(settings, name)]
    for name in missing:
        yield failure(f"no {name} is named", f"--set {name}=…, as --pipen-gbatch-{name} has it")
    if missing:
        return
    login = _login()
    yield login
    if login.level is Level.FAILURE:
        return
    calls = Calls(settings.project, settings.location)
    try:
        yield await _location(calls, settings.location)
        yield await _jobs(calls, settings.project)
    finally:
        await calls.close()
    yield await _bucket(place)
    account = settings.service_account or "Compute Engine's default service account"
    yield ok(f"jobs run as {account}; what it may do is seen by a job of a second")


def _login() -> Finding:
    """Look who is asking."""
    if os.environ.get(EMULATOR):
        return warning(f"{EMULATOR} names a server in place of Google's", "unset it for the real")
    try:
        credentials, project = google.auth.default()
    except GoogleAuthError as error:
        return failure(f"no login to Google Cloud: {error}", _LOGIN)
    who = getattr(credentials, "service_account_email", None) or getattr(
        credentials, "account", None
    )
    return ok(f"login of {who or 'a user'} (project {project or 'not named'})")


async def _location(calls: Calls, location: str) -> Finding:
    """Look whether Batch runs jobs in a region."""
    try:
        known = await calls.locations()
    except SchedulerError as error:
        return warning(f"the locations cannot be asked for: {error}", "the next lines tell more")
    if location in known:
        return ok(f"Batch runs jobs in {location}, one of {len(known)} locations")
    return failure(
        f"Batch knows no location {location}", f"name one of {', '.join(known)}: --set location=…"
    )


async def _jobs(calls: Calls, project: str) -> Finding:
    """Look whether Batch answers, and its jobs may be seen."""
    try:
        any_there = await calls.any_jobs()
    except TransientError as error:
        return failure(str(error), _WITHIN.format("batch"))
    except SchedulerError as error:
        return failure(
            f"the jobs of project {project} cannot be listed: {error}",
            "gcloud services enable batch.googleapis.com, and the role Batch Job Editor "
            "(roles/batch.jobsEditor) for you",
        )
    there = "some are there" if any_there else "there are none"
    return ok(f"Batch answers; the jobs of project {project} can be listed ({there})")


async def _bucket(place: Place) -> Finding:
    """Look whether objects can be written, read, listed and removed where jobs leave theirs."""
    try:
        where = place_of(place.checked, place.directory / JOB_DIRECTORIES / place.backend)
    except UserError as error:
        return failure(
            str(error),
            "--set remote_workdir=gs://bucket/path; a run may have "
            "--default-storage-prefix gs://bucket/path instead",
        )
    name, step = f".doctor-{secrets.token_hex(4)}", "reached"
    try:
        objects = bucket.Place(where, place.checked.settings.project)
        try:
            step = "written to"
            await objects.put({name: b"x"})
            step = "read"
            if (await objects.get([name])).get(name) != b"x" or name not in await objects.names():
                return failure(f"what is written to {where} is not there afterwards", "try again")
            step = "removed from"
            await objects.delete([name])
        finally:
            objects.close()
    except TransientError as error:
        return failure(str(error), _WITHIN.format("storage"))
    except SchedulerError as error:
        return failure(
            f"{where} cannot be {step}: {error}",
            "make the bucket, and give yourself the role Storage Object Admin "
            "(roles/storage.objectAdmin) on it",
        )
    return ok(f"objects below {where.rpartition('/')[0]} can be written, read, listed and removed")


async def entries(place: Place) -> AsyncIterator[Entry]:
    """Name project, location and bucket."""
    settings = place.checked.settings
    yield Entry("jobs", 500, "tasks at once; alike jobs that are ready become one job of Batch")
    project = settings.project or _project_of_login() or "my-project"
    yield Entry("pipen-gbatch-project", project, "", certain=bool(settings.project))
    location = settings.location or "us-central1"
    yield Entry("pipen-gbatch-location", location, "", certain=bool(settings.location))
    given = settings.remote_workdir
    base = given or "gs://my-bucket/jobs"
    yield Entry("pipen-gbatch-remote-workdir", base, "job directories", certain=bool(given))
    prefix = f"{base.rpartition('/')[0]}/run"
    yield Entry("default-storage-provider", "gcs", "where the workflow's files lie", certain=False)
    yield Entry("default-storage-prefix", prefix, "", certain=False)
    yield Entry("storage-gcs-project", project, "", certain=False)


def _project_of_login() -> str | None:
    try:
        _, project = google.auth.default()
    except GoogleAuthError:
        return None
    return str(project) if project else None
