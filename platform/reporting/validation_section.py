"""Values of the report's section on a stream's validation matrices. validation.html.jinja shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .. import metrics
from . import charts
from .charts import Chart, TrialsByVariant, VariantStyle
from .report_tables import AccuracyMatrix, SummaryTable, accuracy_matrix, summary_table
from .results import VIEW_TITLES, TableRow, on_validation


@dataclass(frozen=True, slots=True)
class ValidationSection:
    """The metrics, curves and matrices of one stream's validation splits.

    Attributes:
        tables: a summary table for each view.
        accuracy: a chart of the accuracy so far for each view.
        matrices: for each view a title, and a matrix for each variant.
    """

    tables: list[SummaryTable]
    accuracy: list[Chart]
    matrices: list[tuple[str, list[AccuracyMatrix]]]


def validation_section(
    variants: TrialsByVariant, rows: Mapping[str, Sequence[TableRow]], style: Mapping[str, VariantStyle]
) -> ValidationSection | None:
    """Return what the validation matrices of a stream show; None if no trial has one.

    Args:
        variants: the finished trials that charts show.
        rows: the table's rows of the stream, by view.
        style: how each variant looks.
    """
    validated = on_validation(variants)
    if not validated:
        return None
    style = charts.styles_on_stream(style, validated)
    suffix = {view: f": {VIEW_TITLES[view].lower()}" if len(rows) > 1 else "" for view in rows}
    return ValidationSection(
        tables=[
            summary_table([_on_validation(row) for row in view_rows], f"Validation splits{suffix[view]}")
            for view, view_rows in rows.items()
        ],
        accuracy=[
            Chart(
                f"Validation accuracy on the experiences seen so far{suffix[view]}",
                charts.accuracy_curves(validated, view, style),
            )
            for view in rows
        ],
        matrices=[
            (
                f"Validation accuracy matrices{suffix[view]}",
                [accuracy_matrix(label, seeds, view) for label, seeds in validated.items()],
            )
            for view in rows
        ],
    )


def _on_validation(row: TableRow) -> TableRow:
    """The row with the metrics of the validation matrices."""
    values = {
        name.removeprefix(metrics.VALIDATION): value
        for name, value in row.metrics.items()
        if name.startswith(metrics.VALIDATION)
    }
    return replace(row, metrics=values)
