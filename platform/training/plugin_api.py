"""What a strategy may ask of its learner and of data sets; it also works in a plain Avalanche script."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def note(learner: Any, text: str) -> None:
    """Write a sentence to the trial's ledger; in a plain Avalanche script, which has none, do nothing."""
    if hasattr(learner, "note"):
        learner.note(text)


def measure(learner: Any, name: str, value: float) -> None:
    """Write a number to the ledger's line of this epoch; in a plain Avalanche script do nothing."""
    if hasattr(learner, "measured"):
        learner.measured[name] = value


def mask_other_tasks(learner: Any, logits: "torch.Tensor", tasks: "torch.Tensor") -> "torch.Tensor":
    """Return logits (n, K) with -inf for the classes of other tasks, if the task is given.

    In a plain Avalanche script the logits are returned unchanged. `tasks` (n,): the task of each sample.
    """
    return learner.mask_other_tasks(logits, tasks) if hasattr(learner, "mask_other_tasks") else logits


def task_heads(learner: Any, num_outputs: int) -> "list[torch.Tensor]":
    """Return, if the task is given, the outputs of each experience among the first `num_outputs`; else [].

    Each entry holds positions; experiences without any are left out.
    """
    heads = getattr(learner, "heads", None)
    positions = [] if heads is None else [own.nonzero().flatten() for own in heads[:, :num_outputs]]
    return [own for own in positions if len(own)]


def validation_dataset(experience: Any) -> Any | None:
    """Return the validation dataset of a training experience, from its benchmark's ``valid`` stream, or None.

    Streams of Avalanche 0.6 do not know their benchmark: a plain script sets ``stream.benchmark``.
    """
    streams = getattr(experience.origin_stream.benchmark, "streams", {})
    if "valid" not in streams:
        return None
    dataset = streams["valid"][experience.current_experience].dataset
    return dataset.eval() if len(dataset) else None


def is_cacheable(learner: Any) -> bool:
    """Return whether a fixed network's output for a sample can be computed once.

    The sample's input must never change, and `mb_index` must identify it.
    """
    return hasattr(learner, "mb_index") and not getattr(learner, "augments", False)


def dataset_samples(dataset: Any, indices: "torch.Tensor | None" = None) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return samples of a dataset in the network's format: x (n, *shape) float32, y (n,) int64, at `indices` or all.

    Fast for our resident datasets; item by item for any other Avalanche dataset.
    """
    from ..data.streams import resident_samples

    resident = resident_samples(dataset)
    if resident is None:
        return _items(dataset, range(len(dataset)) if indices is None else indices.tolist())
    x, y = (resident.x, resident.y) if indices is None else (resident.x[indices], resident.y[indices])
    return resident.stream.normalise(x), y


def dataset_batches(
    dataset: Any, size: int, order: "torch.Tensor | None" = None
) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
    """Yield the samples of a dataset, `size` at a time, as `dataset_samples` returns them.

    `order` (n,): the positions to yield; None: all, in order.
    """
    import torch

    from ..data.streams import resident_samples

    resident = resident_samples(dataset)
    for index in (torch.arange(len(dataset)) if order is None else order).split(size):
        if resident is None:
            yield _items(dataset, index.tolist())
        else:
            yield resident.stream.normalise(resident.x[index]), resident.y[index]


def _items(dataset: Any, positions: Iterable[int]) -> "tuple[torch.Tensor, torch.Tensor]":
    """Samples of any dataset, one by one."""
    import torch

    items = [dataset[i] for i in positions]
    return torch.stack([item[0] for item in items]), torch.tensor([int(item[1]) for item in items])
