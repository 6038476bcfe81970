"""The settings of pipen-container as its scheduler has them, and the image they give a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipen_executors.exceptions import SettingError, UserError
from pipen_executors.spec import JobSpec

from .images import image_name
from .mounts import Mount, Surroundings

BASH: Final = "bash"
"""The entrypoint by default: the bash of the image, wherever that is."""


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of pipen-container, read.

    ``where`` says what a setting is called in messages, ``surroundings`` is what all containers
    see, ``cwd_volume`` the volume of the working directory, ``python`` whether this Python is
    mounted, ``enforce`` whether containers are held to what their jobs ask for, ``tell`` shows a
    line to the user.
    """

    where: Callable[[str], str]
    bin: str
    kind: str
    image: str | None
    entrypoint: tuple[str, ...]
    surroundings: Surroundings
    cwd_volume: Mount | None
    user: str | None
    bin_args: tuple[str, ...]
    remove: bool
    pull: str
    python: bool
    enforce: bool
    tell: Callable[[str], None]


def image_of(spec: JobSpec, config: Config) -> str:
    """Return the image of a job: the resource's, the rule's own, or the setting's.

    Raises
    ------
    UserError
        If it has none, or a group more than one, or the runtime cannot have one of this name.
    """
    where = f"resource pipen_image of rule {spec.rule}"
    if asked := spec.resources.extra.get("pipen_image"):
        images = {str(asked)}
    else:
        where = f"container: of rule {spec.rule}"
        images = {image or config.image or "" for image in spec.images}
        if images == {config.image}:
            where = config.where("image")
    if len(images) > 1:
        raise UserError(f"The rules of {spec.rule} ask for different containers: {images}.")
    (image,) = images
    if not image:
        raise UserError(
            f"Rule {spec.rule} has no container image: set {config.where('image')}, container: or "
            "resource pipen_image of the rule, or make it one of the localrules, which run "
            "outside containers."
        )
    try:
        return image_name(image, config.kind)
    except ValueError as error:
        raise SettingError(where, image, str(error)) from None


def check_python(spec: JobSpec, config: Config) -> None:
    """Check that a job has the Python that runs Snakemake, if it needs it.

    Raises
    ------
    UserError
        If that is not in its container.
    """
    if spec.python_for and not config.python:
        raise UserError(
            f"Rule {spec.rule} needs the Python that runs Snakemake ({spec.python_for}), "
            f"which is not in its container. Set {config.where('python')} to 'host' to have it "
            "mounted, or make the rule one of the localrules, which run outside containers."
        )
