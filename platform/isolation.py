"""The process's settings that a result depends on: the same for every trial, whatever was run before in its process."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from . import seeding
from .settings import Resources


@contextmanager
def isolated(resources: Resources) -> Iterator[None]:
    """Within: torch's settings as a trial wants them. Afterwards they are as before, and so are the global generators."""
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # cuBLAS reads it once; without it, it is not deterministic
    wanted = _table(resources)
    before = [get() for get, _, _ in wanted]
    generators = seeding.capture()
    for _, put, value in wanted:
        put(value)
    try:
        yield
    finally:
        for (_, put, _), value in zip(wanted, before, strict=True):
            put(value)
        seeding.restore(generators)


def _table(resources: Resources) -> list[tuple[Callable[[], Any], Callable[[Any], Any], Any]]:
    """How each setting is read and written, and what it is in a trial."""

    def benchmark(value: bool) -> None:
        torch.backends.cudnn.benchmark = value  # it picks algorithms by their speed in this very run

    return [
        (torch.get_num_threads, torch.set_num_threads, resources.threads),
        (torch.is_grad_enabled, torch.set_grad_enabled, True),
        (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, resources.deterministic),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, False),
        (lambda: torch.backends.cudnn.benchmark, benchmark, False),
    ]
