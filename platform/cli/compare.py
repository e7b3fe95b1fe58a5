"""`retain compare`: statistics of variants over seeds, as tables for the terminal, CSV, Parquet or LaTeX."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import UserError, nearest
from ..files import write_bytes
from ..metrics import DIRECTIONS
from ..reporting.comparison import MAIN_METRICS, Comparison, Ranking, compare, is_maximized, rankings
from ..reporting.comparison_latex import to_latex
from ..reporting.comparison_rows import comparison_rows, to_csv
from ..reporting.comparison_text import cautions, interval_text, left_out, p_text, title_of, title_of_metric
from ..reporting.results import format_cell, results_of, seeds_text
from ..reporting.statistics import Difference, Estimate, Test
from ..run_folders import check_new_file
from .terminal import Terminal, cell, one_line, plain_table, several_lines

if TYPE_CHECKING:
    from ..reporting.comparison_rows import Row

Format = Literal["table", "csv", "parquet", "latex"]
FORMATS: tuple[Format, ...] = ("table", "csv", "parquet", "latex")
TESTS: tuple[Test, ...] = ("t", "wilcoxon")
_DEFAULT_METRICS = {"table": MAIN_METRICS[:1], "latex": MAIN_METRICS}  # else all
Choice = TypeVar("Choice", bound=str)
_MAX_PAIRS = 12  # variants in the terminal's pairwise matrix


def write_comparison(
    folders: Sequence[Path],
    console: Console,
    errors: Console,
    *,
    format_name: str = "table",
    output: Path | None = None,
    metric_names: Sequence[str] = (),
    baseline: str | None = None,
    test_name: str = "t",
) -> None:
    """Compare the variants in folders; print the result or write it to a file, and print what it lacks to standard error.

    Raises:
        UserError: a folder, format, metric, baseline or test is wrong; a file is needed, or cannot be written.
    """
    chosen = _one_of("format", format_name, FORMATS)
    test = _one_of("test", test_name, TESTS)
    if chosen == "parquet" and output is None:
        raise UserError("compare --format parquet: is binary: name a file with --output.")
    if output is not None:
        check_new_file(output)
    results = results_of(folders)
    names = list(dict.fromkeys(metric_names)) or _DEFAULT_METRICS.get(chosen, tuple(DIRECTIONS))
    comparisons = compare(results, names, baseline=baseline, test=test)
    ranks = rankings(comparisons)
    for line in left_out(results):
        errors.print(one_line(("left out", "yellow"), f" {line}"), soft_wrap=True)
    for line in cautions(comparisons):
        errors.print(one_line(("note", "yellow"), f" {line}"), soft_wrap=True)
    if not any(comparison.competitors for comparison in comparisons):
        raise UserError("compare: no trial has finished, so there is nothing to compare.")
    if chosen == "table" and output is None:
        _print_tables(comparisons, ranks, console)
        return
    data = _encoded(comparisons, ranks, chosen)
    if output is None:
        console.file.write(data.decode())  # not wrapped or styled: it goes into a file or a pipe
        return
    _write(output, data)
    console.print(one_line(str(output)), soft_wrap=True)


def _one_of(option: str, value: str, allowed: Sequence[Choice]) -> Choice:
    for choice in allowed:
        if choice == value:
            return choice
    raise UserError(f"compare --{option} {value}: must be one of {', '.join(allowed)}.{nearest(value, allowed)}")


def _encoded(comparisons: Sequence[Comparison], ranks: Sequence[Ranking], format_name: str) -> bytes:
    """The content of the file."""
    if format_name == "latex":
        return to_latex(comparisons).encode()
    if format_name == "table":
        file = io.StringIO()
        _print_tables(comparisons, ranks, Terminal(file=file, width=160))
        return file.getvalue().encode()
    rows = comparison_rows(comparisons, ranks)
    return to_csv(rows).encode() if format_name == "csv" else _parquet(rows)


def _parquet(rows: "Sequence[Row]") -> bytes:
    from ..reporting.dataframes import comparison_frame

    data: bytes = comparison_frame(rows).to_parquet(engine="pyarrow", index=False)
    return data


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _print_tables(comparisons: Sequence[Comparison], ranks: Sequence[Ranking], console: Console) -> None:
    for comparison in comparisons:
        console.print(estimate_table(comparison))
        if 2 < len(comparison.competitors) <= _MAX_PAIRS:
            console.print(pairwise_table(comparison))
        elif len(comparison.competitors) > _MAX_PAIRS:
            console.print(
                f"{len(comparison.competitors)} variants: too many for a pairwise matrix here; --format csv has all pairs.",
                style="dim",
            )
    for ranking in ranks:
        console.print(ranking_table(ranking))
    for line in _notes(comparisons):
        console.print(line, style="dim", soft_wrap=True)


def _notes(comparisons: Sequence[Comparison]) -> Iterable[str]:
    test = "paired t test" if comparisons[0].test == "t" else "Wilcoxon signed-rank test"
    yield "In %, with 95 % intervals over seeds: mean ± Student's t; IQM (interquartile mean) and P(better) with bootstrap."
    yield f"Differences are paired by seed, with Student's interval; p: {test}, after Holm's correction."
    yield "P(better): the probability that a trial is better than one of the baseline. Bold: the best mean, if the interval of"
    yield "its difference to each other variant excludes 0. All metrics, all pairs: --format csv. docs/statistics.md"


def estimate_table(comparison: Comparison) -> Table:
    """Return a table of one comparison: variants by estimates, and differences to the baseline; intervals in a second line."""
    heads = ["variant", "seeds", "mean", "IQM"]
    has_differences = any(row.difference is not None for row in comparison.variants)
    if has_differences:
        heads += ["difference", "p", "P(better)"]
    versus = f" · baseline: {comparison.baseline}" if has_differences else ""
    better = "higher" if is_maximized(comparison.metric) else "lower"
    title = f"{title_of(comparison)} · {title_of_metric(comparison.metric)}, {better} is better{versus}"
    table = plain_table(*heads, title=title)
    for row in comparison.variants:
        name = row.variant + (" (bound)" if row.bound else "")
        mean = several_lines(format_cell(row.mean.value, row.mean.high - row.mean.value).replace(" ±", "\n±"))
        style = "bold" if row.variant == comparison.best else ""
        cells = [cell(name, "dim" if row.bound else style), cell(seeds_text(len(row.values), row.planned))]
        mean.stylize(style)
        cells += [mean, _two_lines(row.interquartile_mean)]
        if row.difference is not None and row.improvement is not None:
            num_pairs = len(row.difference.seeds)
            note = f" ({num_pairs} pairs)" if num_pairs < len(row.values) else ""
            difference = _two_lines(_estimate(row.difference), note, sign=True)
            cells += [difference, cell(p_text(row.adjusted_p)), _two_lines(row.improvement, digits=0)]
        elif has_differences:
            cells += [cell("baseline" if row.variant == comparison.baseline else "-"), cell("-"), cell("-")]
        table.add_row(*cells)
    return table


def _two_lines(estimate: Estimate, note: str = "", *, sign: bool = False, digits: int = 1) -> Text:
    """A value and its interval, one below the other, so that a table fits into 80 columns."""
    value, _, interval = interval_text(estimate, sign=sign, digits=digits).partition(" ")
    return several_lines(f"{value}{note}\n{interval}" if interval else f"{value}{note}")


def _estimate(difference: Difference) -> Estimate:
    return Estimate(difference.mean, difference.low, difference.high)


def pairwise_table(comparison: Comparison) -> Table:
    """Return the pairwise matrix: in each cell row - column in per cent, wins/ties/losses over seeds, and p without correction.

    Source: Ismail-Fawaz 2023, An approach to multiple comparison benchmark evaluations (2305.11921).
    """
    labels = [row.variant for row in comparison.competitors]
    table = plain_table("row - column", *(f"{number}" for number in range(1, len(labels) + 1)))
    table.title = cell("Pairs: difference, wins/ties/losses, p (not corrected)", "italic")
    for number, first in enumerate(labels, 1):
        cells = [cell("·") if first == second else _pair(comparison, first, second) for second in labels]
        table.add_row(cell(f"{number} {first}"), *cells)
    return table


def _pair(comparison: Comparison, first: str, second: str) -> Text:
    """Three lines on a pair; bold if the interval excludes 0."""
    pair = comparison.pairs[first, second]
    value = interval_text(Estimate(pair.mean), sign=True)
    text = several_lines(f"{value}\n{pair.wins}/{pair.ties}/{pair.losses}\n{p_text(pair.p)}")
    text.stylize("bold" if pair.excludes_zero() else "")
    return text


def ranking_table(ranking: Ranking) -> Table:
    """Return the mean ranks over streams, with those that lack a result on one."""
    title = f"Mean rank over {len(ranking.streams)} streams · {title_of_metric(ranking.metric)} · Friedman p {p_text(ranking.p)}"
    table = plain_table("variant", "rank", title=title)
    for variant, rank in ranking.ranks.items():
        table.add_row(cell(variant), cell(f"{rank:.2f}"))
    for variant in ranking.left_out:
        table.add_row(cell(variant, "dim"), cell("not on all", "dim"))
    return table
