"""What a strategy may ask of the learner that runs it, and of data sets; works in a plain Avalanche script too."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def note(learner: Any, text: str) -> None:
    """Put a sentence into the trial's ledger; in a plain Avalanche script, where there is none, nothing happens."""
    if hasattr(learner, "note"):
        learner.note(text)


def measure(learner: Any, name: str, value: float) -> None:
    """Put a number into the ledger's line of this epoch; in a plain Avalanche script nothing happens."""
    if hasattr(learner, "measured"):
        learner.measured[name] = value


def mask_other_tasks(learner: Any, logits: "torch.Tensor", tasks: "torch.Tensor") -> "torch.Tensor":
    """Logits (n, K): where the task is given, those of other tasks' classes are -inf; as they are in a plain Avalanche script."""
    return learner.mask_other_tasks(logits, tasks) if hasattr(learner, "mask_other_tasks") else logits


def task_heads(learner: Any, num_outputs: int) -> "list[torch.Tensor]":
    """Where the task is given: positions among the first `num_outputs` of each experience's own outputs, if any; else []."""
    heads = getattr(learner, "heads", None)
    found = [] if heads is None else [own.nonzero().flatten() for own in heads[:, :num_outputs]]
    return [own for own in found if len(own)]


def validation_dataset(experience: Any) -> Any | None:
    """The validation dataset of a training experience, from its benchmark's ``valid`` stream; None where there is none.

    Avalanche 0.6 does not tell its streams which benchmark they belong to: a plain script sets ``stream.benchmark``.
    """
    streams = getattr(experience.origin_stream.benchmark, "streams", {})
    if "valid" not in streams:
        return None
    dataset = streams["valid"][experience.current_experience].dataset
    return dataset.eval() if len(dataset) else None


def is_cacheable(learner: Any) -> bool:
    """Whether what a fixed network makes of a sample can be computed once: its input never changes and `mb_index` names it."""
    return hasattr(learner, "mb_index") and not getattr(learner, "augments", False)


def dataset_samples(dataset: Any, indices: "torch.Tensor | None" = None) -> "tuple[torch.Tensor, torch.Tensor]":
    """Samples of a dataset as the network takes them: x (n, *shape) float32, y (n,) int64, at `indices` or all.

    Fast for our resident datasets; item by item for any other Avalanche dataset.
    """
    from ..data.streams import resident_samples

    found = resident_samples(dataset)
    if found is None:
        return _items(dataset, range(len(dataset)) if indices is None else indices.tolist())
    x, y = (found.x, found.y) if indices is None else (found.x[indices], found.y[indices])
    return found.stream.normalise(x), y


def dataset_batches(
    dataset: Any, size: int, order: "torch.Tensor | None" = None
) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
    """The samples of a dataset, `size` at a time, as `samples` returns them; `order` (n,): at these positions, null: all."""
    import torch

    from ..data.streams import resident_samples

    found = resident_samples(dataset)
    for index in (torch.arange(len(dataset)) if order is None else order).split(size):
        if found is None:
            yield _items(dataset, index.tolist())
        else:
            yield found.stream.normalise(found.x[index]), found.y[index]


def _items(dataset: Any, positions: Iterable[int]) -> "tuple[torch.Tensor, torch.Tensor]":
    """Samples of any dataset, one by one."""
    import torch

    items = [dataset[i] for i in positions]
    return torch.stack([item[0] for item in items]), torch.tensor([int(item[1]) for item in items])
