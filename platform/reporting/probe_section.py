"""The report's section on probes: their results after each experience and mid-experience, and the sheets of worst errors.

Trial folders may come from somebody else. A sheet is shown only if it is a PNG of limited size; it is embedded in the page as
data, so it cannot run anything. The template probes.html.jinja shows all this and escapes names.
"""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from ..errors import UserError
from ..files import read_regular
from ..ledger.documents import read_json
from ..metrics import interval
from .charts import Chart, Figure, TrialsByVariant, VariantStyle, add_mean, as_plotly_text, plain
from .results import ComparedTrial

_MAX_CHARTS = 24  # of one probe
_PNG, _MAX_BYTES = b"\x89PNG\r\n\x1a\n", 4 * 2**20
_NOTES = {
    "cka": "Linear CKA of each layer before and after each experience: 1 is the same up to rotation and scale.",
    "effective_rank": "Effective rank of each layer's features: it falls where they collapse onto few directions.",
    "evaluate_on": "Accuracy on the test sets of other streams after each experience.",
    "linear_probe": "Accuracy of a linear classifier on frozen features: what they still hold, even if the head forgot it.",
    "stability_gap": "min_acc: mean over learned experiences of the lowest accuracy since each was learned; wc_acc: the same "
    "with the newest experience's accuracy included.",
    "worst_errors": "errors: share of wrong test samples so far; confidence: mean probability of the worst errors.",
}
_ACCURACIES = ("linear_probe", "evaluate_on", "stability_gap", "worst_errors")  # shown in per cent
ProbeSeries = dict[tuple[str, str], dict[int, float]]  # (probe, name) -> step on the axis -> value


@dataclass(frozen=True, slots=True)
class _ProbeValues:
    """The results of one trial's probes: `after` each experience, and `during` training by iteration."""

    after: ProbeSeries
    during: ProbeSeries


@dataclass(frozen=True, slots=True)
class ProbeCard:
    """The charts of one probe, with a line per variant in each."""

    title: str
    note: str
    variants: list[str]
    charts: list[Chart]


@dataclass(frozen=True, slots=True)
class ImageSheet:
    """A trial's worst errors: a PNG in base64, and its content as text."""

    variant: str
    seed: int
    png: str
    text: str


def probe_cards(variants: TrialsByVariant, style: Mapping[str, VariantStyle]) -> list[ProbeCard]:
    """Return a card for each probe that recorded values in one stream's trials."""
    values = {label: [_probe_values(result) for result in results] for label, results in variants.items()}
    probes = dict.fromkeys(
        probe for trials in values.values() for trial in trials for probe, _ in trial.after | trial.during
    )
    return [_card(probe, values, style) for probe in probes]


def image_sheets(variants: TrialsByVariant) -> list[ImageSheet]:
    """Return the newest valid sheet of worst errors of each variant's first seed."""
    sheets = [_sheet(label, results[0]) for label, results in variants.items()]
    return [sheet for sheet in sheets if sheet is not None]


def _probe_values(result: ComparedTrial) -> _ProbeValues:
    """Read a trial's probe events; malformed ones are left out."""
    probed = _ProbeValues({}, {})
    for _, event in result.trial.events():
        values, after = event.get("values"), bool(event.get("after"))
        if event["kind"] != "probe" or not isinstance(values, Mapping):
            continue
        step = event["experience" if after else "iteration"]
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                key = (str(event.get("probe")), str(name))
                (probed.after if after else probed.during).setdefault(key, {})[int(step)] = float(value)
                if after and key in probed.during:  # the curve by iteration also shows the experience's end
                    probed.during[key][int(event["iteration"])] = float(value)
    return probed


def _card(probe: str, values: Mapping[str, Sequence[_ProbeValues]], style: Mapping[str, VariantStyle]) -> ProbeCard:
    """Small charts, one for each name, with a line per variant."""
    during = _names(probe, (trial.during for trials in values.values() for trial in trials))
    after = _names(probe, (trial.after for trials in values.values() for trial in trials))
    names = [name for name in after if name not in during]
    panels = [Chart(name, _mean_curves((probe, name), values, style)) for name in names[:_MAX_CHARTS]]
    panels += [
        Chart(f"{name}, first seed", _first_curves((probe, name), values, style)) for name in during[:_MAX_CHARTS]
    ]
    left = len(names[_MAX_CHARTS:]) + len(during[_MAX_CHARTS:])
    more = f" {left} more are in the trials' metrics.jsonl." if left else ""
    return ProbeCard(probe.replace("_", " "), _NOTES.get(probe, "") + more, list(values), panels)


def _names(probe: str, by_trial: Iterator[ProbeSeries]) -> list[str]:
    """The names of a probe's values in order of appearance; those of one group (a layer's old and new data) are adjacent."""
    names = list(dict.fromkeys(name for values in by_trial for owner, name in values if owner == probe))
    groups = list(dict.fromkeys(name.rpartition("/")[0] for name in names))
    return sorted(names, key=lambda name: groups.index(name.rpartition("/")[0]))


def _mean_curves(
    key: tuple[str, str], values: Mapping[str, Sequence[_ProbeValues]], style: Mapping[str, VariantStyle]
) -> Figure:
    """The mean over seeds with its interval, after each experience."""
    figure = go.Figure()
    for label, trials in values.items():
        seeds = [trial.after[key] for trial in trials if key in trial.after]
        steps = sorted({step for seed in seeds for step in seed})
        stats = [interval([seed.get(step, math.nan) for seed in seeds]) for step in steps]
        if stats:
            add_mean(figure, label, style[label], steps, stats)
    return _small(figure, key[0], "after experience")


def _first_curves(
    key: tuple[str, str], values: Mapping[str, Sequence[_ProbeValues]], style: Mapping[str, VariantStyle]
) -> Figure:
    """The first seed's values by iteration."""
    figure = go.Figure()
    for label, trials in values.items():
        curve = trials[0].during.get(key, {})
        if curve:
            line = {"color": style[label].colour, "width": 1.2, "dash": style[label].dash}
            x, y = list(curve), [round(value, 5) for value in curve.values()]
            figure.add_scatter(
                x=x, y=y, name=as_plotly_text(label), mode="lines+markers", line=line, marker={"size": 3}
            )
    return _small(figure, key[0], "iteration")


def _small(figure: Any, probe: str, x: str) -> Figure:
    shares = probe in _ACCURACIES
    figure.update_traces(hovertemplate="%{y:.1%}" if shares else "%{y:.3~g}")
    # scale the y axis to the lines: wide bands of few seeds would flatten them
    lines = [trace.y for trace in figure.data if trace.fill is None]
    highest = max((value for line in lines for value in line if value is not None), default=1.0)
    figure.update_yaxes(range=[-0.03, 1.03] if shares or probe == "cka" else [min(0.0, _lowest(lines)), 1.1 * highest])
    figure.update_layout(showlegend=False, margin={"l": 44, "r": 10, "t": 8, "b": 40})
    return plain(figure, x, "", tickformat=".0%" if shares else ".3~g")


def _lowest(lines: Sequence[Sequence[float | None]]) -> float:
    return min((value for line in lines for value in line if value is not None), default=0.0)


def _sheet(label: str, result: ComparedTrial) -> ImageSheet | None:
    """The newest valid sheet of a trial."""
    for path in sorted(result.trial.folder.glob("probes/worst_errors-*.png"), reverse=True):
        data = _png_bytes(path)
        if data:
            return ImageSheet(label, result.seed, base64.b64encode(data).decode(), _text(path))
    return None


def _png_bytes(path: Path) -> bytes:
    """A PNG's bytes; b"" for a link, another kind of file, or a file that is too large."""
    try:
        data = read_regular(path, _MAX_BYTES) if not path.parent.is_symlink() else b""
    except OSError:
        return b""
    return data if data.startswith(_PNG) else b""


def _text(path: Path) -> str:
    """The content of a sheet as text."""
    try:
        sheet = read_json(path.with_suffix(".json"))
        errors = [
            f"{error['true']} taken for {error['predicted']} ({error['probability']:.1%})" for error in sheet["errors"]
        ]
        return f"Worst errors after experience {sheet['experience']}: " + ("; ".join(errors) or "none")
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return "Worst errors: the picture's text file cannot be read"
