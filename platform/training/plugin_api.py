"""What a strategy may ask of its learner; it also works in a plain Avalanche script."""

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


def note_appended(learner: Any, memory: "torch.Tensor", index: "torch.Tensor") -> None:
    """Tell the learner that the last rows of its mini-batch are samples of a memory, whose outputs a cache may hold.

    Args:
        learner: our learner; in a plain Avalanche script, which caches nothing, do nothing.
        memory: all samples in memory as network inputs (m, *shape).
        index: the positions (M,) of the rows in it.
    """
    if hasattr(learner, "note_appended"):
        learner.note_appended(memory, index)


def undo_stop(learner: Any) -> None:
    """Undo `stop_training`: Avalanche would carry a stop at an experience's last iteration into the next experience."""
    learner._stop_training = False


def clip_gradients(learner: Any) -> None:
    """Clip the norm of the network's gradients as the experience's iterations do; in a plain Avalanche script do nothing."""
    if hasattr(learner, "clip_gradients"):
        learner.clip_gradients()


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


def is_cacheable(learner: Any) -> bool:
    """Return whether a fixed network's output for a sample can be computed once.

    The sample's input must never change, and `mb_index` must identify it.
    """
    return hasattr(learner, "mb_index") and not getattr(learner, "augments", False)
