"""`retain ensemble`: average the probabilities of a variant's finished seeds on the test stream.

Each learner is restored from its config and newest checkpoint, so strategies with a special way to predict use it here too.
Shapes: N test samples, K outputs of the head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from rich.table import Table
from torch import Tensor

from ..config.load import from_dict
from ..errors import UserError
from ..files import digest
from ..methods.probability_averaging import as_logits, average_probabilities, probabilities
from ..metrics import interval
from ..reporting.results import ComparedTrial, finished, format_cell, reported, results_of, seeds_text, table_rows
from ..training import learner_state
from ..training.evaluation import TestSet
from ..training.learner import Learner
from ..trial import checkpoint
from ..trial.builder import TrialBuilder, build_trial, seeds_of
from ..trial.resolve import resolve_experiment
from ..trial.torch_settings import torch_settings
from .terminal import cell, plain_table


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The accuracies of one variant on each experience's test set, for each seed and for the ensemble.

    Attributes:
        stream: the stream's name.
        variant: the variant's label.
        experiences: the names of the experiences.
        members: seed -> accuracies, one per experience.
        together: accuracies of the seeds' mean probabilities, one per experience.
        planned: the number of the variant's seeds, finished or not.
    """

    stream: str
    variant: str
    experiences: tuple[str, ...]
    members: Mapping[int, list[float]]
    together: list[float]
    planned: int = 0


def ensembles(folders: Sequence[Path]) -> list[Ensemble]:
    """Return the ensemble of each variant in these folders that has at least two finished seeds.

    Raises:
        UserError: no variant has two; seeds of a variant have different test samples or labels; a trial has no checkpoint.
    """
    variants = [
        (stream, label, seeds)
        for stream, by_label in finished(reported(results_of(folders))).items()
        for label, seeds in by_label.items()
        if len(seeds) > 1
    ]
    if not variants:
        raise UserError(
            f"{folders[0]}: no variant has two finished trials that differ only in their seed (sweep.seeds); an ensemble needs "
            f"two."
        )
    return [_ensemble(stream, label, seeds) for stream, label, seeds in variants]


def left_out(folders: Sequence[Path]) -> list[str]:
    """Return a line for each variant in these folders that has no ensemble, because fewer than two of its seeds are done."""
    rows = {(row.stream, row.variant): row for row in table_rows(reported(results_of(folders)))}
    return [
        f"{row.stream}, {row.variant}: left out, {row.done} of {row.planned} done; an ensemble needs two seeds"
        for row in rows.values()
        if row.done < 2
    ]


def _ensemble(stream: str, label: str, seeds: Sequence[ComparedTrial]) -> Ensemble:
    """Evaluate one learner after another, keeping only its probabilities."""
    members: dict[int, list[float]] = {}
    votes: list[Tensor] = []
    first: tuple[TrialBuilder, TestSet] | None = None
    for result in seeds:
        builder = _builder(result, first[0] if first else None)
        with torch_settings(builder.config.resources):
            learner = _learner(result, builder)
            if first is not None:
                _check_same(first[1], learner.test_set, label, seeds[0].seed, result.seed)
            first = first or (builder, learner.test_set)
            logits = learner.logits()
        members[result.seed] = learner.test_set.row(logits).task_agnostic
        task_is_given = builder.stream.scenario == "task"
        votes.append(probabilities(logits, builder.stream.class_mask if task_is_given else None))
    assert first is not None
    together = first[1].row(as_logits(average_probabilities(votes))).task_agnostic
    return Ensemble(stream, label, seeds[0].experiences, members, together, seeds[0].planned)


def _builder(result: ComparedTrial, first: TrialBuilder | None) -> TrialBuilder:
    """The trial's builder; on the CPU if there is no GPU, even if the trial was trained on one."""
    resolved = resolve_experiment(from_dict(dict(result.config or {})))
    stream = None
    if first is not None:  # reuse the first trial's stream if it is the same
        sources = [
            (c.benchmark, c.data, seeds_of(c.seed, c.seeds).class_order) for c in (first.config, resolved.experiment)
        ]
        stream = first.stream if sources[0] == sources[1] else None
    return build_trial(resolved, planning=not torch.cuda.is_available(), stream=stream)


def _learner(result: ComparedTrial, builder: TrialBuilder) -> Learner:
    """The learner, restored from the trial's newest checkpoint."""
    folder = result.trial.folder
    state = checkpoint.load_newest_checkpoint(folder / "checkpoints", digest(folder / "config.yaml"))
    if state is None:
        raise UserError(f"{folder}: has no valid checkpoint, so its network cannot be restored.")
    learner = builder.learner(lambda learner: None, lambda text: None)
    learner_state.restore(learner, state["learner"])
    return learner


def _check_same(first: TestSet, other: TestSet, label: str, seed: int, other_seed: int) -> None:
    """Raise UserError unless two test sets have the same samples and class numbers."""
    alike = first.sizes == other.sizes and torch.equal(first.y, other.y) and torch.equal(first.inputs.x, other.inputs.x)
    if not alike or first.stream.class_names != other.stream.class_names:
        raise UserError(
            f"{label}: seeds {seed} and {other_seed} have different streams (order of classes or of domains), so their networks "
            f"cannot form an ensemble; train all seeds on one stream: set seeds.class_order, e.g. seeds.class_order=0."
        )


def table(ensemble: Ensemble) -> Table:
    """Return a table in per cent: experiences by seeds, their mean with its 95 % interval, and the ensemble."""
    title, num_seeds = f"{ensemble.stream}, {ensemble.variant}", len(ensemble.members)
    if num_seeds < ensemble.planned:
        title += f": {seeds_text(num_seeds, ensemble.planned)} seeds"
    headings = (*(f"seed {seed}" for seed in ensemble.members), "mean", "ensemble")
    rich_table = plain_table("accuracy at the end", *headings, title=title)
    columns = [*ensemble.members.values(), ensemble.together]
    averages = [mean(accuracies) for accuracies in columns]
    lines = [("ACC", averages), *zip(ensemble.experiences, zip(*columns, strict=True), strict=True)]
    for name, values in lines:
        *seeds, together = values
        cells = [format_cell(value, float("nan")) for value in seeds]
        cells += [format_cell(*interval(seeds)), format_cell(together, float("nan"))]
        rich_table.add_row(cell(name), *cells, style="bold" if name == "ACC" else "")
    return rich_table
