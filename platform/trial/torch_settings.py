"""Torch's process-wide settings that affect results: the same for every trial, independent of what ran before it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .. import seeding
from ..config.schema import Resources


@contextmanager
def torch_settings(resources: Resources) -> Iterator[None]:
    """Set torch's process-wide settings for a trial; restore them and the global generators afterwards."""
    # cuBLAS reads it once, and is not deterministic without it
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings = _settings(resources)
    before = [get() for get, _, _ in settings]
    generators = seeding.capture_generators()
    for _, put, value in settings:
        put(value)
    try:
        yield
    finally:
        for (_, put, _), value in zip(settings, before, strict=True):
            put(value)
        seeding.restore_generators(generators)


def _settings(resources: Resources) -> list[tuple[Callable[[], Any], Callable[[Any], Any], Any]]:
    """Return (getter, setter, value in a trial) of each setting."""
    deterministic = (resources.deterministic, False)
    products = "high" if resources.tf32 else "highest"  # matrix products
    convolutions = resources.tf32 is not False
    return [
        (torch.get_num_threads, torch.set_num_threads, resources.threads),
        (torch.is_grad_enabled, torch.set_grad_enabled, True),
        (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, products),
        (_deterministic, _set_deterministic, deterministic),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, False),
        (_cudnn, _set_cudnn, (False, False, convolutions)),
    ]


def _deterministic() -> tuple[bool, bool]:
    """Return whether only deterministic algorithms are used, and whether others only warn."""
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(value: tuple[bool, bool]) -> None:
    if value != _deterministic():  # torch's function imports its compiler, which takes as long as torch itself
        torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _cudnn() -> tuple[bool, bool, bool]:
    """Return cuDNN's switches: choose algorithms by a benchmark in this run, deterministic algorithms only, TF32."""
    cudnn = torch.backends.cudnn
    return cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32


def _set_cudnn(value: tuple[bool, bool, bool]) -> None:
    cudnn = torch.backends.cudnn
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = value
