"""A job's temporary directory is on the node what Snakemake makes of the resource there."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.resources import Resource

from pipen_executors.tmpdir import (
    MARK,
    SHELL,
    OnNode,
    Template,
    constant,
    expression_names,
    filling_in,
    from_expression,
    template_of_script,
)

from .test_wrapper import run, wrapper

KNOWN = {"wildcards": SimpleNamespace(sample="s 1"), "attempt": 2, "threads": 3}


def on_node(code: str, *, check: bool = True) -> str:
    """Run the code; return what TMPDIR is then."""
    script = f'{code}\nprintf "%s" "$TMPDIR"; [[ $TMPDIR$TMPDIR == "$TEMP$TMP" ]]'
    return subprocess.run(
        ["/bin/bash", "-p", "-c", script], stdout=subprocess.PIPE, text=True, check=check
    ).stdout


def as_snakemake(expression: str) -> Any:
    """Return what Snakemake makes of an expression in this environment."""
    known = {name: value for name, value in KNOWN.items() if name in expression_names()}
    return Resource.cli_evaluator(
        "tmpdir", expression, input=[], async_run=lambda value: value, **known
    )


@pytest.mark.parametrize(
    "expression",
    [
        "system_tmpdir",
        "here",
        "'here'",
        '"it\'s a  dir"',
        "'$ON_NODE'",
        "'$ON_NODE/x'",
        "$ON_NODE/x y",
        "'${ON_NODE}x'",
        "'$ON_NODEx'",
        "$ON_NODE",
        "'$NOT_SET/x'",
        "'${NOT_SET}/$1/${a.b}/$'",
        "'$WITH_DOLLAR'",
        "~/under",
        "~",
        "~/a b",
        "'~/under'",
        "~nosuchuser/x",
        "system_tmpdir + '/$ON_NODE'",
        "f'{system_tmpdir}/{wildcards.sample}-{attempt}'",
        "'a' + 'b'",
        "wildcards.sample",
        "$ON_NODE/input",
        "one-two",
    ],
)
def test_expressions_mean_what_they_mean_to_snakemake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expression: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").mkdir()
    for name, value in {
        "TMPDIR": f"{tmp_path}/tmp",
        "HOME": f"{tmp_path}/home",
        "ON_NODE": "node 7",
        "WITH_DOLLAR": "$HOME ~ `x` & $(x)",
    }.items():
        monkeypatch.setenv(name, value)
    tmpdir = from_expression(expression, KNOWN)
    expected = as_snakemake(expression)
    assert on_node(tmpdir.code()) == expected
    assert tmpdir.value in (expected, MARK)
    assert Path(expected).is_dir(), "it is made"


@pytest.mark.parametrize(
    "missing", [(), ("TMPDIR",), ("TMPDIR", "TEMP"), ("TMPDIR", "TEMP", "TMP")]
)
@pytest.mark.parametrize("gone", ["unset", "no directory", "read only"])
def test_the_system_tmpdir_is_the_one_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], gone: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("TMPDIR", "TEMP", "TMP"):
        place = tmp_path / name
        monkeypatch.setenv(name, f"{place}/")
        if name not in missing:
            place.mkdir()
        elif gone == "unset":
            monkeypatch.delenv(name)
        elif gone == "read only":
            monkeypatch.setenv(name, "/proc/self")
    assert on_node(from_expression("system_tmpdir", {}).code()) == tempfile.gettempdir()


@pytest.mark.parametrize(
    "expression",
    [
        None,
        lambda wildcards: "/tmp",
        "system_tmpdir if shutil.disk_usage(system_tmpdir).free > 9 else '/big'",
        "'/a' if '$ON_NODE' == 'x' else '/b'",
        "shutil.which('x')",
        # A function that Snakemake 9.20 does not know there.
        *(["exists('/scratch') and '/scratch'"] if "exists" in expression_names() else []),
        "system_tmpdir * 2",
        "f'{system_tmpdir:>9}'",
        "system_tmpdir.upper()",
        "input.size_mb",
        "attempt",
        "attempt + '/x'",
    ],
)
def test_what_could_look_at_the_node_is_left_to_it(expression: Any) -> None:
    with pytest.raises(OnNode):
        from_expression(expression, KNOWN)


def test_a_place_that_cannot_be_made_ends_the_job(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = wrapper(tmp_path, "touch ran\n", tmpdir_code=constant(f"{tmp_path}/file/x").code())
    assert run(path) == 1
    assert "Not a directory" in (path.parent / "job.stderr").read_text()
    assert "stage=environment" in (path.parent / "job.info.token").read_text()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("prescript", "expected"),
    [
        ("", "/tmp/job"),
        ('echo "$TMPDIR" > seen', "/tmp/job"),
        ('export TMPDIR="$PWD/mine"; mkdir "$TMPDIR"', "/mine/job"),
    ],
)
def test_a_prescript_sees_it_and_may_choose_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prescript: str, expected: str
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", f"{tmp_path}/tmp")
    code = from_expression("system_tmpdir + '/job'", {}).code()
    path = wrapper(tmp_path, 'printf %s "$TMPDIR"\n', tmpdir_code=code, prescript=prescript)
    assert run(path) == 0
    assert (path.parent / "job.stdout").read_text() == f"{tmp_path}{expected}"
    if "seen" in prescript:
        assert (tmp_path / "seen").read_text() == f"{tmp_path}{expected}\n"


HOSTILE = '/it\'s "a" \\n & $(exit 9) `exit 9` * dir'


def test_a_command_has_it_as_snakemake_writes_it(tmp_path: Path) -> None:
    code = constant(f"{tmp_path}{HOSTILE}").code()
    (tmp_path / "script").write_text(f"bare {MARK}\nquoted {shlex.quote(MARK)}\n" + "x" * 200_000)
    fill = filling_in(str(tmp_path), [Template("script", "done", SHELL)])
    on_node(f"{code}\n{fill}")
    bare, quoted, rest = (tmp_path / "done").read_text().split("\n")
    assert bare == f"bare {tmp_path}{HOSTILE}"
    assert quoted == f"quoted {shlex.quote(f'{tmp_path}{HOSTILE}')}"
    assert rest == "x" * 200_000


def test_a_script_has_it_as_its_language_writes_it(tmp_path: Path) -> None:
    """What a script in Python is given is pickled: a text of another length would break that."""
    place = f"{tmp_path}{HOSTILE}"
    texts = {
        "a.py": f"pickled = b'\\x14{MARK}.'; print({MARK!r})\n",
        "a.R": f"cat({MARK!r})\n",
        "a.jl": f'print("{MARK}")\n',
        "a.rs": f'r###"{{"tmpdir": "{MARK}"}}"###\n',
        "a.sh": f"printf %s {shlex.quote(MARK)}\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.in").write_text(text)
    templates = [template_of_script(name) for name in texts]
    on_node(f"{constant(place).code()}\n{filling_in(str(tmp_path), templates)}")
    done = {name: (tmp_path / name).read_text() for name in texts}
    python = [sys.executable, str(tmp_path / "a.py")]
    assert subprocess.run(python, stdout=subprocess.PIPE, text=True).stdout == f"{place}\n"
    assert f"b'\\x14{MARK}.'" in done["a.py"]
    escaped = place.replace("\\", "\\\\")
    assert done["a.R"] == "cat('" + escaped.replace("'", "\\'") + "')\n"
    assert done["a.jl"] == 'print("' + escaped.replace('"', '\\"') + '")\n'
    assert escaped.replace('"', '\\"') in done["a.rs"]
    bash = ["bash", str(tmp_path / "a.sh")]
    assert subprocess.run(bash, stdout=subprocess.PIPE, text=True).stdout == place


def test_a_wrapper_completes_the_script(tmp_path: Path) -> None:
    tmpdir = from_expression("'/tmp/$ON_NODE'", {})
    fill = filling_in(f"{tmp_path}/job dir", [Template("job.script", "job.script.node")])
    path = wrapper(
        tmp_path,
        f"printf %s '{MARK}'; rmdir '{MARK}'\n",
        tmpdir_code=tmpdir.code() + fill,
        script_file="job.script.node",
        prescript="export ON_NODE=pipen-$$",
    )
    assert run(path) == 0
    assert (path.parent / "job.stdout").read_text().startswith("/tmp/pipen-")
