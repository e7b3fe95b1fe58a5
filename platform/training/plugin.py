"""The base class of our strategies, on Avalanche's hooks, and what a strategy can replace: the criterion, the predictions.

Shapes: B batch, C outputs of the head.
"""

import copy
import inspect
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from typing_extensions import TypeVar

from .learner_view import LearnerView as LearnerView  # strategies import both names from here

if TYPE_CHECKING:
    from torch import Tensor, nn

    FrozenParts = tuple[list[nn.Parameter], list[nn.Module]]

C = TypeVar("C", default=Any)  # the plugin's Config

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
_OBJECT = "state_dict"  # the key of an object's state, which tells it from a dict
_NO_OPS = {  # (module, class) whose hooks do nothing
    (__name__, "Plugin"),
    ("avalanche.core", "BasePlugin"),
    ("avalanche.core", "BaseSGDPlugin"),
    ("avalanche.core", "SupervisedPlugin"),
}


class EndOrder(IntEnum):
    """In which order strategies act when the training of an experience has ended; within a step, the order of the YAML."""

    REPLACE_WEIGHTS = 0  # by those of an earlier epoch, or by an average
    CHANGE_WEIGHTS = 1  # further: align the head, finetune
    RECOMPUTE_STATISTICS = 2  # of BatchNorm, under the final weights
    USE_WEIGHTS = 3  # the final ones: memories, penalties, classifiers


class Plugin(Generic[C]):
    """Base class of our strategies: Avalanche's `SupervisedPlugin` protocol, duck-typed, with settings and state.

    Each hook is called as ``hook(learner)`` in Avalanche's order; `learner` is our `Learner` or an Avalanche template. A subclass
    overrides the hooks that it needs; our learner calls only those. `Plugin[Config]` gives `config` its type.

    A plugin with `STATE` can be resumed between experiences and mid-experience: the names of the attributes that hold everything
    that a fresh plugin needs to resume, () for nothing. An attribute is a tensor, number, text, list, dict or None, or an object
    with ``state_dict`` and ``load_state_dict`` that `init_state` creates. Where that is not enough, override `state_dict` and
    `load_state_dict`. A trial with a plugin that does neither restarts from its first experience.

    Attributes:
        config: the settings.
        seed: derive random numbers from it, with `retain.platform.seeding.generator`.
    """

    STATE: ClassVar[tuple[str, ...] | None] = None
    accumulates = False  # whether it trains on the data of all experiences so far
    # whether the network sees a sample differently each time, so that nothing can be computed once for all passes
    augments = False
    end_order: ClassVar[EndOrder] = EndOrder.USE_WEIGHTS  # when its `after_training_exp` is called
    # whether it stores what follows from the trunk's features, such as class means, which go stale while the trunk learns
    stores_features = False
    # whether `training.compile: graph` may record the hooks that this class defines, from before_forward to after_update, once
    # per experience and repeat what they did on the device: they read and write the same tensors each time, and change nothing
    # in Python. A subclass that overrides hooks must declare it anew.
    capturable = False

    config: C = None  # type: ignore[assignment]
    seed: int = 0

    def __init__(self, config: Any = None, seed: int | None = None) -> None:
        super().__init__()
        if config is not None:
            self.config = config
        if seed is not None:
            self.seed = seed
        self.init_state()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a hook under its old name, which nothing would call."""
        super().__init_subclass__(**kwargs)
        for old, new in _RENAMED_HOOKS.items():
            if old in vars(cls):
                raise TypeError(f"{cls.__qualname__}.{old}: it was renamed to {new}")
        if not (
            cls.STATE is None or isinstance(cls.STATE, tuple | list) and all(isinstance(n, str) for n in cls.STATE)
        ):
            raise TypeError(f"{cls.__qualname__}.STATE={cls.STATE!r}: must be a tuple of attributes' names")
        for name, arguments in (("init_state", 1), ("on_start", 2)):
            method = vars(cls).get(name)
            if inspect.isfunction(method) and len(inspect.signature(method).parameters) != arguments:
                expected = "(self)" if arguments == 1 else "(self, learner)"
                raise TypeError(f"{cls.__qualname__}.{name}: retain calls it with {expected}; name yours otherwise")

    def init_state(self) -> None:
        """Set the attributes of a new plugin, those of `STATE` among them; called when it is created."""

    def predict(self, learner: LearnerView, x: "Tensor", network: "Callable[[Tensor], Tensor]") -> "Tensor":
        """Return logits (B, C) of samples (B, *shape) in evaluation; override it to classify in another way.

        `network`: the usual way to classify. Called in evaluation mode, without gradients; must change nothing. Training and
        validation do not call it.
        """
        return network(x)

    def after_eval_forward(self, learner: LearnerView, **kwargs: Any) -> None:
        """Apply `predict` in a plain Avalanche script, which does not know it; our learner never calls this hook."""
        if predicts(self):
            learner.mb_output = self.predict(learner, learner.mb_x, learner.model)

    def state_dict(self) -> dict[str, Any]:
        """Return the attributes named in `STATE`, by name; lists and dicts are copied, tensors are not."""
        state: dict[str, Any] = {}
        for name in self.STATE or ():
            value = getattr(self, name)
            if getattr(value, "MERGED", False):
                state |= value.state_dict()
            elif hasattr(value, "state_dict"):
                state[name] = {_OBJECT: value.state_dict()}
            else:
                state[name] = copy.copy(value) if isinstance(value, list | dict) else value
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what another instance's `state_dict` returned; an attribute that it lacks keeps its value."""
        if state and self.STATE is None:
            raise NotImplementedError(f"{type(self).__qualname__} has a state_dict and no load_state_dict")
        for name in self.STATE or ():
            value, saved = getattr(self, name), state.get(name)
            if getattr(value, "MERGED", False):
                value.load_state_dict(state)
            elif isinstance(saved, dict) and saved.keys() == {_OBJECT}:
                if not hasattr(value, "load_state_dict"):
                    raise TypeError(f"{type(self).__qualname__}.{name}: an object was saved; create it in init_state")
                value.load_state_dict(saved[_OBJECT])
            elif name in state:
                setattr(self, name, copy.copy(saved) if isinstance(saved, list | dict) else saved)

    def on_start(self, learner: LearnerView) -> None:
        """Prepare to train an experience; called in `before_training_exp` and, mid-experience, in `on_resume`.

        Do here what a resumed trial must do again: change the network's flags, register hooks, replace the criterion, move state
        to the device. Override it, or both of these hooks.
        """

    def on_resume(self, learner: LearnerView) -> None:
        """Prepare to resume mid-experience; the state is loaded and the data are chosen.

        The hooks ``before_*`` are not called again. `after_train_dataset_adaptation` is: what it chooses must follow from the
        state. By default, tensors in `STATE` are moved to the device, objects in it with a method ``on_resume(learner)`` are
        prepared, and `on_start` is called.
        """
        for name in self.STATE or ():
            value = getattr(self, name)
            if hasattr(value, "on_resume"):
                value.on_resume(learner)
            elif hasattr(value, "device"):
                setattr(self, name, value.to(learner.device))
        self.on_start(learner)

    def should_train(self, experience: int, num_experiences: int) -> bool:
        """Return whether to train on this experience (0-based); `joint` waits for the last one."""
        return True

    def num_training_samples(self, labels: "Sequence[Tensor]", experience: int) -> int:
        """Return how many samples `adapted_dataset` has in an experience (0-based); override it if the plugin replaces them.

        `labels`: the labels (n,) of each experience's training samples.
        """
        return len(labels[experience])

    def num_appended(self, num_trained: int) -> int:
        """Return the least number of samples that it appends to each mini-batch, after `num_trained` trained experiences."""
        return 0

    def separate_batch_size(self, batch_size: int, num_trained: int) -> int:
        """Return the size of the mini-batches that it passes through the network separately (0: none).

        `batch_size`: of new samples; `num_trained`: experiences trained before.
        """
        return 0

    def always_frozen(self, model: "nn.Module", num_trained: int) -> "FrozenParts":
        """Return the parameters and BatchNorm layers that it freezes throughout the experience after `num_trained` others."""
        return [], []

    def before_training(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run before a call to `train`."""

    def before_train_dataset_adaptation(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run before the experience's training data are chosen; the head has not grown yet."""

    def after_train_dataset_adaptation(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run when the training data are chosen (`learner.adapted_dataset`); the head has not grown yet."""

    def before_training_exp(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run when head, optimizer and loader are ready; by default call `on_start`."""
        self.on_start(learner)

    def before_training_epoch(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run before an epoch."""

    def before_training_iteration(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run when the mini-batch is on the device."""

    def before_forward(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run before the forward pass."""

    def after_forward(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run when `learner.mb_output` is computed."""

    def before_backward(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run when `learner.loss` holds the criterion; add terms to the loss here."""

    def after_backward(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run when the gradients are computed."""

    def before_update(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run before the optimizer's step."""

    def after_update(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run after the optimizer's step."""

    def after_training_iteration(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run at the end of an iteration."""

    def after_training_epoch(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run at the end of an epoch."""

    def after_training_exp(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run when the training of the experience has ended."""

    def after_training(self, learner: LearnerView, **kwargs: Any) -> None:
        """Run at the end of a call to `train`."""


def strategy_name(plugin: Any) -> str:
    """Return a strategy's name in the YAML: that of a shipped file, or a dotted path."""
    module: str = type(plugin).__module__
    ours = f"{__package__.rpartition('.platform.')[0]}.strategies."
    if module.startswith(ours):
        return module.removeprefix(ours)
    return module if hasattr(sys.modules[module], "Config") else f"{module}.{type(plugin).__qualname__}"


def overrides_hook(plugin: Any, event: str) -> bool:
    """Return whether `plugin` overrides the no-op of our base class, or of Avalanche's, at `event`."""
    method = getattr(type(plugin), event, None)
    if method is None:
        return False
    if event == "before_training_exp" and method is Plugin.before_training_exp:
        return type(plugin).on_start is not Plugin.on_start
    return (method.__module__, method.__qualname__.partition(".")[0]) not in _NO_OPS


def is_resumable(plugin: Any) -> bool:
    """Return whether a plugin's state can be saved: Avalanche's cannot, and of ours those without `STATE` or a `state_dict`."""
    if isinstance(plugin, Plugin):
        return plugin.STATE is not None or type(plugin).state_dict is not Plugin.state_dict
    return all(hasattr(plugin, name) for name in ("state_dict", "load_state_dict", "on_resume"))


def hooks_of(plugins: Sequence[Any]) -> dict[str, list[Callable[..., None]]]:
    """Return, for each event, the methods of the plugins that override the no-op, in order.

    After an experience that is the order of `EndOrder`, so that what uses the network sees its final weights.
    """
    at_end = sorted(plugins, key=lambda plugin: getattr(plugin, "end_order", EndOrder.USE_WEIGHTS))
    return {
        event: [
            getattr(plugin, event)
            for plugin in (at_end if event == "after_training_exp" else plugins)
            if overrides_hook(plugin, event)
        ]
        for event in EVENTS
    }


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

    Call it in `on_start`, and undo it in `after_training_exp`. The logits are those of all outputs; in
    a task-incremental stream they are -inf outside of each sample's task.

    Returns:
        A function that restores the criterion.
    """
    before = learner._criterion
    learner._criterion = criterion

    def undo() -> None:
        learner._criterion = before

    return undo
