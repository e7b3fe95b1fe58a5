"""The contract of a network, a function for each of its parts.

Shapes: B batch, C classes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .. import seeding
from ..config.schema import Experiment
from ..data.cache import DataFolders
from ..errors import UserError
from ..seeding import generator
from ..trial.resolve import ResolvedPart
from . import random_pictures
from .errors import ContractError, NotApplicable, require
from .outcome import same
from .trials import Trials

SHAPES: Sequence[tuple[int, ...]] = ((1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 224, 224), (16,))
NUM_CLASSES = 3


@dataclass(frozen=True, slots=True)
class NetworkCase:
    """A network for samples of one shape.

    Attributes:
        part: the network.
        shape: that of a sample, channels first.
    """

    part: ResolvedPart
    shape: tuple[int, ...]

    def make(self, seed: int = 0, num_classes: int = NUM_CLASSES) -> Any:
        """Return a new network, as a trial builds it."""
        module, config, draw = self.part.module, self.part.config, generator(seed)
        if hasattr(module, "build_for"):
            folders = DataFolders.of(None, None)
            stream = random_pictures.build(random_pictures.Config(shape=self.shape), 0, folders)
            return module.build_for(config, stream, folders, num_classes, draw)
        return module.build(config, self.shape, num_classes, draw)

    def samples(self, size: int = 6) -> torch.Tensor:
        """Return random normalised samples (size, *shape)."""
        return torch.randn(size, *self.shape, generator=generator(7))

    def logits(self, network: nn.Module, x: torch.Tensor, global_seed: int = 0) -> torch.Tensor:
        """Return logits (B, C) in evaluation mode, without gradients; `global_seed`: of torch's global generator."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            logits: torch.Tensor = network.eval()(x)
        return logits


def first_case(part: ResolvedPart) -> NetworkCase:
    """Return the network for the first of SHAPES that it accepts.

    Raises:
        UserError: it refuses all of them.
    """
    refusals = []
    for shape in SHAPES:
        case = NetworkCase(part, shape)
        try:
            case.make()
        except UserError as error:
            refusals.append(str(error))
        else:
            return case
    raise UserError(f"{part.path}: refuses all of the shapes {[list(shape) for shape in SHAPES]}: {refusals[0]}")


def check_weights(case: NetworkCase) -> None:
    """Require that the weights follow from the generator alone, and so from the trial's seed."""
    before = seeding.capture_generators()
    try:
        first = _tensors(case.make())
        seeding.seed_globals(99, "what the process drew before must not matter")
        again, other = _tensors(case.make()), _tensors(case.make(seed=1))
    finally:
        seeding.restore_generators(before)
    advice = "initialise each layer with `generator`, e.g. nn.init.kaiming_uniform_(weight, generator=generator)"
    different = [name for name in first if not same(first[name], again[name])]
    require(not different, f"two networks from equal generators differ ({', '.join(different)}): {advice}")
    require(not same(first, other), f"the weights do not depend on the generator: {advice}")


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def check_output(case: NetworkCase) -> None:
    """Require finite logits (B, C) for samples (B, *shape)."""
    output = case.logits(case.make(), case.samples(4))
    tensor = isinstance(output, torch.Tensor)
    require(tensor and output.shape == (4, NUM_CLASSES), f"4 samples give {_described(output)}, not logits (4, 3)")
    require(output.is_floating_point() and bool(output.isfinite().all()), "the logits are not finite numbers")


def _described(output: Any) -> str:
    return f"shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__


def check_head_grows(case: NetworkCase) -> None:
    """Require that the head grows for new classes and leaves the logits of the old ones as they were.

    Raises:
        NotApplicable: the network has no head that grows; it must be built for all classes.
    """
    network, x = case.make(), case.samples()
    if not hasattr(getattr(network, "head", None), "grow"):
        raise NotApplicable(
            "it has no head with a method grow: set training.full_head=true, or return retain.Classifier(trunk, ...)"
        )
    before = case.logits(network, x)
    network.head.grow(NUM_CLASSES + 2, generator(2))
    after = case.logits(network, x)
    require(after.shape == (len(x), NUM_CLASSES + 2), f"grown to 5 classes, the network gives {_described(after)}")
    kept = torch.allclose(after[:, :NUM_CLASSES], before, atol=1e-5)
    require(kept, "the logits of the old classes change when the head grows")


def check_gradients(case: NetworkCase) -> None:
    """Require a finite gradient for each parameter that is to be trained: one without is no part of the function."""
    network = case.make().train()
    x, y = case.samples(12), torch.arange(12) % NUM_CLASSES
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for dropout
        functional.cross_entropy(network(x), y).backward()
    trainable = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    without = [name for name, parameter in trainable.items() if parameter.grad is None]
    require(not without, f"parameters get no gradient: {', '.join(without)}: use them in forward, or remove them")
    infinite = [name for name, p in trainable.items() if p.grad is not None and not bool(p.grad.isfinite().all())]
    require(not infinite, f"gradients are not finite: {', '.join(infinite)}")


def _train_once(network: nn.Module, x: torch.Tensor) -> None:
    """Call the network in training mode, so that its buffers do not have their initial values."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        network.train()(x)


def check_evaluation_mode(case: NetworkCase) -> None:
    """Require that evaluation mode draws nothing, changes no buffer, and treats each sample alone."""
    network, x = case.make(), case.samples()
    _train_once(network, x)
    before = _tensors(network)
    first, second = case.logits(network, x), case.logits(network, x, global_seed=1)
    changed = [name for name, tensor in _tensors(network).items() if not same(tensor, before[name])]
    require(not changed, f"evaluation changes buffers: {', '.join(changed)}: change them in training mode only")
    require(
        same(first, second), "two passes in evaluation mode give different logits: draw nothing unless self.training"
    )
    alone = case.logits(network, x[:1])
    close = torch.allclose(alone, first[:1], rtol=1e-3, atol=1e-4)
    require(close, "in evaluation mode, the logits of a sample depend on the other samples of the mini-batch")


def check_state(case: NetworkCase) -> None:
    """Require that `state_dict` holds everything: a network that loads it, and a copy, give the same logits.

    A checkpoint keeps the `state_dict` only, and a strategy's teacher is a copy.
    """
    network, x = case.make(), case.samples()
    _train_once(network, x)
    expected = case.logits(network, x)
    other = case.make(seed=1)
    try:
        other.load_state_dict(network.state_dict())
    except RuntimeError as error:
        raise ContractError(f"a network of the same settings cannot load its state_dict: {error}") from None
    loaded = same(case.logits(other, x), expected)
    require(loaded, "a network that loads the state_dict gives other logits: register tensors as parameters or buffers")
    require(same(case.logits(copy.deepcopy(network), x), expected), "copy.deepcopy gives a network with other logits")


def check_other_shape(case: NetworkCase) -> None:
    """Require that the network works for samples of another shape too, or refuses it with a UserError that says why."""
    other = SHAPES[(SHAPES.index(case.shape) + 1) % 4]
    second = replace(case, shape=other)
    try:
        network = second.make()
    except UserError:
        return
    try:
        output = second.logits(network, second.samples(2))
    except (RuntimeError, ValueError, IndexError) as error:
        advice = "raise retain.UserError in build for a shape that it cannot take"
        raise ContractError(f"built for shape {list(other)}, it fails on such samples ({error}): {advice}") from None
    require(output.shape == (2, NUM_CLASSES), f"for shape {list(other)}, 2 samples give {_described(output)}")


def check_trains(experiment: Experiment, trials: Trials) -> None:
    """Require that a short trial runs and changes the weights."""
    trained = trials(trials.with_stopper(experiment))
    slower = trials(replace(experiment, training=replace(experiment.training, epochs=2)))
    require(not same(trained.weights, slower.weights), "training for another epoch does not change the weights")
