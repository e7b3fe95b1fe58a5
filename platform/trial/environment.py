"""Describe the environment of a trial and measure its resource usage."""

import os
import platform as machine
import subprocess
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from ..run_folders import run_folder_of

_PACKAGES = ("torch", "torchvision", "ray", "avalanche-lib", "wandb", "omegaconf", "numpy", "scikit-learn")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return versions, device, threads and the git state of the working directory, for environment.json."""
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
    """Return the commit and cleanliness of the working directory's repository; None outside one.

    In a run folder git is not asked: a repository from someone else runs the commands that its settings name.
    """
    try:
        if run_folder_of(Path.cwd()) is not None:
            return None
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, timeout=5, check=True)
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip().decode(), "clean": not changes.stdout.strip()}


def gpu_memory_reset(device: torch.device) -> None:
    """Reset the peak of GPU memory, so that a reused worker does not report that of its previous trial."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def resource_usage(device: torch.device) -> dict[str, float]:
    """Return this process's CPU seconds, resident memory and peak GPU memory (in MB, 2^20 bytes), for the ledger."""
    process = psutil.Process()
    times = process.cpu_times()
    usage = {"cpu_seconds": times.user + times.system, "memory_mb": process.memory_info().rss / 2**20}
    if device.type == "cuda":
        usage["gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return usage
