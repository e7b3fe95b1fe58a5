"""Tables for the terminal: results of a run folder, trials of a dry run."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ..metrics import VALIDATION
from ..reporting.results import VIEW_TITLES, TableRow, best_variants, format_cell
from .terminal import cell, plain_table

if TYPE_CHECKING:
    from ..sweep.estimate import DryRun

_HEADINGS = {
    "average_accuracy": "ACC",
    "average_incremental_accuracy": "avg. incr.",
    "forgetting_max": "forget. max",
    "learning_accuracy": "learning",
}
_VALIDATION_ACCURACY = f"{VALIDATION}average_accuracy"
_MAX_PROBLEMS = 3  # of trials that a dry run could not measure


def tables(rows: Sequence[TableRow]) -> list[Table]:
    """Return one table per stream and view: variants by metrics in per cent, mean and 95 % interval, the best in bold.

    Each row has its number of finished seeds. A variant without any is in the table too: "lwf: 0 of 3 done". The last column is
    the average accuracy on the validation splits, if a trial on the stream has any.
    """
    all_tables = []
    for stream, view in dict.fromkeys((row.stream, row.view) for row in rows):
        members = [row for row in rows if (row.stream, row.view) == (stream, view)]
        both_views = len({row.view for row in rows if row.stream == stream}) > 1
        title = f"{stream}, {VIEW_TITLES[view].lower()}" if both_views else stream
        validated = any(_VALIDATION_ACCURACY in row.metrics for row in members)
        headings = _HEADINGS | ({_VALIDATION_ACCURACY: "val. ACC"} if validated else {})
        table = plain_table("variant", "seeds", *headings.values(), title=title)
        winners = {metric: best_variants(members, metric) for metric in headings}
        for row in members:
            name = row.variant + (" (bound)" if row.bound else "") + ("" if row.done else f": {row.seeds} done")
            cells = [
                cell(format_cell(*row.metrics[metric][:2]), "bold" if row.variant in winners[metric] else "")
                for metric in headings
            ]
            table.add_row(cell(name, "dim" if row.bound or not row.done else ""), cell(row.seeds), *cells)
        all_tables.append(table)
    return all_tables


def dry_run_table(trials: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of the trials that a sweep would run."""
    table = Table("trial", "stream", "variant", "seed", box=None, padding=(0, 2, 0, 0))
    for trial in trials:
        table.add_row(trial["id"], trial["stream"], trial["variant"], str(trial["seed"]))
    return table


def estimate_lines(result: "DryRun", num_trials: int, output: str) -> list[str]:
    """Return what to print on the cost of a sweep of `num_trials` trials into the folder `output`."""
    lines = [f"not measured: {problem}" for problem in result.problems[:_MAX_PROBLEMS]]
    if not result.checked:
        lines.append(
            "The trials are not checked: their data take longer than a dry run may. Prepare them with: retain prepare CONFIG"
        )
    estimate = result.estimate
    if estimate is None:
        why = "" if result.problems else ": 20 s are too short for it"
        return [*lines, f"{num_trials} trials; no estimate{why}. Nothing was started."]
    kinds = f"{estimate.num_measured} of {estimate.num_kinds} kinds of trials were measured"
    cost = f"about {duration_range(estimate.low, estimate.high)} on this machine's {os.cpu_count()} cores"
    return [
        *lines,
        f"{num_trials} trials; {cost}, if nothing else runs, and {estimate.disk / 2**20:.0f} MB in {output} ({kinds}). "
        "Nothing was started.",
    ]


def duration_range(low: float, high: float) -> str:
    """Return a range of seconds as "40 to 75 s", "12 to 25 min" or "2.1 to 3.5 h", rounded outwards."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600), ("days", 86400)):
        if high < 120 * seconds or unit == "days":
            break
    parts = 10 if unit in ("h", "days") and high < 10 * seconds else 1
    first, last = math.floor(parts * low / seconds) / parts, math.ceil(parts * high / seconds) / parts
    return f"{first:g} to {last:g} {unit}" if first < last else f"{last:g} {unit}"
