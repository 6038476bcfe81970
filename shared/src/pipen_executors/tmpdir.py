"""Where a job has its temporary files: the resource ``tmpdir``, worked out where the job runs.

Snakemake works it out in the process that runs the job. That is the main process for its local
executor, and a Snakemake on the node for any other (``Job.resources``): variables, ``~`` and
``system_tmpdir`` are the node's. A job that runs directly has no Snakemake on its node, so what
depends on the node becomes a word of bash here, and :data:`MARK` stands for its value where the
value is part of the command or of what a script is given.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

MARK: Final = "<TMPDIR OF THE NODE>"
"""Stands for a tmpdir that only the node knows. As it needs quotes, it has them wherever
Snakemake quotes what needs them."""
VARIABLES: Final = ("TMPDIR", "TMP", "TEMPDIR", "TEMP")
"""What Snakemake sets to the tmpdir of a job (``snakemake.shell``)."""

_SYSTEM: Final = "\x01s\x02"
_VARIABLE: Final = re.compile(r"\$(\w+|\{[^}]*\})", re.ASCII)  # as os.path.expandvars
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOME: Final = re.compile(r"~[\w.-]*(?=/|$)", re.ASCII)
_PIECE: Final = re.compile("\x01(\\w+)\x02")

_SYSTEM_TMPDIR: Final = r"""# As Python's tempfile.gettempdir() finds it.
for pipen_place in "${TMPDIR-}" "${TEMP-}" "${TMP-}" /tmp /var/tmp /usr/tmp "$PWD"; do
    [[ -n $pipen_place && -d $pipen_place && -w $pipen_place && -x $pipen_place ]] && break
done
[[ $pipen_place == /* ]] || pipen_place=$PWD/$pipen_place
[[ $pipen_place == / ]] || pipen_place=${pipen_place%/}
"""

_PLACE: Final = r"""TMPDIR=@WORD@
[[ -d $TMPDIR ]] || mkdir -p -- "$TMPDIR" || exit 1
export TMPDIR TMP=$TMPDIR TEMPDIR=$TMPDIR TEMP=$TMPDIR
"""

_FILL: Final = r"""# A shell of its own, for its variables; no function, as FUNCNEST may forbid it.
(
    LC_ALL=C mark=@MARK@ one="'" two='"' back='\'
    set -- @FILES@
    while (($#)); do   # a file, what it becomes, how that quotes
        text= quote=$one value=$TMPDIR
        IFS= read -r -d '' text < "$1"
        case $3 in
            shell) value=${value//"$one"/"$one$two$one$two$one"} ;;
            single) value=${value//"$back"/"$back$back"} value=${value//"$one"/"$back$one"} ;;
            double)
                quote=$two
                value=${value//"$back"/"$back$back"} value=${value//"$two"/"$back$two"}
                ;;
        esac
        text=${text//"$quote$mark$quote"/"$quote$value$quote"}
        if [[ $3 == shell ]]; then text=${text//"$mark"/"$TMPDIR"}; fi
        printf '%s' "$text" > "$2" || exit 1
        shift 3
    done
) || exit 1
"""

SHELL: Final = "shell"
"""Quotes of a command: as a word of its own or bare."""
_QUOTES: Final[Mapping[str, str]] = {
    ".py": "single", ".xsh": "single", ".hy": "single", ".r": "single",
    ".jl": "double", ".rs": "double", ".sh": SHELL,
}  # fmt: skip
"""How the language of a script, by its suffix, writes a string in Snakemake's preamble."""


class OnNode(Exception):
    """What a tmpdir is can only be told by Python on the node."""


@dataclass(frozen=True)
class Tmpdir:
    """The tmpdir of one job.

    Parameters
    ----------
    word
        Its value, as a word of bash.
    value
        The same where it does not depend on the node; otherwise :data:`MARK`.
    """

    word: str
    value: str = MARK

    def code(self) -> str:
        """Return the bash that makes it and exports it, with the node's own variables given."""
        system = _SYSTEM_TMPDIR if "$pipen_place" in self.word else ""
        return system + _PLACE.replace("@WORD@", self.word)


def constant(value: str) -> Tmpdir:
    """Return a tmpdir that is the same everywhere.

    >>> constant("/my tmp").word
    "'/my tmp'"
    """
    return Tmpdir(shlex.quote(value), value)


def from_expression(raw: object, known: Mapping[str, object]) -> Tmpdir:
    r"""Return a tmpdir that is given as on the command line: a Python expression, or text.

    It is what ``Resource.cli_evaluator`` makes of it: variables and a leading ``~`` are
    expanded in its text, which is then evaluated, and taken as it is if it is no expression.

    Parameters
    ----------
    raw
        The expression.
    known
        Objects that it may use by name, beside ``system_tmpdir``.

    Raises
    ------
    OnNode
        If it does more than putting texts together: it could look at the node.

    >>> from_expression("'/scratch/$SLURM_JOB_ID'", {}).word
    '/scratch/"${SLURM_JOB_ID-\\$SLURM_JOB_ID}"'
    >>> from_expression("system_tmpdir + '/x'", {}).word
    '"$pipen_place"/x'
    >>> from_expression("~/tmp", {}).word
    '~/tmp'
    >>> from_expression("'/local'", {}).value
    '/local'
    """
    if not isinstance(raw, str):
        raise OnNode("a function")
    words: list[str] = []

    def marked(word: str) -> str:
        words.append(word)
        return f"\x01{len(words) - 1}\x02"

    def variable(match: re.Match[str]) -> str:
        name = match[1].strip("{}")
        if not _NAME.fullmatch(name):
            return match[0]
        fallback = match[0].replace("$", "\\$").replace("}", "\\}")
        return marked(f'"${{{name}-{fallback}}}"')

    text = _VARIABLE.sub(variable, raw)
    text = _HOME.sub(lambda match: marked(match[0]), text, count=1) if text[:1] == "~" else text
    value = _evaluated(text, known)
    pieces = _PIECE.split(value)
    if len(pieces) == 1:
        return constant(value)
    word = ""
    for number, piece in enumerate(pieces):
        if number % 2 == 0:
            # The slash behind "~" must not be quoted (bash(1), Tilde Expansion).
            slash = "/" if piece[:1] == "/" else ""
            word += slash + (shlex.quote(piece[len(slash) :]) if piece != slash else "")
        else:
            word += '"$pipen_place"' if piece == "s" else words[int(piece)]
    return Tmpdir(word)


@cache
def expression_names() -> frozenset[str]:
    """Return the names that Snakemake gives the expression of a resource, beside Python's own."""
    from snakemake import ioutils
    from snakemake.resources import Resource

    names = {"system_tmpdir", "input", "attempt", "threads", "shutil", "async_run"}
    # Snakemake 9.20 gives it neither of these.
    if "wildcards" in inspect.signature(Resource.cli_evaluator).parameters:
        functions: dict[str, object] = {}
        ioutils.register_in_globals(functions)
        names |= {"wildcards", *functions}
    return frozenset(names)


def _evaluated(text: str, known: Mapping[str, object]) -> str:
    """Return what an expression is that only puts texts together, or its text if it is none."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError):
        return text
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if not names <= {*expression_names(), *dir(builtins)}:
        return text
    if not all(map(_puts_together, ast.walk(tree))) or not names <= {"system_tmpdir", *known}:
        raise OnNode(text)
    try:
        value = eval(compile(tree, "tmpdir", "eval"), {**known, "system_tmpdir": _SYSTEM})
    except Exception as error:
        raise OnNode(str(error)) from None
    if not isinstance(value, str):
        raise OnNode(text)
    return value


def _puts_together(node: ast.AST) -> bool:
    if isinstance(node, ast.FormattedValue):
        return node.conversion == -1 and node.format_spec is None
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) and node.value.id == "wildcards"
    kinds = (ast.Expression, ast.Constant, ast.Name, ast.Load, ast.BinOp, ast.Add, ast.JoinedStr)
    return isinstance(node, kinds)


def of_job(job: Any, *, waits: bool) -> Tmpdir | None:
    """Return the tmpdir of a job; None if it has none.

    Parameters
    ----------
    job
        The job.
    waits
        Whether Snakemake leaves it to the node.

    Raises
    ------
    OnNode
        If only Python on the node can tell.
    """
    if not waits:
        value = job.resources.get("tmpdir")
        return constant(str(value)) if value else None
    known = {"wildcards": job.wildcards, "attempt": job.attempt, "threads": job.threads}
    found = from_expression(getattr(job.rule.resources.get("tmpdir"), "raw", None), known)
    return found if found.value else None


@dataclass(frozen=True)
class Template:
    """A file of a job directory that the node completes.

    Parameters
    ----------
    name
        What is written beforehand.
    becomes
        What the node makes of it, with the tmpdir in place of :data:`MARK`.
    quotes
        How it quotes text.
    """

    name: str
    becomes: str
    quotes: str = SHELL


def template_of_script(name: str) -> Template:
    """Return the template of a script with Snakemake's preamble."""
    return Template(f"{name}.in", name, _QUOTES[os.path.splitext(name)[1].lower()])


def filling_in(directory: str, templates: Iterable[Template]) -> str:
    """Return the bash that completes files of a job directory; empty if there are none."""
    words = [
        word
        for file in templates
        for word in (f"{directory}/{file.name}", f"{directory}/{file.becomes}", file.quotes)
    ]
    if not words:
        return ""
    return _FILL.replace("@MARK@", shlex.quote(MARK)).replace("@FILES@", shlex.join(words))
