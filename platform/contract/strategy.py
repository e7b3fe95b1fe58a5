"""The contract of a strategy, a function for each of its parts."""

from collections.abc import Iterable
from dataclasses import MISSING, fields, replace
from typing import Any

import torch

from .. import seeding
from ..config import registry
from ..config.schema import Experiment
from ..training import learner_state
from ..training.learner import Learner
from ..training.plugin import EVENTS, Plugin, is_resumable
from ..trial.checks import check_combination
from ..trial.resolve import ResolvedPart, resolve_experiment
from .errors import ContractError, NotApplicable, require
from .outcome import Outcome, assert_same, same, same_predictions
from .settings import check_declared_names, check_methods
from .trials import Trials, stops_mid_experience, stops_of, trained

METHODS = (
    *(*EVENTS, "init_state", "on_start", "on_resume", "should_train", "predict", "state_dict", "load_state_dict"),
    *("num_training_samples", "num_appended", "separate_batch_size", "always_frozen"),
)
DECLARED = (
    *(
        "Config",
        "build",
        "check_stream",
        "check_training",
        "check_model",
        "needs_validation",
        "adapt",
        "ROLES",
        "CONFLICTS",
    ),
    *("NEEDS_PAST", "NO_FULL_HEAD", "WRAPS_CRITERION", "NEUTRAL", "NEUTRAL_REASON"),
)
_MIN_REASON = 20  # letters


def check_names(part: ResolvedPart) -> None:
    """Refuse hooks and declarations under a misspelt name, which nothing calls or reads."""
    check_methods(type(part.build_strategy(0)), Plugin, METHODS)
    check_declared_names(part, DECLARED)


def check_declarations(part: ResolvedPart, experiment: Experiment) -> None:
    """Require that ROLES has known roles, and CONFLICTS names of strategies with a reason each.

    They are read before a trial starts, and the reasons are printed.
    """
    check_combination(resolve_experiment(experiment))
    for name, reason in part.declared("CONFLICTS", {}).items():
        registry.check_name("strategies", name)
        require(
            isinstance(reason, str) and len(reason) >= _MIN_REASON, f"CONFLICTS[{name!r}]: say why, for the message"
        )


def check_resumable(part: ResolvedPart) -> None:
    """Require `STATE` or a `state_dict`: without, a stopped trial starts again from its first experience.

    Raises:
        NotApplicable: it has neither; a trial still runs, and its ledger says so.
    """
    if not is_resumable(part.build_strategy(0)):
        raise NotApplicable(
            "it has no STATE and no state_dict, so a stopped trial starts again from its first experience: name in STATE the "
            "attributes that it needs to resume, or write STATE = ()"
        )


def neutral_settings_of(part: ResolvedPart) -> dict[str, Any]:
    """Return the settings with which a strategy does nothing; they make it comparable with plain finetuning.

    Raises:
        NotApplicable: there are none, and NEUTRAL_REASON says why.
        ContractError: none are declared, and no reason.
    """
    if not hasattr(part.module, "Config"):
        raise NotApplicable("an Avalanche class declares none")
    try:
        neutral = registry.neutral_settings(part.module)
    except TypeError:
        raise ContractError(
            "declare NEUTRAL = {...}, settings with which it changes nothing, or NEUTRAL = None with NEUTRAL_REASON"
        ) from None
    if neutral is None:
        reason = part.declared("NEUTRAL_REASON", "")
        require(len(reason) > _MIN_REASON, "NEUTRAL is None: say why in NEUTRAL_REASON, in a sentence")
        raise NotApplicable(reason)
    required = [each.name for each in fields(part.module.Config) if each.default is each.default_factory is MISSING]
    settings = {name: part.settings[name] for name in required} | neutral
    try:
        part.module.Config(**settings)
    except ValueError as error:
        advice = "declare NEUTRAL, or NEUTRAL = None with NEUTRAL_REASON"
        raise ContractError(
            f"the settings with which it should change nothing are refused ({error}): {advice}"
        ) from None
    return settings


def check_neutral(naive: Experiment, neutral: Experiment, trials: Trials) -> None:
    """Require that a strategy with neutral settings gives the bits of plain finetuning.

    Otherwise it changes more than its settings say: the order of samples, random numbers, the network.
    """
    expected, actual = trials(naive), trials(neutral)
    require(same_predictions(actual, expected), "with neutral settings the accuracies differ from plain finetuning's")
    require(actual.events == expected.events, "with neutral settings the ledger differs from plain finetuning's")
    unknown = not actual.weights  # where it cannot save its state
    require(
        unknown or same(actual.weights, expected.weights),
        "with neutral settings the weights differ from plain finetuning's",
    )


def check_acts(pairs: Iterable[tuple[Experiment, Experiment]], trials: Trials) -> None:
    """Require a difference to plain finetuning in one of the pairs (naive, with it): weights or accuracies.

    Otherwise the law of neutral settings would hold for a strategy that never acts.
    """
    for naive, with_it in pairs:
        expected, actual = trials(naive), trials(with_it)
        other_weights = bool(actual.weights) and not same(actual.weights, expected.weights)
        if other_weights or not same_predictions(actual, expected):
            return
    raise ContractError("it changes neither weights nor accuracies: are its hooks called, and is its weight above 0?")


def check_seed(experiment: Experiment, trials: Trials) -> None:
    """Require the same bits for the same seed, whatever the process drew before."""
    first, again = trials(experiment), trials(experiment, global_seed=99)
    advice = "draw random numbers from a generator made of the plugin's seed, not from a global one"
    assert_same(first, again, f"two runs with one seed differ: {advice}")


def check_other_seed(experiment: Experiment, trials: Trials) -> None:
    """Require other bits for another seed."""
    first = trials(experiment)
    other = trials(replace(experiment, seed=experiment.seed + 1))
    require(not first.weights or not same(first.weights, other.weights), "another seed gives the same weights")
    require(not same_predictions(first, other), "another seed gives the same accuracies")


def check_evaluation(experiment: Experiment) -> tuple[Learner, Learner]:
    """Require that evaluation changes nothing: not inside an experience, after each epoch, and not in the final bits.

    Returns:
        The learners at the end, evaluated and not evaluated.
    """
    different: list[tuple[int, str]] = []

    def evaluate(learner: Learner) -> None:
        before = _snapshot(learner)
        learner.evaluate_validation()
        learner.evaluate()
        after = _snapshot(learner)
        different.extend((learner.clock.train_iterations, key) for key in before if not same(before[key], after[key]))

    evaluated = trained(experiment, evaluate)
    evaluate(evaluated)
    changes = ", ".join(f"{key} (iteration {iteration})" for iteration, key in different[:5])
    require(
        not different, f"evaluation changes: {changes}; predict and evaluation hooks must leave everything as it is"
    )
    without = trained(experiment)
    equal = same(_state(evaluated), _state(without))
    require(equal, "a trial that is evaluated after each epoch ends with other bits than one that is not")
    return evaluated, without


def _state(learner: Learner) -> dict[str, Any]:
    """Return everything that later training depends on; only the network's tensors if a plugin cannot save its state."""
    return dict(learner.model.state_dict()) if learner.not_resumable else learner_state.capture(learner)


def _snapshot(learner: Learner) -> dict[str, Any]:
    """Return everything that evaluation must not change."""
    own = [plugin for plugin in learner.plugins if plugin is not learner.clock]
    parameters = list(learner.model.parameters())
    return {
        "tensors of the network": {name: tensor.clone() for name, tensor in learner.model.state_dict().items()},
        "parameters of the network": [id(parameter) for parameter in parameters],
        "requires_grad": [parameter.requires_grad for parameter in parameters],
        "gradients": [p.grad is not None and p.grad.clone() for p in parameters],
        "training mode": [layer.training for layer in learner.model.modules()],
        "the head": getattr(learner.model.head, "num_classes", None),
        "hooks in the network": num_hooks(learner.model),
        "the optimizer": _copied(learner.optimizer.state_dict()),
        "the plugins' state": [_copied(plugin.state_dict()) for plugin in own if is_resumable(plugin)],
        "the list of plugins": [id(plugin) for plugin in learner.plugins],
        "the clock": dict(vars(learner.clock)),
        "global random numbers": seeding.capture_generators(),
        "the experience": {key: id(vars(learner)[key]) for key in ("experience", "adapted_dataset", "dataloader")},
        "the learner": [learner.is_training, learner._stop_training, learner.train_mb_size, learner.samples],
    }


def _copied(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list | tuple) else state


def num_hooks(model: torch.nn.Module) -> int:
    """Count hooks of any kind on modules and parameters."""
    kinds = [key for key in vars(torch.nn.Module()) if key.endswith("_hooks")]
    on_modules = sum(len(getattr(layer, kind)) for layer in model.modules() for kind in kinds)
    return on_modules + sum(len(parameter._backward_hooks or {}) for parameter in model.parameters())


def check_nothing_left(learner: Learner, num_strategies: int) -> None:
    """Require that at the end the network is as it was built: no hooks, nothing frozen, all layers in training mode.

    What a strategy leaves acts in the next experience, and on the strategies after it.
    """
    model, undo = learner.model, "undo it in after_training_exp"
    require(num_hooks(model) == 0, f"{num_hooks(model)} hooks are left in the network: {undo}")
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    require(not frozen, f"parameters are still frozen at the end: {', '.join(frozen)}: {undo}")
    modes = [name for name, layer in model.named_modules() if not layer.training]
    require(not modes, f"layers are still in evaluation mode: {', '.join(modes) or 'all'}: {undo}")
    require(len(learner.plugins) == num_strategies + 1, "the list of plugins has changed")


def check_resume_mid_experience(experiment: Experiment, trials: Trials, often: bool = False) -> None:
    """Require that a trial that SIGTERM stops mid-experience, and that is resumed, ends with the bits of one never stopped.

    `often`: stop more often than a single strategy needs.
    """
    stopping = trials.with_stopper(experiment)
    never = trials(stopping)
    stops = stops_mid_experience(never.events, often)
    require(bool(stops), "the trial is too short to be stopped")
    _assert_resumes(trials.stopped(stopping, stops, "TERM"), never, "mid-experience")


def check_resume_between_experiences(experiment: Experiment, trials: Trials) -> list[int]:
    """Require the same of a trial that is stopped between experiences, or mid-experience with the loss of its progress.

    Returns:
        The iterations that it was stopped before.
    """
    stopping = trials.with_stopper(experiment)
    never = trials(stopping)
    stops = stops_of(never.events)
    _assert_resumes(trials.stopped(stopping, stops, "raise"), never, "between experiences")
    return stops


def _assert_resumes(resumed: Outcome, never: Outcome, where: str) -> None:
    advice = "STATE or state_dict must hold everything that later training depends on, and on_start or on_resume redo the rest"
    assert_same(resumed, never, f"a trial stopped {where} and resumed differs from an uninterrupted one: {advice}")
