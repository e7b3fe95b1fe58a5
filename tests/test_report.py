"""The report for synthetic folders: its numbers, what it leaves out and escapes, and that a browser draws it."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.processes import DEADLINE
from helpers.written_runs import AWARE, CLASS, DOMAIN, JOINT, NAN, identity, write_sweep, write_trial

from retain.platform.errors import UserError
from retain.platform.ledger.documents import write_json
from retain.platform.ledger.reader import Trial
from retain.platform.ledger.writer import TrialLedger, write_status
from retain.platform.reporting import charts
from retain.platform.reporting.html_report import report
from retain.platform.reporting.results import TableRow, best_variants, finished, format_cell, results_of, table_rows
from retain.platform.reporting.rows import final_values

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Write a sweep of two streams; naive with two seeds, lwf, joint; one failed trial and one that never started."""
    better = [[NAN, NAN], [0.9, NAN], [0.6, 0.8]]
    other_seed = [[NAN, NAN], [0.9, NAN], [0.3, 0.9]]
    trials: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (identity("naive"), {"agnostic": CLASS, "aware": AWARE}),
        (identity("naive", 1), {"agnostic": other_seed, "aware": AWARE}),
        (identity("lwf"), {"agnostic": better, "aware": AWARE}),
        (identity("joint"), {"agnostic": JOINT, "aware": JOINT}),
        (identity("naive", stream="domain_incremental"), {"agnostic": DOMAIN}),
        (identity("lwf", 1), {"status": "failed", "error": "FloatingPointError: loss is nan"}),
        (identity("lwf", 2), {"absent": True}),
    ]
    return write_sweep(tmp_path / "sweep", trials)


class Page(HTMLParser):
    """Parse a page: its tables by view, its text, its resources and its elements' attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: list[tuple[str, list[list[str]], list[list[bool]]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.hidden_plots = 0  # charts of the view that is hidden at first
        self._open: list[str] = []
        self._hidden: list[bool] = []  # whether each open element hides its content
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the element; open a table, row or cell."""
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._open.append(tag)
        self._hidden.append("hidden" in attributes)
        self.hidden_plots += attributes.get("class") == "plot" and any(self._hidden)
        if tag == "table":
            self.tables.append((attributes.get("data-table") or "", [], []))
        elif tag == "tr":
            self.tables[-1][1].append([])
            self.tables[-1][2].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")
            self.tables[-1][2][-1].append("best" in (attributes.get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        """Close up to this element."""
        while self._open and self._open.pop() != tag:
            pass
        del self._hidden[len(self._open) :]

    def handle_data(self, data: str) -> None:
        """Record the text of a cell, of a script, or of the page."""
        if self._open and self._open[-1] in ("script", "style"):
            self.scripts.append(data)
            return
        self.text.append(data)
        if {"td", "th"} & set(self._open):
            self.tables[-1][1][-1][-1] += data

    def summary(self) -> list[tuple[str, dict[str, list[str]]]]:
        """Return the summary tables: (view, variant -> cells)."""
        return [(view, {row[0]: row[1:] for row in rows[1:]}) for view, rows, _ in self.tables if view]

    def marked(self, table: int) -> set[tuple[str, int]]:
        """Return (variant, column) of the marked cells of a summary table; the first column of numbers is 0."""
        _, rows, flags = [parsed for parsed in self.tables if parsed[0]][table]
        return {(row[0], j - 1) for row, flag in zip(rows, flags, strict=True) for j, on in enumerate(flag) if on}


def downloaded(page: Page, name: str) -> str:
    """Return the content of a download link."""
    link = next(attrs["href"] for tag, attrs in page.tags if tag == "a" and attrs.get("download") == name)
    return base64.b64decode((link or "").split("base64,")[1]).decode()


def test_the_table_has_the_numbers_by_hand(sweep: Path) -> None:
    path = report([sweep])
    assert path == sweep / "report.html"
    page = Page(path)
    (first, agnostic), (second, _), (third, domain) = page.summary()
    assert (first, second, third) == ("task_agnostic", "task_aware", "task_agnostic")
    # seeds 0 and 1: ACC 50 and 60, t(0.975, 1) = 12.706, half width 12.706 * 7.0711 / sqrt(2) = 63.5;
    # incremental (90 + 65) / 2 and (90 + 75) / 2; forgetting 70 and 60; learning (90 + 80) / 2 and 90
    assert agnostic["naive"] == ["55.0 ± 63.5", "80.0 ± 31.8", "65.0 ± 63.5", "87.5 ± 31.8", "-65.0 ± 63.5", "2"]
    assert agnostic["lwf"] == ["70.0", "82.5", "30.0", "85.0", "-30.0", "1 of 3"]
    assert agnostic["joint"] == ["80.0", "-", "-", "-", "-", "1"]
    assert list(agnostic) == ["naive", "lwf", "joint"]
    assert domain == {"naive": ["70.0", "82.5", "30.0", "85.0", "-30.0", "1"]}


def test_the_best_competitor_is_marked_and_never_a_bound(tmp_path: Path) -> None:
    better = [[NAN, NAN], [0.9, NAN], [0.6, 0.8]]
    matrices = {"naive": CLASS, "lwf": better, "joint": JOINT}
    trials = [(identity(name, seed), {"agnostic": matrices[name]}) for name in matrices for seed in (0, 1)]
    page = Page(report([write_sweep(tmp_path / "s", trials)]))
    assert page.marked(0) == {("lwf", 0), ("lwf", 1), ("lwf", 2), ("naive", 3), ("lwf", 3), ("lwf", 4)}
    assert "Highest average accuracy at the end, in %: lwf (70.0 ± 0.0)" in "".join(page.text)


def test_nothing_is_the_best_on_one_seed(sweep: Path) -> None:
    page = Page(report([sweep]))  # lwf: 1 of 3
    assert [page.marked(table) for table in range(3)] == [set(), set(), set()]
    assert "Highest average accuracy" not in "".join(page.text)


def test_failed_and_missing_trials_are_named_with_the_reason(sweep: Path) -> None:
    text = "".join(Page(report([sweep])).text)
    assert "2 trials not finished" in text
    assert "lwf on class_incremental, seed 1: failed after experience 1: FloatingPointError: loss is nan" in text
    assert "lwf on class_incremental, seed 2: pending" in text
    assert "5 of 7 finished" in text
    assert "abcdef0123 + changes" in text


def test_a_sweep_without_a_finished_trial_says_so(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", [(identity("naive"), {"absent": True})])
    page = Page(report([folder]))
    assert "No trial has finished yet" in "".join(page.text)
    assert page.summary() == []


@pytest.mark.parametrize("damage", ["{", '{"schema": 1}', '{"schema": 99}'])
def test_a_damaged_matrix_is_reported_and_the_others_are_compared(sweep: Path, damage: str) -> None:
    trial = next(result.trial for result in results_of([sweep]) if result.label == "lwf" and result.views)
    (trial.folder / "matrix.json").write_text(damage)
    page = Page(report([sweep]))
    assert "lwf on class_incremental, seed 0: unreadable" in "".join(page.text)
    assert "naive" in page.summary()[0][1]


def test_nothing_is_loaded_from_anywhere(sweep: Path) -> None:
    page = Page(report([sweep]))
    for tag, attrs in page.tags:
        assert "src" not in attrs and tag not in ("link", "iframe", "img", "object", "embed", "base")
        assert re.match(r"#|data:", attrs.get("href") or "#")
    styles = "".join(text for text in page.scripts if "--bg" in text)
    assert "url(" not in styles and "@import" not in styles


def test_plotly_is_included_once_and_the_page_is_reproducible(sweep: Path) -> None:
    first = report([sweep]).read_bytes()
    assert first.count(b"plotly.js v") == 1
    assert report([sweep], sweep / "again" / "page.html").read_bytes() == first
    assert [entry.name for entry in (sweep / "again").iterdir()] == ["page.html"]  # no temporary file is left


EVIL = "</script><img src=x onerror=alert(1)>\"'&{$title}"


def test_names_from_yaml_are_escaped(tmp_path: Path) -> None:
    who = identity(EVIL, stream=f"class_{EVIL}") | {"id": "evil"}
    folder = write_sweep(tmp_path / "s", [(who, {"aware": AWARE})], name=EVIL)
    page = Page(report([folder]))
    assert not any(tag == "img" or "onerror" in attrs for tag, attrs in page.tags)
    assert EVIL in page.summary()[0][1]
    figures = [json.loads(text) for text in page.scripts if text.startswith('{"data"')]
    names = {trace["name"] for figure in figures for trace in figure["data"] if "name" in trace}
    assert figures and all("<img" not in name for name in names)  # Plotly reads HTML in names


def test_an_error_text_is_escaped(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", [(identity("naive"), {"status": "failed", "error": EVIL})])
    page = Page(report([folder]))
    assert EVIL in "".join(page.text)
    assert not any(tag == "img" for tag, _ in page.tags)


RUN = "document.documentElement.dataset.ran=1"  # what each hostile name tries to run
HOSTILE = [
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"</SCRIPT ><img src=x onerror={RUN}>",
    f"<img src=x onerror={RUN}>",
    f'"><img src=x onerror={RUN}>',
    f"'><img src=x onerror={RUN}>",
    f'" autofocus tabindex=1 onfocus="{RUN}',
    f"' autofocus tabindex=1 onfocus='{RUN}",
    f"</title><script>{RUN}</script>",
    f"</style><script>{RUN}</script>",
    f"</td></table></details><svg onload={RUN}>",
    f"<!--<script>{RUN}</script>",
    f"--><script>{RUN}</script>",
    f"]]><svg><script>{RUN}</script></svg>",
    f'<a href="javascript:{RUN}">x</a>',
    f"javascript:{RUN}",
    f"&lt;img src=x onerror={RUN}&gt;",
    f"&#60;img src=x onerror={RUN}&#62;",
    f"\\u003cimg src=x onerror={RUN}\\u003e",
    f'\\"}}]}}</script><script>{RUN}</script>',
    "{{ 7 * 7 }}{% raw %}{# #}",
    "{{ cycler() }}{{ title.upper() }}",
    "$title ${title} %(title)s {title}",
    "%{customdata} %{fullData.name} <b>x</b>",
]


def write_named(folder: Path, name: str) -> Path:
    """Write a sweep with a done and a failed trial that have this name wherever one is shown."""
    who = identity(name, stream=name)
    trials = [
        (who | {"id": "done"}, {"aware": AWARE}),
        (who | {"id": "failed", "seed": 1}, {"status": "failed", "error": name}),
    ]
    trial = write_sweep(folder, trials, name=name) / "trials" / "done"
    for file, changes in (
        ("matrix", {"experiences": [name] * 2, "class_names": [name] * 4}),
        ("environment", {"retain": name, "packages": {"torch": name}, "git": {"commit": name}, "device": name}),
    ):
        path = trial / f"{file}.json"
        write_json(path, json.loads(path.read_text()) | changes)
    probe = {"kind": "probe", "experience": 2, "iteration": 3, "probe": name}
    with (trial / "metrics.jsonl").open("a") as ledger:
        for after, values in ((True, {name: 0.5}), (False, {f"{name} during": 0.5})):
            ledger.write(json.dumps({**probe, "after": after, "values": values}) + "\n")
    (trial / "probes").mkdir()
    (trial / "probes" / "worst_errors-002.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    errors = [{"true": name, "predicted": name, "probability": 0.9}]
    write_json(trial / "probes" / "worst_errors-002.json", {"experience": 2, "errors": errors})
    return folder


def skeleton(page: Page) -> list[tuple[str, tuple[str, ...]]]:
    """Return the elements of a page and the names of their attributes."""
    return [(tag, tuple(sorted(attrs))) for tag, attrs in page.tags]


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Write the page of trials that have a harmless name everywhere."""
    return Page(report([write_named(tmp_path_factory.mktemp("harmless") / "s", "a harmless name")]))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_and_adds_no_element(harmless: Page, tmp_path: Path, name: str) -> None:
    page = Page(report([write_named(tmp_path / "s", name)]))
    assert skeleton(page) == skeleton(harmless)
    shown = [text.replace("a harmless name", name) for text in harmless.text]
    places = sum(name in text for text in shown)
    assert sum(name in text for text in page.text) == places > 15
    assert list(page.summary()[0][1]) == [name]


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs {CHROMIUM}")
def test_no_hostile_name_runs_in_a_browser(tmp_path: Path) -> None:
    folders = [write_trial(tmp_path / str(i), identity(name), aware=AWARE) for i, name in enumerate(HOSTILE)]
    folders += [write_named(tmp_path / "s", HOSTILE[1])]
    dom = drawn_in_a_browser(report(folders[:12] + folders[24:], tmp_path / "page.html"), tmp_path)
    dom += drawn_in_a_browser(report(folders[12:], tmp_path / "page.html"), tmp_path)  # charts show 12 variants
    roots = re.findall("<html[^>]*>", dom)
    assert len(roots) == 2 and "data-ran" not in "".join(roots)
    assert len(re.findall('class="[^"]*svg-container[^"]*"', dom)) > 20


def test_every_metric_can_be_downloaded(sweep: Path) -> None:
    page = Page(report([sweep]))
    lines = list(csv.DictReader(io.StringIO(downloaded(page, "summary.csv"))))
    chosen = {(line["stream"], line["view"], line["variant"], line["metric"]): line for line in lines}
    line = chosen["class_incremental", "task_agnostic", "naive", "forgetting_max"]
    assert float(line["mean"]) == pytest.approx(0.65)
    assert line["seeds"] == "2"
    assert chosen["class_incremental", "task_agnostic", "joint", "learning_accuracy"]["mean"] == ""
    assert {name for *_, name in chosen} >= {"forgetting_last", "forgetting_max_incl_last", "forgetting_running"}
    trials = json.loads(downloaded(page, "matrices.json"))["trials"]
    assert trials[0]["task_agnostic"] == [[None, None], [0.9, None], [0.2, 0.8]]


def test_single_runs_are_compared_as_variants(tmp_path: Path) -> None:
    folders = [write_trial(tmp_path / name, identity(name)) for name in ("naive", "lwf")]
    assert report(folders) == tmp_path / "naive" / "report.html"
    assert [row.variant for row in table_rows(results_of(folders)) if row.view == "task_agnostic"] == ["naive", "lwf"]


def labels(folders: Sequence[Path]) -> list[str]:
    """Return the labels of the trials in these folders."""
    return [result.label for result in results_of(folders)]


def test_the_same_variant_and_seed_twice_is_distinguished_by_the_folder(tmp_path: Path) -> None:
    folders = [write_trial(tmp_path / name, identity("lwf")) for name in ("monday", "tuesday")]
    assert labels(folders) == ["lwf (monday)", "lwf (tuesday)"]
    assert labels([folders[0], folders[0]]) == ["lwf"]  # the same folder twice is one trial
    deeper = [write_trial(tmp_path / name / "run", identity("lwf")) for name in ("a", "b")]
    assert labels(deeper) == [f"lwf ({folder})" for folder in deeper]


def run(folder: Path, seed: int, settings: str) -> Path:
    """Write a single run of "lwf" with these settings in its config.yaml."""
    return write_trial(folder, identity("lwf", seed), config=f"schema: 1\nseed: {seed}\noutput: {folder}\n{settings}\n")


def test_seeds_in_separate_folders_are_one_variant(tmp_path: Path) -> None:
    folders = [run(tmp_path / str(seed), seed, "strategies: {lwf: {weight: 1.0}}") for seed in (0, 1)]
    assert labels(folders) == ["lwf", "lwf"]
    assert table_rows(results_of(folders))[0].metrics["average_accuracy"][2] == 2


def test_runs_with_other_settings_are_not_seeds_of_one_variant(tmp_path: Path) -> None:
    settings = ("strategies: {lwf: {weight: 1.0}}", "strategies: {lwf: {weight: 2.0}}", "strategies: {}")
    folders = [run(tmp_path / str(seed), seed, changed) for seed, changed in enumerate(settings)]
    assert labels(folders) == ["lwf weight=1.0", "lwf weight=2.0", "lwf strategies={}"]
    both = ("a: {lr: 1}\nb: {lr: 1}", "a: {lr: 2}\nb: {lr: 3}")
    folders = [run(tmp_path / f"lr{seed}", seed, changed) for seed, changed in enumerate(both)]
    assert labels(folders) == ["lwf a.lr=1, b.lr=1", "lwf a.lr=2, b.lr=3"]


def test_streams_of_one_name_and_different_lengths_are_separate(tmp_path: Path) -> None:
    long = write_trial(tmp_path / "long", identity("naive"))
    short = write_trial(tmp_path / "short", identity("naive", 1))
    matrix = json.loads((short / "matrix.json").read_text())
    single = {"num_experiences": 1, "experiences": ["all"], "sizes": [5], "task_agnostic": [[0.1], [0.7]]}
    write_json(short / "matrix.json", {**matrix, **single, "task_aware": [[0.1], [0.7]]})
    assert list(finished(results_of([long, short]))) == [
        "class_incremental (2 experiences)",
        "class_incremental (1 experiences)",
    ]
    assert len(Page(report([long, short])).summary()) == 2


def test_a_bound_is_recognised_by_its_strategy_not_by_its_name(tmp_path: Path) -> None:
    config = "schema: 1\nstrategies:\n  cumulative: {}\n"
    folder = write_trial(tmp_path / "t", identity("my ceiling"), config=config)
    assert [result.bound for result in results_of([folder])] == [True]


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        report([tmp_path])
    with pytest.raises(UserError, match="no folder"):
        report([])


@pytest.mark.parametrize(
    ("value", "shown"),
    [((0.831, 0.005), "83.1 ± 0.5"), ((0.831, NAN), "83.1"), ((NAN, NAN), "-"), ((-0.0001, NAN), "0.0")],
)
def test_cell(value: tuple[float, float], shown: str) -> None:
    assert format_cell(*value) == shown


def row(variant: str, mean: float, *, bound: bool = False, seeds: int = 2) -> TableRow:
    """Return a row with two metrics only."""
    names = ("average_accuracy", "forgetting_max")
    return TableRow("s", "v", variant, bound, dict.fromkeys(names, (mean, NAN, seeds)), planned=3)


def test_best_knows_the_direction_ties_and_undefined_values() -> None:
    rows = [row("a", 0.5), row("b", 0.7), row("c", NAN), row("d", 0.7), row("joint", 0.9, bound=True)]
    assert best_variants(rows, "average_accuracy") == {"b", "d"}
    assert best_variants(rows, "forgetting_max") == {"a"}
    assert best_variants(rows[2:3], "average_accuracy") == set()


@pytest.mark.parametrize(
    ("seeds", "best"), [((2, 2), {"b"}), ((3, 2), {"b"}), ((1, 2), set()), ((2, 1), set()), ((1, 1), set())]
)
def test_best_needs_two_seeds_of_every_variant_compared(seeds: tuple[int, int], best: set[str]) -> None:
    bound_and_empty = [row("joint", 0.9, bound=True, seeds=1), row("lwf", NAN, seeds=0)]
    rows = [row("a", 0.5, seeds=seeds[0]), row("b", 0.7, seeds=seeds[1]), *bound_and_empty]
    assert best_variants(rows, "average_accuracy") == best
    assert [shown.seeds for shown in rows] == [f"{n} of 3" if n < 3 else "3" for n in (*seeds, 1, 0)]


def test_curves_show_means_with_their_interval_and_joint_as_a_level(sweep: Path) -> None:
    results = results_of([sweep])
    variants = finished(results)["class_incremental"]
    figure = charts.accuracy_curves(variants, "task_agnostic", charts.variant_styles(results))
    lines = {trace["name"]: trace for trace in figure["data"] if trace.get("name")}
    assert list(lines["naive"]["y"]) == pytest.approx([0.9, 0.55])
    assert list(lines["naive"]["customdata"]) == [" ± 0.0%", " ± 63.5%"]
    assert list(lines["joint"]["y"]) == pytest.approx([0.8, 0.8])
    assert lines["joint"]["line"]["dash"] != "solid"
    assert "newest" in "".join(lines)
    bands = [trace for trace in figure["data"] if trace.get("fill") == "toself"]
    assert [band["legendgroup"] for band in bands] == ["naive"]  # one seed has no interval
    assert list(bands[0]["y"]) == pytest.approx([0.9, 1.18531, -0.08531, 0.9], abs=1e-4)


def test_a_variant_looks_the_same_everywhere_and_unlike_the_others(tmp_path: Path) -> None:
    folders = [write_trial(tmp_path / str(n), identity(f"variant {n}")) for n in range(14)]
    results = results_of(folders)
    looks = charts.variant_styles(results)
    assert len(set(looks.values())) == len(looks) == 14
    variants = finished(results)["class_incremental"]
    for chart in (charts.accuracy_curves, charts.forgetting_curves):
        data = chart(variants, "task_agnostic", looks)["data"]
        lines = {trace["name"]: trace["line"]["color"] for trace in data if trace.get("name") in looks}
        assert lines == {label: look.colour for label, look in looks.items()}


def test_many_variants_are_all_in_the_table_and_the_best_in_the_charts(tmp_path: Path) -> None:
    matrices = [[[NAN, NAN], [0.9, NAN], [n / 20, 0.8]] for n in range(15)]
    trials = [(identity(f"v{n}"), {"agnostic": matrix, "aware": AWARE}) for n, matrix in enumerate(matrices)]
    folder = write_sweep(tmp_path / "s", trials)
    drawn = charts.variants_in_charts(finished(results_of([folder]))["class_incremental"])
    assert set(drawn) == {f"v{n}" for n in range(3, 15)}
    page = Page(report([folder]))
    assert len(page.summary()[0][1]) == 15
    assert "Charts show the bounds and the 12 variants highest in ACC" in "".join(page.text)


def test_training_curves_scale_each_experience_to_one_unit(sweep: Path) -> None:
    results = results_of([sweep])
    variants = finished(results)["class_incremental"]
    figure = charts.training(variants, charts.variant_styles(results), "loss")
    assert figure is not None
    assert list(figure["data"][0]["x"]) == [0.5, 1.0, 1.5, 2.0]
    np.testing.assert_allclose(figure["data"][0]["y"], [1, 0.5, 0.33333, 0.25])
    assert charts.training(variants, charts.variant_styles(results), "accuracy") is None


def test_the_command_line_can_have_the_table_without_plotly() -> None:
    heavy = ("plotly", "torch", "scipy", "omegaconf")
    code = f"import sys; from retain.platform.reporting import results; print([m for m in {heavy} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def drawn_in_a_browser(path: Path, tmp_path: Path) -> str:
    """Return a page's DOM after its scripts have run."""
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --virtual-time-budget=10000 --window-size=1280,2000"
    profile = tmp_path / "profile"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout
    shutil.rmtree(profile, ignore_errors=True)
    return dom


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs {CHROMIUM}")
def test_charts_draw_in_a_browser(sweep: Path, tmp_path: Path) -> None:
    path = report([sweep])
    dom = drawn_in_a_browser(path, tmp_path)
    page = Page(path)
    expected = sum("plot" in (attrs.get("class") or "").split() for _, attrs in page.tags) - page.hidden_plots
    # every visible chart has become a drawing
    assert len(re.findall('class="[^"]*svg-container[^"]*"', dom)) == expected > 0
    assert dom.count('class="main-svg"') >= expected
    assert ">naive<" in dom


FAILED: dict[str, Any] = {"status": "failed", "error": "FloatingPointError: loss is nan"}


@pytest.fixture
def failures(tmp_path: Path) -> Path:
    """Write a sweep after failures: of three seeds, naive has one, ewc two, lwf none; a stream has none at all."""
    states: dict[str, list[dict[str, Any]]] = {
        "naive": [{}, FAILED, {"absent": True}],
        "lwf": [FAILED, {"status": "stopped"}, FAILED],
        "ewc": [{}, {}, FAILED],
    }
    trials = [(identity(name, seed), options) for name, each in states.items() for seed, options in enumerate(each)]
    trials += [(identity("naive", seed, "domain_incremental"), FAILED) for seed in (0, 1)]
    return write_sweep(tmp_path / "failures", trials)


def test_unfinished_variants_and_seeds_are_counted_everywhere_on_the_page(failures: Path) -> None:
    page = Page(report([failures]))
    (_, first), (_, second) = page.summary()
    assert {name: cells[-1] for name, cells in first.items()} == {
        "naive": "1 of 3",
        "lwf: 0 of 3 done": "0 of 3",
        "ewc": "2 of 3",
    }
    assert first["lwf: 0 of 3 done"][:-1] == ["-"] * 5
    assert second == {"naive: 0 of 2 done": ["-"] * 5 + ["0 of 2"]}
    text = "".join(page.text)
    assert "naive · seeds: 1 of 3" in text and "ewc · seeds: 2 of 3" in text  # accuracy matrices
    assert "naive (1 of 3 seeds)" in text  # legends
    figures = [json.loads(script) for script in page.scripts if script.startswith('{"data"')]
    names = {trace["name"] for figure in figures for trace in figure["data"] if "name" in trace}
    assert {"naive (1 of 3 seeds)", "ewc (2 of 3 seeds)"} <= names and not {"naive", "ewc"} & names


def test_downloads_name_what_has_not_finished(failures: Path) -> None:
    page = Page(report([failures]))
    lines = list(csv.DictReader(io.StringIO(downloaded(page, "summary.csv"))))
    counts = {(line["stream"], line["variant"]): (line["seeds"], line["planned_seeds"]) for line in lines}
    assert counts == {
        ("class_incremental", "naive"): ("1", "3"),
        ("class_incremental", "lwf"): ("0", "3"),
        ("class_incremental", "ewc"): ("2", "3"),
        ("domain_incremental", "naive"): ("0", "2"),
    }
    data = json.loads(downloaded(page, "matrices.json"))
    assert (len(data["trials"]), len(data["unfinished"])) == (3, 8)
    assert data["unfinished"][0]["problem"] == "failed after experience 1: FloatingPointError: loss is nan"


def test_all_trials_get_their_names_by_one_rule(tmp_path: Path) -> None:
    """Finished, failed, stopped and pending seeds of a variant have one name, also if several folders share the variant."""
    states: list[dict[str, Any]] = [{}, FAILED, {"status": "stopped"}, {"status": "pending"}, {"absent": True}]
    folders = []
    for weight in (1.0, 2.0):
        config = f"schema: 1\nstrategies: {{lwf: {{weight: {weight}}}}}\n"
        trials: list[tuple[Mapping[str, Any], dict[str, Any]]] = []
        for seed, options in enumerate(states):
            trials.append((identity("lwf", seed), options if "absent" in options else options | {"config": config}))
        trials += [(identity("naive", seed), FAILED) for seed in (0, 1)]
        folders.append(write_sweep(tmp_path / f"weight{weight}", trials))
    results = results_of(folders)
    labels = {(result.sweep, result.label) for result in results}
    assert labels == {
        ("weight1.0", "lwf weight=1.0"),
        ("weight2.0", "lwf weight=2.0"),
        ("weight1.0", "naive (weight1.0)"),
        ("weight2.0", "naive (weight2.0)"),
    }
    rows = {row.variant: row for row in table_rows(results)}
    assert len(rows) == 4 and (rows["lwf weight=1.0"].seeds, rows["lwf weight=1.0"].sweep) == ("1 of 5", "weight1.0")
    page = Page(report(folders))
    assert page.summary()[0][1]["lwf weight=2.0"][-2:] == ["1 of 5", "weight2.0"]
    lines = list(csv.DictReader(io.StringIO(downloaded(page, "summary.csv"))))
    assert {(line["sweep"], line["variant"]) for line in lines} == labels


def test_an_unfinished_trial_is_on_the_stream_of_its_benchmark(tmp_path: Path) -> None:
    folders = []
    for length in (1, 2):
        config = f"schema: 1\nbenchmark: {{split_digits: {{num_experiences: {length}}}}}\n"
        trials = [(identity("naive", seed), {"config": config} | (FAILED if seed else {})) for seed in (0, 1)]
        folders.append(write_sweep(tmp_path / str(length), trials))
    matrix = next(folders[0].glob("trials/*/matrix.json"))
    single = {"num_experiences": 1, "experiences": ["all"], "sizes": [5], "task_agnostic": [[0.1], [0.7]]}
    write_json(matrix, {**json.loads(matrix.read_text()), **single, "task_aware": [[0.1], [0.7]]})
    streams = [f"class_incremental ({length} experiences)" for length in (1, 1, 2, 2)]
    assert [result.stream for result in results_of(folders)] == streams
    assert [row.seeds for row in table_rows(results_of(folders))] == ["1 of 2", "1 of 2"]


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\uff1d1", "=cmd|' /C calc'!A0", '="a";=1']


def test_names_are_no_formulas_in_a_spreadsheet(tmp_path: Path) -> None:
    trials = [(identity(name, stream=f"{name} class") | {"id": f"t{n}"}, {}) for n, name in enumerate(FORMULAS)]
    rows = list(
        csv.reader(io.StringIO(downloaded(Page(report([write_sweep(tmp_path / "-1", trials)])), "summary.csv")))
    )
    assert {cells[2] for cells in rows[1:]} == {f"'{name}" for name in FORMULAS}
    for cells in rows[1:]:
        assert cells[0] == f"{cells[2]} class" and cells[8] == "'-1"
        assert all(cell == "" or float(cell) <= 1 for cell in cells[4:8])  # -0.7 stays a number
    assert any(cells[4].startswith("-0.") for cells in rows)


MARKS = ["\u202e", "\u2066", "\u200f", "\u200b", "\ufeff", "\x1b[31m", "\0", "\x9b"]


def test_marks_do_not_reorder_or_hide_text_on_the_page(harmless: Page, tmp_path: Path) -> None:
    name = "a" + "b".join(MARKS) + "c"
    path = report([write_named(tmp_path / "s", name)])
    page = Page(path)
    assert not set("".join(MARKS)) - set("[31m") & set(path.read_text(encoding="utf-8"))
    assert skeleton(page) == skeleton(harmless)
    assert list(page.summary()[0][1]) == [name.encode("unicode_escape").decode()]
    figures = [json.loads(text) for text in page.scripts if text.startswith('{"data"')]
    names = [str(trace.get(key)) for figure in figures for trace in figure["data"] for key in ("name", "legendgroup")]
    assert "".join(names).isprintable()


def test_wandb_gets_no_results_of_a_trial_that_is_not_done(tmp_path: Path) -> None:
    """W&B would take the metrics of its last row for the results, and average them with those of finished trials."""
    folder = write_trial(tmp_path / "t", identity("lwf"), **FAILED)
    metrics = {"task_agnostic": {"average_accuracy": 0.249}, "task_aware": {"average_accuracy": 0.5}}
    with TrialLedger.open(folder) as ledger:
        ledger.append("experience", 1, 7, {"task_agnostic": [0.249, None], "metrics": metrics})
    names = ("task_agnostic/average_accuracy", "task_aware/average_accuracy")
    error = {"status": "failed", "error": "FloatingPointError: loss is nan"}
    assert final_values(Trial(folder)) == error | dict.fromkeys(names)
    write_status(folder, "done", 2, None)
    assert final_values(Trial(folder)) == {"status": "done", "error": ""}
