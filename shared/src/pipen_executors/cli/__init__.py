"""The command ``pipen-executors``: see, check and tidy up runs, from a second terminal.

Exit status of every command: 0 if all is well, 1 if not (a job failed, a check failed), 2 if
the command could not do what it was asked. ``--json`` prints the same for programs.
"""

from __future__ import annotations

import io
import sys

import typer

from ..exceptions import SchedulerError, UserError
from . import look, place, tidy

app = typer.Typer(
    name="pipen-executors",
    help="See, check and tidy up runs of the pipen executors, from a second terminal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    look.status,
    look.logs,
    look.script,
    tidy.cancel,
    tidy.clean,
    look.report,
    place.doctor,
    place.profile,
):
    app.command()(command)


def main() -> None:
    """Run the command line; an error of the user's is one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (UserError, SchedulerError, OSError) as error:
        print(f"pipen-executors: {error}", file=sys.stderr)
        sys.exit(2)
