"""The validation matrix: its numbers by a bare loop, its bits after interruptions, and everywhere that it is shown."""

import base64
import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.written_runs import AWARE, CLASS, NAN, identity, write_sweep, write_trial
from rich.console import Console

from retain.platform import metrics, seeding
from retain.platform.cli.tables import tables
from retain.platform.config.load import from_dict
from retain.platform.config.schema import Experiment, Training
from retain.platform.contract.outcome import Outcome, assert_same, differences, outcome
from retain.platform.contract.trials import Trials, trained
from retain.platform.data.streams import ResidentDataset, Stream
from retain.platform.ledger.documents import _MAX_BYTES, MAX_EXPERIENCES, VIEWS, read_json, write_json
from retain.platform.ledger.reader import Trial
from retain.platform.models.networks import mlp
from retain.platform.reporting.html_report import report
from retain.platform.reporting.results import best_variants, results_of, table_rows
from retain.platform.reporting.rows import final_values, row_of
from retain.platform.training import learner_state
from retain.platform.training.evaluation import ValidationSet
from retain.platform.training.learner import Learner
from retain.platform.training.plugin import Plugin
from retain.platform.trial import checkpoint
from retain.platform.trial.builder import build_trial
from retain.platform.trial.checks import empty_validation_warning
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.run import run

Make = Callable[..., Experiment]
TASKS = {"task_incremental": {"data": "digits", "num_experiences": 2}}
RUNS = Path(__file__).parent / "runs"
MATRIX = {"schema", "num_experiences", "experiences", "sizes", "scenario", "class_names", *VIEWS}
SUMMARY = {"schema", *VIEWS, "seconds", "samples", "ledger_bytes", "ledger_sha256"}
EVENT = {"kind", "experience", "iteration", *VIEWS, "metrics", "train_seconds", "evaluation_seconds", "samples"}
STATE = {"experience", "ledger", "matrices", "seconds", "train_seconds", "learner", "probes"}


def with_validation(config: Experiment, fraction: float) -> Experiment:
    """Return the experiment with another validation split."""
    ((name, settings),) = config.benchmark.items()
    return replace(config, benchmark={name: {**settings, "validation": fraction}})


@pytest.fixture(scope="module")
def finished(quick_folder: Path, make_experiment: Make) -> tuple[Any, list[dict[str, Any]]]:
    """Run a trial of five experiences with validation; return its result and what it reported."""
    reports: list[dict[str, Any]] = []
    return run(with_validation(make_experiment(), 0.2), quick_folder / "validated", report=reports.append), reports


# The numbers.


def by_hand(stream: Stream, network: torch.nn.Module, part: str, aware: bool) -> list[float]:
    """Classify the items of a part one by one; accuracy per experience, NaN if the head has none of its classes."""
    network.eval()
    row = []
    for experience in stream.experiences:
        correct, items = [], ResidentDataset(stream, getattr(experience, part))
        for number in range(len(items)):
            x, y, _ = items[number]
            with torch.no_grad():
                scores = network(x[None])[0].tolist()
            allowed = [c for c in range(len(scores)) if not aware or c in experience.classes]
            correct.append(max(allowed, key=lambda c: scores[c], default=-1) == y)
        known = min(experience.classes) < len(scores)
        row.append(float(np.mean(correct)) if known and correct else NAN)
    return row


@pytest.mark.parametrize("kind", ["pair", "rotated", "task"])
def test_each_row_is_that_of_a_bare_loop_over_the_splits(kind: str, make_experiment: Make, tmp_path: Path) -> None:
    """For streams of classes, domains and tasks, in both views; and a trial writes these rows."""
    config = with_validation(make_experiment("pair" if kind == "task" else kind), 0.1)
    config = replace(config, benchmark=TASKS) if kind == "task" else config
    rows: list[tuple[Any, list[float], list[float]]] = []

    def evaluate(learner: Learner) -> None:
        aware = by_hand(learner.stream, learner.model, "validation", True)
        agnostic = aware if kind == "task" else by_hand(learner.stream, learner.model, "validation", False)
        rows.append((learner.evaluate_validation(), agnostic, aware))

    learner = trained(config, evaluate)  # it is called after each of the experiences' epochs
    assert len(rows) == len(learner.stream.experiences)
    for row, agnostic, aware in rows:
        np.testing.assert_allclose(row.task_agnostic, agnostic, rtol=1e-12)
        np.testing.assert_allclose(row.task_aware, aware, rtol=1e-12)
    result = run(config, tmp_path / "trial")
    for row, (_, agnostic, aware) in zip(range(1, len(rows) + 1), rows, strict=True):
        np.testing.assert_allclose(result.validation["task_agnostic"][row], agnostic, rtol=1e-12)
        np.testing.assert_allclose(result.validation["task_aware"][row], aware, rtol=1e-12)


def test_files_result_and_reports_have_the_matrix_and_its_metrics(finished: Any) -> None:
    """Metrics after experience k are those of the first k rows and columns, weighted by validation samples."""
    result, reports = finished
    trial = Trial(result.folder)
    matrix, summary = trial.read("matrix"), trial.read("summary")
    state = checkpoint.load_newest_checkpoint(result.folder / "checkpoints")
    assert matrix is not None and summary is not None and state is not None
    sizes = matrix["validation"]["sizes"]
    stream = build_trial(resolve_experiment(from_dict(trial.config()))).stream
    assert sizes == [len(experience.validation) for experience in stream.experiences] != matrix["sizes"]
    events = [event for _, event in trial.events() if event["kind"] == "experience"]
    for view in VIEWS:
        expected = result.validation[view]
        assert not np.array_equal(expected, result.matrices[view], equal_nan=True)
        np.testing.assert_array_equal(np.array(matrix["validation"][view], dtype=float), expected)
        np.testing.assert_array_equal(state["validation"][view].numpy(), expected)
        values = metrics.summary(expected, sizes)
        assert summary["validation"][view] == {n: None if np.isnan(v) else v for n, v in values.items()}
    for k, (event, reported) in enumerate(zip(events, reports, strict=True), 1):
        for view, prefix in zip(VIEWS, ("validation.", "validation.task_aware."), strict=True):
            np.testing.assert_array_equal(np.array(event["validation"][view], dtype=float), result.validation[view][k])
            so_far = metrics.summary(result.validation[view][: k + 1, :k], sizes[:k])
            for name, value in so_far.items():
                written = event["validation"]["metrics"][view][name]
                assert written == reported[prefix + name] == (None if np.isnan(value) else value)
        assert reported["experience"] == k
        tested = event["metrics"]["task_agnostic"]["average_accuracy"]
        assert reported["average_accuracy"] == tested == np.mean(event["task_agnostic"][:k])
        assert reported["validation.average_accuracy"] == np.mean(event["validation"]["task_agnostic"][:k])
        assert reported["task_aware.average_accuracy"] == np.mean(event["task_aware"][:k])
    assert result.summary["validation"] == summary["validation"]


def test_joint_has_the_same_rows_in_both_matrices(make_experiment: Make, tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    result = run(make_experiment("pair", strategies={"joint": {}}), tmp_path / "joint", report=reports.append)
    for view in VIEWS:
        np.testing.assert_array_equal(np.isnan(result.validation[view]), np.isnan(result.matrices[view]))
    assert np.isnan(result.validation["task_agnostic"]).tolist() == [[False, True], [True, True], [False, False]]
    (reported,) = reports
    assert reported["validation.average_accuracy"] > 0.5 and reported["validation.learning_accuracy"] is None


# Empty splits.


@pytest.fixture
def holey(tiny_stream: Callable[..., Stream]) -> Stream:
    """Return a stream of three experiences whose second one has no validation samples."""
    stream = tiny_stream()
    first, second, third = stream.experiences
    empty = replace(second.validation, indices=second.validation.indices[:0])
    return replace(stream, experiences=(first, replace(second, validation=empty), third))


class Watcher(Plugin[Any]):
    """Sees evaluation by a hook, so that experiences are evaluated one by one; records what it sees."""

    STATE = ()

    def init_state(self) -> None:
        """Nothing is seen yet."""
        self.seen: list[tuple[str, int]] = []

    def before_eval_exp(self, learner: Any, **kwargs: Any) -> None:
        """Record the stream's name and the experience's number."""
        self.seen.append((learner.experience.origin_stream.name, learner.experience.current_experience))


def learner_of(stream: Stream, *plugins: Any) -> Learner:
    """Return a learner on a small network with all outputs."""
    network = mlp.build(
        mlp.Config(hidden=(8,)), stream.shape, len(stream.class_names), torch.Generator().manual_seed(0)
    )
    return Learner(model=network, stream=stream, training=Training(epochs=1, batch_size=8), plugins=plugins)


@pytest.mark.parametrize("hooks", [False, True])
def test_an_empty_split_has_no_accuracy(hooks: bool, holey: Stream) -> None:
    learner = learner_of(holey, *([Watcher()] if hooks else []))
    row = learner.evaluate_validation()
    assert row is not None
    np.testing.assert_allclose(row.task_agnostic, by_hand(holey, learner.model, "validation", False))
    np.testing.assert_allclose(row.task_aware, by_hand(holey, learner.model, "validation", True))
    assert [bool(np.isnan(cell)) for cell in row.task_agnostic] == [False, True, False]
    if hooks:
        learner.evaluate()
        assert learner.plugins[0].seen == [("valid", 0), ("valid", 2), ("test", 0), ("test", 1), ("test", 2)]


def test_metrics_that_need_an_empty_split_are_undefined(holey: Stream) -> None:
    matrix = [[0.5, NAN, 0.5], [0.75, NAN, 0.5], [0.5, NAN, 0.25], [0.25, NAN, 1.0]]
    values = metrics.validation_summary(matrix, [4, 0, 8])
    assert np.isnan(list(values.values())).all()
    first = metrics.validation_summary([row[:1] for row in matrix[:2]], [4])
    assert first["average_accuracy"] == 0.75
    full = [[0.5, 0.5], [0.75, 0.5], [0.5, 0.25]]
    assert metrics.validation_summary(full, [4, 8]) == metrics.summary(full, [4, 8])
    warning = empty_validation_warning(holey)
    assert "benchmark.tiny.validation: 1 of 3 experiences" in warning and "'step 1'" in warning


@pytest.mark.parametrize("sizes", [[4, 0, 8], [4, 8], [4, -1, 8], [4, NAN, 8], [[4, 8, 8]]])
def test_sizes_that_do_not_fit_are_refused(sizes: Any) -> None:
    with pytest.raises(ValueError, match="sizes="):
        metrics.validation_summary(np.full((4, 3), 0.5), sizes)


def test_no_warning_if_all_or_no_splits_are_empty(tiny_stream: Callable[..., Stream]) -> None:
    assert empty_validation_warning(tiny_stream()) == empty_validation_warning(without_validation(tiny_stream())) == ""


# Evaluation changes nothing, and costs nothing without validation samples.


def without_validation(stream: Stream) -> Stream:
    """Return the stream with empty validation splits and the same training samples."""
    return replace(
        stream,
        experiences=tuple(
            replace(each, validation=replace(each.validation, indices=each.validation.indices[:0]))
            for each in stream.experiences
        ),
    )


def test_it_changes_no_bit_of_the_training(tiny_stream: Callable[..., Stream]) -> None:
    """Against the same training without validation; it draws no random number. (test_laws has this for each strategy.)"""
    states = []
    for stream in (tiny_stream(), without_validation(tiny_stream())):
        learner = learner_of(stream)
        for number in range(3):
            learner.train_experience(number)
            before = seeding.capture_generators()
            row = learner.evaluate_validation()
            learner.evaluate()
            assert repr(seeding.capture_generators()) == repr(before)
            assert (row is None) == (stream.experiences[0].validation.indices.numel() == 0)
        states.append(learner_state.capture(learner)["model"])
    with_it, without = states
    assert all(torch.equal(with_it[name], without[name]) for name in without)


def test_each_sample_is_evaluated_once(tiny_stream: Callable[..., Stream]) -> None:
    """Cost: as many forward passes as samples; none without validation samples, and none twice."""
    stream = tiny_stream()
    on_validation = replace(
        stream, experiences=tuple(replace(each, test=each.validation) for each in stream.experiences)
    )
    evaluated = []
    for each in (stream, without_validation(stream), on_validation):
        learner, sizes = learner_of(each), []
        learner.model.register_forward_hook(lambda module, inputs, output, sizes=sizes: sizes.append(len(inputs[0])))
        learner.evaluate_validation()
        evaluated.append((sum(sizes), len(sizes)))
        if each is on_validation:
            assert learner.tests_on_validation and learner.validation_set is learner.test_set
            assert str(learner.evaluate_validation()) == str(learner.evaluate())
    assert evaluated == [(36, 1), (0, 0), (36, 1)]  # three experiences of two classes, six samples each


def test_without_validation_samples_a_trial_writes_nothing_of_it(
    make_experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fields that a trial wrote before there were validation matrices, and no others."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError("validation samples are gathered")

    monkeypatch.setattr(ValidationSet, "__init__", refuse)
    reports: list[dict[str, Any]] = []
    result = run(with_validation(make_experiment("pair"), 0), tmp_path / "off", report=reports.append)
    trial, state = Trial(result.folder), checkpoint.load_newest_checkpoint(result.folder / "checkpoints")
    assert {*(trial.read("matrix") or {})} == MATRIX and {*(trial.read("summary") or {})} == SUMMARY
    assert [{*event} for _, event in trial.events() if event["kind"] == "experience"] == [EVENT] * 2
    assert state is not None and {*state} == STATE and {*state["matrices"]} == {*VIEWS}
    assert result.validation == {} and not any("validation" in name for name in reports[0])
    (row,) = (
        row_of(event) for _, event in trial.events() if event["kind"] == "experience" and event["experience"] == 1
    )
    assert row is not None and not any("validation" in name for name in {**row.values, **final_values(trial)})
    rows = table_rows(results_of([result.folder]))
    assert not any("validation" in name for row in rows for name in row.metrics)
    assert "val. ACC" not in text_of(rows) and "Validation splits</h3>" not in report([result.folder]).read_text()


# Interruptions and older versions.


def test_a_stopped_trial_ends_with_the_same_bits(make_experiment: Make, tmp_path: Path) -> None:
    """Stopped mid-experience, each time, under a strategy that looks at validation samples too."""
    trials = Trials(tmp_path)
    strategies = {"early_stopping": {"patience": 1}, "replay": {"memory": 20}}
    config = trials.with_stopper(with_validation(make_experiment("pair", strategies=strategies, epochs=2), 0.2))
    whole = trials(config)
    stopped = trials.stopped(config, [3, 12, 25], "TERM")
    assert {*whole.matrices} == {*VIEWS, "validation.task_agnostic", "validation.task_aware"}
    assert_same(stopped, whole)
    changed = {**whole.matrices, "validation.task_aware": 1 - whole.matrices["validation.task_aware"]}
    assert differences(Outcome(changed, whole.events, whole.summary, whole.learner), whole) == [
        "matrices.validation.task_aware"
    ]


def test_killed_between_the_two_evaluations(
    make_experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_experiment("pair")
    run(config, tmp_path / "whole")
    original, calls = Learner.evaluate, []

    def evaluate(learner: Learner) -> Any:
        calls.append(learner)
        if len(calls) == 3:  # after the second experience; the validation splits have been evaluated
            raise KeyboardInterrupt
        return original(learner)

    monkeypatch.setattr(Learner, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "killed")
    run(config, tmp_path / "killed")
    assert len(calls) == 4
    assert_same(outcome(tmp_path / "killed"), outcome(tmp_path / "whole"))


def test_a_trial_of_an_older_version_has_missing_rows(tmp_path: Path) -> None:
    """It was stopped in its second experience of three; what was before cannot be measured any more."""
    folder = tmp_path / "old"
    shutil.copytree(RUNS / "before_renames/stopped", folder)
    result = run(from_dict(Trial(folder).config()), folder)
    missing = np.isnan(result.validation["task_agnostic"])
    assert missing.tolist() == [[True] * 3, [True] * 3, [False] * 3, [False] * 3]
    trial = Trial(folder)
    notes = [event["text"] for _, event in trial.events() if event["kind"] == "note"]
    assert [note for note in notes if "rows 0 to 1 of its validation matrix are missing" in note]
    values = result.summary["validation"]["task_agnostic"]
    assert values["average_accuracy"] == np.mean(result.validation["task_agnostic"][-1])
    assert values["learning_accuracy"] is values["average_incremental_accuracy"] is None
    first, *later = [event for _, event in trial.events() if event["kind"] == "experience"]
    assert "validation" not in first and all("validation" in event for event in later) and len(later) == 2
    (shown,) = results_of([folder])
    np.testing.assert_array_equal(shown.validation["task_agnostic"], result.validation["task_agnostic"])
    assert row_of(first) is not None and "Validation splits</h3>" in report([folder]).read_text()


def test_a_finished_trial_of_an_older_version_stays_without(tmp_path: Path, make_experiment: Make) -> None:
    """Repaired after its last experience, it gets no matrix of missing rows."""
    config = make_experiment("pair")
    result = run(config, tmp_path / "trial")
    newest = max((result.folder / "checkpoints").iterdir())
    shutil.rmtree(tmp_path / "trial" / "checkpoints" / "000001")
    state = checkpoint.load_newest_checkpoint(result.folder / "checkpoints")
    assert state is not None and newest.name == "000002"
    del state["validation"]
    manifest = json.loads((newest / "manifest.json").read_text())
    with checkpoint.CheckpointWriter(result.folder / "checkpoints", 1, manifest["config"]) as writer:
        writer.save(newest.name, state)
    (result.folder / "matrix.json").write_text("damaged")
    (result.folder / "status.json").unlink()
    again = run(config, tmp_path / "trial")
    assert again.validation == {} and "validation" not in again.summary
    assert {*read_json(result.folder / "matrix.json")} == MATRIX
    np.testing.assert_array_equal(again.matrices["task_aware"], result.matrices["task_aware"])


# Where it is shown.


def text_of(rows: Any) -> str:
    """Return the command line's tables as text."""
    console = Console(file=io.StringIO(), width=200)
    for table in tables(rows):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


BETTER = [[NAN, NAN], [0.8, NAN], [0.5, 0.6]]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Write a sweep: two seeds of naive and lwf with validation matrices, one pending seed of ewc."""
    folder = write_sweep(
        tmp_path / "sweep",
        [
            *(
                (identity(name, seed), {"agnostic": CLASS, "aware": AWARE})
                for name in ("naive", "lwf")
                for seed in (0, 1)
            ),
            (identity("ewc"), {"absent": True}),
        ],
    )
    for trial, matrix in zip(results_of([folder])[:4], (CLASS, CLASS, BETTER, BETTER), strict=True):
        path = trial.trial.folder / "matrix.json"
        validation = {"sizes": [10, 30], "task_agnostic": matrix, "task_aware": AWARE}
        write_json(path, read_json(path) | {"validation": validation})
    return folder


def downloaded(page: str, name: str) -> str:
    """Return the content of a download link."""
    (data,) = re.findall(rf'download="{re.escape(name)}" href="data:[^;]*;base64,([^"]*)"', page)
    return base64.b64decode(data).decode()


def test_terminal_page_and_downloads(written: Path) -> None:
    rows = table_rows(results_of([written]))
    agnostic = {row.variant: row for row in rows if row.view == "task_agnostic"}
    # ACC of the validation matrix: (50 + 60) / 2; incremental (80 + (50 * 10 + 60 * 30) / 40) / 2; forgetting 80 - 50
    lwf = agnostic["lwf"].metrics
    assert [lwf[f"validation.{name}"][0] for name in ("average_accuracy", "average_incremental_accuracy")] == [
        pytest.approx(0.55),
        pytest.approx((0.8 + 0.575) / 2),
    ]
    assert lwf["validation.forgetting_max"][0] == pytest.approx(0.3) and lwf["average_accuracy"][0] == 0.5
    assert np.isnan(agnostic["ewc"].metrics["validation.average_accuracy"][0])
    assert best_variants([agnostic["naive"], agnostic["lwf"]], "validation.forgetting_max") == {"lwf"}
    table = text_of(rows)
    assert "val. ACC" in table and re.search(r"lwf .* 55\.0 ± 0\.0", table)
    page = report([written]).read_text()
    lines = list(csv.DictReader(io.StringIO(downloaded(page, "summary.csv"))))
    chosen = {(line["view"], line["variant"], line["metric"]): line for line in lines}
    assert float(chosen["task_agnostic", "lwf", "validation.average_accuracy"]["mean"]) == pytest.approx(0.55)
    assert chosen["task_agnostic", "ewc", "validation.average_accuracy"]["mean"] == ""
    assert {name for *_, name in chosen} == {f"{p}{name}" for p in ("", "validation.") for name in metrics.DIRECTIONS}
    trials = json.loads(downloaded(page, "matrices.json"))["trials"]
    assert trials[2]["validation"] == {
        "sizes": [10, 30],
        "task_agnostic": [[None if cell != cell else cell for cell in row] for row in BETTER],
        "task_aware": [[None if cell != cell else cell for cell in row] for row in AWARE],
    }
    section = page[page.index("<h3>Validation splits</h3>") :]
    assert "55.0 ± 0.0" in section and "50.0 ± 0.0" in section  # lwf and naive
    assert section.count("Validation accuracy on the experiences seen so far") == 2  # a chart for each view
    assert section.count("Validation accuracy matrices") == 2


def test_seeds_without_a_matrix_make_the_mean_undefined(written: Path) -> None:
    """Of one seed an older version has run: no seed is left out of a mean silently."""
    first = results_of([written])[2]
    path = first.trial.folder / "matrix.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key != "validation"})
    (lwf,) = (row for row in table_rows(results_of([written])) if (row.variant, row.view) == ("lwf", "task_agnostic"))
    assert np.isnan(lwf.metrics["validation.average_accuracy"][0]) and lwf.metrics["average_accuracy"][0] == 0.5
    page = report([written]).read_text()
    assert "lwf (1 of 2 seeds)" in page[page.index("<h3>Validation splits</h3>") :]


@pytest.mark.parametrize(
    "wrong",
    [
        "text",
        {},
        {"sizes": [10], "task_agnostic": CLASS, "task_aware": AWARE},
        {"sizes": [10, 0], "task_agnostic": CLASS, "task_aware": AWARE},
        {"sizes": [10, 30], "task_agnostic": [[2.0, 2.0]] * 3, "task_aware": AWARE},
        {"sizes": [10], "task_agnostic": [[0.5], [0.5]], "task_aware": [[0.5], [0.5]]},
        {"sizes": [10, 30], "task_agnostic": CLASS},
    ],
)
def test_a_damaged_matrix_is_a_problem_of_its_trial(wrong: Any, tmp_path: Path) -> None:
    folder = write_trial(tmp_path / "trial", identity("naive"), aware=AWARE)
    write_json(folder / "matrix.json", read_json(folder / "matrix.json") | {"validation": wrong})
    (result,) = results_of([folder])
    assert result.problem.startswith("unreadable: ") and not result.views
    assert "unreadable" in report([folder]).read_text()


def test_an_unfinished_trials_metrics_are_no_results(finished: Any, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    shutil.copytree(finished[0].folder, folder)
    write_json(folder / "status.json", read_json(folder / "status.json") | {"status": "stopped"})
    values = final_values(Trial(folder))
    assert values["validation_task_agnostic/average_accuracy"] is values["task_agnostic/average_accuracy"] is None


def test_the_matrices_of_the_longest_stream_can_be_read_again(tmp_path: Path) -> None:
    """The size of 40 experiences with the longest numbers, extrapolated."""
    matrix = {
        "task_agnostic": np.full((41, 40), 1 / 3 * 1e-4).tolist(),
        "task_aware": np.full((41, 40), 2 / 3).tolist(),
    }
    write_json(tmp_path / "matrix.json", {**matrix, "validation": matrix})
    size = (tmp_path / "matrix.json").stat().st_size * (MAX_EXPERIENCES + 1) * MAX_EXPERIENCES / (41 * 40)
    assert size < 0.95 * _MAX_BYTES["matrix.json"]
