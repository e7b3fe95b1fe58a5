"""Run a trial without W&B, then the same one with a projector process that sends its ledger to W&B.

As a script (``python helpers/followed_trial.py FOLDER HOW``) it prints what it saw as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from helpers.processes import wait_until
from retain import load_config, run
from retain.platform.config.load import to_dict
from retain.platform.ledger.writer import TrialLedger
from retain.platform.reporting.projector import num_unsent, settings_for, start, stop
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.run import identity_of


def follow_a_trial(root: Path, how: str) -> dict[str, Any]:
    """Run the trials in root/without and root/with.

    Args:
        root: a new folder.
        how: "stop": let the projector end as after a sweep; "kill": kill it.

    Returns:
        sending: whether the projector was still at work, with the trial unsent, when the trial had ended.
        stopped: what `stop` returned.
    """
    root.mkdir()
    seen: dict[str, Any] = {}
    for name, mode in (("without", "disabled"), ("with", "online")):
        config = resolve_experiment(load_config("quickstart", [f"wandb.mode={mode}", "training.epochs=2"])).experiment
        folder = root / name
        TrialLedger.create(folder, yaml.safe_dump(to_dict(config), sort_keys=False), identity_of(config)).close()
        process = start(folder, settings_for(folder, config)) if mode == "online" else None
        if process is not None:
            wait_until((folder / "projector.json").exists, "the projector's start")
        run(config, folder)
        if process is not None:
            seen["sending"] = process.poll() is None and num_unsent(folder, settings_for(folder, config)) == 1
            if how == "stop":
                seen["stopped"] = stop(process, folder)
            process.kill()
            process.wait()
    return seen


if __name__ == "__main__":
    print(json.dumps(follow_a_trial(Path(sys.argv[1]), sys.argv[2])))
