"""On what a trial ran, and what it used."""

import os
import platform as machine
import subprocess
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil
import torch

_PACKAGES = ("torch", "torchvision", "ray", "avalanche-lib", "wandb", "omegaconf", "numpy", "scikit-learn")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, device, threads and the state of the working folder's git, for environment.json."""
    from ... import __version__

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "retain": __version__,
        "python": machine.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "system": machine.platform(),
        "processor": machine.processor() or machine.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": gpu,
        "host": machine.node(),
        "pid": os.getpid(),
        "git": _git(),
        "started": time.time(),
    }


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _git() -> dict[str, Any] | None:
    """Commit and cleanliness of the repository that the program was started in; None outside one."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        changes = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "clean": not changes.stdout.strip()}


def gpu_memory_reset(device: torch.device) -> None:
    """Start measuring the peak of GPU memory anew, so that a reused worker does not report its last trial's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def resource_usage(device: torch.device) -> dict[str, float]:
    """CPU seconds of this process, resident memory and peak GPU memory in MB, for the ledger."""
    process = psutil.Process()
    times = process.cpu_times()
    used = {"cpu_seconds": times.user + times.system, "memory_mb": process.memory_info().rss / 2**20}
    if device.type == "cuda":
        used["gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return used
