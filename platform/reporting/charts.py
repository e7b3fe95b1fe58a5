"""The report's charts: Plotly figures as plain data for JSON, without theme and size, which the page adds.

Shapes: T experiences; an accuracy matrix is (T + 1, T), see `metrics`. Accuracies are in [0, 1] and shown in per cent.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .. import metrics
from ..metrics import Array
from ..visible_text import visible
from .results import ComparedTrial, TableRow, seeds_text, table_rows

Figure = dict[str, Any]
TrialsByVariant = Mapping[str, Sequence[ComparedTrial]]
# Paul Tol's "vibrant" scheme: distinct for colour-blind readers, and visible on white and on black.
_COLOURS = ("#0077BB", "#EE7733", "#009988", "#EE3377", "#33BBEE", "#CC3311")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "x", "star", "pentagon")
_BOUND = "#8A8F98"
MAX_VARIANTS = 12  # lines per chart that stay readable
_TRAINING = {  # chart -> fields of an epoch event
    "loss": ("loss", "validation_loss"),
    "accuracy": ("train_accuracy", "validation_accuracy"),
    "generalisation_gap": ("generalisation_gap",),
}
_ON_TRAINING = ("loss", "train_accuracy")


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure with a title and a note, all as plain data."""

    title: str
    figure: Figure
    note: str = ""


@dataclass(frozen=True, slots=True)
class VariantStyle:
    """How a variant looks in every chart. Symbols repeat later than colours. `name` is what legends call it."""

    colour: str
    dash: str
    symbol: str
    bound: bool = False
    name: str = ""

    def band(self) -> str:
        """Return the colour of an interval around the line."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.15)"


def variant_styles(results: Iterable[ComparedTrial]) -> dict[str, VariantStyle]:
    """Return a style for each label of a report, in order of appearance; bounds are grey dashed lines."""
    bound: dict[str, bool] = {}
    for result in results:  # unfinished variants too: the tables show them
        bound[result.label] = bound.get(result.label, False) or result.bound
    styles: dict[str, VariantStyle] = {}
    competitors = [label for label in bound if not bound[label]]
    for index, label in enumerate(competitors):
        dash = ("solid", "dot", "dashdot")[index // len(_COLOURS) % 3]
        colour, symbol = _COLOURS[index % len(_COLOURS)], _SYMBOLS[index % len(_SYMBOLS)]
        styles[label] = VariantStyle(colour, dash, symbol, name=label)
    for index, label in enumerate(label for label in bound if bound[label]):
        dash, symbol = ("dash", "dot")[index % 2], ("cross", "hexagon")[index % 2]
        styles[label] = VariantStyle(_BOUND, dash, symbol, bound=True, name=label)
    return styles


def styles_on_stream(styles: Mapping[str, VariantStyle], variants: TrialsByVariant) -> dict[str, VariantStyle]:
    """Return the styles with names that say how many seeds a mean is over, where some have not finished on this stream."""
    named = dict(styles)
    for label, results in variants.items():
        planned = results[0].planned
        if len(results) < planned:
            named[label] = replace(styles[label], name=f"{label} ({seeds_text(len(results), planned)} seeds)")
    return named


def variants_in_charts(variants: TrialsByVariant) -> dict[str, Sequence[ComparedTrial]]:
    """Return the variants that charts show: all bounds, and the `MAX_VARIANTS` others with the highest average accuracy."""
    rows = table_rows(result for results in variants.values() for result in results)
    scores = {row.variant: row.metrics["average_accuracy"][0] for row in reversed(rows) if not row.bound}
    order = sorted(scores, key=lambda label: -scores[label] if not math.isnan(scores[label]) else math.inf)
    best = set(order[:MAX_VARIANTS])
    return {label: results for label, results in variants.items() if label in best or results[0].bound}


def accuracy_curves(variants: TrialsByVariant, view: str, style: Mapping[str, VariantStyle]) -> Figure:
    """Draw average accuracy over the experiences seen so far, after each; a bound with one value is a horizontal line."""
    figure = _curves(variants, view, style, metrics.running_average_accuracy)
    example = next(iter(variants.values()))[0]
    if view == "task_agnostic" and example.scenario == "class":
        _add_newest_only(figure, len(example.experiences))
    figure.update_yaxes(range=[0, 1.03])
    return plain(figure, "after experience", "accuracy on experiences seen so far")


def forgetting_curves(variants: TrialsByVariant, view: str, style: Mapping[str, VariantStyle]) -> Figure:
    """Draw forgetting so far (max over past - now, Chaudhry 2018) after each experience, from the second."""
    figure = _curves(variants, view, style, metrics.forgetting_curve)
    figure.update_yaxes(rangemode="tozero")
    return plain(figure, "after experience", "forgetting, max over past − now")


def experience_curves(
    variants: TrialsByVariant, view: str, style: Mapping[str, VariantStyle], experience: int
) -> Figure:
    """Draw the accuracy on the test set of one `experience` (from 1) over training; a line marks when it was learned."""

    def column(matrix: Array) -> Array:
        return np.asarray(matrix[1:, experience - 1])

    figure = _curves(variants, view, style, column)
    figure.add_vline(x=experience, line={"width": 1, "dash": "dot", "color": _BOUND})
    figure.update_yaxes(range=[0, 1.03])
    figure.update_layout(showlegend=False, margin={"l": 44, "r": 10, "t": 8, "b": 40})
    return plain(figure, "after experience", "")


def plasticity(rows: Sequence[TableRow], variants: TrialsByVariant, style: Mapping[str, VariantStyle]) -> Figure:
    """Draw learning accuracy (plasticity) against forgetting: each variant's mean with intervals, its seeds as small dots."""
    figure = go.Figure()
    for row in (row for row in rows if row.variant in variants):
        x, y = row.metrics["learning_accuracy"], row.metrics["forgetting_max"]
        if math.isnan(x[0]) or math.isnan(y[0]):
            continue
        summaries = [result.summary(row.view) for result in variants[row.variant]]
        seeds = [(summary["learning_accuracy"], summary["forgetting_max"]) for summary in summaries]
        _add_point(figure, row.variant, style[row.variant], (x, y), seeds)
    figure.update_xaxes(title="learning accuracy (higher: learns better)", tickformat=".0%")
    figure.update_yaxes(rangemode="tozero")
    return plain(figure, "", "forgetting, max over past − final (lower: keeps more)", "closest")


def training(variants: TrialsByVariant, style: Mapping[str, VariantStyle], key: str) -> Figure | None:
    """Draw one seed's curve by epoch.

    Args:
        variants: the finished trials of a stream; the first seed of each variant is shown.
        style: how each variant looks.
        key: "loss", "accuracy" (a full line for validation, a dotted line for training) or "generalisation_gap".

    Returns:
        The figure, or None if no trial recorded the values. Each experience is one unit on the x axis, for any number of epochs.
    """
    figure = go.Figure()
    for label, results in variants.items():
        curves = {name: _epochs(results[0], name) for name in _TRAINING[key]}
        names = [name for name, (_, y) in curves.items() if y]
        for name in names:
            side = ", training" if name in _ON_TRAINING else ""
            dash = "dot" if side and len(names) > 1 else style[label].dash
            line = {"color": style[label].colour, "width": 1.5, "dash": dash}
            legend = {"name": as_plotly_text(label + side), "showlegend": name == names[-1]}
            legend["legendgroup"] = as_plotly_text(label)
            figure.add_scatter(x=curves[name][0], y=curves[name][1], mode="lines", line=line, **legend)
    if not figure.data:
        return None
    is_loss = key == "loss"
    figure.update_traces(hovertemplate="%{y:.3f}" if is_loss else "%{y:.1%}")
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(hovermode="x unified")
    return plain(figure, "experiences trained", key.replace("_", " "), tickformat=".3~g" if is_loss else ".0%")


def _epochs(result: ComparedTrial, key: str) -> tuple[list[float], list[float]]:
    events = [event for _, event in result.trial.events() if event["kind"] == "epoch"]
    totals: dict[int, int] = {}
    for event in events:
        totals[event["experience"]] = totals.get(event["experience"], 0) + 1
    seen: dict[int, int] = {}
    points = []
    for event in events:
        experience = event["experience"]
        seen[experience] = seen.get(experience, 0) + 1
        if event.get(key) is not None:
            points.append((experience - 1 + seen[experience] / totals[experience], event[key]))
    return [round(x, 4) for x, _ in points], [round(y, 5) for _, y in points]


def _curves(
    variants: TrialsByVariant, view: str, style: Mapping[str, VariantStyle], curve: Callable[[Array], Array]
) -> Any:
    """A line per variant with its interval over seeds."""
    figure = go.Figure()
    for label, results in variants.items():
        curves = [curve(result.views[view]) for result in results]
        stats = [metrics.interval([float(values[i]) for values in curves]) for i in range(len(curves[0]))]
        mean, half = (np.array(values) for values in zip(*stats, strict=True))
        if not np.isnan(mean).all():
            _add_line(figure, label, style[label], mean, half, results[0].bound)
    figure.update_layout(hovermode="x unified")
    return figure


def _add_line(figure: Any, label: str, look: VariantStyle, mean: Array, half: Array, bound: bool) -> None:
    if bound and np.isfinite(mean).sum() == 1:  # joint training has a single value: draw it as a horizontal line
        only = int(np.flatnonzero(np.isfinite(mean))[0])
        mean, half = np.full(len(mean), mean[only]), np.full(len(mean), half[only])
    add_mean(figure, label, look, range(1, len(mean) + 1), list(zip(mean, half, strict=True)))
    figure.data[-1].update(customdata=_plus_minus(half), hovertemplate="%{y:.1%}%{customdata}")


def add_mean(
    figure: Any, label: str, look: VariantStyle, steps: Sequence[int], stats: Sequence[tuple[float, float]]
) -> None:
    """Add a variant's line of means with its interval as a band; a bound gets no band.

    Args:
        figure: a Plotly figure.
        label: the variant's label.
        look: its style.
        steps: positions on the x axis.
        stats: (mean, half width of the interval) at each.
    """
    x, (mean, half) = np.array(steps), (np.array(values) for values in zip(*stats, strict=True))
    defined = np.isfinite(mean) & np.isfinite(half)
    if defined.any() and not look.bound:
        low, high = (mean - half)[defined], (mean + half)[defined]
        edge = {"x": [*x[defined], *x[defined][::-1]], "y": _numbers(np.concatenate([high, low[::-1]]))}
        band = {"fill": "toself", "fillcolor": look.band(), "line": {"width": 0}, "hoverinfo": "skip"}
        figure.add_scatter(**edge, **band, legendgroup=as_plotly_text(label), showlegend=False, mode="lines")
    figure.add_scatter(
        x=x.tolist(),
        y=_numbers(mean),
        name=as_plotly_text(look.name or label),
        legendgroup=as_plotly_text(label),
        mode="lines" if look.bound and len(x) > 1 else "lines+markers",
        line={"color": look.colour, "dash": look.dash, "width": 1.5 if look.bound else 2.25},
        marker={"symbol": look.symbol, "size": 7},
    )


def _add_point(
    figure: Any, label: str, look: VariantStyle, at: tuple[Any, Any], seeds: Sequence[tuple[float, float]]
) -> None:
    def bars(half: float) -> dict[str, Any] | None:
        return None if math.isnan(half) else {"type": "data", "array": [half], "thickness": 1.2, "width": 4}

    (x, x_half, _), (y, y_half, _) = at
    name, group = as_plotly_text(look.name or label), as_plotly_text(label)
    faint = {"color": look.colour, "size": 6, "opacity": 0.4, "symbol": look.symbol}
    xs, ys = zip(*seeds, strict=True)
    figure.add_scatter(x=xs, y=ys, mode="markers", marker=faint, legendgroup=group, showlegend=False, hoverinfo="skip")
    figure.add_scatter(
        x=[x],
        y=[y],
        name=name,
        legendgroup=group,
        mode="markers",
        marker={"color": look.colour, "size": 13, "symbol": look.symbol},
        error_x=bars(x_half),
        error_y=bars(y_half),
        hovertemplate=f"{name}<br>learning accuracy %{{x:.1%}}<br>forgetting %{{y:.1%}}<extra></extra>",
    )


def _add_newest_only(figure: Any, num_experiences: int) -> None:
    x = list(range(1, num_experiences + 1))
    figure.add_scatter(
        x=x,
        y=[1 / i for i in x],
        name="knows only the newest (1/i)",
        mode="lines",
        line={"color": _BOUND, "width": 1, "dash": "dashdot"},
        hoverinfo="skip",
    )


def _numbers(values: Array) -> list[float | None]:
    return [round(float(value), 5) if math.isfinite(value) else None for value in values]


def _plus_minus(half: Array) -> list[str]:
    return [f" ± {value:.1%}" if math.isfinite(value) else "" for value in half]


def as_plotly_text(name: str) -> str:
    """Return a name as Plotly shows it literally.

    Plotly reads tags and entities in the names of traces and in hover texts. It gets them from JSON, where the templates
    escape nothing, so this is done here. Characters that cannot be seen are escaped as on the rest of the page.
    """
    return escape(visible(name), quote=False)


def plain(figure: Any, x: str, y: str, hovermode: str = "x unified", tickformat: str = ".0%") -> Figure:
    """Name the axes and return the figure as plain data."""
    if x:
        figure.update_xaxes(title=x, dtick=1 if _longest(figure) <= 12 else None)
    figure.update_yaxes(title=y, tickformat=tickformat)
    figure.update_layout(hovermode=hovermode, template=None)
    plain: Figure = figure.to_plotly_json()
    return plain


def _longest(figure: Any) -> float:
    return max((max(trace.x) for trace in figure.data if trace.x is not None), default=0)
