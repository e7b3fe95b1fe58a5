"""Terminal tables: results of a run folder, and the trials of a dry run."""

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
    """One table per stream and view: variants by metrics in per cent, mean and 95 % interval over seeds, best in bold."""
    found = []
    for stream, view in dict.fromkeys((row.stream, row.view) for row in rows):
        members = [row for row in rows if (row.stream, row.view) == (stream, view)]
        both = len({row.view for row in rows if row.stream == stream}) > 1
        seeds = max(row.metrics["average_accuracy"][2] for row in members)
        title = f"{stream}, {VIEW_TITLES[view].lower()}" if both else stream
        title += f": {seeds} seeds" if seeds > 1 else ""
        table = Table(title=Text(title, style="bold"), title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("variant", overflow="fold")  # the numbers are never cut, so this gives way first
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
        found.append(table)
    return found


def dry_run_table(trials: Sequence[Mapping[str, Any]]) -> Table:
    """The trials that a sweep would run."""
    table = Table("trial", "stream", "variant", "seed", box=None, padding=(0, 2, 0, 0))
    for trial in trials:
        table.add_row(trial["id"], trial["stream"], trial["variant"], str(trial["seed"]))
    return table


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    return (
        time.strftime("%H h %M min", time.gmtime(seconds))
        if seconds >= 3600
        else f"{int(seconds // 60)} min {seconds % 60:.0f} s"
    )
