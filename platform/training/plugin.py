"""The base of our strategies, on Avalanche's hooks, and what a strategy can replace: the criterion, the predictions.

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


class Plugin:
    """Base of our strategies: Avalanche's `SupervisedPlugin` protocol, duck-typed, with state.

    Each hook is called as ``hook(strategy)`` in Avalanche's order; `strategy` is an Avalanche template or our `Learner`. A
    subclass overrides the hooks that it needs: our learner calls only those.

    One that has a method ``state_dict() -> dict`` can be gone on with after a stop, between experiences and amid one: it
    returns the tensors, numbers, strings, lists and dicts that make a fresh plugin go on where this one stopped ({} where there
    is nothing). A trial with a plugin that has none starts again from its first experience.
    """

    accumulates = False  # whether it makes the training data those of all experiences so far
    augments = (
        False  # whether the network sees a sample differently each time: nothing can be computed once for all passes
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a hook under its old name, which nobody would call."""
        super().__init_subclass__(**kwargs)
        for old, new in _RENAMED_HOOKS.items():
            if old in vars(cls):
                raise TypeError(f"{cls.__qualname__}.{old}: it was renamed to {new}")

    def predict(self, learner: Any, x: "Tensor", network: "Callable[[Tensor], Tensor]") -> "Tensor":
        """Logits (B, C) of samples (B, *shape) in evaluation, where a strategy has its own way; `network`: the usual one.

        Called in evaluation mode, without gradients; changes nothing. Training and validation do not ask it.
        """
        return network(x)

    def after_eval_forward(self, learner: Any, **kwargs: Any) -> None:
        """In a plain Avalanche script, whose evaluation does not know `predict` (our learner does, and never calls this)."""
        if predicts(self):
            learner.mb_output = self.predict(learner, learner.mb_x, learner.model)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another instance's `state_dict` returned; to be overridden where that is anything."""
        if state:
            raise NotImplementedError(f"{type(self).__qualname__} has a state_dict and no load_state_dict")

    def on_resume(self, learner: Any) -> None:
        """Amid an experience, after a stop: the state is loaded, the data are chosen, and training goes on.

        The hooks ``before_*`` are not called again: what they did to the network (flags, hooks) or made of it is to be made
        here. `after_train_dataset_adaptation` is: what it chooses must follow from the state.
        """

    def should_train(self, experience: int, num_experiences: int) -> bool:
        """Whether training happens on this experience (0-based); `joint` waits for the last one."""
        return True

    def before_training(self, learner: Any, **kwargs: Any) -> None:
        """Before a call to train."""

    def before_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """Before the experience's training data are chosen; the head has not grown yet."""

    def after_train_dataset_adaptation(self, learner: Any, **kwargs: Any) -> None:
        """The training data are chosen (`learner.adapted_dataset`); the head has not grown yet."""

    def before_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Head, optimizer and loader are ready."""

    def before_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """Before an epoch."""

    def before_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        """The mini-batch is on the device."""

    def before_forward(self, learner: Any, **kwargs: Any) -> None:
        """Before the forward pass."""

    def after_forward(self, learner: Any, **kwargs: Any) -> None:
        """`learner.mb_output` is there."""

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        """`learner.loss` holds the criterion: the place to add a term."""

    def after_backward(self, learner: Any, **kwargs: Any) -> None:
        """Gradients are there."""

    def before_update(self, learner: Any, **kwargs: Any) -> None:
        """Before the optimizer's step."""

    def after_update(self, learner: Any, **kwargs: Any) -> None:
        """After the optimizer's step."""

    def after_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        """End of an iteration."""

    def after_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        """End of an epoch."""

    def after_training_exp(self, learner: Any, **kwargs: Any) -> None:
        """Training of the experience has ended."""

    def after_training(self, learner: Any, **kwargs: Any) -> None:
        """End of a call to train."""


def strategy_name(plugin: Any) -> str:
    """What a strategy is called in the YAML: the name of a shipped file, or a dotted path."""
    module: str = type(plugin).__module__
    ours = f"{__package__.rpartition('.platform.')[0]}.strategies."
    if module.startswith(ours):
        return module.removeprefix(ours)
    return module if hasattr(sys.modules[module], "build") else f"{module}.{type(plugin).__qualname__}"


def overrides_hook(plugin: Any, event: str) -> bool:
    """Whether `plugin` really does something at `event`: not the no-op of our base or of Avalanche's bases."""
    method = getattr(type(plugin), event, None)
    if method is None:
        return False
    return (method.__module__, method.__qualname__.partition(".")[0]) not in _NO_OPS


def hooks_of(plugins: Sequence[Any]) -> dict[str, list[Callable[..., None]]]:
    """For each event, the methods of the plugins that really do something, in order."""
    return {event: [getattr(plugin, event) for plugin in plugins if overrides_hook(plugin, event)] for event in EVENTS}


def predicts(plugin: Any) -> bool:
    """Whether a plugin has its own way to classify."""
    return isinstance(plugin, Plugin) and type(plugin).predict is not Plugin.predict


def prediction_function(learner: Any, plugins: Sequence[Any]) -> "Callable[[Tensor], Tensor]":
    """The network, or what the plugins make of it in evaluation: samples (B, *shape) -> logits (B, C)."""
    classify: Callable[[Tensor], Tensor] = learner.model
    for plugin in plugins:
        if predicts(plugin):
            classify = partial(plugin.predict, learner, network=classify)
    return classify


def replace_criterion(learner: Any, criterion: "Callable[[Tensor, Tensor], Tensor]") -> Callable[[], None]:
    """Train with `criterion` (logits (B, C), y (B,)) -> scalar in place of the cross-entropy; what is returned undoes it.

    To be called in `before_training_exp` and `on_resume`, and undone in `after_training_exp`. The logits are those of all
    outputs; of a task-incremental stream, -inf outside of each sample's task.
    """
    before = learner._criterion
    learner._criterion = criterion

    def undo() -> None:
        learner._criterion = before

    return undo


_NO_OPS = {
    (__name__, "Plugin"),
    ("avalanche.core", "BasePlugin"),
    ("avalanche.core", "BaseSGDPlugin"),
    ("avalanche.core", "SupervisedPlugin"),
}
