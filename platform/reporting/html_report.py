"""Write folders of trials as one HTML page that opens from disk without a network: tables, forgetting curves, matrices.

The same folders give the same bytes. `results` computes the numbers, `charts` the figures; `stream_section` collects what the
page shows of each stream. The templates in templates/, report.html.jinja first, write the HTML and escape names from users' YAML.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_text
from ..ledger.reader import run_name
from ..run_folders import check_new_file
from .charts import MAX_VARIANTS, variant_styles
from .comparison_section import page_comparisons, rank_tables
from .html_templates import compile_templates, render
from .report_tables import downloads
from .results import ComparedTrial, finished, reported, results_of, table_rows
from .search_results import SearchResult, searches_of
from .stream_section import stream_section


def report(folders: Sequence[Path], out: Path | None = None, results: Sequence[ComparedTrial] | None = None) -> Path:
    """Write the report over trial and sweep folders.

    Args:
        folders: folders of trials and sweeps, compared on one page.
        out: the file to write (default: report.html in the first folder).
        results: what `results_of` has returned for the folders, if that was called.

    Returns:
        The file's path.

    Raises:
        UserError: no folder is given, one is neither a trial's nor a sweep's, or the file cannot be written.
    """
    if not folders:
        raise UserError("report: no folder is given: name the folders of sweeps or trials")
    path = out if out is not None else folders[0] / "report.html"
    check_new_file(path)
    results = results_of(folders) if results is None else results
    title = " · ".join(dict.fromkeys(run_name(folder) for folder in folders))
    page = _page(title, results, [search for folder in folders for search in searches_of(folder)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def preload() -> None:
    """Import, read and compile what a report needs, which takes longer than a report on a few trials."""
    import scipy.stats  # noqa: F401
    from plotly.offline import get_plotlyjs

    get_plotlyjs()
    _themes()
    compile_templates()


def _page(title: str, trials: Sequence[ComparedTrial], searches: Sequence[SearchResult]) -> str:
    from plotly.offline import get_plotlyjs

    results = reported(trials)
    rows, style = table_rows(results), variant_styles(results)
    done = finished(results)
    names = (
        dict.fromkeys(result.stream for result in results) if done else ()
    )  # a stream without results has its table too
    comparisons = page_comparisons(results)
    streams = [
        stream_section(number, name, done.get(name, {}), rows, style, comparisons) for number, name in enumerate(names)
    ]
    return render(
        "report.html.jinja",
        title=title,
        facts=_facts(results),
        unfinished=[result for result in trials if result.problem and result.status.status != "pruned"],
        searches=searches,
        streams=streams,
        ranks=rank_tables(comparisons),
        style=style,
        max_variants=MAX_VARIANTS,
        trials=trials,
        sweeps=list(dict.fromkeys(result.sweep for result in results)),
        downloads=downloads(rows, results),
        themes=_themes(),
        plotly_js=get_plotlyjs(),
    )


def _themes() -> dict[str, Any]:
    import plotly.io as pio

    names = {"light": "plotly_white", "dark": "plotly_dark"}
    return {theme: pio.templates[name].to_plotly_json() for theme, name in names.items()}


def _facts(results: Sequence[ComparedTrial]) -> dict[str, str]:
    """For the heading: numbers of trials, variants and seeds, last update, versions."""
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
    return facts | _versions([_environment(result) for result in results])


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
