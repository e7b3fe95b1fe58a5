"""Run a trial where Avalanche and other heavy packages cannot be imported: ``lean_trial.py CONFIG FOLDER [stop]``.

With ``stop``, it is told to stop in its second experience. Prints what was imported all the same.
"""

import os
import signal
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

BLOCKED = (
    "avalanche", "torchvision", "torchmetrics", "scipy", "sklearn", "ray", "wandb", "plotly", "tensorboard", "pandas",
    "matplotlib", "transformers", "torch._dynamo",
)  # fmt: skip


class Blocker(MetaPathFinder):
    """Refuses to import the blocked packages."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if any(name == blocked or name.startswith(f"{blocked}.") for blocked in BLOCKED):
            raise ImportError(f"{name} is blocked")


def main(config: str, folder: str, stop: bool) -> None:
    """Run or resume the trial."""
    sys.meta_path.insert(0, Blocker())
    from retain import load_config, run

    def after_experience(metrics: dict[str, Any]) -> None:
        if stop:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        run(load_config(config), Path(folder), report=after_experience)
    finally:
        print(sorted(name for name in BLOCKED if name in sys.modules))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:] == ["stop"])
