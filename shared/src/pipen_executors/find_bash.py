"""Programs where they are on the node, or in the image of a container, and not here."""

from __future__ import annotations

from typing import Final

PLACES: Final = (
    "/bin",
    "/usr/bin",
    "/usr/local/bin",
    "/opt/conda/bin",
    "/run/current-system/sw/bin",
)
"""Directories in which images have bash beside those of their ``PATH``."""

_START: Final = (
    'for pipen_bash in "$(command -v bash)" @PLACES@; do [ -x "$pipen_bash" ] && '
    # BusyBox may call its own shell bash, which knows none of this.
    """"$pipen_bash" -p -c '((BASH_VERSINFO[0]*100+BASH_VERSINFO[1]>=402))' 2>/dev/null && """
    'exec "$pipen_bash" -p "$@"; done; '
    'echo "pipen: there is no bash 4.2 or later in this image, which the script around each job '
    "needs: neither in PATH ($PATH) nor as @PLACES@. Choose an image that has it, or install it "
    'there (Alpine: apk add bash; Debian: apt-get install bash)" >&2; exit 127'
)

INTERPRETER: Final = """\
# What is at another path than where the job was submitted is found by its name.
pipen_interpreter() {
    pipen_program=$1
    [[ -x $1 ]] && return
    pipen_program=${1##*/}
    if [[ $pipen_program == bash ]]; then pipen_program=$BASH; fi
}"""
"""Bash function that sets ``$pipen_program`` to an interpreter that is given by its path."""


def start_with_bash(*arguments: str) -> list[str]:
    """Return the command that starts the bash of an image with some arguments.

    It needs nothing but a POSIX ``/bin/sh``, and says on standard error what is missing
    where there is no bash (exit status 127).
    """
    places = " ".join(f"{place}/bash" for place in PLACES)
    return ["/bin/sh", "-c", _START.replace("@PLACES@", places), "pipen", *arguments]
