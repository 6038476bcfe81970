"""What to look at before a first run in containers (see :mod:`pipen_executors.doctor`).

That a container starts and sees the files is seen by the job that goes there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from pipen_executors.doctor import Entry, Finding, Place, command, failure, ok, warning
from pipen_executors.exceptions import SchedulerError, UserError
from pipen_executors.jobdir import JOB_DIRECTORIES

from . import runtime_of
from .commands import Containers
from .images import SifFiles, image_name
from .parse import Facts


async def checks(place: Place) -> AsyncIterator[Finding]:
    """Look at the runtime, what it can hold containers to, and the image."""
    settings = place.checked.settings
    found, said = await command([settings.bin, "--version"], "--pipen-container-bin")
    yield found
    if not said:
        return
    try:
        bin, kind = runtime_of(place.checked)
    except UserError as error:
        yield failure(str(error), "--set bin_type=docker, as --pipen-container-bin-type has it")
        return
    if kind != "apptainer":
        try:
            yield _runtime_works(kind, await Containers(bin, kind).facts())
        except SchedulerError as error:
            yield failure(f"{kind} does not answer: {error}", f"see why with `{bin} info`")
            return
    yield await _image(place, bin, kind)


def _runtime_works(kind: str, facts: Facts) -> Finding:
    """Look what a runtime can hold containers to."""
    text = f"{kind} answers, {'rootless' if facts.rootless else 'as root'}, {facts.cpus} CPUs"
    missing = {"cpus", "memory"} - facts.limits
    if missing:
        return warning(
            f"{text}; it cannot limit {' and '.join(sorted(missing))}",
            "jobs run all the same, and may use more than they ask for; rootless runtimes need "
            "control groups of version 2 that are delegated to the user",
        )
    return ok(text)


async def _image(place: Place, bin: str, kind: str) -> Finding:
    """Look whether the image is here, and if not, whether it would be fetched."""
    settings = place.checked.settings
    if not settings.image:
        return failure(
            "no image is named, so no container can be tried",
            "--set image=debian:stable, as --pipen-container-image has it, or what your rules "
            "name in container:",
        )
    try:
        image = image_name(settings.image, kind)
    except ValueError as error:
        return failure(f"image {settings.image!r}: {error}", "name another one")
    store = Containers(bin, kind)
    root = place.checked.workdir or JOB_DIRECTORIES / place.backend
    sifs = SifFiles.below(bin, place.directory / root)
    here = await (sifs if kind == "apptainer" else store).has_image(image)
    if here or image.startswith("/"):
        return ok(f"image {image} is here")
    if settings.pull == "never":
        return failure(f"image {image} is not here, and pull is 'never'", f"`{bin} pull {image}`")
    return warning(f"image {image} is not here", "the first job fetches it, which takes its time")


async def entries(place: Place) -> AsyncIterator[Entry]:
    """Name runtime and image."""
    settings = place.checked.settings
    yield Entry("pipen-container-bin", str(settings.bin), "the container runtime")
    image = settings.image or "debian:stable"
    yield Entry("pipen-container-image", image, "the image", certain=bool(settings.image))
