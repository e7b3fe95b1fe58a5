"""The base class of our strategies, on Avalanche's hooks, and what a strategy can replace: the criterion, the predictions.

Shapes: B batch, C outputs of the head.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

EVENTS = (
    "before_training",
    "before_train_dataset_adaptation",
    "after_train_dataset_adaptation",
    "before_training_exp",
    "before_training_epoch",
    "before_training_iteration",
    "before_forward",
    "after_forward",
    "before_backward",
    "after_backward",
    "before_update",
    "after_update",
    "after_training_iteration",
    "after_training_epoch",
    "after_training_exp",
    "after_training",
    "before_eval",
    "before_eval_dataset_adaptation",
    "after_eval_dataset_adaptation",
    "before_eval_exp",
    "before_eval_iteration",
    "before_eval_forward",
    "after_eval_forward",
    "after_eval_iteration",
    "after_eval_exp",
    "after_eval",
)
_RENAMED_HOOKS = {"trains_on": "should_train"}
EVAL_EVENTS = tuple(event for event in EVENTS if "_eval" in event)
_NO_OPS = {  # (module, class) whose hooks do nothing
    (__name__, "Plugin"),
    ("avalanche.core", "BasePlugin"),
    ("avalanche.core", "BaseSGDPlugin"),
    ("avalanche.core", "SupervisedPlugin"),
}


class Plugin:
    """Base class of our strategies: Avalanche's `SupervisedPlugin` protocol, duck-typed, with state.

    Each hook is called as ``hook(learner)`` in Avalanche's order; `learner` is our `Learner` or an Avalanche template. A subclass
    overrides the hooks that it needs; our learner calls only those.

    A plugin with a method ``state_dict() -> dict`` can be resumed between experiences and mid-experience. The method returns
    everything that a fresh plugin needs to resume: tensors, numbers, strings, lists and dicts, or {} for nothing. A trial with a
    plugin that has no `state_dict` restarts from its first experience.
    """

    accumulates = False  # whether it trains on the data of all experiences so far
    # whether the network sees a sample differently each time, so that nothing can be computed once for all passes
    augments = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a hook under its old name, which nothing would call."""
        super().__init_subclass__(**kwargs)
        for old, new in _RENAMED_HOOKS.items():
            if old in vars(cls):
                raise TypeError(f"{cls.__qualname__}.{old}: it was renamed to {new}")

    def predict(self, learner: Any, x: "Tensor", network: "Callable[[Tensor], Tensor]") -> "Tensor":
        """Return logits (B, C) of samples (B, *shape) in evaluation; override it to classify in another way.

        `network`: the usual way to classify. Called in evaluation mode, without gradients; must change nothing. Training and
        validation do not call it.
        """
        return network(x)

    def after_eval_forward(self, learner: Any, **kwargs: Any) -> None:
        """Apply `predict` in a plain Avalanche script, which does not know it; our learner never calls this hook."""
        if predicts(self):
            learner.mb_output = self.predict(learner, learner.mb_x, learner.model)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what another instance's `state_dict` returned; override it unless that is empty."""
        if state:
            raise NotImplementedError(f"{type(self).__qualname__} has a state_dict and no load_state_dict")

    def on_resume(self, learner: Any) -> None:
        """Prepare to resume mid-experience; the state is loaded and the data are chosen.

        The hooks ``before_*`` are not called again. Repeat here what they did to the network (flags, hooks) or computed from it.
        `after_train_dataset_adaptation` is called again: what it chooses must follow from the state.
        """

    def should_train(self, experience: int, num_experiences: int) -> bool:
        """Return whether to train on this experience (0-based); `joint` waits for the last one."""
        return True

    def before_training(self, learner: Any, **kwargs: Any) -> None:
        """Run before a call to `train`."""

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """Run before the experience's training data are chosen; the head has not grown yet."""

    def after_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """Run when the training data are chosen (`learner.adapted_dataset`); the head has not grown yet."""

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Run when head, optimizer and loader are ready."""

    def before_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Run before an epoch."""

    def before_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        """Run when the mini-batch is on the device."""

    def before_forward(self, learner: Any, **kwargs: Any) -> None:
        """Run before the forward pass."""

    def after_forward(self, learner: Any, **kwargs: Any) -> None:
        """Run when `learner.mb_output` is computed."""

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        """Run when `learner.loss` holds the criterion; add terms to the loss here."""

    def after_backward(self, learner: Any, **kwargs: Any) -> None:
        """Run when the gradients are computed."""

    def before_update(self, learner: Any, **kwargs: Any) -> None:
        """Run before the optimizer's step."""

    def after_update(self, learner: Any, **kwargs: Any) -> None:
        """Run after the optimizer's step."""

    def after_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        """Run at the end of an iteration."""

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Run at the end of an epoch."""

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Run when the training of the experience has ended."""

    def after_training(self, learner: Any, **kwargs: Any) -> None:
        """Run at the end of a call to `train`."""


def strategy_name(plugin: Any) -> str:
    """Return a strategy's name in the YAML: that of a shipped file, or a dotted path."""
    module: str = type(plugin).__module__
    ours = f"{__package__.rpartition('.platform.')[0]}.strategies."
    if module.startswith(ours):
        return module.removeprefix(ours)
    return module if hasattr(sys.modules[module], "build") else f"{module}.{type(plugin).__qualname__}"


def overrides_hook(plugin: Any, event: str) -> bool:
    """Return whether `plugin` overrides the no-op of our base class, or of Avalanche's, at `event`."""
    method = getattr(type(plugin), event, None)
    if method is None:
        return False
    return (method.__module__, method.__qualname__.partition(".")[0]) not in _NO_OPS


def hooks_of(plugins: Sequence[Any]) -> dict[str, list[Callable[..., None]]]:
    """Return, for each event, the methods of the plugins that override the no-op, in order."""
    return {event: [getattr(plugin, event) for plugin in plugins if overrides_hook(plugin, event)] for event in EVENTS}


def predicts(plugin: Any) -> bool:
    """Return whether a plugin overrides `predict`."""
    return isinstance(plugin, Plugin) and type(plugin).predict is not Plugin.predict


def prediction_function(learner: Any, plugins: Sequence[Any]) -> "Callable[[Tensor], Tensor]":
    """Return the network, or what the plugins make of it in evaluation: samples (B, *shape) -> logits (B, C)."""
    classify: Callable[[Tensor], Tensor] = learner.model
    for plugin in plugins:
        if predicts(plugin):
            classify = partial(plugin.predict, learner, network=classify)
    return classify


def replace_criterion(learner: Any, criterion: "Callable[[Tensor, Tensor], Tensor]") -> Callable[[], None]:
    """Train with `criterion` (logits (B, C), y (B,)) -> scalar instead of the cross-entropy.

    Call it in `before_training_exp` and `on_resume`, and undo it in `after_training_exp`. The logits are those of all outputs; in
    a task-incremental stream they are -inf outside of each sample's task.

    Returns:
        A function that restores the criterion.
    """
    before = learner._criterion
    learner._criterion = criterion

    def undo() -> None:
        learner._criterion = before

    return undo
