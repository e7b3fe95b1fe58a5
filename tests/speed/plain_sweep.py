"""The quickstart's trials as a user of Ray Tune and Avalanche writes them; sweep.py runs this script.

    uv run python tests/speed/plain_sweep.py CONFIG.yaml RESULTS.json [--reuse-workers]

RESULTS.json gets [stream, variant, seed, accuracy on all classes at the end] of each trial.
"""

from __future__ import annotations  # Ray's pickling does not carry the names in a nested class's annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def digits_parts(seed: int) -> Any:
    """Return scikit-learn's digits (n, 1, 8, 8) as float tensors, a fifth for testing."""
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    y = torch.tensor(digits.target)
    return train_test_split(x, y, test_size=0.2, stratify=y, random_state=seed)


def new_classes(seed: int, settings: dict[str, Any]) -> Any:
    from avalanche.benchmarks import class_incremental_benchmark

    x_train, x_test, y_train, y_test = digits_parts(seed)
    datasets = {"train": avalanche_dataset(x_train, y_train), "test": avalanche_dataset(x_test, y_test)}
    return class_incremental_benchmark(datasets, num_experiences=settings["num_experiences"], seed=seed)


def new_domains(seed: int, settings: dict[str, Any]) -> Any:
    from avalanche.benchmarks import benchmark_from_datasets
    from torchvision.transforms.functional import InterpolationMode, rotate

    x_train, x_test, y_train, y_test = digits_parts(seed)
    angles, kind = settings["angles"], InterpolationMode.BILINEAR
    return benchmark_from_datasets(
        train=[avalanche_dataset(rotate(x_train, angle, kind), y_train) for angle in angles],
        test=[avalanche_dataset(rotate(x_test, angle, kind), y_test) for angle in angles],
    )


def avalanche_dataset(x: Any, y: Any) -> Any:
    from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_classification_dataset
    from torch.utils.data import TensorDataset

    x = (x - 0.3052) / 0.3760
    return _make_taskaware_classification_dataset(TensorDataset(x, y), targets=y.tolist(), task_labels=0)


def network() -> Any:
    from avalanche.models import IncrementalClassifier
    from torch import nn

    class MLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
            self.head = IncrementalClassifier(128, initial_out_features=2, masking=False)
            for layer in (self.trunk[1], self.trunk[3]):  # like retain's: the frozen variants depend on it
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

        def forward(self, x: Any) -> Any:
            return self.head(self.trunk(x))

    return MLP()


def strategy_of(chosen: dict[str, Any], model: Any, training: dict[str, Any]) -> Any:
    import torch
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training import JointTraining, Naive
    from avalanche.training.plugins import EarlyStoppingPlugin, EvaluationPlugin, LwFPlugin, ReplayPlugin

    plugins: list[Any] = []
    if lwf := chosen.get("lwf"):
        alpha = lwf["weight"] * lwf["temperature"] ** 2  # retain's loss has the factor T^2, Avalanche's has not
        plugins.append(LwFPlugin(alpha=alpha, temperature=lwf["temperature"]))
    if stopping := chosen.get("early_stopping"):
        plugins.append(EarlyStoppingPlugin(patience=stopping["patience"], val_stream_name="valid_stream"))
    if replay := chosen.get("replay"):
        plugins.append(ReplayPlugin(mem_size=replay["memory"]))
    optimizer = training["optimizer"]
    return (JointTraining if "joint" in chosen else Naive)(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=optimizer["lr"], momentum=optimizer["momentum"]),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=training["batch_size"],
        train_epochs=training["epochs"],
        eval_mb_size=512,
        plugins=plugins,
        evaluator=EvaluationPlugin(accuracy_metrics(epoch=True, experience=True, stream=True), loggers=[]),
        eval_every=1 if "early_stopping" in chosen else -1,
    )


def trainable(config: dict[str, Any]) -> None:
    """Run a trial: train on one experience after another, evaluate on the whole test stream after each."""
    import torch
    from avalanche.benchmarks import benchmark_with_validation_stream, with_classes_timeline
    from ray import tune

    torch.set_num_threads(1)  # as retain's trials; Ray asks for it too
    stream, variant, seed = config["trial"]
    (settings,) = config["sweep"]["streams"][stream]["benchmark"].values()
    chosen = config["sweep"]["variants"][variant].get("strategies", {})
    torch.manual_seed(seed)
    make: Callable[[int, dict[str, Any]], Any] = {"new_classes": new_classes, "new_domains": new_domains}[stream]
    benchmark = benchmark_with_validation_stream(make(seed, settings), validation_size=0.1, shuffle=True)
    benchmark = with_classes_timeline(benchmark)
    model = network()
    learner = strategy_of(chosen, model, config["training"])
    key = "Top1_Acc_Stream/eval_phase/test_stream"
    if "joint" in chosen:
        learner.train(benchmark.train_stream)
        tune.report({"accuracy": learner.eval(benchmark.test_stream)[key]})
        return
    for number, experience in enumerate(benchmark.train_stream):
        streams = [benchmark.valid_stream[number : number + 1]] if "early_stopping" in chosen else []
        learner.train(experience, eval_streams=streams)
        tune.report({"accuracy": learner.eval(benchmark.test_stream)[key]})
        if "freezing" in chosen:
            model.trunk.requires_grad_(False)


def main() -> None:
    """Run all trials: with a new worker for each, which is Tune's default, or with workers reused."""
    import ray
    from ray import tune

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--reuse-workers", action="store_true")
    arguments = parser.parse_args()
    config = yaml.safe_load(arguments.config.read_text(encoding="utf-8"))
    sweep = config["sweep"]
    trials = [
        (stream, variant, seed)
        for stream in sweep["streams"]
        for variant in sweep["variants"]
        for seed in sweep["seeds"]
    ]
    ray.init(address="local")  # else it joins a cluster that somebody else runs on this machine
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(trials), "training": config["training"], "sweep": sweep},
            tune_config=tune.TuneConfig(reuse_actors=arguments.reuse_workers),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        results = tuner.fit()
    if results.errors:
        raise results.errors[0]
    rows = [[*result.config["trial"], result.metrics["accuracy"]] for result in results]
    arguments.results.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
