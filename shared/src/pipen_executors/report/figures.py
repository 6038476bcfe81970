"""The figures of the report, as plotly has them: a timeline, nodes, counts, and rules.

All bars of a rule are one polygon, and boxes come from computed quartiles: ten thousand jobs
are then a handful of SVG paths, which every browser draws at once. What a figure looks like
on a light or a dark page is up to the page.
"""

from __future__ import annotations

import heapq
import html
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import plotly.graph_objects as go

from ..runs import Attempt, JobStory, Run
from ..states import Phase

PALETTE: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Colours that everybody can tell apart (Okabe and Ito 2008), without black and yellow,
which are lost on a dark or a light page."""
_OTHERS: Final = "#8a8f98"
_WAITING: Final = "#9aa3ad"
_BINS: Final = 1500
_MOST_RULES: Final = 40
_FEW: Final = 8
_ABOVE: Final = 32
"""Pixels for plotly's buttons."""
_BELOW: Final = 40
_LEAST: Final = 1 / 1200
"""Share of the time axis that is a pixel wide or so."""


@dataclass(slots=True)
class _Bars:
    """Horizontal bars of one colour: begin and end, row, and number of the attempt.

    The page makes one polygon with gaps of them, which is a single path to the browser.
    """

    begin: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    row: list[float] = field(default_factory=list)
    number: list[int] = field(default_factory=list)

    def add(self, begin: float, end: float, row: float, span: _Span) -> None:
        self.begin.append(_ms(begin))
        self.end.append(_ms(end))
        self.row.append(row)
        self.number.append(span.number)

    def trace(self, name: str, colour: str, thickness: float) -> go.Scatter:
        """Return the trace, of bars so many rows thick."""
        return go.Scatter(
            mode="none",
            fill="toself",
            fillcolor=colour,
            hoveron="points",
            hoverinfo="text",
            name=html.escape(name),
            meta={"bars": asdict(self), "thickness": thickness},
        )


@dataclass(frozen=True)
class Drawing:
    """All figures of a report.

    Parameters
    ----------
    figures
        For each ``id``, ``title``, ``note`` and plotly's own ``figure``.
    texts
        What is shown of the attempts under the pointer: the figures hold their numbers.
    """

    figures: list[dict[str, Any]]
    texts: list[str]


def draw(runs: Sequence[Run]) -> Drawing:
    """Draw all figures of some runs; none if nothing has been submitted."""
    jobs = [job for run in runs for job in run.jobs.values()]
    spans = _spans(runs)
    if not spans:
        return Drawing([], [])
    colours = _colours(jobs)
    figures = [_timeline(spans, colours), _at_once(spans), _nodes(spans, colours), _rules(spans)]
    return Drawing([f for f in figures if f is not None], [_text(span) for span in spans])


@dataclass(frozen=True, slots=True)
class _Span:
    """When one attempt waited and ran; they are numbered in the order of their submission."""

    number: int
    job: JobStory
    attempt: Attempt
    submitted: float
    started: float | None
    ended: float


def _spans(runs: Iterable[Run]) -> list[_Span]:
    """Return what is known of the attempts' times."""
    times = []
    for run in runs:
        now = run.over or run.last_sign
        for job in run.jobs.values():
            for attempt in job.attempts:
                # A job may start before its submission is written down, or by another clock.
                known = [t for t in (attempt.submitted, attempt.started) if t is not None]
                if known:
                    end = max(attempt.ended or now, *known)
                    times.append((min(known), attempt.started or end, end, job, attempt))
    times.sort(key=lambda entry: entry[:3])
    return [
        _Span(number, job, attempt, begin, attempt.started, end)
        for number, (begin, _, end, job, attempt) in enumerate(times)
    ]


def _colours(jobs: Sequence[JobStory]) -> dict[str, str]:
    """Return colours for the rules that ran longest; the others share one."""
    walls: Counter[str] = Counter()
    for job in jobs:
        walls[job.rule] += sum(attempt.wall or 0.0 for attempt in job.attempts)  # type: ignore[assignment]
    most = walls.most_common(len(PALETTE))
    return {rule: colour for (rule, _), colour in zip(most, PALETTE, strict=False)}


def _ms(moment: float) -> int:
    """Return a time as plotly takes it: milliseconds, which it shows as they are, as UTC."""
    return round(1000 * (moment + time.localtime(moment).tm_gmtoff))


def _same_time(spans: Sequence[_Span]) -> list[int]:
    """Return the range of the time axis, the same in all figures."""
    begin, end = min(span.submitted for span in spans), max(span.ended for span in spans)
    margin = 0.01 * (end - begin) or 1.0
    return [_ms(begin - margin), _ms(end + margin)]


def _text(span: _Span) -> str:
    job, attempt = span.job, span.attempt
    parts = [html.escape(job.name)]
    if attempt.jid:
        parts[0] += f" {html.escape(attempt.jid)}"
    if attempt.number > 1:
        parts.append(f"attempt {attempt.number}")
    parts.append(attempt.phase.value)
    if attempt.wall is not None:
        parts.append(f"ran {attempt.wall:.1f} s")
    if attempt.wait is not None:
        parts.append(f"waited {attempt.wait:.1f} s")
    if attempt.node:
        parts.append(html.escape(attempt.node))
    if attempt.why:
        parts.append(html.escape(attempt.why))
    return "<br>".join(parts)


def _thickness(rows: int, height: int) -> float:
    """Return how thick bars are in rows: three quarters, but not less than a pixel."""
    return round(max(0.75, rows / (height - 120)), 3)


def _layout(figure: go.Figure, height: int, **more: Any) -> dict[str, Any]:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 60, "r": 16, "t": _ABOVE, "b": _BELOW},
        legend={
            "orientation": "h",
            "y": -48 / (height - _ABOVE - _BELOW),
            "yanchor": "top",
        },
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"align": "left"},
        hovermode="closest",
        **more,
    )
    result: dict[str, Any] = figure.to_plotly_json()
    result["layout"].pop("template", None)
    return result


def _by_colour(spans: Sequence[tuple[_Span, float]], colours: dict[str, str]) -> dict[str, _Bars]:
    """Sort the running times into bars by rule; rules without a colour go together."""
    bars: dict[str, _Bars] = {rule: _Bars() for rule in colours}
    for span, row in spans:
        if span.started is not None:
            name = span.job.rule if span.job.rule in colours else ""
            bars.setdefault(name, _Bars()).add(span.started, span.ended, row, span)
    return bars


def _timeline(spans: Sequence[_Span], colours: dict[str, str]) -> dict[str, Any]:
    """Draw all attempts below each other: grey while they waited, coloured while they ran."""
    height = min(720, max(280, 110 + 16 * len(spans)))
    thickness = _thickness(len(spans), height)
    waiting = _Bars()
    failed = [span for span in spans if span.attempt.phase in (Phase.FAILED, Phase.CANCELLED)]
    for row, span in enumerate(spans):
        if span.started is None or span.started > span.submitted:
            begin_of_run = span.ended if span.started is None else span.started
            waiting.add(span.submitted, begin_of_run, row, span)
    figure = go.Figure()
    figure.add_trace(waiting.trace("waiting", _WAITING, thickness / 3))
    rows = [(span, float(row)) for row, span in enumerate(spans)]
    for rule, bars in _by_colour(rows, colours).items():
        name = rule or "other rules"
        figure.add_trace(bars.trace(name, colours.get(rule, _OTHERS), thickness))
    if failed:
        figure.add_trace(
            go.Scatter(
                x=[_ms(span.ended) for span in failed],
                y=[span.number for span in failed],
                mode="markers",
                marker={"symbol": "x", "size": 8, "color": _OTHERS},
                name="failed",
                meta={"number": [span.number for span in failed]},
                hoverinfo="text",
            )
        )
    figure.update_xaxes(type="date", range=_same_time(spans))
    figure.update_yaxes(range=[len(spans) - 0.3, -0.7], title="jobs, as submitted")
    note = "Grey while a job waited in the scheduler's queue, coloured by rule while it ran."
    return {
        "id": "timeline",
        "title": "Timeline",
        "note": note,
        "figure": _layout(figure, height),
    }


def _nodes(spans: Sequence[_Span], colours: dict[str, str]) -> dict[str, Any] | None:
    """Draw what ran on which node: as many rows for a node as jobs ran there at once."""
    by_node: dict[str, list[_Span]] = {}
    for span in spans:
        if span.started is not None:
            by_node.setdefault(span.attempt.node or "not known", []).append(span)
    if not by_node:
        return None
    placed: list[tuple[_Span, float]] = []
    ticks, edges, row = [], [], 0
    for node in sorted(by_node):
        lanes = _in_lanes(by_node[node])
        used = 1 + max(lane for _, lane in lanes)
        placed += [(span, float(row + lane)) for span, lane in lanes]
        ticks.append((row + (used - 1) / 2, node))
        row += used
        edges.append(row - 0.5)
    height = min(920, max(220, 130 + 14 * row))
    thickness = _thickness(row, height)
    figure = go.Figure()
    for rule, bars in _by_colour(placed, colours).items():
        name = rule or "other rules"
        figure.add_trace(bars.trace(name, colours.get(rule, _OTHERS), thickness))
    for edge in edges[:-1]:
        figure.add_hline(edge, line={"width": 1, "color": "rgba(128,128,128,0.4)"})
    figure.update_xaxes(type="date", range=_same_time(spans))
    figure.update_yaxes(
        range=[row - 0.3, -0.7],
        tickvals=[position for position, _ in ticks],
        ticktext=[html.escape(node) for _, node in ticks],
        automargin=True,
    )
    return {
        "id": "nodes",
        "title": "Nodes",
        "note": "What ran where; as many rows for a node as jobs ran on it at once.",
        "figure": _layout(figure, height),
    }


def _in_lanes(spans: Sequence[_Span]) -> list[tuple[_Span, int]]:
    """Give each span the first lane that is free when it starts."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    lanes = []
    for span in sorted(spans, key=lambda span: span.started or 0.0):
        while busy and busy[0][0] <= (span.started or 0.0):
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (span.ended, lane))
        lanes.append((span, lane))
    return lanes


def _at_once(spans: Sequence[_Span]) -> dict[str, Any]:
    """Draw how many jobs waited and ran at each moment."""
    running = [(s.started, s.ended) for s in spans if s.started is not None]
    pending = [(s.submitted, s.ended if s.started is None else s.started) for s in spans]
    least = _LEAST * (max(s.ended for s in spans) - min(s.submitted for s in spans))
    pending = [(begin, end) for begin, end in pending if end - begin > least]
    figure = go.Figure()
    most = 0
    for name, intervals, colour, dash in (
        ("running", running, PALETTE[0], "solid"),
        ("pending", pending, PALETTE[1], "dot"),
    ):
        if not intervals:
            continue
        x, y = _steps(intervals)
        most = max(most, *y)
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                line={"shape": "hv", "width": 2, "color": colour, "dash": dash},
                name=name,
                showlegend=True,
                fill="tozeroy" if name == "running" else None,
                hovertemplate=f"%{{y}} {name}<extra></extra>",
            )
        )
    figure.update_xaxes(type="date", range=_same_time(spans))
    figure.update_yaxes(title="jobs", rangemode="tozero")
    if most < _FEW:
        figure.update_yaxes(dtick=1)
    return {
        "id": "at-once",
        "title": "At once",
        "note": "How many jobs ran, and how many waited in the scheduler's queue.",
        "figure": _layout(figure, 320),
    }


def _steps(intervals: Iterable[tuple[float, float]]) -> tuple[list[float], list[int]]:
    """Return times and the number of intervals at each; of very many the highest per bin."""
    changes: Counter[float] = Counter()
    for begin, end in intervals:
        changes[begin] += 1
        changes[end] -= 1
    times = sorted(changes)
    counts, count = [], 0
    for moment in times:
        count += changes[moment]
        counts.append(count)
    if len(times) > 2 * _BINS:
        width = (times[-1] - times[0]) / _BINS or 1.0
        highest: dict[int, int] = {}
        for moment, number in zip(times, counts, strict=True):
            which = int((moment - times[0]) / width)
            highest[which] = max(highest.get(which, 0), number)
        highest[max(highest)] = 0
        times = [times[0] + which * width for which in highest]
        counts = list(highest.values())
    return [_ms(moment) for moment in times], counts


def _rules(spans: Sequence[_Span]) -> dict[str, Any] | None:
    """Draw how long the jobs of each rule ran and waited: quartiles, shortest and longest."""
    walls: dict[str, list[float]] = {}
    waits: dict[str, list[float]] = {}
    for span in spans:
        if span.attempt.wall is not None:
            walls.setdefault(span.job.rule, []).append(span.attempt.wall)
        if span.attempt.wait is not None:
            waits.setdefault(span.job.rule, []).append(span.attempt.wait)
    if not walls:
        return None
    rules = sorted(walls, key=lambda rule: -sum(walls[rule]))[:_MOST_RULES]
    figure = go.Figure()
    for name, values, colour in (("ran", walls, PALETTE[0]), ("waited", waits, PALETTE[1])):
        with_values = [rule for rule in rules if values.get(rule)]
        quartiles = [_quartiles(values[rule]) for rule in with_values]
        figure.add_trace(
            go.Box(
                y=[html.escape(rule) for rule in with_values],
                lowerfence=[q[0] for q in quartiles],
                q1=[q[1] for q in quartiles],
                median=[q[2] for q in quartiles],
                q3=[q[3] for q in quartiles],
                upperfence=[q[4] for q in quartiles],
                orientation="h",
                name=name,
                marker={"color": colour},
                line={"width": 2},
            )
        )
    height = min(1400, 140 + 44 * len(rules))
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(autorange="reversed", automargin=True)
    left = f" The {_MOST_RULES} that ran longest." if len(walls) > _MOST_RULES else ""
    return {
        "id": "rules",
        "title": "Rules",
        "note": "Seconds that the jobs of each rule ran and waited: shortest, quartiles, longest."
        + left,
        "figure": _layout(figure, height, boxmode="group"),
    }


def _quartiles(values: Sequence[float]) -> tuple[float, float, float, float, float]:
    low, high = min(values), max(values)
    if len(values) == 1:
        return low, low, low, low, low
    first, second, third = statistics.quantiles(values, method="inclusive")
    return tuple(round(v, 3) for v in (low, first, second, third, high))  # type: ignore[return-value]
