"""Decide by Wilcoxon's test, paired over seeds, whether a configuration needs no further seeds."""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

from ..config.search import Objective

P_VALUE = 0.1  # one-sided, of the difference to the best configuration


def is_worse(
    objective: Objective, values: Mapping[int, tuple[float, ...]], best: Mapping[int, tuple[float, ...]]
) -> bool:
    """Return whether a configuration is worse than the best one on the seeds that both have, by Optuna's WilcoxonPruner.

    Args:
        objective: the metric.
        values: seed -> values of the configuration.
        best: seed -> values of the best one so far.
    """
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the pruner is marked experimental
        pruner: Any = optuna.pruners.WilcoxonPruner(p_threshold=P_VALUE, n_startup_steps=2)
        study = optuna.create_study(direction=objective.direction, pruner=pruner)
        done, states = {seed: each[0] for seed, each in best.items()}, optuna.trial.TrialState
        mean = sum(done.values()) / len(done)
        study.add_trial(optuna.trial.create_trial(state=states.COMPLETE, value=mean, intermediate_values=done))
        trial = study.ask()
        for seed, each in values.items():
            trial.report(each[0], seed)
        return bool(trial.should_prune())
