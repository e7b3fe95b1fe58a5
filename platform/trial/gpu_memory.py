"""What to change after a GPU's memory was full."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch

from ..config.schema import Experiment
from ..training.loop import Loop, Phase


@contextmanager
def explain_out_of_memory(config: Experiment) -> Iterator[None]:
    """Add to torch's error where in the trial the GPU's memory was full, and which settings need less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = (
            str(error).partition(" Including ")[0].partition(" If reserved ")[0]
        )  # then follow hints about the allocator
        error.args = (f"the GPU's memory is full{_where(error.__traceback__)}: {_advice(config)} ({first})",)
        raise


def _where(trace: TracebackType | None) -> str:
    """Return where the trial was, by the innermost frame of its learner; an empty text before it has one."""
    text = ""
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, Loop) and hasattr(owner, "phase"):  # otherwise it is being made, and moves to the GPU
            text = " in evaluation"
            if owner.experience is not None and owner.phase is not Phase.EVALUATING:
                number, iteration = owner.experience.current_experience + 1, owner.clock.train_exp_iterations + 1
                text = f" in experience {number}, iteration {iteration}"
        trace = trace.tb_next
    return text


def _advice(config: Experiment) -> str:
    """Return what to change, with the present values."""
    training, gpus = config.training, config.resources.gpus
    sizes = f"training.batch_size={training.batch_size} or .evaluation_batch_size={training.evaluation_batch_size}"
    low = ", or set training.precision=bfloat16" if training.precision == "float32" else ""
    share = f", or raise resources.gpus={gpus}, so that fewer trials share a GPU" if 0 < gpus < 1 else ""
    return f"lower {sizes}, or a strategy's memory or batch_size{low}{share}"
