"""From a plan to files: the Snakefile, its scripts, its sources."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Final

from .plan import Plan, Rule

SHA_OF_FIXED: Final = hashlib.sha256(b"fixed\n").hexdigest()


@dataclass(frozen=True)
class Entry:
    """A file to be made: text with a mode, or a link."""

    text: str = ""
    mode: int | None = None
    link: str | None = None


def render(plan: Plan) -> dict[str, Entry]:
    """Return the files of a workflow by their paths."""
    base = "work dir/" if plan.has("workdir") else ""
    files = {
        f"{base}source0": Entry("source\nof all\n"),
        f"{base}source dir/a": Entry("a\n"),
        f"{base}source dir/b c": Entry("b\n", mode=0o755),
        f"{base}source dir/link": Entry(link="a"),
        f"{base}source dir/dangling": Entry(link="nowhere"),
        f"{base}source dir/sub/d": Entry("d\n", mode=0o640),
        f"{base}shadow dir/.keep": Entry(""),
        "bash_env": Entry("export FROM_BASH_ENV=$((${FROM_BASH_ENV:-0} + 1))\n"),
    }
    if plan.has("configfile"):
        files["config.yaml"] = Entry("key: from the file\nother: [1, 2]\n")
    parts = [_header(plan), _all(plan)]
    for rule in plan.rules:
        text, further = _RENDERERS.get(rule.kind, _plain_rule)(plan, rule)
        parts.append(text)
        files |= further
        for path in _updated(plan, rule):
            files[base + path] = Entry("from before\n")
    files["Snakefile"] = Entry("\n".join(parts))
    return files


def benchmarks(plan: Plan) -> set[str]:
    """Return the paths of files whose numbers are another in each run."""
    base = "work dir/" if plan.has("workdir") else ""
    return {
        f"{base}benchmarks/{rule.name}.{value}.tsv"
        for rule in plan.rules
        if rule.has("benchmark")
        for value in (plan.values if rule.each else ("once",))
    }


def _updated(plan: Plan, rule: Rule) -> list[str]:
    return [
        path.replace("{w}", value)
        for number, flavour in enumerate(rule.outputs)
        if flavour == "update"
        for path in _paths(rule, number, flavour)
        for value in (plan.values if rule.each else ("",))
    ]


# -- around the rules --------------------------------------------------------------------------


def _header(plan: Plan) -> str:
    lines = ["import os", "from pathlib import Path", f"VALUES = {list(plan.values)!r}"]
    lines.append('wildcard_constraints: w="[^/]+"')
    prefix = ""
    if plan.has("noclobber"):
        prefix += "set -o noclobber; "
    if plan.has("prefix"):
        prefix += "export FROM_PREFIX='a  b'; "
    for name, text in (
        ("workdir", 'workdir: "work dir"'),
        ("configfile", "configfile: f'{workflow.basedir}/config.yaml'"),
        ("sh", 'shell.executable("/bin/sh")'),
        ("environ", 'os.environ["FROM_SNAKEFILE"] = "it\'s $x"\nos.environ.pop("ODD", None)'),
        ("envvars", 'envvars: "DECLARED"'),
        ("handlers", 'onsuccess: Path("succeeded").touch()\nonerror: Path("failed").touch()'),
    ):
        if plan.has(name):
            lines.append(text)
    if prefix:
        lines.append(f"shell.prefix({prefix!r})")
    plain = [rule for rule in plan.rules if rule.outputs]
    if plan.has("localrules") and plain and not plain[0].has("shadow"):
        lines.append(f"localrules: {plain[0].name}")
    return "\n".join(lines) + "\n"


def _all(plan: Plan) -> str:
    used = {name for rule in plan.rules for name, _ in rule.inputs}
    wanted = []
    for rule in plan.rules:
        products = _BLOCK_PRODUCTS.get(rule.kind)
        if products is not None:
            wanted.append(repr(products.format(name=rule.name)))
            continue
        for number, flavour in enumerate(rule.outputs):
            # What is used up and temporary goes away.
            if rule.name in used and flavour.startswith("temp"):
                continue
            wanted += _as_inputs(rule, number, flavour, each=False)
    return "rule all:\n    input:\n" + indent(",\n".join(wanted), " " * 8) + "\n"


# -- files of a rule ---------------------------------------------------------------------------


def _paths(rule: Rule, number: int, flavour: str) -> list[str]:
    stem = f"{rule.name}.{number}"
    if rule.each:
        path = f"{{w}}.{stem}" if rule.has("lead") else f"{rule.name}/{{w}}.{number}"
    else:
        path = f"-{stem}" if rule.has("lead") else f"{rule.name}/{number}"
    if flavour in ("place", "inherited"):
        return [f"{path}.{flavour}"]
    if flavour == "nested":
        return [f"{path}.d/e/f"]
    if flavour == "multiext":
        return [f"{path}.x", f"{path}.y.z"]
    return [path]


_FLAGS: Final = {
    "temp": "temp({})",
    "protected": "protected({})",
    "touch": "touch({})",
    "nonempty": "ensure({}, non_empty=True)",
    "sha256": f'ensure({{}}, sha256="{SHA_OF_FIXED}")',
    "directory": "directory({})",
    "directory of links": "directory({})",
    "temp directory": "temp(directory({}))",
    "update": "update({})",
    "report": 'report({}, category="c")',
}


def _declared(rule: Rule) -> str:
    lines = []
    for number, flavour in enumerate(rule.outputs):
        paths = _paths(rule, number, flavour)
        if flavour == "multiext":
            stem = paths[0].removesuffix(".x")
            lines.append(f'multiext({stem!r}, ".x", ".y.z")')
        else:
            lines.append(_FLAGS.get(flavour, "{}").format(repr(paths[0])))
    return ",\n".join(lines)


def _as_inputs(rule: Rule, number: int, flavour: str, *, each: bool) -> list[str]:
    """Return expressions for an output in the input of another rule."""
    found = []
    for path in _paths(rule, number, flavour):
        if rule.each and not each:
            found.append(f"expand({path!r}, w=VALUES)")
        else:
            found.append(repr(path))
    return found


def _inputs(plan: Plan, rule: Rule) -> str:
    lines = []
    named = []
    for position, (name, how) in enumerate(rule.inputs):
        source = plan.rule(name)
        if source is None:
            expressions = [repr(name)]
        else:
            expressions = [
                text
                for number, flavour in enumerate(source.outputs)
                if flavour not in ("place", "inherited")
                for text in _as_inputs(source, number, flavour, each=rule.each)
            ]
        for part, text in enumerate(expressions):
            flat = text.replace("{w}", "{wildcards.w}") if not text.startswith("expand") else text
            if how == "ancient":
                lines.append(f"ancient({text})")
            elif how == "function" and not text.startswith("expand"):
                lines.append(f"lambda wildcards: f{flat}")
            elif how == "function":
                lines.append(f"lambda wildcards: {text}")
            elif how == "unpack":
                value = text if text.startswith("expand") else f"f{flat}"
                named.append(f"unpack(lambda wildcards: {{'n{position}_{part}': {value}}})")
            else:
                lines.append(text)
    return ",\n".join([*lines, *named])


# -- a rule ------------------------------------------------------------------------------------


def _plain_rule(plan: Plan, rule: Rule) -> tuple[str, dict[str, Entry]]:
    sections = [("input", _inputs(plan, rule)), ("output", _declared(rule))]
    params = [f"p{n.split()[1]}={v}" for n, v in rule.features if n.startswith("param ")]
    resources = [f"{n.split()[1]}={v}" for n, v in rule.features if n.startswith("resource ")]
    if rule.get("tmpdir") is not None:
        resources.append(f"tmpdir={rule.get('tmpdir')}")
    if rule.has("fails first"):
        resources.append("att=lambda wildcards, attempt: attempt")
        sections.append(("retries", "1"))
    suffix = "{w}" if rule.each else "once"
    sections += [("params", ",\n".join(params)), ("resources", ",\n".join(resources))]
    sections.append(("threads", rule.get("threads", "")))
    if rule.has("log"):
        logs = [f"logs/{rule.name}.{suffix}.log", f"logs/{rule.name}.{suffix}.second"]
        sections.append(("log", ", ".join(map(repr, logs[: rule.get("log")]))))
    if rule.has("benchmark"):
        path = repr(f"benchmarks/{rule.name}.{suffix}.tsv")
        times = rule.get("benchmark")
        sections.append(("benchmark", path if times == 1 else f"repeat({path}, {times})"))
    for name in ("shadow", "group"):
        if rule.has(name):
            sections.append((name, repr(rule.get(name))))
    if rule.has("local"):
        sections.append(("localrule", "True"))
    sections.append(("priority", rule.get("priority", "")))
    text = f"rule {rule.name}:\n"
    for title, content in sections:
        if content:
            text += f"    {title}:\n{indent(content, ' ' * 8)}\n"
    files: dict[str, Entry] = {}
    if rule.kind == "shell":
        quotes = '"""'
        body = _in_braces(_bash_body(plan, rule))
        text += f"    shell:\n        r{quotes}\n{body}{quotes}\n"
    elif rule.kind == "run":
        text += f"    run:\n{indent(_python_body(plan, rule, ''), ' ' * 8)}"
    elif rule.kind == "python":
        text += f'    script: "scripts/{rule.name}.py"\n'
        files[f"scripts/{rule.name}.py"] = Entry(_python_body(plan, rule, "snakemake."))
    else:
        text += f'    script: "scripts/{rule.name}.sh"\n'
        files[f"scripts/{rule.name}.sh"] = Entry(_bash_script(plan, rule))
    return text, files


def _in_braces(text: str) -> str:
    """Return a command for ``shell:``, in which ``<<x>>`` stands for a placeholder."""
    doubled = text.replace("{", "{{").replace("}", "}}")
    return doubled.replace("<<", "{").replace(">>", "}").replace("@@", ">>")


_PLACE: Final = r"""
tell_place() {
printf 'cwd: %s\n' "$PWD"
printf 'umask: %s\n' "$(umask)"
printf 'stdin: %s\n' "$(readlink /proc/$$/fd/0)"
for open in /proc/$$/fd/[0-9] /proc/$$/fd/[0-9][0-9]; do
    printf 'descriptor %s: open\n' "${open##*/}"
done
printf 'signals: %s\n' "$(grep -E '^Sig(Blk|Ign)' /proc/self/status | tr -d '\n')"
printf 'flags: %s\n' "$(printf %s "$-" | tr -d cs)"
printf 'options: %s\n' "${SHELLOPTS:-none}"
for limit in c d f l n s t v; do
    printf 'limit %s: %s\n' "$limit" "$(ulimit -S -"$limit")"
done
printf 'TMPDIR: %s\n' "$TMPDIR"
env | grep -aE '^[A-Za-z_][A-Za-z_0-9]*=' | sed -n 's/=.*//p' | LC_ALL=C sort -u |
    sed 's/^/variable /;s/$/: set/'
}
"""

_VARIABLES: Final = (
    *("cmd", "rc", "REPLY", "CDPATH", "LC_ALL", "POSIXLY_CORRECT", "TZ", "ODD", "EMPTY"),
    *("SQUEUE_FORMAT", "SLURM_TIME_FORMAT", "SACCT_FORMAT", "SQUEUE_STATES", "GREP_COLOR"),
    *("name", "file", "dir", "status", "FROM_PREFIX", "FROM_SNAKEFILE", "DECLARED"),
    *("FROM_BASH_ENV", "OMP_NUM_THREADS"),
)


def _inherited() -> str:
    lines = ["tell_inherited() {"]
    lines += [
        f"printf '%s: %s\\n' {name} \"$(printf %s \"${{{name}-unset}}\" | tr '\\n' '|')\""
        for name in _VARIABLES
    ]
    return "\n".join([*lines, "}\n"])


def _known(rule: Rule, start: str) -> list[str]:
    return [name.split()[1] for name, _ in rule.features if name.startswith(f"{start} ")]


def _bash_body(plan: Plan, rule: Rule) -> str:
    """Return the shell command of a rule, with ``<<x>>`` for placeholders."""
    lines = [f"printf '%s\\n' 'rule {rule.name}'"]
    if rule.each:
        lines.append("printf '<%s>\\n' <<wildcards.w:q>>")
    lines.append("printf 'threads %s\\n' <<threads>> \"$OMP_NUM_THREADS\"")
    for name in _known(rule, "param"):
        lines.append(f"printf 'p{name}<%s>\\n' <<params.p{name}:q>>")
    for name in _known(rule, "resource"):
        lines.append(f"printf '{name}<%s>\\n' <<resources.{name}:q>>")
    if rule.has("tmpdir"):
        lines += [
            'mkdir -p "$TMPDIR"',
            "made=$(mktemp -d)",
            'case "$made" in "$TMPDIR"/*) echo inside;; *) echo elsewhere;; esac',
            'rmdir "$made"',
            '[ "$TMPDIR" = <<resources.tmpdir:q>> ] && echo same || echo other',
        ]
        if rule.get("tmpdir") is not None:
            lines.append("printf 'tmpdir <%s>\\n' \"$TMPDIR\"")
    # A full shadow directory has links in its directories, or files where they are sent.
    form = "%p" if rule.get("shadow") == "full" else "%p %y %m %l"
    lines += [
        "for file in <<input:q>>; do",
        "case $file in -*) file=./$file;; esac",
        f'if [ -d "$file" ]; then (cd "./$file" && find . -printf "{form}\\n" | LC_ALL=C sort)',
        'else printf "%s %s\\n" "$(cksum < "$file")" "$file"; fi; done',
    ]
    text = "tell() {\n" + "\n".join(lines) + "\n}\n"
    if "place" in rule.outputs:
        text += _PLACE
    if "inherited" in rule.outputs:
        text += _inherited()
    if rule.has("long"):
        text += ": " + "x" * 140_000 + "\n"
    if rule.has("noise"):
        text += "echo to standard output; echo to standard error >&2\n"
    if rule.has("log"):
        text += "echo logged > <<log[0]:q>>\n"
        if rule.get("log") == 2:
            text += "echo second > <<log[1]:q>>\n"
    position = 0
    for number, flavour in enumerate(rule.outputs):
        made = [f"<<output[{position + extra}]:q>>" for extra in range(1 + (flavour == "multiext"))]
        position += len(made)
        text += "".join(_bash_output(flavour, number, out, rule) for out in made)
    return text + _bash_ending(rule, "<<resources.att>>", "<<output[0]:q>>")


def _bash_output(flavour: str, number: int, out: str, rule: Rule) -> str:
    """Return the commands that make an output."""
    if flavour == "touch":
        return ""
    if flavour in ("place", "inherited"):
        return f"tell_{flavour} > {out}\n"
    if flavour == "sha256":
        return f"echo fixed > {out}\n"
    if flavour == "update":
        return f"echo updated @@ {out}\n"
    if flavour in ("directory", "temp directory"):
        return (
            f"mkdir -p -- {out}/sub; tell > {out}/a\n"
            f"echo b > {out}/sub/'b c'; chmod 750 ./{out}/sub\n"
        )
    if flavour == "directory of links":
        return (
            f"mkdir -p -- {out}/sub; echo a > {out}/a; chmod 640 {out}/a; ln -s a {out}/to_a\n"
            f"ln -s nowhere {out}/dangling; ln -s ../a {out}/sub/up; ln -s . {out}/self\n"
        )
    if flavour == "link":
        first = "<<output[0]:q>>"
        return f'ln -s -- "$(realpath -m --relative-to="$(dirname -- {out})" -- {first})" {out}\n'
    text = f"{{ tell; }} > {out}\n"
    if flavour == "executable":
        text += f"chmod 755 ./{out}\n"
    if flavour == "private":
        text += f"chmod 600 ./{out}\n"
    return text


def _bash_ending(rule: Rule, attempt: str, first: str) -> str:
    text = ""
    if rule.has("fails first"):
        text += f"if [ {attempt} -lt 2 ]; then {_failing(rule.get('fails first'), first)}; fi\n"
    if rule.has("fails"):
        text += _failing(rule.get("fails"), first) + "\n"
    return text


def _failing(how: str, first: str) -> str:
    return {
        "exit 3": "exit 3",
        "kill": "kill -9 $$",
        "no output": f"rm -- {first}",
        "false in a pipe": "false | cat",
        "unset variable": 'echo "$NOT_SET_BY_ANYBODY"',
    }[how]


def _bash_script(plan: Plan, rule: Rule) -> str:
    lines = ["set -u", "tell() {", f"echo rule {rule.name}"]
    if rule.each:
        lines.append("printf '<%s>\\n' \"${snakemake_wildcards[w]}\"")
    lines.append('printf \'threads %s\\n\' "${snakemake[threads]}" "$OMP_NUM_THREADS"')
    lines += [
        f"printf 'p{name}<%s>\\n' \"${{snakemake_params[p{name}]}}\""
        for name in _known(rule, "param")
    ]
    lines += [
        f"printf '{name}<%s>\\n' \"${{snakemake_resources[{name}]}}\""
        for name in _known(rule, "resource")
    ]
    lines += [
        'for key in "${!snakemake_input[@]}"; do echo "$key ${snakemake_input[$key]}"; done | sort',
        "}",
    ]
    text = "\n".join(lines) + "\n"
    if "place" in rule.outputs:
        text += _PLACE
    if "inherited" in rule.outputs:
        text += _inherited()
    if rule.has("log"):
        text += 'echo logged > "${snakemake_log[0]}"\n'
        if rule.get("log") == 2:
            text += 'echo second > "${snakemake_log[1]}"\n'
    position = 0
    for number, flavour in enumerate(rule.outputs):
        for _ in range(1 + (flavour == "multiext")):
            out = f'"${{snakemake_output[{position}]}}"'
            made = _bash_output(flavour, number, out, rule).replace("@@", ">>")
            text += made.replace("<<output[0]:q>>", '"${snakemake_output[0]}"')
            position += 1
    ending = _bash_ending(rule, '"${snakemake_resources[att]}"', '"${snakemake_output[0]}"')
    return text + ending


def _python_body(plan: Plan, rule: Rule, of: str) -> str:
    names = _known(rule, "resource")
    failing = {
        "exit 3": "raise SystemExit(3)",
        "kill": "os.kill(os.getpid(), 9)",
        "no output": "os.unlink(outputs[0])",
        "false in a pipe": "raise ValueError('false')",
        "unset variable": "not_set_by_anybody",
    }
    if rule.kind == "run":  # it would end Snakemake itself, which runs it
        failing |= {"kill": "raise ValueError('kill')", "exit 3": "raise ValueError('exit')"}
    text = f"""\
import os
inputs = [str(file) for file in {of}input]
outputs = [str(file) for file in {of}output]
text = "rule {rule.name}\\n"
text += repr(sorted(dict({of}wildcards.items()).items())) + "\\n"
text += f"threads {{{of}threads}}\\n"
for key, value in {of}params.items():
    if not callable(value):
        text += f"{{key}} {{type(value).__name__}} {{value!r}}\\n"
for key in {names!r}:
    value = {of}resources[key]
    text += f"{{key}} {{type(value).__name__}} {{value!r}}\\n"
for file in inputs:
    size = sorted(os.listdir(file)) if os.path.isdir(file) else os.path.getsize(file)
    text += f"{{file}} {{size}}\\n"
"""
    if rule.get("tmpdir") is not None:
        text += f"text += repr(str({of}resources.tmpdir)) + '\\n'\n"
    if rule.has("log"):
        text += f"for number, file in enumerate({of}log):\n"
        text += '    print("logged", number, file=open(file, "w"))\n'
    flavours = [flavour for flavour in rule.outputs for _ in range(1 + (flavour == "multiext"))]
    text += f"for file, flavour in zip(outputs, {flavours!r}):\n"
    text += """\
    if flavour == "touch":
        pass
    elif flavour == "link":
        os.symlink(os.path.relpath(outputs[0], os.path.dirname(file) or "."), file)
    elif "directory" in flavour:
        os.makedirs(os.path.join(file, "sub"), exist_ok=True)
        open(os.path.join(file, "a"), "w").write(text)
        os.symlink("a", os.path.join(file, "to a"))
    else:
        with open(file, "a" if flavour == "update" else "w") as stream:
            stream.write("fixed\\n" if flavour == "sha256" else text)
        if flavour in ("executable", "private"):
            os.chmod(file, 0o755 if flavour == "executable" else 0o600)
"""
    if rule.has("noise"):
        text += 'print("to standard output")\n'
    if rule.has("fails first"):
        text += f"if {of}resources.att < 2:\n    {failing[rule.get('fails first')]}\n"
    if rule.has("fails"):
        text += failing[rule.get("fails")] + "\n"
    return text


# -- blocks ------------------------------------------------------------------------------------


def _pipe(plan: Plan, rule: Rule) -> tuple[str, dict[str, Entry]]:
    name = rule.name
    return (
        f"""\
rule {name}:
    input: "source0"
    output: pipe("{name}/through")
    shell: "cat {{input}} > {{output}}"
rule {name}_reader:
    input: "{name}/through"
    output: "{name}/result"
    log: "logs/{name}.log"
    shell: "wc -l < {{input}} > {{output}} 2> {{log}}"
""",
        {},
    )


def _checkpoint(plan: Plan, rule: Rule) -> tuple[str, dict[str, Entry]]:
    name = rule.name
    return (
        f"""\
checkpoint {name}:
    output: directory("{name}/made")
    params: all=VALUES
    shell: "mkdir {{output}}; cd {{output}}; for i in {{params.all:q}}; do echo > \\"./$i\\"; done"
rule {name}_each:
    input: "{name}/made/{{w}}"
    output: temp("{name}/each/{{w}}")
    shell: "tr a-z A-Z < {{input:q}} > {{output:q}}"
def {name}_found(wildcards):
    made = checkpoints.{name}.get().output[0]
    return sorted("{name}/each/" + value for value in os.listdir(made))
rule {name}_gather:
    input: {name}_found
    output: "{name}/gathered"
    shell: "cat {{input:q}} > {{output}}"
""",
        {},
    )


def _module(plan: Plan, rule: Rule) -> tuple[str, dict[str, Entry]]:
    name = rule.name
    prefix = f"{name}/prefixed"
    inner = f"""\
rule first:
    output: "{name}/first"
    params: given="inside", config=config.get("key", "none")
    script: "first.sh"
rule second:
    input: "{name}/first"
    output: "{name}/second"
    params: given="inside"
    resources: amount=2
    shell: "echo {{params.given:q}} {{resources.amount}} > {{output}}; cat {{input}} >> {{output}}"
"""
    script = (
        'echo "${snakemake_params[given]} ${snakemake_params[config]}" > "${snakemake_output[0]}"\n'
    )
    used = f'    prefix: "{prefix}"\n' if rule.has("prefix") else ""
    where = f"{prefix}/{name}" if rule.has("prefix") else name
    text = f"""\
module {name}:
    snakefile: "modules/{name}/Snakefile"
    config: {{"key": "for the module"}}
{used}use rule * from {name} as {name}_*
use rule second from {name} as {name}_changed with:
    output: "{where}/result"
    params: given="changed outside"
    resources: amount=4
"""
    if rule.has("prefix"):
        text += f'rule {name}_brought:\n    input: "{where}/result"\n'
        text += f'    output: "{name}/result"\n    shell: "cp {{input}} {{output}}"\n'
    files = {
        f"modules/{name}/Snakefile": Entry(inner),
        f"modules/{name}/first.sh": Entry(script),
    }
    return text, files


_RENDERERS: Final = {"pipe": _pipe, "checkpoint": _checkpoint, "module": _module}
_BLOCK_PRODUCTS: Final = {
    "pipe": "{name}/result",
    "checkpoint": "{name}/gathered",
    "module": "{name}/result",
}


def shown(files: Mapping[str, Entry], names: Iterable[str] | None = None) -> str:
    """Return the files of a workflow as text to be read."""
    chosen: Sequence[str] = sorted(files if names is None else names)
    return "\n".join(f"==> {name} <==\n{files[name].text}" for name in chosen)


def write(files: Mapping[str, Entry], directory: Path) -> None:
    """Make the files of a workflow."""
    for name, entry in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.link is not None:
            path.symlink_to(entry.link)
            continue
        path.write_text(entry.text)
        if entry.mode is not None:
            path.chmod(entry.mode)
