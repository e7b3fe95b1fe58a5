"""Compare the results of two trials bit by bit, without what may differ between two runs; for the laws and the faults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retain.platform.ledger.documents import VIEWS
from retain.platform.ledger.reader import Trial
from retain.platform.trial import checkpoint


@dataclass(frozen=True)
class Outcome:
    """The results of a trial, without what may differ between two runs of it."""

    matrices: dict[str, np.ndarray]
    events: list[dict[str, Any]]
    summary: dict[str, Any]
    learner: dict[str, Any]  # of the last checkpoint

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Return the network's tensors at the end."""
        tensors: dict[str, torch.Tensor] = self.learner["model"]
        return tensors


def outcome(folder: Path) -> Outcome:
    """Read a finished trial from its folder."""
    done = Trial(folder)
    assert done.status().status == "done", done.status()
    matrix, summary, state = (
        done.read("matrix"),
        done.read("summary"),
        checkpoint.load_newest_checkpoint(folder / "checkpoints"),
    )
    assert matrix is not None and summary is not None and state is not None
    views = {view: np.array(matrix[view], dtype=float) for view in VIEWS}
    assert all(same(torch.from_numpy(views[view]), state["matrices"][view]) for view in views)
    events = [_without_costs(event) for _, event in done.events()]
    for cost in ("seconds", "ledger_bytes", "ledger_sha256"):  # the ledger holds seconds too
        summary.pop(cost)
    return Outcome(views, events, summary, state["learner"])


def _without_costs(event: dict[str, Any]) -> dict[str, Any]:
    if event["kind"] == "resources":
        return {key: event[key] for key in ("kind", "experience", "iteration")}
    return {key: value for key, value in event.items() if "seconds" not in key}


def same(one: Any, other: Any) -> bool:
    """Return whether two nested states have the same bits."""
    if isinstance(one, torch.Tensor):
        alike = isinstance(other, torch.Tensor) and one.dtype == other.dtype and one.shape == other.shape
        return alike and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def differences(one: Outcome, other: Outcome) -> list[str]:
    """List where two trials differ in a bit: curve, ledger, summary, or network, optimizer, plugins and clock at the end."""
    different = [f"matrices.{view}" for view in VIEWS if not _equal(one.matrices[view], other.matrices[view])]
    if one.events != other.events:
        different.append(f"events: {len(one.events)} and {len(other.events)}: {_first(one.events, other.events)}")
    different += ["summary"] if one.summary != other.summary else []
    return different + [f"learner.{key}" for key in one.learner if not same(one.learner[key], other.learner[key])]


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.array_equal(one, other, equal_nan=True))


def _first(one: list[Any], other: list[Any]) -> str:
    """Return the first position at which two lists differ."""
    pairs = zip(one, other, strict=False)
    return next((f"{first} and {second}" for first, second in pairs if first != second), "one goes on longer")


def assert_same(one: Outcome, other: Outcome) -> None:
    """Assert that curve, ledger, network, optimizer, plugins and clock are equal bit for bit."""
    assert differences(one, other) == []
