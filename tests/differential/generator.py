"""From a seed to a workflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any, Final

from .plan import Features, Plan, Rule

NAMES: Final = (
    *("plain", "a b", "q'\"$(touch pwned)`id`", "new\nline", "é☃", "-x", "*?[x]"),
    *("a\\b;c&d|e", "~", "#h", "%s", "a=b,c:d", "!x", "  lead", "it's", "@f"),
)
"""Values of the wildcard."""

ODD_NAMES: Final = frozenset(name for name in NAMES if set(name) & set(",=\n\\'\""))
"""Names that Snakemake's own executor gets wrong where it starts itself for a job."""

PARAMS: Final = (
    "3",
    "None",
    "True",
    "1.5",
    '["a b", "c\'d", 3]',
    '{"k": [1, 2], "x": None}',
    'Path("x/y z")',
    '("t", 1)',
    "[]",
    '""',
    "'q\\'\"$HOME\\\\ `id` *'",
    "'two\\nlines'",
    "'é☃'",
    "-1",
    "lambda wildcards: len(wildcards)",
    "lambda wildcards, input: str(input[0])",
    "lambda wildcards, output: [str(file) for file in output]",
    "lambda wildcards, threads: threads * 2",
    "lambda wildcards, resources: resources.get('amount', 'none')",
    'lambda wildcards: {"a": [True, None], "b": 0.25}',
    "lambda wildcards, input: os.path.getsize(input[0])",
    "lambda wildcards, input: open(input[0]).readline()",
    "os.path.basename(workflow.basedir)",
    'config.get("key", "no key")',
    'branch(config.get("key"), then="set", otherwise="unset")',
)
"""What a parameter may be."""

RESOURCES: Final = (
    ("amount", "3"),
    ("amount", "lambda wildcards, attempt: 10 * attempt"),
    ("amount", "lambda wildcards, input: len(input)"),
    ("amount", "lambda wildcards, threads: threads + 1"),
    ("word", '"text"'),
    ("word", '"it\'s $HOME `id`"'),
    ("word", 'lambda wildcards: "fn"'),
    ("mem_mb", "950"),
    ("mem_mb", "lambda wildcards, attempt: 800 * attempt"),
    ("mem_mb", "lambda wildcards, input: max(900, input.size_mb)"),
    ("mem", '"900MB"'),
    ("disk_mb", "60"),
    ("disk", '"70 MB"'),
    ("runtime", "5"),
    ("runtime", '"1h"'),
)
"""Resources by name."""

TMPDIRS: Final = (
    '"tmp literal"',
    '"$HOSTILE_TMP/by variable"',
    'lambda wildcards: "tmp fn"',
    'lambda wildcards, attempt: f"tmp {attempt}"',
)
"""Resources called tmpdir."""

FLAVOURS: Final = (
    *("plain", "plain", "temp", "protected", "touch", "nonempty", "sha256", "directory"),
    *("directory of links", "executable", "private", "update", "multiext", "link", "report"),
    *("temp directory", "nested"),
)
"""What an output may be."""

ENVIRONMENT: Final = (
    *(("cmd", "mine"), ("rc", "5"), ("REPLY", "mine"), ("CDPATH", "/:/tmp"), ("LC_ALL", "C")),
    *(("POSIXLY_CORRECT", "1"), ("TZ", "Asia/Tokyo"), ("ODD", " two  words\n'q' \"d\" $x `y` \\")),
    *(("BASH_FUNC_hello%%", "() { echo hello; }"), ("SQUEUE_FORMAT", "%i"), ("PS4", "x ")),
    *(("SLURM_TIME_FORMAT", "relative"), ("SACCT_FORMAT", "jobid"), ("SQUEUE_STATES", "PD")),
    *(("EMPTY", ""), ("SBATCH_TIMELIMIT", "30"), ("OMP_NUM_THREADS", "7"), ("GREP_COLOR", "x")),
    *(("name", "mine"), ("file", "mine"), ("dir", "mine"), ("IFS", ":"), ("status", "9")),
    ("BASH_ENV", "bash_env"),
)
"""Variables that somebody has set for other purposes."""


def plan_of(seed: int) -> Plan:
    """Return the workflow of a seed, which is the same in each process and release of Python."""
    random = Random(f"workflow {seed}")
    maker = _Maker(seed, random)
    return maker.plan()


class _Maker:
    def __init__(self, seed: int, random: Random) -> None:
        self._seed = seed
        self._random = random
        self._fails = random.random() < 0.15
        self._keep_going = random.random() < 0.5
        self._grouped = not self._fails and random.random() < 0.4
        self._room = 7  # jobs
        # A group that is not run directly is run by a Snakemake that reads such names wrongly.
        names = [name for name in NAMES if not (self._grouped and name in ODD_NAMES)]
        self._values = tuple(random.sample(names, 2))
        self._last_in_g = random.randint(0, 3)
        self._last_in_h = random.randint(self._last_in_g, 4)
        self._odd = not ODD_NAMES.isdisjoint(self._values)

    def _maybe(self, probability: float) -> bool:
        return self._random.random() < probability

    def _some(self, choices: Sequence[Any], most: int) -> list[Any]:
        return self._random.sample(list(choices), self._random.randint(0, most))

    def plan(self) -> Plan:
        values = self._values
        rules: list[Rule] = []
        while self._room > 0 and len(rules) < 5:
            rules.append(self._rule(len(rules), rules))
        plan = Plan(self._seed, values, tuple(rules))
        plan = replace(
            plan,
            header=self._header(),
            environment=tuple(self._some(ENVIRONMENT, 5)),
            umask=self._random.choice((0o022, 0o022, 0o002, 0o027, 0o077)),
            serial=self._fails and not self._keep_going,
            report=self._maybe(0.15),
        )
        plan = replace(plan, options=self._options(plan))
        if not self._fails and self._maybe(0.25):
            forced = self._random.choice(plan.rules).name
            plan = replace(plan, again=("--forcerun", forced))
        if self._fails:
            plan = self._with_failure(plan)
        return plan

    # -- rules -------------------------------------------------------------------------------

    def _rule(self, number: int, earlier: Sequence[Rule]) -> Rule:
        name = f"r{number}"
        block = self._random.random()
        if number and not self._grouped and block < 0.3 and self._room >= 3:
            # A pipe needs two jobs at a time.
            kinds = ("module", "checkpoint") if self._fails else ("pipe", "checkpoint", "module")
            kind = self._random.choice(kinds)
            self._room -= {"pipe": 2, "checkpoint": 4, "module": 2}[kind]
            prefixed: Features = ()
            if kind == "module" and self._maybe(0.5):
                prefixed = (("prefix", None),)
            return Rule(name, kind, False, (("source0", "plain"),), (), prefixed)
        languages = ["shell"] * 6 + ["python", "bash"] + (["run"] if self._maybe(0.4) else [])
        language = self._random.choice(languages)
        each = not (language == "run" and self._odd) and self._room >= 2 and self._maybe(0.4)
        self._room -= 2 if each else 1
        outputs = ["plain" if self._maybe(0.6) else self._random.choice(FLAVOURS)]
        if outputs[0] in ("touch", "multiext", "link") or "directory" in outputs[0]:
            outputs[0] = "plain"
        outputs += self._some(FLAVOURS, 2)
        outputs += [name for name in ("place", "inherited") if self._maybe(0.15)]
        features = dict(self._features())
        if language == "run" or "fails first" in features or (each and self._odd):
            features.pop("shadow", None)
        if "fails first" in features or "shadow" in features:
            outputs = ["plain" if flavour == "update" else flavour for flavour in outputs]
        if language == "run":
            features.pop("fails first", None)
        if self._grouped:  # with values that its members agree upon, and none that comes back
            features.pop("resource word", None)
            if number <= self._last_in_h:
                features["group"] = "g" if number <= self._last_in_g else "h"
        if "shadow" in features:
            # Beside remote jobs Snakemake changes its working directory while such a rule runs.
            features.pop("local", None)
        if each and self._odd and features.get("benchmark") == 2:
            features["benchmark"] = 1
        inputs = self._inputs(each, earlier)
        directories = {"source dir"} | {
            rule.name for rule in earlier if any("directory" in kind for kind in rule.outputs)
        }
        if features.get("shadow") == "copy-minimal" and directories & {name for name, _ in inputs}:
            features["shadow"] = "minimal"  # which copies files only
        return Rule(
            name,
            language,
            each,
            inputs,
            tuple(outputs),
            tuple(features.items()),
        )

    def _inputs(self, each: bool, earlier: Sequence[Rule]) -> tuple[tuple[str, str], ...]:
        known = [rule.name for rule in earlier if rule.outputs]
        chosen = self._random.sample(known, min(len(known), self._random.randint(0, 2)))
        if known and self._grouped and known[-1] not in chosen:
            chosen.append(known[-1])
        if not chosen or self._maybe(0.2):
            chosen.append(self._random.choice(("source0", "source dir")))
        hows = ("plain", "plain", "plain", "ancient", "function", "unpack")
        return tuple((name, self._random.choice(hows)) for name in chosen)

    def _features(self) -> Features:
        found: list[tuple[str, Any]] = []
        if self._maybe(0.5):
            found += [(f"param {i}", p) for i, p in enumerate(self._some(PARAMS, 4))]
        resources = dict(self._some(RESOURCES, 3))
        if resources.keys() >= {"mem", "mem_mb"}:
            del resources["mem"]
        if resources.keys() >= {"disk", "disk_mb"}:
            del resources["disk"]
        found += [(f"resource {name}", value) for name, value in resources.items()]
        if self._maybe(0.2):
            found.append(("tmpdir", self._random.choice((None, *TMPDIRS))))
        if self._maybe(0.3):
            found.append(("threads", self._random.choice(("2", "3", "lambda wildcards: 2"))))
        if self._maybe(0.3):
            found.append(("log", self._random.choice((1, 2))))
        if self._maybe(0.2):
            found.append(("benchmark", self._random.choice((1, 1, 2))))
        if self._maybe(0.2):
            kinds = ("minimal", "shallow", "full", "copy-minimal")
            found.append(("shadow", self._random.choice(kinds)))
        if not self._grouped and self._maybe(0.12):
            found.append(("fails first", self._random.choice(("exit 3", "kill", "no output"))))
        if self._maybe(0.1):
            found.append(("local", None))
        if self._maybe(0.1):
            found.append(("priority", self._random.choice(("1", "50"))))
        if self._maybe(0.1):
            found.append(("lead", None))
        if self._maybe(0.05):
            found.append(("long", None))
        if self._maybe(0.1):
            found.append(("noise", None))
        return tuple(found)

    def _with_failure(self, plan: Plan) -> Plan:
        """Let a rule fail, and give each rule a priority of its own."""
        rules = []
        victims = [rule for rule in plan.rules if rule.outputs]
        victim = self._random.choice(victims).name if victims else ""
        hows = ("exit 3", "kill", "no output", "false in a pipe", "unset variable")
        for number, rule in enumerate(plan.rules):
            drop = {"priority", "threads"} if plan.serial else {"priority"}
            features = [pair for pair in rule.features if pair[0] not in drop]
            features.append(("priority", str(100 - 7 * number)))
            if rule.name == victim:
                features = [pair for pair in features if pair[0] != "fails first"]
                features.append(("fails", self._random.choice(hows)))
            rules.append(replace(rule, features=tuple(features)))
        return replace(plan, rules=tuple(rules))

    # -- around them -------------------------------------------------------------------------

    def _header(self) -> Features:
        found: list[tuple[str, Any]] = []
        for name, probability in (
            ("prefix", 0.15),
            ("noclobber", 0.05),
            ("sh", 0.04),
            ("environ", 0.2),
            ("envvars", 0.15),
            ("workdir", 0.12),
            ("configfile", 0.25),
            ("handlers", 0.1),
            ("localrules", 0.08),
        ):
            if self._maybe(probability):
                found.append((name, None))
        return tuple(found)

    def _options(self, plan: Plan) -> tuple[tuple[str, ...], ...]:
        plain = [rule for rule in plan.rules if rule.outputs]
        found: list[tuple[str, ...]] = []
        if self._maybe(0.25):
            values = ("amount=5", "mem_mb=900", "word='default'", "runtime=9", "extra=8")
            chosen = self._random.sample(values, self._random.randint(1, 3))
            if self._grouped:
                chosen = [value for value in chosen if not value.startswith("word")] or ["extra=8"]
            found.append(("--default-resources", *chosen))
        if plain and self._maybe(0.2):
            name = self._random.choice(plain).name
            values = ("amount=6", "mem_mb=910", *(() if self._grouped else ("word=given",)))
            found.append(("--set-resources", f"{name}:{self._random.choice(values)}"))
        if plain and not plan.serial and self._maybe(0.15):
            found.append(("--set-threads", f"{self._random.choice(plain).name}=2"))
        if self._maybe(0.1):
            found.append(("--notemp",))
        if self._maybe(0.15):
            found.append(("--shadow-prefix", "shadow dir"))
        if self._maybe(0.3):
            found.append(("--config", "key=from_the_command_line"))
        if self._maybe(0.15):
            found.append(("--benchmark-extended",))
        if self._maybe(0.1):
            found.append(("--resources", "amount=40"))
        if self._maybe(0.1):
            found.append(("--printshellcmds",))
        if self._maybe(0.05):
            found.append(("--drop-metadata",))
        if self._fails:
            if self._keep_going:
                found.append(("--keep-going",))
            if self._maybe(0.3):
                found.append(("--keep-incomplete",))
        if self._maybe(0.15) or any(rule.has("fails first") for rule in plan.rules):
            found.append(("--retries", "1"))
        if self._grouped:
            if self._maybe(0.5):
                found.append(("--group-components", "g=2", "h=3"))
            if plain and self._maybe(0.3):
                found.append(("--groups", f"{plain[0].name}=g"))
        return tuple(found)
