"""What a random workflow consists of: parts that can be left out one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

Features = tuple[tuple[str, Any], ...]
"""Names of features with what there is to know about each."""


@dataclass(frozen=True)
class Rule:
    """A rule, or a block of rules that only make sense together.

    Attributes
    ----------
    name
        Name of the rule, and of the directory of its outputs.
    kind
        ``shell``, ``run``, ``python``, ``bash``, or a block: ``pipe``, ``checkpoint``,
        ``module``.
    each
        Whether there is a job for each wildcard value.
    inputs
        Names of rules, or of source files (which begin with ``source``), with how they are
        given.
    outputs
        Flavours of the outputs; the first is always a regular file.
    features
        What else it has.
    """

    name: str
    kind: str
    each: bool
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[str, ...]
    features: Features = ()

    def get(self, name: str, default: Any = None) -> Any:
        """Return what is known about a feature; the default if the rule lacks it."""
        return dict(self.features).get(name, default)

    def has(self, name: str) -> bool:
        """Tell whether the rule has a feature."""
        return any(name == own for own, _ in self.features)


@dataclass(frozen=True)
class Plan:
    """A workflow and how it is run.

    Attributes
    ----------
    seed
        What it was made from.
    values
        The wildcard's values.
    rules
        In the order of the Snakefile; inputs come from earlier ones.
    header
        What the Snakefile says before its rules.
    options
        Arguments of Snakemake, option by option.
    environment
        Variables that Snakemake has.
    umask
        Mask of the process of Snakemake.
    serial
        Whether one job runs at a time, so that what has run before a failure is certain.
    again
        Options of a second run, if there is one.
    report
        Whether a report is made in the end.
    """

    seed: int
    values: tuple[str, ...]
    rules: tuple[Rule, ...]
    header: Features = ()
    options: tuple[tuple[str, ...], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    umask: int = 0o022
    serial: bool = False
    again: tuple[str, ...] = ()
    report: bool = False

    def has(self, name: str) -> bool:
        """Tell whether the Snakefile's header has a feature."""
        return any(name == own for own, _ in self.header)

    def rule(self, name: str) -> Rule | None:
        """Return a rule by its name."""
        return next((rule for rule in self.rules if rule.name == name), None)

    def smaller(self) -> list[Self]:
        """Return plans with one part less each, those with the most left out first."""
        found: list[Self] = []
        if len(self.rules) > 1:
            found += [self._without_rule(rule) for rule in self.rules]
        if len(self.values) > 1:
            found += [replace(self, values=(value,)) for value in self.values]
        if self.values != ("plain",):
            found.append(replace(self, values=("plain",)))
        found += [replace(self, options=left) for left in _with_one_less(self.options)]
        found += [replace(self, header=left) for left in _with_one_less(self.header)]
        found += [replace(self, environment=left) for left in _with_one_less(self.environment)]
        if self.umask != 0o022:
            found.append(replace(self, umask=0o022))
        if self.again:
            found.append(replace(self, again=()))
        if self.report:
            found.append(replace(self, report=False))
        for number, rule in enumerate(self.rules):
            for smaller in _smaller_rules(rule):
                rules = (*self.rules[:number], smaller, *self.rules[number + 1 :])
                found.append(replace(self, rules=rules))
        return found

    def _without_rule(self, gone: Rule) -> Self:
        rules = []
        for rule in self.rules:
            if rule.name == gone.name:
                continue
            inputs = tuple(pair for pair in rule.inputs if pair[0] != gone.name)
            rules.append(replace(rule, inputs=inputs or (("source0", "plain"),)))
        return replace(self, rules=tuple(rules))


def _with_one_less(parts: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return [(*parts[:i], *parts[i + 1 :]) for i in range(len(parts))]


def _smaller_rules(rule: Rule) -> list[Rule]:
    found = [replace(rule, features=left) for left in _with_one_less(rule.features)]
    if len(rule.inputs) > 1:
        found += [replace(rule, inputs=left) for left in _with_one_less(rule.inputs)]
    found += [
        replace(rule, outputs=(rule.outputs[0], *left)) for left in _with_one_less(rule.outputs[1:])
    ]
    if rule.outputs and rule.outputs[0] != "plain":
        found.append(replace(rule, outputs=("plain", *rule.outputs[1:])))
    if rule.kind in ("run", "python", "bash"):
        found.append(replace(rule, kind="shell"))
    for number, (name, how) in enumerate(rule.inputs):
        if how != "plain":
            inputs = (*rule.inputs[:number], (name, "plain"), *rule.inputs[number + 1 :])
            found.append(replace(rule, inputs=inputs))
    return found
