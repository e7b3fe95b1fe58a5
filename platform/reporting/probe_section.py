"""The report's section on probes: what they found after each experience and amid them, and the sheets of the worst errors.

Names and files come from trials' folders, which may be somebody else's: names are escaped, a sheet is shown only if it is a PNG
of ordinary size, as data of the page, which runs nothing.
"""

import base64
import math
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from ..errors import UserError
from ..ledger.documents import read_json
from ..metrics import interval
from .charts import Figure, TrialsByVariant, VariantStyle, add_mean, plain
from .html_parts import card, legend_key, plot
from .results import ComparedTrial

_MOST = 24  # charts of one probe
_PNG, _MOST_BYTES = b"\x89PNG\r\n\x1a\n", 4 * 2**20
_NOTES = {
    "cka": "Linear CKA of each layer before and after each experience: 1 is the same up to rotation and scale.",
    "effective_rank": "Effective rank of each layer's features: it falls where they collapse onto few directions.",
    "evaluate_on": "Accuracy on the test sets of other streams after each experience.",
    "linear_probe": "Accuracy of a linear classifier on frozen features: what they still hold, whatever the head has forgotten.",
    "stability_gap": "min_acc: mean over learned experiences of the least accuracy since each was learned; wc_acc: with the "
    "newest's accuracy as one of them.",
    "worst_errors": "errors: share of the test samples so far that is wrong; confidence: mean probability of the worst of them.",
}
_ACCURACIES = ("linear_probe", "evaluate_on", "stability_gap", "worst_errors")  # shown in per cent
Values = dict[tuple[str, str], dict[int, float]]  # (probe, name) -> place on the axis -> value


@dataclass(frozen=True, slots=True)
class _Found:
    """What one trial's probes found: after experiences, and amid them by iteration."""

    after: Values
    during: Values


def section(variants: TrialsByVariant, style: Mapping[str, VariantStyle]) -> str:
    """Everything that the probes of one stream's trials found; "" where that is nothing."""
    found = {label: [_found(result) for result in results] for label, results in variants.items()}
    probes = list(
        dict.fromkeys(probe for trials in found.values() for one in trials for probe, _ in one.after | one.during)
    )
    cards = [_card(probe, found, style) for probe in probes]
    sheets = "".join(_sheet(label, results[0]) for label, results in variants.items())
    if sheets:
        note = (
            "Test pictures that are wrong with the highest confidence: true class, &gt; predicted class, probability."
        )
        cards.append(card("Worst errors", f'<div class="sheets">{sheets}</div>', note))
    return "\n".join(["<h3>Probes</h3>", *cards]) if cards else ""


def _found(result: ComparedTrial) -> _Found:
    """Read a trial's probe events; what is not of their form is left out."""
    found = _Found({}, {})
    for _, event in result.trial.events():
        values, after = event.get("values"), bool(event.get("after"))
        if event["kind"] != "probe" or not isinstance(values, Mapping):
            continue
        place = event["experience" if after else "iteration"]
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                of = (found.after if after else found.during).setdefault((str(event.get("probe")), str(name)), {})
                of[int(place)] = float(value)
                if after and (str(event.get("probe")), str(name)) in found.during:  # where the training of it ends
                    found.during[str(event.get("probe")), str(name)][int(event["iteration"])] = float(value)
    return found


def _card(probe: str, found: Mapping[str, Sequence[_Found]], style: Mapping[str, VariantStyle]) -> str:
    """Small charts, one for each name, with a line per variant."""
    amid = _names(probe, (one.during for trials in found.values() for one in trials))
    names = [
        name for name in _names(probe, (one.after for trials in found.values() for one in trials)) if name not in amid
    ]
    panels = [_panel(name, _mean_curves((probe, name), found, style)) for name in names[:_MOST]]
    panels += [_panel(f"{name}, first seed", _first_curves((probe, name), found, style)) for name in amid[:_MOST]]
    keys = "".join(f"<span>{legend_key(style[label])}{escape(label)}</span>" for label in found)
    left = len(names[_MOST:]) + len(amid[_MOST:])
    more = f" {left} more are in the trials' metrics.jsonl." if left else ""
    body = f'<p class="keys">{keys}</p><div class="many">{"".join(panels)}</div>'
    return card(f"Probe: {escape(probe.replace('_', ' '))}", body, _NOTES.get(probe, "") + more)


def _names(probe: str, values: Iterator[Values]) -> list[str]:
    """In order of appearance, but those of one group (a layer's old and new data) side by side."""
    names = list(dict.fromkeys(name for one in values for of, name in one if of == probe))
    groups = list(dict.fromkeys(name.rpartition("/")[0] for name in names))
    return sorted(names, key=lambda name: groups.index(name.rpartition("/")[0]))


def _panel(name: str, figure: Figure) -> str:
    return f"<figure><figcaption><b>{escape(name)}</b></figcaption>{plot(figure, 210)}</figure>"


def _mean_curves(
    which: tuple[str, str], found: Mapping[str, Sequence[_Found]], style: Mapping[str, VariantStyle]
) -> Figure:
    """The mean over seeds with its interval, after each experience."""
    figure = go.Figure()
    for label, trials in found.items():
        seeds = [one.after[which] for one in trials if which in one.after]
        places = sorted({place for one in seeds for place in one})
        stats = [interval([one.get(place, math.nan) for one in seeds]) for place in places]
        if stats:
            add_mean(figure, label, style[label], places, stats)
    return _small(figure, which[0], "after experience")


def _first_curves(
    which: tuple[str, str], found: Mapping[str, Sequence[_Found]], style: Mapping[str, VariantStyle]
) -> Figure:
    """The first seed's values by iteration."""
    figure = go.Figure()
    for label, trials in found.items():
        values = trials[0].during.get(which, {})
        if values:
            line = {"color": style[label].colour, "width": 1.2, "dash": style[label].dash}
            x, y = list(values), [round(value, 5) for value in values.values()]
            figure.add_scatter(
                x=x, y=y, name=escape(label, quote=False), mode="lines+markers", line=line, marker={"size": 3}
            )
    return _small(figure, which[0], "iteration")


def _small(figure: Any, probe: str, x: str) -> Figure:
    shares = probe in _ACCURACIES
    figure.update_traces(hovertemplate="%{y:.1%}" if shares else "%{y:.3~g}")
    lines = [trace.y for trace in figure.data if trace.fill is None]  # bands of few seeds would leave no room for them
    highest = max((value for line in lines for value in line if value is not None), default=1.0)
    figure.update_yaxes(range=[-0.03, 1.03] if shares or probe == "cka" else [min(0.0, _lowest(lines)), 1.1 * highest])
    figure.update_layout(showlegend=False, margin={"l": 44, "r": 10, "t": 8, "b": 40})
    return plain(figure, x, "", tickformat=".0%" if shares else ".3~g")


def _lowest(lines: Sequence[Sequence[float | None]]) -> float:
    return min((value for line in lines for value in line if value is not None), default=0.0)


def _sheet(label: str, result: ComparedTrial) -> str:
    """The newest sheet of a trial as a picture inside of the page, with what it shows as its text."""
    for path in sorted(result.trial.folder.glob("probes/worst_errors-*.png"), reverse=True):
        data = _picture(path)
        if data:
            caption = f"<b>{escape(label)}</b> seed {result.seed}"
            source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
            text = escape(_text(path))
            told = f"<details><summary>in words</summary>{text}</details>"  # names in any letters, and whole
            return f'<figure><figcaption>{caption}</figcaption><img alt="{text}" src="{source}">{told}</figure>'
    return ""


def _picture(path: Path) -> bytes:
    """A PNG's bytes; none of a link, of another kind of file or of one that is too large."""
    if path.parent.is_symlink() or not _is_plain(path):
        return b""
    data = path.read_bytes()
    return data if data.startswith(_PNG) else b""


def _is_plain(path: Path) -> bool:
    """Whether it is a file of its own, no link and no pipe, and not too large."""
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_size <= _MOST_BYTES


def _text(path: Path) -> str:
    """What is on a sheet, in words."""
    try:
        if not _is_plain(path.with_suffix(".json")):
            raise ValueError("is no plain file")
        told = read_json(path.with_suffix(".json"))
        errors = [f"{one['true']} taken for {one['predicted']} ({one['probability']:.1%})" for one in told["errors"]]
        return f"Worst errors after experience {told['experience']}: " + ("; ".join(errors) or "none")
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return "Worst errors: the text beside the picture cannot be read"
