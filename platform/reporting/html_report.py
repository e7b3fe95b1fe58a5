"""Write folders of trials as one HTML page that opens from disk without a network: tables, forgetting curves, matrices.

The same folders give the same bytes. Names come from users' YAML and are escaped. The template report.html.in holds the style,
the script and the notes on metrics; `charts` draws, `results` computes the numbers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from ..errors import UserError
from ..files import write_text
from ..ledger.reader import run_name
from . import charts
from .charts import TrialsByVariant, VariantStyle
from .html_parts import (
    accuracy_matrix_table,
    card,
    downloads,
    legend_key,
    plot,
    script_json,
    side_by_side,
    summary_table,
    trials_table,
)
from .probe_section import probe_section
from .results import VIEW_TITLES, ComparedTrial, TableRow, finished, format_cell, results_of, table_rows, views_of

_TEMPLATE = Path(__file__).with_name("report.html.in")


def report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report over trial and sweep folders.

    Args:
        folders: folders of trials and sweeps, compared on one page.
        out: the file to write (default: report.html in the first folder).

    Returns:
        The file's path.

    Raises:
        UserError: no folder is given, or one is neither a trial's nor a sweep's.
    """
    if not folders:
        raise UserError("report: no folder is given: name the folders of sweeps or trials")
    results = results_of(folders)
    path = out if out is not None else folders[0] / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    title = " · ".join(dict.fromkeys(run_name(folder) for folder in folders))
    write_text(path, _page(title, results))
    return path


def _page(title: str, results: Sequence[ComparedTrial]) -> str:
    from plotly.offline import get_plotlyjs

    streams, rows, style = finished(results), table_rows(results), charts.variant_styles(results)
    sections = [_stream(number, name, streams[name], rows, style) for number, name in enumerate(streams)]
    if not sections:
        sections = [card("No trial has finished yet", "<p>Tables and curves appear with the first finished trial.</p>")]
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"{title} · retain"),
        plotly=get_plotlyjs(),
        top=_top(title, results, list(streams)),
        streams="\n".join([_not_finished(results), *sections]),
        trials=trials_table(results),
        downloads=downloads(rows, results),
        templates=script_json(_themes()),
    )


def _themes() -> dict[str, Any]:
    import plotly.io as pio

    names = {"light": "plotly_white", "dark": "plotly_dark"}
    return {theme: pio.templates[name].to_plotly_json() for theme, name in names.items()}


def _top(title: str, results: Sequence[ComparedTrial], streams: Sequence[str]) -> str:
    """The heading: title, numbers of trials, variants and seeds, last update, versions, links."""
    done = sum(bool(result.views) for result in results)
    facts = {
        "trials": str(done) if done == len(results) else f"{done} of {len(results)} finished",
        "variants": str(len({result.label for result in results})),
        "seeds": str(len({result.seed for result in results})),
        "streams": str(len({result.stream for result in results})),
    }
    updated = max((result.status.updated for result in results), default=0.0)
    if updated:
        facts["last update"] = datetime.fromtimestamp(updated, UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts |= _versions([_environment(result) for result in results])
    items = "".join(f"<li><span>{name}</span><b>{escape(value)}</b></li>" for name, value in facts.items())
    links = "".join(f'<a href="#stream-{number}">{escape(name)}</a>' for number, name in enumerate(streams))
    return f'<h1>{escape(title)}</h1><ul class="facts">{items}</ul><nav>{links}'


def _environment(result: ComparedTrial) -> dict[str, Any]:
    try:
        return result.trial.read("environment") or {}
    except UserError:  # with a damaged file, only the versions are missing
        return {}


def _versions(environments: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Versions and device of the trials: each with all of its values, so that a mixture shows."""
    facts: dict[str, dict[str, None]] = {"retain": {}, "torch": {}, "git": {}, "device": {}}
    for environment in environments:
        packages, git = environment.get("packages") or {}, environment.get("git") or {}
        changes = "" if git.get("clean", True) else " + changes"
        values = (
            environment.get("retain"),
            packages.get("torch"),
            f"{str(git['commit'])[:10]}{changes}" if git.get("commit") else None,
            environment.get("gpu") or environment.get("device"),
        )
        for fact, value in zip(facts.values(), values, strict=True):
            if value:
                fact[str(value)] = None
    return {name: ", ".join(values) for name, values in facts.items() if values}


def _not_finished(results: Iterable[ComparedTrial]) -> str:
    """The trials that are missing in the numbers, each with the reason."""
    missing = [result for result in results if result.problem]
    if not missing:
        return ""
    items = "".join(
        f"<li><b>{escape(f'{result.label} on {result.stream}, seed {result.seed}')}</b>: {escape(result.problem)}</li>"
        for result in missing
    )
    count = f"{len(missing)} trial{'s' if len(missing) > 1 else ''}"
    return f'<div class="card bad"><h3>{count} not finished, and not in the numbers below</h3><ul>{items}</ul></div>'


def _stream(
    number: int, name: str, variants: TrialsByVariant, rows: Sequence[TableRow], style: Mapping[str, VariantStyle]
) -> str:
    """The section of one stream."""
    by_view = {view: [row for row in rows if (row.stream, row.view) == (name, view)] for view in views_of(variants)}
    both_views, in_charts = len(by_view) > 1, charts.variants_in_charts(variants)
    example = next(iter(variants.values()))[0]
    kind = "of classes and domains" if example.scenario == "mixed" else f"{example.scenario}-incremental"
    about = f"{len(example.experiences)} experiences, {kind}, {int(example.sizes.sum()):,} test samples."
    if example.scenario == "task":
        about += " The task is given in training and testing: each prediction is among the classes of its task."
    elif not both_views:
        about += " Knowing the experience changes no number here: the task-agnostic and task-aware views are equal."
    parts = [f'<section id="stream-{number}"><h2>{escape(name)}</h2><p class="soft">{about}</p>']
    parts.append(_takeaway(next(iter(by_view.values()))))
    for view, view_rows in by_view.items():
        parts.append(summary_table(view_rows, VIEW_TITLES[view] if both_views else "Summary", style))
    if len(in_charts) < len(variants):
        parts.append(
            f'<p class="soft">Charts show the bounds and the {charts.MAX_VARIANTS} variants highest in ACC.</p>'
        )
    suffix = {view: f": {VIEW_TITLES[view].lower()}" if both_views else "" for view in by_view}
    for title, chart in (
        ("Accuracy on the experiences seen so far", charts.accuracy_curves),
        ("Forgetting so far", charts.forgetting_curves),
    ):
        parts.append(
            side_by_side([card(f"{title}{suffix[view]}", plot(chart(in_charts, view, style), 410)) for view in by_view])
        )
    parts += [_toggle(list(by_view)) if both_views else ""]
    for view, view_rows in by_view.items():
        parts.append(_details(in_charts, view_rows, view, style, hidden=view != next(iter(by_view))))
    return "\n".join([*parts, _training(in_charts, style), probe_section(in_charts, style), "</section>"])


def _takeaway(rows: Sequence[TableRow]) -> str:
    """One sentence: the best variants and the bounds."""

    def named(row: TableRow) -> str:
        mean, half, _ = row.metrics["average_accuracy"]
        return f"<b>{escape(row.variant)}</b> ({format_cell(mean, half)})"

    defined = [row for row in rows if not math.isnan(row.metrics["average_accuracy"][0])]
    order = sorted(defined, key=lambda row: -row.metrics["average_accuracy"][0])
    ranked = [named(row) for row in order if not row.bound]
    bounds = ", ".join(named(row) for row in order if row.bound)
    if len(ranked) < 2:
        return ""
    ceiling = f" Trained on all data: {bounds}." if bounds else ""
    return f"<p>Highest average accuracy at the end, in %: {ranked[0]}, then {', '.join(ranked[1:3])}.{ceiling}</p>"


def _toggle(views: Sequence[str]) -> str:
    buttons = "".join(
        f'<button data-view="{view}" aria-pressed="{str(view == views[0]).lower()}">{VIEW_TITLES[view]}</button>'
        for view in views
    )
    return f'<div class="bar"><h3>Details</h3><div class="seg" role="group" aria-label="view">{buttons}</div></div>'


def _details(
    variants: TrialsByVariant, rows: Sequence[TableRow], view: str, style: Mapping[str, VariantStyle], *, hidden: bool
) -> str:
    """The details of one view: each experience's curve, the trade-off, the matrices."""
    num_experiences = len(next(iter(variants.values()))[0].experiences)
    panels = "".join(_panel(variants, view, style, number) for number in range(1, num_experiences + 1))
    keys = "".join(f"<span>{legend_key(style[label])}{escape(label)}</span>" for label in variants)
    heats = "".join(accuracy_matrix_table(label, seeds, view) for label, seeds in variants.items())
    cards = [
        card(
            "Each experience during training",
            f'<p class="keys">{keys}</p><div class="many">{panels}</div>',
            "The dotted line marks when the experience was learned. A fall after it is forgetting.",
        ),
        card(
            "Learning against forgetting",
            plot(charts.plasticity(rows, variants, style), 460),
            "Mean, 95 % interval; small dots: seeds. Lower right is better. Joint training has no forgetting and is left out.",
        ),
        card(
            "Accuracy matrices",
            f'<div class="many">{heats}</div>',
            "In %, mean over seeds. Row i: after experience i (0: before training). Column j: on experience j.",
        ),
    ]
    return f'<div data-view="{view}"{" hidden" if hidden else ""}>{"".join(cards)}</div>'


def _panel(variants: TrialsByVariant, view: str, style: Mapping[str, VariantStyle], number: int) -> str:
    """One experience's chart, with its name if all seeds agree on it."""
    names = {result.experiences[number - 1] for results in variants.values() for result in results}
    name = f" · {escape(names.pop())}" if len(names) == 1 else ""
    chart = plot(charts.experience_curves(variants, view, style, number), 210)
    return f"<figure><figcaption><b>Experience {number}</b>{name}</figcaption>{chart}</figure>"


def _training(variants: TrialsByVariant, style: Mapping[str, VariantStyle]) -> str:
    """Loss, accuracy and the generalisation gap by epoch, where they were recorded."""
    cards = []
    for name, note in (
        ("loss", "Dotted: training."),
        ("accuracy", "Dotted: training samples; full: validation split."),
        ("generalisation_gap", "Accuracy on training samples minus that on the validation split."),
    ):
        figure = charts.training(variants, style, name)
        if figure is not None:
            title = f"Training: {name.replace('_', ' ')}"
            cards.append(card(title, plot(figure, 350), f"{note} First seed of each variant."))
    return side_by_side(cards)
