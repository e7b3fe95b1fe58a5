"""The state of a learner as plain data: captured between experiences or iterations, and restored into a new learner.

The gradients, the mini-batch and the loss of the last iteration are not part of it: nothing may depend on them before the
next iteration.
"""

import copy
from typing import TYPE_CHECKING, Any

import torch

from .. import seeding
from .optimization import blocks_from_head, make_optimizer

if TYPE_CHECKING:
    from .learner import Learner


def capture(learner: "Learner") -> dict[str, Any]:
    """Return everything that later training depends on: network, optimizer, plugins, clock and, mid-experience, the position."""
    has_optimizer_state = learner.in_experience or not learner.training.optimizer.reset
    return {
        "num_outputs": getattr(getattr(learner.model, "head", None), "num_classes", None),
        "model": dict(learner.model.state_dict()),
        "optimizer": learner.optimizer.state_dict() if has_optimizer_state else None,
        "scaler": learner.scaler.state_dict() if learner.scaler is not None else None,
        "plugins": [plugin.state_dict() for plugin in learner.strategies],
        "clock": dict(vars(learner.clock)),
        "samples": learner.samples,
        "inside": _position(learner) if learner.in_experience else None,
    }


def _position(learner: "Learner") -> dict[str, Any]:
    """The position in an experience, besides the clock: running loss, measured values and global generators."""
    return {
        "experience": learner.experience.current_experience,
        "total": learner.total,
        "measured": dict(learner.measured),
        "random": seeding.capture_generators(),
    }


def restore(learner: "Learner", state: dict[str, Any]) -> None:
    """Restore a captured state into a learner that was built in the same way.

    Global generators are restored last, since the steps before may use them.
    """
    inside = state["inside"]
    _load_network(learner, state)
    _load_plugins(learner, state["plugins"])
    if inside is not None:
        plugin_states = copy.deepcopy(state["plugins"])
        learner.reopen_experience(inside["experience"])  # plugins choose the data by their state
        _load_plugins(learner, plugin_states)  # and may have changed it by choosing
    _load_optimizer(learner, state)
    vars(learner.clock).update(state["clock"])
    learner.samples = state["samples"]
    if inside is not None:
        _continue_at(learner, inside)


def _continue_at(learner: "Learner", inside: dict[str, Any]) -> None:
    """Continue at the clock's position in the experience."""
    total = inside["total"]
    learner.total = total.to(learner.device) if isinstance(total, torch.Tensor) else total
    learner.measured = dict(inside["measured"])
    learner.dataloader.seek(learner.clock.train_exp_epochs, learner.clock.train_epoch_iterations)
    for plugin in learner.strategies:
        plugin.on_resume(learner)
    seeding.restore_generators(inside["random"])


def _load_network(learner: "Learner", state: dict[str, Any]) -> None:
    if state["num_outputs"] is not None:
        learner.model.head.grow(state["num_outputs"], torch.Generator())
    else:
        num_trained = state["clock"]["train_exp_counter"] + (state["inside"] is not None)
        stream = learner.benchmark.train_stream
        trained = [number for number in range(len(stream)) if learner.should_train(number)]
        for number in trained[:num_trained]:
            learner.grow_foreign_head(learner.model, stream[number])
        learner.model.to(learner.device)
    learner.model.load_state_dict(state["model"])


def _load_plugins(learner: "Learner", states: list[dict[str, Any]]) -> None:
    for plugin, saved in zip(learner.strategies, states, strict=True):
        plugin.load_state_dict(saved)


def _load_optimizer(learner: "Learner", state: dict[str, Any]) -> None:
    if learner.scaler is not None:
        learner.scaler.load_state_dict(state["scaler"])
    if state["optimizer"] is None:
        return
    learner.optimizer = make_optimizer(
        learner.training.optimizer, learner.model.named_parameters(), 0, blocks_from_head(learner.model)
    )
    learner.optimizer.load_state_dict(state["optimizer"])
