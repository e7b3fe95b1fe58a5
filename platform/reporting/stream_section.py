"""Values of the report's section on one stream: best variants, tables, charts, probes. stream.html.jinja shows them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from . import charts
from .charts import Chart, Figure, TrialsByVariant, VariantStyle
from .comparison import Comparison
from .comparison_section import ComparisonCard, comparison_cards, stream_cautions
from .probe_section import ImageSheet, ProbeCard, image_sheets, probe_cards
from .report_tables import AccuracyMatrix, SummaryTable, accuracy_matrix, summary_table
from .results import VIEW_TITLES, TableRow, best_variants, format_cell, views_of
from .validation_section import ValidationSection, validation_section

_TRAINING_NOTES = {
    "loss": "Dotted: training.",
    "accuracy": "Dotted: training samples; full: validation split.",
    "generalisation_gap": "Accuracy on training samples minus that on the validation split.",
}


@dataclass(frozen=True, slots=True)
class ViewDetails:
    """The details of one view.

    Attributes:
        name: "task_agnostic" or "task_aware".
        title: the same for readers.
        variants: the variants shown.
        experiences: a chart for each experience.
        plasticity: learning accuracy against forgetting.
        matrices: an accuracy matrix for each variant.
    """

    name: str
    title: str
    variants: list[str]
    experiences: list[Chart]
    plasticity: Figure
    matrices: list[AccuracyMatrix]


@dataclass(frozen=True, slots=True)
class StreamSection:
    """All that the page shows of one stream.

    Attributes:
        number: its position on the page, from 0.
        name: its name.
        style: how each variant looks, with the name that legends show.
        about: its size and scenario, in words.
        best: (variant, average accuracy), the highest first; without bounds. Empty if a variant has a single seed.
        bounds: (variant, average accuracy) of the upper bounds.
        tables: a summary table for each view.
        is_cut: whether the charts leave variants out.
        accuracy: a chart of the accuracy so far for each view.
        forgetting: a chart of the forgetting so far for each view.
        views: the details of each view; the first one is shown at first.
        training: curves by epoch, where they were recorded.
        probes: a card for each probe.
        sheets: pictures of the worst errors.
        validation: what the validation matrices show; None without any.
        comparisons: statistics for each metric and view; [] with a single variant.
        cautions: what a reader must know of them.
    """

    number: int
    name: str
    style: Mapping[str, VariantStyle]
    about: str
    best: list[tuple[str, str]]
    bounds: list[tuple[str, str]]
    tables: list[SummaryTable]
    is_cut: bool
    accuracy: list[Chart]
    forgetting: list[Chart]
    views: list[ViewDetails]
    training: list[Chart]
    probes: list[ProbeCard]
    sheets: list[ImageSheet]
    validation: ValidationSection | None = None
    comparisons: list[ComparisonCard] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)


def stream_section(
    number: int,
    name: str,
    variants: TrialsByVariant,
    rows: Sequence[TableRow],
    style: Mapping[str, VariantStyle],
    comparisons: Sequence[Comparison] = (),
) -> StreamSection:
    """Compute one stream's section.

    Args:
        number: its position on the page, from 0.
        name: the stream's name.
        variants: its finished trials; without any, the section has a table that says how many there are to be.
        rows: the table's rows of all streams.
        style: how each variant looks.
        comparisons: of the variants on all streams.
    """
    if not variants:
        return _empty_section(number, name, rows, style)
    by_view = {view: [row for row in rows if (row.stream, row.view) == (name, view)] for view in views_of(variants)}
    both_views, shown = len(by_view) > 1, charts.variants_in_charts(variants)
    style = charts.styles_on_stream(style, variants)
    suffix = {view: f": {VIEW_TITLES[view].lower()}" if both_views else "" for view in by_view}
    competitors, bounds = _ranking(next(iter(by_view.values())))
    return StreamSection(
        number=number,
        name=name,
        style=style,
        about=_about(variants, both_views),
        best=competitors,
        bounds=bounds,
        tables=[
            summary_table(view_rows, VIEW_TITLES[view] if both_views else "Summary")
            for view, view_rows in by_view.items()
        ],
        is_cut=len(shown) < len(variants),
        accuracy=[
            Chart(f"Accuracy on the experiences seen so far{suffix[view]}", charts.accuracy_curves(shown, view, style))
            for view in by_view
        ],
        forgetting=[
            Chart(f"Forgetting so far{suffix[view]}", charts.forgetting_curves(shown, view, style)) for view in by_view
        ],
        views=[_view_details(shown, view_rows, view, style) for view, view_rows in by_view.items()],
        training=_training(shown, style),
        probes=probe_cards(shown, style),
        sheets=image_sheets(shown),
        validation=validation_section(shown, by_view, style),
        comparisons=comparison_cards(comparisons, name),
        cautions=stream_cautions(comparisons, name),
    )


def _empty_section(
    number: int, name: str, rows: Sequence[TableRow], style: Mapping[str, VariantStyle]
) -> StreamSection:
    table = summary_table([row for row in rows if row.stream == name], "Summary")
    about = "No trial on this stream has finished."
    return StreamSection(number, name, style, about, [], [], [table], False, [], [], [], [], [], [])


def _about(variants: TrialsByVariant, both_views: bool) -> str:
    """The stream's size and scenario."""
    example = next(iter(variants.values()))[0]
    kind = "of classes and domains" if example.scenario == "mixed" else f"{example.scenario}-incremental"
    about = f"{len(example.experiences)} experiences, {kind}, {int(example.sizes.sum()):,} test samples."
    if example.scenario == "task":
        about += " The task is given in training and testing: each prediction is among the classes of its task."
    elif not both_views:
        about += " Knowing the experience changes no number here: the task-agnostic and task-aware views are equal."
    return about


def _ranking(rows: Sequence[TableRow]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The variants and the bounds with their average accuracy, the highest first; no variants if the best is not known."""
    defined = [row for row in rows if not math.isnan(row.metrics["average_accuracy"][0])]
    competitors: list[tuple[str, str]] = []
    bounds: list[tuple[str, str]] = []
    for row in sorted(defined, key=lambda row: -row.metrics["average_accuracy"][0]):
        ranked = bounds if row.bound else competitors
        ranked.append((row.variant, format_cell(*row.metrics["average_accuracy"][:2])))
    return competitors if best_variants(rows, "average_accuracy") else [], bounds


def _view_details(
    variants: TrialsByVariant, rows: Sequence[TableRow], view: str, style: Mapping[str, VariantStyle]
) -> ViewDetails:
    num_experiences = len(next(iter(variants.values()))[0].experiences)
    return ViewDetails(
        name=view,
        title=VIEW_TITLES[view],
        variants=list(variants),
        experiences=[_experience(variants, view, style, number) for number in range(1, num_experiences + 1)],
        plasticity=charts.plasticity(rows, variants, style),
        matrices=[accuracy_matrix(label, seeds, view) for label, seeds in variants.items()],
    )


def _experience(variants: TrialsByVariant, view: str, style: Mapping[str, VariantStyle], number: int) -> Chart:
    """One experience's chart, with its name if all seeds agree on it."""
    names = {result.experiences[number - 1] for results in variants.values() for result in results}
    note = names.pop() if len(names) == 1 else ""
    return Chart(f"Experience {number}", charts.experience_curves(variants, view, style, number), note)


def _training(variants: TrialsByVariant, style: Mapping[str, VariantStyle]) -> list[Chart]:
    """Loss, accuracy and the generalisation gap by epoch, where they were recorded."""
    shown = []
    for name, note in _TRAINING_NOTES.items():
        figure = charts.training(variants, style, name)
        if figure is not None:
            shown.append(Chart(f"Training: {name.replace('_', ' ')}", figure, f"{note} First seed of each variant."))
    return shown
