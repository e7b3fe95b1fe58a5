"""Recorded accuracy matrices: any change in the bits of training is detected here.

The comparison is exact on the recorded kind of CPU and version of torch, elsewhere within 0.02. To accept new ones:
``RETAIN_UPDATE_GOLDEN=1 pytest tests/test_golden.py``, and read the diff.
"""

import json
import math
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retain.platform.config.schema import Experiment
from retain.platform.ledger.documents import VIEWS
from retain.platform.trial.run import run as run_trial

GOLDEN = Path(__file__).parent / "golden" / "curves.json"
UPDATE = os.environ.get("RETAIN_UPDATE_GOLDEN") == "1"
STRATEGIES: dict[str, dict[str, Any]] = {
    "naive": {},
    "lwf": {"lwf": {}},
    "replay": {"replay": {"memory": 50}},
    "freezing": {"freezing": {}},
    "early_stopping": {"early_stopping": {"patience": 1}},
    "joint": {"joint": {}},
    "cumulative": {"cumulative": {}},
}
STREAMS: dict[str, dict[str, Any]] = {"split": {"epochs": 5}, "rotated": {"epochs": 6}}


def machine() -> dict[str, str]:
    """Return what the bits depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [
        line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "model\t", "cpu family"))
    ]
    return {
        "processor": platform.processor() or platform.machine(),
        "cpu": ", ".join(dict.fromkeys(named)),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def golden() -> dict[str, Any]:
    """Return the content of the file, or an empty record."""
    recorded: dict[str, Any] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    return recorded


def matrix(key: str, view: str) -> np.ndarray:
    """Return a recorded matrix, NaN for null."""
    return np.array(golden()["curves"][key][view], dtype=float)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_curve(name: str, stream: str, quick_folder: Path, make_experiment: Callable[..., Experiment]) -> None:
    config = make_experiment(stream, strategies=STRATEGIES[name], **STREAMS[stream])
    matrices = run_trial(config, quick_folder / f"golden-{stream}-{name}").matrices
    if UPDATE:
        _record(f"{stream}/{name}", matrices)
    exact = golden()["machine"] == machine()
    for view in VIEWS:
        if exact:
            np.testing.assert_array_equal(matrices[view], matrix(f"{stream}/{name}", view))
        else:
            np.testing.assert_allclose(matrices[view], matrix(f"{stream}/{name}", view), rtol=0, atol=0.02)


def _record(key: str, matrices: dict[str, np.ndarray]) -> None:
    """Write a curve to the file, one line per row of a matrix; curves of another machine are removed."""
    file = golden()
    curves = file["curves"] if file.get("machine") == machine() else {}
    curves[key] = {
        view: [[None if math.isnan(cell) else cell for cell in row] for row in matrices[view].tolist()]
        for view in VIEWS
    }
    parts = []
    for name, views in sorted(curves.items()):
        rows = [f'"{view}": [\n   ' + ",\n   ".join(map(json.dumps, views[view])) + "\n  ]" for view in VIEWS]
        parts.append(f'  "{name}": {{' + ", ".join(rows) + "}")
    text = f'{{\n "machine": {json.dumps(machine())},\n "curves": {{\n' + ",\n".join(parts) + "\n }\n}\n"
    GOLDEN.write_text(text)


@pytest.mark.skipif(UPDATE, reason="the file is being written")
def test_the_recorded_curves_make_sense() -> None:
    """They show orders that hold on any such data: a wrong curve must not become the reference."""
    assert golden()["curves"].keys() == {f"{stream}/{name}" for stream in STREAMS for name in STRATEGIES}
    for stream in STREAMS:
        last = {name: matrix(f"{stream}/{name}", "task_agnostic")[-1].mean() for name in STRATEGIES}
        assert last["naive"] + 0.1 < last["replay"] < last["joint"] + 0.1
        assert last["cumulative"] > 0.85 and last["joint"] > 0.85
        naive = matrix(f"{stream}/naive", "task_agnostic")
        assert all(naive[i + 1, i] > 0.7 for i in range(naive.shape[1]))  # learned,
        assert naive[-1, 0] < naive[1, 0] - 0.3  # and forgotten
    remembered = {
        name: matrix(f"split/{name}", "task_agnostic")[-1, -2] for name in ("naive", "lwf")
    }  # the second to last
    assert remembered["naive"] < 0.05 and remembered["lwf"] > 0.3
