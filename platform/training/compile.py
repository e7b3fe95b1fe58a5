"""The key `training.compile`: run the iterations of an epoch as a CUDA graph, or the network through torch.compile.

    graph     cuda_graph.py: whole iterations are recorded once per experience and replayed, one launch instead of hundreds
    inductor  inductor.py: torch.compile compiles the network's forward and backward pass; hooks and optimizer run as usual

Both are for speed only. A graph runs the same kernels as without; compiled code rounds differently in the last bits. What cannot
be compiled runs as usual, and a note in the ledger says why. Evaluation and teachers are never compiled.
"""

import importlib.util
import os
import shlex
import shutil
import sys
from typing import Any, Protocol

import torch

from ..errors import UserError


class Compiler(Protocol):
    """Runs the epochs of a learner."""

    def run_epoch(self, learner: Any) -> None:
        """Train for an epoch, as `learner.training_epoch()` does."""


def compiler_of(kind: str | None, device: torch.device) -> Compiler | None:
    """Return what runs epochs for a value of `training.compile`; None for null.

    Raises:
        UserError: it cannot work on this device or machine.
    """
    check_compile(kind, device)
    if kind == "graph":
        from .cuda_graph import CudaGraphs, GraphCompiler  # here: other trials do not need it

        return GraphCompiler(CudaGraphs(device))
    if kind == "inductor":
        from .inductor import InductorCompiler

        return InductorCompiler()
    return None


def check_compile(kind: str | None, device: torch.device) -> None:
    """Refuse a value of `training.compile` that cannot work on this device and machine.

    Raises:
        UserError: CUDA graphs without a GPU, or torch.compile without what it needs to compile.
    """
    if kind == "graph" and device.type != "cuda":
        raise UserError(
            f"training.compile='graph': needs a GPU (CUDA graphs), and this trial runs on {device}: use null."
        )
    if kind == "inductor" and (missing := _missing_tool(device)):
        raise UserError(f"training.compile='inductor': torch.compile needs {missing}. Or use null.")


def _missing_tool(device: torch.device) -> str:
    """Return what torch.compile needs and this machine lacks, with what to do; an empty text if nothing."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "the package triton, which is not installed: install it"
        kind, variable, candidates = "C", "CC", ["cc", "gcc", "clang"]
    else:
        kind, variable, candidates = "C++", "CXX", ["clang++" if sys.platform == "darwin" else "g++"]
    candidates = shlex.split(os.environ.get(variable, ""))[:1] or candidates
    if any(shutil.which(name) for name in candidates):
        return ""
    return f"a {kind} compiler, and {candidates[-1]} is not found: install one, or name it in the variable {variable}"
