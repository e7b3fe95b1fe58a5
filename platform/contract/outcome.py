"""Compare the results of two trials bit by bit, without what may differ between two runs of the same trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..ledger.documents import VIEWS
from ..ledger.reader import Trial
from ..trial import checkpoint
from .errors import ContractError, require


@dataclass(frozen=True)
class Outcome:
    """The results of a trial, without what may differ between two runs of it.

    Attributes:
        matrices: the accuracy matrix (experiences + 1, experiences) of each view; those on the validation splits, if there are
            any, as "validation.VIEW".
        events: the lines of the ledger.
        summary: the metrics.
        learner: network, optimizer, plugins and clock, from the last checkpoint; {} if a strategy cannot save its state.
    """

    matrices: dict[str, np.ndarray]
    events: list[dict[str, Any]]
    summary: dict[str, Any]
    learner: dict[str, Any]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Return the network's tensors at the end."""
        tensors: dict[str, torch.Tensor] = self.learner.get("model", {})
        return tensors


def outcome(folder: Path, has_checkpoint: bool = True) -> Outcome:
    """Read a finished trial from its folder.

    `has_checkpoint`: whether there must be a checkpoint; without, the outcome has no weights.

    Raises:
        ContractError: the trial did not finish, or the files of its folder disagree.
    """
    trial = Trial(folder)
    require(trial.status().status == "done", f"the trial did not finish: {trial.status()}")
    matrix, summary = trial.read("matrix"), trial.read("summary")
    state = checkpoint.load_newest_checkpoint(folder / "checkpoints")
    if matrix is None or summary is None or (state is None and has_checkpoint):
        raise ContractError(f"{folder.name}: a finished trial lacks its matrix, summary or last checkpoint")
    views = {name: np.array(rows, dtype=float) for name, rows in _named(matrix, matrix.get("validation")).items()}
    saved = {} if state is None else _named(state["matrices"], state.get("validation"))
    agree = state is None or same({name: torch.from_numpy(array) for name, array in views.items()}, saved)
    require(agree, f"{folder.name}: matrix.json and the last checkpoint differ")
    events = [_without_costs(event) for _, event in trial.events()]
    for cost in ("seconds", "ledger_bytes", "ledger_sha256"):  # the ledger holds seconds too
        summary.pop(cost)
    return Outcome(views, events, summary, {} if state is None else state["learner"])


def _named(matrices: Mapping[str, Any], validation: Mapping[str, Any] | None) -> dict[str, Any]:
    """The matrices by the names that `Outcome` gives them."""
    return {view: matrices[view] for view in VIEWS} | {
        f"validation.{view}": validation[view] for view in VIEWS if validation is not None
    }


def _without_costs(event: dict[str, Any]) -> dict[str, Any]:
    if event["kind"] == "resources":
        return {key: event[key] for key in ("kind", "experience", "iteration")}
    return {key: value for key, value in event.items() if "seconds" not in key}


def same(first: Any, second: Any) -> bool:
    """Return whether two nested states have the same bits."""
    if isinstance(first, torch.Tensor):
        alike = isinstance(second, torch.Tensor) and first.dtype == second.dtype and first.shape == second.shape
        return alike and _bytes(first) == _bytes(second)
    if isinstance(first, dict):
        alike = isinstance(second, dict) and first.keys() == second.keys()
        return alike and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        alike = isinstance(second, list | tuple) and len(first) == len(second)
        return alike and all(map(same, first, second))
    return bool(first == second)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().numpy().tobytes()


def same_predictions(first: Outcome, second: Outcome) -> bool:
    """Return whether the accuracy matrices are equal."""
    return not _different_matrices(first, second)


def differences(first: Outcome, second: Outcome) -> list[str]:
    """List where two trials differ in a bit: curve, ledger, summary, or network, optimizer, plugins and clock at the end."""
    different = _different_matrices(first, second)
    if first.events != second.events:
        lengths = f"{len(first.events)} and {len(second.events)}"
        different.append(f"events: {lengths}: {_first_difference(first.events, second.events)}")
    different += ["summary"] if first.summary != second.summary else []
    return different + [f"learner.{key}" for key in first.learner if not same(first.learner[key], second.learner[key])]


def assert_same(first: Outcome, second: Outcome, reason: str = "two trials differ") -> None:
    """Raise ContractError unless curve, ledger, network, optimizer, plugins and clock are equal bit for bit."""
    different = differences(first, second)
    require(not different, f"{reason} (different: {'; '.join(different)})")


def _different_matrices(first: Outcome, second: Outcome) -> list[str]:
    """Return the names of the matrices that differ, or that only one of the trials has."""
    names = [*first.matrices, *(name for name in second.matrices if name not in first.matrices)]
    return [f"matrices.{name}" for name in names if not _equal(first.matrices.get(name), second.matrices.get(name))]


def _equal(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    return first is not None and second is not None and bool(np.array_equal(first, second, equal_nan=True))


def _first_difference(first: list[Any], second: list[Any]) -> str:
    """Return the first position at which two lists differ."""
    pairs = zip(first, second, strict=False)
    return next((f"{own} and {other}" for own, other in pairs if own != other), "one is longer")
