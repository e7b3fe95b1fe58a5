"""`retain compare`, its formats, the data frames and the page's section, on written folders with known accuracies."""

import csv
import io
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.written_runs import JOINT, NAN, identity, write_sweep, write_trial
from plugins import acting
from rich.console import Console
from scipy import stats

import retain
from retain import report, results
from retain.platform.cli.compare import write_comparison
from retain.platform.cli.terminal import Terminal
from retain.platform.config.schema import Experiment
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial
from retain.platform.ledger.writer import SweepLedger
from retain.platform.metrics import DIRECTIONS
from retain.platform.reporting.comparison import Comparison, compare, rankings
from retain.platform.reporting.comparison_latex import escape, to_latex
from retain.platform.reporting.comparison_rows import COLUMNS, comparison_rows
from retain.platform.reporting.comparison_text import cautions, left_out
from retain.platform.reporting.results import results_of
from retain.platform.reporting.statistics import holm, lowest_wilcoxon_p
from retain.platform.trial.run import run as run_trial

Make = Callable[..., Experiment]

NAIVE = [0.50, 0.54, 0.46, 0.52, 0.48]
LWF = [0.60, 0.63, 0.57, 0.61, 0.59]  # .10 .09 .11 .09 .11 above: clearly better
EWC = [0.51, 0.53, 0.47, 0.53, 0.47]  # .01 -.01 .01 .01 -.01
FAILED: dict[str, Any] = {"status": "failed", "error": "FloatingPointError: loss is nan"}


def with_accuracy(accuracy: float) -> list[list[float]]:
    """A matrix of two experiences whose average accuracy is `accuracy`."""
    return [[NAN, NAN], [0.95, NAN], [accuracy - 0.05, accuracy + 0.05]]


def trials_of(variants: Mapping[str, Sequence[float]], stream: str = "class_incremental") -> list[Any]:
    """The trials of variants, with an accuracy for each seed."""
    return [
        (identity(name, seed, stream), {"agnostic": with_accuracy(value)})
        for name, values in variants.items()
        for seed, value in enumerate(values)
    ]


@pytest.fixture
def tmp_path(quick_folder: Path) -> Iterator[Path]:
    """A new folder in memory, if possible: runs are flushed to the disk, and there are many."""
    path = Path(tempfile.mkdtemp(dir=quick_folder))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def folder(quick_folder: Path) -> Path:
    """A sweep of three variants with five seeds and a bound with one; no test changes it."""
    trials = trials_of({"naive": NAIVE, "lwf": LWF, "ewc": EWC})
    trials.append((identity("joint"), {"agnostic": JOINT}))
    return write_sweep(Path(tempfile.mkdtemp(dir=quick_folder)) / "sweep", trials)


def of_metric(comparisons: Iterable[Comparison], metric: str = "average_accuracy") -> Comparison:
    """The comparison of a metric."""
    (match,) = [comparison for comparison in comparisons if comparison.metric == metric]
    return match


def test_a_comparison_has_the_numbers_of_scipy(folder: Path) -> None:
    comparison = of_metric(compare(results_of([folder])))
    assert (comparison.stream, comparison.baseline, comparison.best) == ("class_incremental", "naive", "lwf")
    rows = {row.variant: row for row in comparison.variants}
    assert list(rows) == ["naive", "lwf", "ewc", "joint"] and rows["joint"].bound
    for name, values in {"naive": NAIVE, "lwf": LWF, "ewc": EWC}.items():
        row = rows[name]
        interval = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
        assert (row.mean.value, row.mean.low, row.mean.high) == pytest.approx((np.mean(values), *interval))
        assert row.interquartile_mean.value == pytest.approx(np.mean(sorted(values)[1:4]))
        resampled = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0))
        assert (row.bootstrapped_mean.low, row.bootstrapped_mean.high) == pytest.approx(
            tuple(resampled.confidence_interval), abs=0.003
        )
    p_values = [stats.ttest_rel(values, NAIVE).pvalue for values in (LWF, EWC)]
    assert [rows[name].difference.p for name in ("lwf", "ewc")] == pytest.approx(p_values)  # type: ignore[union-attr]
    assert [rows[name].adjusted_p for name in ("lwf", "ewc")] == pytest.approx(holm(p_values))
    lwf = rows["lwf"]
    assert lwf.difference is not None and lwf.improvement is not None
    assert lwf.difference.mean == pytest.approx(0.1)
    assert lwf.improvement.value == 1.0
    for row in (rows["naive"], rows["joint"]):
        assert row.difference is None and row.improvement is None and math.isnan(row.adjusted_p)


def test_the_pairwise_matrix_has_each_pair_and_no_bound(folder: Path) -> None:
    pairs = of_metric(compare(results_of([folder]))).pairs
    assert len(pairs) == 6 and not any("joint" in names for names in pairs)
    pair = pairs["ewc", "naive"]
    assert (pair.wins, pair.ties, pair.losses) == (3, 0, 2)
    assert pair.mean == pytest.approx(0.002) == -pairs["naive", "ewc"].mean
    assert pair.p == pytest.approx(stats.ttest_rel(EWC, NAIVE).pvalue) == pairs["naive", "ewc"].p
    assert (pairs["naive", "ewc"].wins, pairs["naive", "ewc"].losses) == (2, 3)


def test_lower_is_better_for_forgetting(folder: Path) -> None:
    """Accuracy at the end lowers forgetting by as much: lwf forgets least, and wins where its value is lower."""
    comparison = of_metric(compare(results_of([folder]), ["forgetting_max"]), "forgetting_max")
    assert comparison.best == "lwf"
    pair = comparison.pairs["lwf", "naive"]
    assert (pair.wins, pair.losses) == (5, 0) and pair.mean == pytest.approx(-0.1)
    improvement = next(row.improvement for row in comparison.variants if row.variant == "lwf")
    assert improvement is not None and improvement.value == 1.0


def test_each_metric_has_a_direction_and_a_column_in_latex(folder: Path) -> None:
    comparisons = compare(results_of([folder]), tuple(DIRECTIONS))
    assert {comparison.metric for comparison in comparisons} == set(DIRECTIONS)
    assert to_latex(comparisons).count(r"\uparrow") + to_latex(comparisons).count(r"\downarrow") == len(DIRECTIONS)


def test_nothing_is_the_best_if_the_second_cannot_be_told_from_it(tmp_path: Path) -> None:
    close = [value + shift for value, shift in zip(LWF, (0.01, -0.01, 0.01, -0.01, 0.01), strict=True)]
    folder = write_sweep(tmp_path / "sweep", trials_of({"naive": NAIVE, "lwf": LWF, "close": close}))
    comparisons = compare(results_of([folder]), ["average_accuracy"])
    assert comparisons[0].best is None
    assert r"\mathbf" not in to_latex(comparisons)


@pytest.mark.parametrize(
    ("more", "best"),
    [([], "lwf"), ([0.42, 0.43], "lwf"), ([0.9, 0.95, 0.9], None), ([0.68, 0.69], None)],
    ids=["common seeds only", "a worse mean", "a better mean", "almost the same mean, but better"],
)
def test_the_best_also_has_the_best_mean_of_those_shown(more: list[float], best: str | None, tmp_path: Path) -> None:
    """lwf wins on each common seed; further seeds of naive, which no difference counts, may give naive the better mean."""
    variants = {"lwf": [0.50, 0.51, 0.52], "naive": [0.40, 0.41, 0.421, *more]}
    comparison = of_metric(compare(results_of([write_sweep(tmp_path / "sweep", trials_of(variants))])))
    assert comparison.pairs["lwf", "naive"].low > 0
    assert comparison.best == best
    assert (r"\mathbf" in to_latex([comparison])) == (best is not None)


@pytest.mark.parametrize(("asked", "chosen"), [(None, "naive"), ("ewc", "ewc")])
def test_the_baseline(folder: Path, asked: str | None, chosen: str) -> None:
    comparison = of_metric(compare(results_of([folder]), baseline=asked))
    assert comparison.baseline == chosen
    assert {row.variant for row in comparison.variants if row.difference is not None} == {"naive", "lwf", "ewc"} - {
        chosen
    }


def test_without_naive_the_first_variant_is_the_baseline(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", trials_of({"lwf": LWF, "ewc": EWC}))
    assert of_metric(compare(results_of([folder]))).baseline == "lwf"


def test_missing_seeds_pair_over_the_common_ones_and_are_said(tmp_path: Path) -> None:
    trials = trials_of({"naive": NAIVE, "lwf": LWF})
    trials[1] = (trials[1][0], FAILED)  # naive, seed 1
    trials[5 + 3] = (trials[5 + 3][0], {"absent": True})  # lwf, seed 3
    read = results_of([write_sweep(tmp_path / "sweep", trials)])
    comparison = of_metric(compare(read))
    naive, lwf = comparison.variants
    assert (sorted(naive.values), sorted(lwf.values), naive.planned, lwf.planned) == ([0, 2, 3, 4], [0, 1, 2, 4], 5, 5)
    assert lwf.difference is not None and lwf.difference.seeds == (0, 2, 4)
    common = [0, 2, 4]
    expected = stats.ttest_rel([LWF[seed] for seed in common], [NAIVE[seed] for seed in common]).pvalue
    assert lwf.difference.p == pytest.approx(expected)
    (line,) = [line for line in cautions([comparison]) if "pairs" in line]
    assert "lwf and naive: pairs over 3 common seeds only (0, 2, 4); they have 4 and 4 finished ones" in line
    assert left_out(read) == [
        "naive on class_incremental, seed 1: failed after experience 1: FloatingPointError: loss is nan",
        "lwf on class_incremental, seed 3: pending",
    ]


def test_a_variant_without_a_result_has_a_row(tmp_path: Path) -> None:
    trials = trials_of({"naive": NAIVE, "lwf": LWF}) + [(identity("ewc", seed), FAILED) for seed in range(5)]
    comparison = of_metric(compare(results_of([write_sweep(tmp_path / "sweep", trials)])))
    ewc = next(row for row in comparison.variants if row.variant == "ewc")
    assert (ewc.values, ewc.planned, ewc.difference) == ({}, 5, None) and math.isnan(ewc.mean.value)
    assert comparison.best == "lwf" and set(comparison.pairs) == {("naive", "lwf"), ("lwf", "naive")}
    assert "0 of 5" in to_latex([comparison])


def test_a_baseline_that_has_no_result_on_a_stream_is_said(tmp_path: Path) -> None:
    trials = trials_of({"naive": NAIVE, "lwf": LWF}) + trials_of({"naive": NAIVE, "lwf": LWF}, "domain_incremental")
    trials[10:15] = [(who, FAILED) for who, _ in trials[10:15]]  # naive on the second stream
    comparisons = compare(results_of([write_sweep(tmp_path / "sweep", trials)]), ["average_accuracy"], baseline="naive")
    assert [comparison.baseline for comparison in comparisons] == ["naive", None]
    assert "domain_incremental: the baseline has no finished trial here, so there are no differences" in cautions(
        comparisons
    )


def test_trials_of_a_search_do_not_count_and_are_said(tmp_path: Path) -> None:
    """They would add seeds, and other settings to the variants' names."""
    reported = trials_of({"naive": NAIVE, "lwf": LWF})
    searched = [
        (
            {
                **identity("lwf", 100 + number),
                "role": "search",
                "searched": "lwf",
                "configuration": number,
                "protocol": {"name": "end_of_stream"},
            },
            {"config": f"strategies: {{lwf: {{weight: {number}}}}}\n"},
        )
        for number in range(3)
    ]
    with_search = results_of([write_sweep(tmp_path / "searched", reported + searched)])
    without = results_of([write_sweep(tmp_path / "plain", reported)])
    assert [comparison_rows([each]) for each in compare(with_search)] == [
        comparison_rows([each]) for each in compare(without)
    ]
    assert left_out(with_search) == ["3 trials of a search: they chose configurations"]
    frame = results.trials(tmp_path / "searched")
    assert frame["role"].tolist() == ["reported"] * 10 + ["search"] * 3
    assert set(frame["variant"][:10]) == {"naive", "lwf"}


def streams(tmp_path: Path, number: int) -> Path:
    """A sweep of so many streams: lwf best on each, ewc and naive in turn; gem on the first only."""
    trials = []
    for index in range(number):
        low, high = (0.4, 0.5) if index % 2 else (0.5, 0.4)
        trials += trials_of({"naive": [low] * 2, "ewc": [high] * 2, "lwf": [0.6] * 2}, f"{index} stream")
    trials += trials_of({"gem": [0.9, 0.9]}, "0 stream")
    return write_sweep(tmp_path / f"sweep{number}", trials)


def test_ranks_from_six_streams_on(tmp_path: Path) -> None:
    five, six = (compare(results_of([streams(tmp_path, number)]), ["average_accuracy"]) for number in (5, 6))
    assert rankings(five) == []
    assert "5 streams: ranks over streams are shown from 6 streams on" in cautions(five)
    (ranking,) = rankings(six)
    assert ranking.ranks == {"lwf": 1.0, "naive": 2.5, "ewc": 2.5}
    assert ranking.left_out == ["gem"] and len(ranking.streams) == 6
    table = [[0.6] * 6, [0.4, 0.5] * 3, [0.5, 0.4] * 3]
    assert ranking.p == pytest.approx(stats.friedmanchisquare(*table).pvalue)
    assert not any("ranks" in line for line in cautions(six))


def test_streams_are_never_averaged(tmp_path: Path) -> None:
    comparisons = compare(results_of([streams(tmp_path, 3)]), ["average_accuracy"])
    assert [comparison.stream for comparison in comparisons] == ["0 stream", "1 stream", "2 stream"]
    assert [row["value"] for row in comparison_rows(comparisons[1:2]) if row["statistic"] == "mean"] == pytest.approx(
        [0.4, 0.5, 0.6]
    )


@pytest.mark.parametrize(
    ("num_seeds", "test", "said"),
    [
        (
            1,
            "t",
            "class_incremental: a variant has one finished seed only: there is no interval, and a difference may be chance",
        ),
        (3, "t", "class_incremental: 3 seeds are few: only large differences can be told from chance"),
        (5, "t", "class_incremental: with fewer than 10 seeds, bootstrap intervals are too narrow"),
        (
            5,
            "wilcoxon",
            "lwf and naive: with 5 seeds, Wilcoxon's p cannot go below 0.0625: it cannot show a difference",
        ),
    ],
)
def test_few_seeds_are_said(num_seeds: int, test: Any, said: str, tmp_path: Path) -> None:
    trials = trials_of({"naive": NAIVE[:num_seeds], "lwf": LWF[:num_seeds]})
    lines = cautions(compare(results_of([write_sweep(tmp_path / "sweep", trials)]), test=test))
    assert any(said in line for line in lines), lines


def test_enough_seeds_need_no_caution(tmp_path: Path) -> None:
    trials = trials_of({"naive": NAIVE * 2, "lwf": LWF * 2})
    assert cautions(compare(results_of([write_sweep(tmp_path / "sweep", trials)]), test="wilcoxon")) == []


def test_holm_s_correction_counts_for_wilcoxon_s_lowest_p(tmp_path: Path) -> None:
    variants = {"naive": NAIVE + [0.5], "lwf": LWF + [0.7], "ewc": EWC + [0.6]}
    lines = cautions(compare(results_of([write_sweep(tmp_path / "s", trials_of(variants))]), test="wilcoxon"))
    said = (
        "lwf and naive: with 6 seeds, Wilcoxon's p cannot go below 0.03125 (0.0625 after the correction for 2 variants)"
    )
    assert any(said in line for line in lines)


@pytest.mark.parametrize(
    ("ties", "said"),
    [
        (
            3,
            "with 8 seeds (3 of them without a difference, which the test leaves out), Wilcoxon's p cannot go below 0.0625",
        ),
        (
            8,
            "with 8 seeds (8 of them without a difference, which the test leaves out), Wilcoxon's p cannot go below 1:",
        ),
        (2, None),
    ],
)
def test_seeds_without_a_difference_do_not_lower_wilcoxons_p(ties: int, said: str | None, tmp_path: Path) -> None:
    naive = [0.40, 0.41, 0.42, 0.43, 0.44, 0.45, 0.46, 0.47]
    lwf = [value if seed < ties else value + 0.1 + seed / 100 for seed, value in enumerate(naive)]
    folder = write_sweep(tmp_path / "sweep", trials_of({"naive": naive, "lwf": lwf}))
    comparison = of_metric(compare(results_of([folder]), test="wilcoxon"))
    found = [line for line in cautions([comparison]) if "Wilcoxon" in line]
    assert [said in line for line in found if said] == ([True] if said else []) and bool(found) == bool(said)
    pair = comparison.pairs["lwf", "naive"]
    assert pair.p == pytest.approx(lowest_wilcoxon_p(8 - ties))


# --- the command ---


def run(folders: Sequence[Path], **options: Any) -> tuple[str, str]:
    """Return standard output and standard error of the command."""
    out, err = io.StringIO(), io.StringIO()
    consoles: tuple[Console, Console] = (Terminal(file=out, width=140), Terminal(file=err, width=140))
    write_comparison(folders, *consoles, **options)
    return out.getvalue(), err.getvalue()


def test_the_table(folder: Path) -> None:
    out, err = run([folder])
    assert "class_incremental · Average accuracy (ACC), higher is better · baseline: naive" in " ".join(out.split())
    lines = out.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith("lwf")]
    assert lines[place].split() == ["lwf", "5", "60.0", "60.0", "+10.0", "<.001", "100"]
    assert lines[place + 1].split()[:2] == ["±", "2.8"]
    assert lines[place + 1].split()[-4:] == ["[+8.8,", "+11.2]", "[100,", "100]"]
    assert "joint (bound)" in out and "5/0/0" in out and "0/0/5" in out
    assert "left out" not in err and "bootstrap intervals are too narrow" in err


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_fits_into_a_terminal(folder: Path, width: int) -> None:
    out, err = io.StringIO(), io.StringIO()
    write_comparison([folder], Terminal(file=out, width=width), Terminal(file=err, width=width))
    assert "…" not in out.getvalue() and "joint (bound)" in out.getvalue()


def test_csv_has_every_statistic(folder: Path) -> None:
    out, _ = run([folder], format_name="csv")
    lines = list(csv.DictReader(io.StringIO(out)))
    assert tuple(lines[0]) == COLUMNS
    assert {line["metric"] for line in lines} == set(DIRECTIONS)
    accuracy = [line for line in lines if line["metric"] == "average_accuracy"]
    kinds = [line["statistic"] for line in accuracy]
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)} == {
        "mean": 4,
        "bootstrapped_mean": 4,
        "interquartile_mean": 4,
        "difference": 2,
        "probability_of_improvement": 2,
        "pairwise_difference": 6,
    }
    best = [line["variant"] for line in accuracy if line["is_best"] == "True"]
    assert best == ["lwf"]
    (line,) = [line for line in accuracy if line["statistic"] == "difference" and line["variant"] == "lwf"]
    assert (line["compared_with"], line["seeds"], line["wins"], line["test"]) == ("naive", "5", "5", "t")
    assert float(line["adjusted_p"]) == pytest.approx(2 * stats.ttest_rel(LWF, NAIVE).pvalue)


def test_parquet_is_the_data_frame(folder: Path, tmp_path: Path) -> None:
    out, _ = run([folder], format_name="parquet", output=tmp_path / "new" / "table.parquet")
    assert out == f"{tmp_path / 'new' / 'table.parquet'}\n"
    read = pd.read_parquet(tmp_path / "new" / "table.parquet")
    pd.testing.assert_frame_equal(read, results.comparison(folder, tuple(DIRECTIONS)), check_dtype=False)
    assert read["value"].dtype == "float64"
    (line,) = read.query("statistic == 'difference' and variant == 'ewc' and metric == 'average_accuracy'").to_dict(
        "records"
    )
    assert line["value"] == pytest.approx(0.002)


def test_latex_is_written_as_it_is(folder: Path, tmp_path: Path) -> None:
    printed, _ = run([folder], format_name="latex")
    run([folder], format_name="latex", output=tmp_path / "table.tex")
    assert (tmp_path / "table.tex").read_text() == printed
    assert printed.count(r"\toprule") == printed.count(r"\bottomrule") == 1
    assert r"\hline" not in printed and "|" not in re.sub(r"\\begin\{tabular\}\{.*\}", "", printed)
    (line,) = [line for line in printed.splitlines() if line.startswith("lwf &")]
    seeds, accuracy, incremental, forgetting, difference, p = (
        cell.strip() for cell in line.removesuffix(r"\\").split("&")[1:]
    )
    assert (
        seeds == "5" and accuracy == r"$\mathbf{60.0 \pm 2.8}$" and "mathbf" in forgetting and "mathbf" in incremental
    )
    assert (difference, p) == (r"$+10.0\;[+8.8, +11.2]$", "$<.001$")
    assert "Bold: the best mean, if the 95" in printed and "5 seeds" not in printed  # joint has one


HOSTILE = {
    "a_b": r"a\_b",
    "50% & #1 {x} $y$": r"50\% \& \#1 \{x\} \$y\$",
    r"\input{secret}": r"\textbackslash{}input\{secret\}",
    "~^<>|": r"\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}",
    "a--b``c''": "a{-}{-}b{`}{`}c{'}{'}",
    "λ=0.1 ± 2 → 3": r"$\lambda$=0.1 $\pm$ 2 $\to$ 3",
    "line\nbreak\x1b[31m": r"line\textbackslash{}nbreak\textbackslash{}x1b[31m",
    "é ß ñ": "é ß ñ",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_latex_escapes_names(name: str) -> None:
    assert escape(name) == HOSTILE[name]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_with_hostile_names(tmp_path: Path) -> None:
    trials = trials_of({name: NAIVE[:3] for name in HOSTILE}) + [(identity("joint"), {"agnostic": JOINT})]
    table, _ = run([write_sweep(tmp_path / "sweep", trials)], format_name="latex")
    page = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + table + r"\end{document}"
    (tmp_path / "page.tex").write_text(page, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape", "page.tex"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=300)
    assert ended.returncode == 0, ended.stdout[-2000:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format_name": "xlsx"}, "compare --format xlsx: must be one of table, csv, parquet, latex."),
        ({"format_name": "latx"}, "Did you mean 'latex'?"),
        ({"test_name": "z"}, "compare --test z: must be one of t, wilcoxon."),
        ({"metric_names": ["average_acuracy"]}, "metric average_acuracy: is unknown. Did you mean 'average_accuracy'?"),
        (
            {"baseline": "naiv"},
            "is no variant that is compared. Did you mean 'naive'? There are: naive, lwf, ewc.",
        ),
        ({"baseline": "joint"}, "baseline joint: is no variant that is compared."),
        ({"format_name": "parquet"}, "compare --format parquet: is binary: name a file with --output."),
        ({"format_name": "csv", "output": Path()}, "it is a folder"),
    ],
)
def test_wrong_options_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        run([folder], **options)


def test_without_a_finished_trial_there_is_nothing_to_compare(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", [(identity("naive"), FAILED), (identity("lwf"), {"absent": True})])
    with pytest.raises(UserError, match="no trial has finished"):
        run([folder])


def test_hostile_names_reach_neither_terminal_nor_spreadsheet(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", trials_of({"=1+1\x1b[2J": NAIVE, "naive": LWF}))
    for name in ("table", "csv", "latex"):
        assert "\x1b" not in "".join(run([folder], format_name=name))
    lines = list(csv.DictReader(io.StringIO(run([folder], format_name="csv")[0])))
    assert {line["variant"] for line in lines} == {"'=1+1\\x1b[2J", "naive"}


def test_several_folders_are_compared_together(tmp_path: Path) -> None:
    first = write_sweep(tmp_path / "first", trials_of({"naive": NAIVE}))
    second = write_sweep(tmp_path / "second", trials_of({"lwf": LWF}))
    comparison = of_metric(compare(results_of([first, second])))
    assert comparison.best == "lwf" and comparison.pairs["lwf", "naive"].seeds == (0, 1, 2, 3, 4)


# --- the page ---


def page_of(folder: Path, tmp_path: Path) -> str:
    """The report's text, without scripts and with blanks between elements."""
    page = report([folder], tmp_path / "page.html").read_text(encoding="utf-8")
    page = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_the_page_has_the_statistics(folder: Path, tmp_path: Path) -> None:
    text = page_of(folder, tmp_path)
    assert "Average accuracy (ACC) · compared with naive" in text
    assert "Forgetting, max over past - final (Chaudhry 2018) · compared with naive" in text
    assert "lwf 5 60.0 ± 2.8" in text and "+10.0 [+8.8, +11.2] 5 <.001 100 [100, 100]" in text
    assert re.search(r"naive 5 50.0 ± 3.9 50.0 \[4\d\.\d, 5\d\.\d\] baseline", text)
    assert "naive · -10.0 0/0/5 p <.001 -0.2 2/0/3 p .704" in text  # the first row of the matrix
    assert "with fewer than 10 seeds, bootstrap intervals are too narrow" in text
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('class="better"') == page.count('class="worse"') == 2 * 2  # lwf against two, in two metrics
    assert "Ranks over all streams" not in text


def test_the_page_has_ranks_from_six_streams_on(tmp_path: Path) -> None:
    text = page_of(streams(tmp_path, 6), tmp_path)
    assert "Ranks over all streams" in text and "Average accuracy (ACC), task-agnostic (tag), 6 streams" in text
    assert "lwf 1.00 naive 2.50 ewc 2.50" in text and "Without a result on some stream: gem" in text


def test_a_single_variant_has_no_statistics_and_costs_none(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", trials_of({"naive": NAIVE}))
    program = (
        "import sys; from pathlib import Path; from retain import report; "
        "page = report([Path(sys.argv[1])]).read_text(); print('compared with' in page, 'scipy.stats' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=300)
    assert ended.stdout == "False False\n", ended.stderr


# --- data frames ---


def test_trials_in_a_data_frame(folder: Path) -> None:
    frame = results.trials(folder)
    assert len(frame) == 16 and frame["average_accuracy"].dtype == "float64"
    means = frame.groupby("variant")["average_accuracy"].mean()
    assert means[["naive", "lwf", "ewc"]].tolist() == pytest.approx([0.5, 0.6, 0.502])
    assert frame.set_index("variant")["is_bound"].to_dict()["joint"]
    assert {f"task_aware.{name}" for name in DIRECTIONS} | {*DIRECTIONS} <= set(frame.columns)


def test_trials_have_unfinished_ones_with_their_problems(tmp_path: Path) -> None:
    folder = write_sweep(
        tmp_path / "sweep",
        [(identity("naive"), {}), (identity("naive", 1), FAILED), (identity("lwf"), {"absent": True})],
    )
    frame = results.trials([folder])
    assert frame["status"].tolist() == ["done", "failed", "pending"]
    assert frame["problem"].tolist() == ["", "failed after experience 1: FloatingPointError: loss is nan", "pending"]
    assert frame["average_accuracy"].isna().tolist() == [False, True, True]


def test_matrices_in_long_form(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = results.matrices(folder)
    assert len(frame) == 16 * 2 * 3 * 2  # trials, views, rows, columns
    (cell,) = frame.query(
        "variant == 'lwf' and seed == 1 and view == 'task_agnostic' and after == 2 and experience == 1"
    )["accuracy"]
    assert cell == pytest.approx(LWF[1] - 0.05)
    final = frame.query("view == 'task_agnostic' and after == 2").groupby(["variant", "seed"])["accuracy"].mean()
    assert final["lwf"].tolist() == pytest.approx(LWF)
    assert (
        frame["accuracy"].isna().sum()
        == frame.query("after == 0 or (after == 1 and (experience == 2 or variant == 'joint'))").shape[0]
    )
    assert frame.attrs["left_out"] == [] and caplog.text == ""


def test_frames_say_what_they_lack(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_sweep(tmp_path / "sweep", [(identity("naive"), {}), (identity("naive", 1), FAILED)])
    assert results.matrices(folder).attrs["left_out"] == [
        "naive on class_incremental, seed 1: failed after experience 1: FloatingPointError: loss is nan"
    ]
    assert "left out: naive on class_incremental, seed 1: failed" in caplog.text


def test_events_in_a_data_frame(folder: Path) -> None:
    frame = results.events(folder)
    assert len(frame) == 16 * 4 and set(frame["kind"]) == {"epoch"}
    losses = frame.query("variant == 'naive' and seed == 0")
    assert losses["loss"].tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert losses["experience"].tolist() == [1, 1, 2, 2] and losses["iteration"].tolist() == [0, 1, 2, 3]
    assert results.events(folder, kind="probe").empty


def test_nested_events_get_dotted_names(tmp_path: Path) -> None:
    from retain.platform.ledger.writer import TrialLedger

    folder = write_trial(tmp_path / "trial", identity("naive"), status="running")
    with TrialLedger.open(folder) as ledger:
        ledger.append(
            "experience", 1, 9, {"task_agnostic": [0.5, 0.25], "metrics": {"task_aware": {"average_accuracy": None}}}
        )
    (row,) = results.events(folder, "experience").to_dict("records")
    assert (row["task_agnostic.1"], row["task_agnostic.2"]) == (0.5, 0.25)
    assert row["metrics.task_aware.average_accuracy"] is None and row["iteration"] == 9


def test_a_damaged_ledger_is_left_out_and_said(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", trials_of({"naive": NAIVE[:2]}))
    (first, *_) = sorted((folder / "trials").iterdir())
    with (first / "metrics.jsonl").open("ab") as file:
        file.write(b"{}\n")
    frame = results.events(folder)
    assert len(frame.attrs["left_out"]) == 1 and "metrics.jsonl is damaged" in frame.attrs["left_out"][0]


def test_empty_frames_have_their_columns_and_types(tmp_path: Path) -> None:
    with SweepLedger.create(tmp_path / "sweep", "schema: 1\n", "demo", []):
        pass
    for frame in (
        results.trials(tmp_path / "sweep"),
        results.matrices(tmp_path / "sweep"),
        results.events(tmp_path / "sweep"),
    ):
        assert frame.empty and frame["seed"].dtype == "int64"


def test_the_example_of_the_docs_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(retain.__file__).parent / "docs" / "statistics.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    values: dict[str, Any] = {}
    exec(compile(example.replace("runs/my-sweep", str(folder)), "statistics.md", "exec"), values)
    assert "0.502" in capsys.readouterr().out
    assert values["differences"].set_index("variant")["value"].to_dict() == pytest.approx({"lwf": 0.1, "ewc": 0.002})
    assert len(values["final"]) == 16 * 2 and len(values["epochs"]) == 16 * 4


def test_a_wrong_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder of a trial or a sweep"):
        results.trials(tmp_path)


def test_the_public_module_loads_no_torch(folder: Path) -> None:
    program = (
        "import sys, json; from retain import results; frame = results.trials(sys.argv[1]); "
        "print(len(frame), [name for name in ('torch', 'ray', 'plotly', 'avalanche') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=300)
    assert ended.stdout == "16 []\n", ended.stderr


# --- pairs: what variants of one seed share ---


def recorded(folder: Path, experiment: Experiment) -> dict[str, Any]:
    """Run a trial; record its stream, its weights before the first step, the new classes' weights, and each mini-batch."""
    seen: dict[str, Any] = {"batches": {}, "new classes": []}

    def record(learner: Any) -> None:
        clock = learner.clock
        parameters = {name: value.detach().clone() for name, value in learner.model.named_parameters()}
        if clock.train_iterations == 0:
            seen["weights"] = {name: value.numpy().tobytes() for name, value in parameters.items()}
        if clock.train_exp_iterations == 0:
            num_new = len(learner.experience.classes_in_this_experience)
            seen["new classes"].append([value[-num_new:].numpy().tobytes() for value in list(parameters.values())[-2:]])
        place = clock.train_exp_counter, clock.train_exp_iterations
        seen["batches"][place] = learner.mb_x.numpy().tobytes(), learner.mb_y.numpy().tobytes()

    acting.CALL[:] = [record]
    run_trial(experiment, folder)
    matrix = Trial(folder).read("matrix") or {}
    return seen | {name: matrix[name] for name in ("experiences", "class_names", "sizes")}


@pytest.mark.parametrize(
    ("variant", "settings"), [("lwf", {}), ("ewc", {}), ("freezing", {}), ("early_stopping", {"patience": 1})]
)
def test_trials_of_one_seed_share_classes_weights_and_batches(
    variant: str, settings: dict[str, Any], tmp_path: Path, make_experiment: Make
) -> None:
    """So their difference is one of the variants: pairs by seed are valid. Another seed shares none of these."""

    def trial(name: str, strategies: dict[str, Any], seed: int) -> dict[str, Any]:
        strategies = {**strategies, "plugins.acting": {}}
        return recorded(tmp_path / f"{name}-{seed}", make_experiment("pair", strategies, seed, epochs=2))

    naive, other, elsewhere = trial("naive", {}, 3), trial(variant, {variant: settings}, 3), trial("naive", {}, 4)
    assert len(naive["batches"]) > 40 and len(naive["new classes"]) == 2
    for name in ("experiences", "class_names", "sizes", "weights", "new classes"):
        assert naive[name] == other[name], name
    places = naive["batches"].keys() & other["batches"].keys()
    assert len(places) >= len(naive["batches"]) / 2  # early stopping may end an experience after one of two epochs
    assert all(naive["batches"][place] == other["batches"][place] for place in places)
    for name in ("experiences", "weights", "new classes"):
        assert naive[name] != elsewhere[name], name
    assert not {*naive["batches"].values()} & {*elsewhere["batches"].values()}
