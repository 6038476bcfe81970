"""Shadow directories that the script of a group makes and empties, each at its job's moment.

What they hold is what ``Job.prepare()`` of Snakemake puts there, and what of it comes back is
what ``DAG.unshadow_output()`` moves. The script calls its directory ``$pipen_shadow``.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from typing import Any, Final

FUNCTIONS: Final = r"""
declare -A pipen_shadows=()
pipen_new_shadow() { # the member, directory of all shadow directories
    mkdir -p -- "$2" && pipen_shadow=$(mktemp -d -- "$2/tmpXXXXXXXX") || return
    pipen_shadows[$1]=$pipen_shadow
}
pipen_link_all() { # what lies in the working directory
    local name names=() here first
    here=$(pwd -P)
    shopt -s nullglob dotglob
    for name in *; do names+=("$here/$name"); done
    shopt -u nullglob dotglob
    # All at once may be longer than the arguments of a command may be.
    for ((first = 0; first < ${#names[@]}; first += 200)); do
        ln -s -- "${names[@]:first:200}" "$pipen_shadow/" || return
    done
}
pipen_move_out() { # in the shadow directory, and where it belongs; and so on
    local target
    while (($#)); do
        if [[ -L $1 ]]; then
            target=$(readlink -- "$1")
            if [[ $target == /* ]]; then
                target=$(realpath -ms --relative-to="$pipen_shadow" -- "$target") || return
                ln -sfn -- "$target" "$1" || return
            fi
        fi
        [[ $1 -ef $2 ]] || mv -f -- "$1" "$2" || return
        shift 2
    done
}
pipen_leave_shadow() { # the member
    rm -rf -- "${pipen_shadows[$1]}"
    unset "pipen_shadows[$1]"
}
pipen_leave_shadows() { # when the group has failed: only logs come back
    local number
    for number in "${!pipen_shadows[@]}"; do
        pipen_shadow=${pipen_shadows[$number]}
        "pipen_save_logs_$number"
        @KEEP@pipen_leave_shadow "$number"
    done
}
"""
"""Bash for a group with members that have a shadow directory."""
KEEP: Final = 'echo "pipen: the shadow directory is kept: $pipen_shadow" >&2 || '
"""Takes the place of ``@KEEP@`` with --keep-incomplete."""

_LINKED: Final = "minimal"
_COPIED: Final = "copy-minimal"
_ALL: Final = "shallow"


def why_no_shadow(job: Any) -> str | None:
    """Return why the shadow directory of a job cannot be made by a script."""
    if job.rule.shadow_depth not in (_LINKED, _COPIED, _ALL):
        return f"a shadow directory of kind {job.rule.shadow_depth!r}"
    if job.rule.shadow_depth != _ALL and any(
        os.path.relpath(path).startswith(os.pardir) for path in _relative(job)
    ):
        return "a file in a directory above that of the workflow, with a shadow directory"
    return None


def root(workflow: Any) -> str:
    """Return the directory of all shadow directories, relative if it lies in the workflow's."""
    path = str(workflow.persistence.shadow_path)
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def _relative(job: Any) -> list[str]:
    files = (*job.input, *job.output, *job.log)
    return [str(file) for file in files if not os.path.isabs(file)]


def inside(path: str) -> str:
    """Return the bash word for a file as it lies in the shadow directory."""
    return shlex.quote(path) if os.path.isabs(path) else f'"$pipen_shadow"/{shlex.quote(path)}'


def fill(job: Any, root: str) -> list[str]:
    """Return the lines that fill a shadow directory.

    Parameters
    ----------
    job
        The job.
    root
        Directory of all shadow directories.
    """
    if job.rule.shadow_depth == _ALL:
        return ["pipen_link_all"]
    folders = {os.path.relpath(os.path.dirname(path) or ".") for path in _relative(job)} - {"."}
    lines = []
    if folders:
        lines.append(f"mkdir -p -- {' '.join(map(inside, sorted(folders)))}")
    inputs: dict[str, set[str]] = {}
    for file in job.input:
        if not os.path.isabs(file):
            path = os.path.relpath(file)
            inputs.setdefault(os.path.dirname(path), set()).add(path)
    for folder, paths in sorted(inputs.items()):
        # Relative to the directory of the link, whatever its name will be.
        there = os.path.join(root, "shadow", folder)
        if job.rule.shadow_depth == _COPIED:
            command, sources = "cp -L --preserve=mode", sorted(paths)
        else:
            command, sources = "ln -s", [os.path.relpath(path, there) for path in sorted(paths)]
        lines.append(f"{command} -- {shlex.join(sources)} {inside(folder)}/")
    return lines


def move_out(files: Iterable[Any]) -> list[str]:
    """Return the lines that move files from the shadow directory to where they belong."""
    words = [f"{inside(path)} {shlex.quote(path)}" for path in map(str, files)]
    return [f"pipen_move_out {' '.join(words)}"] if words else []
