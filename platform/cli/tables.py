"""Tables for the terminal: results of a run folder, trials of a dry run."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from ..reporting.results import VIEW_TITLES, TableRow, best_variants, format_cell

_HEADINGS = {
    "average_accuracy": "ACC",
    "average_incremental_accuracy": "avg. incr.",
    "forgetting_max": "forget. max",
    "learning_accuracy": "learning",
}


def tables(rows: Sequence[TableRow]) -> list[Table]:
    """Return one table per stream and view: variants by metrics in per cent, mean and 95 % interval, the best in bold."""
    all_tables = []
    for stream, view in dict.fromkeys((row.stream, row.view) for row in rows):
        members = [row for row in rows if (row.stream, row.view) == (stream, view)]
        both_views = len({row.view for row in rows if row.stream == stream}) > 1
        seeds = max(row.metrics["average_accuracy"][2] for row in members)
        title = f"{stream}, {VIEW_TITLES[view].lower()}" if both_views else stream
        title += f": {seeds} seeds" if seeds > 1 else ""
        table = Table(title=Text(title, style="bold"), title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("variant", overflow="fold")  # in a narrow terminal, names wrap and numbers stay whole
        for heading in _HEADINGS.values():
            table.add_column(heading, justify="right", no_wrap=True)
        winners = {column: best_variants(members, column) for column in _HEADINGS}
        for row in members:
            cells = [
                (format_cell(*row.metrics[name][:2]), "bold" if row.variant in winners[name] else "")
                for name in _HEADINGS
            ]
            name = Text(row.variant + (" (bound)" if row.bound else ""), style="dim" if row.bound else "")
            table.add_row(name, *(Text(text, style=style) for text, style in cells))
        all_tables.append(table)
    return all_tables


def dry_run_table(trials: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of the trials that a sweep would run."""
    table = Table("trial", "stream", "variant", "seed", box=None, padding=(0, 2, 0, 0))
    for trial in trials:
        table.add_row(trial["id"], trial["stream"], trial["variant"], str(trial["seed"]))
    return table


def duration(seconds: float) -> str:
    """Return seconds as "3 min 20 s", or as "01 h 30 min" from an hour."""
    return (
        time.strftime("%H h %M min", time.gmtime(seconds))
        if seconds >= 3600
        else f"{int(seconds // 60)} min {seconds % 60:.0f} s"
    )
