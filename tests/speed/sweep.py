"""A sweep by retain against a plain script of the same trials: Ray Tune function trainable + stock Avalanche, as written by hand.

    uv run python tests/speed/sweep.py [--seeds 3] [--variants naive,lwf,replay] [--only retain|stock]

Same data (scikit-learn's digits in 5 experiences of 2 classes), network (two hidden layers of 128), epochs, batch size,
optimizer, strategies and seeds; both evaluate the whole test stream after each experience; both run on all cores, one core
a trial, in a process of its own, so that imports and Ray's start are part of both. The stock script leaves Tune's
reuse_actors at its default.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EPOCHS, BATCH, LR, MOMENTUM, MEMORY = 10, 32, 0.05, 0.9, 200


def stock_trial(config: dict[str, Any]) -> None:
    """One trial as somebody would write it with Avalanche's own strategies and metrics."""
    import numpy as np
    import torch
    from avalanche.benchmarks import class_incremental_benchmark
    from avalanche.benchmarks.utils import as_taskaware_classification_dataset
    from avalanche.benchmarks.utils.data import AvalancheDataset
    from avalanche.benchmarks.utils.data_attribute import DataAttribute
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.models import SimpleMLP
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import LwF, Naive, Replay
    from ray import tune
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from torch.utils.data import TensorDataset

    torch.manual_seed(config["seed"])
    np.random.seed(config["seed"])
    torch.set_num_threads(1)
    digits = load_digits()
    parts = train_test_split(digits.data / 16.0, digits.target, test_size=0.2, stratify=digits.target, random_state=0)
    pictures = [torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) for x in parts[:2]]
    datasets = []
    for x, y in zip(pictures, parts[2:], strict=True):
        labels = [DataAttribute(y.tolist(), "targets"), DataAttribute([0] * len(y), "targets_task_labels")]
        data = AvalancheDataset([TensorDataset(x, torch.tensor(y))], data_attributes=labels)
        datasets.append(as_taskaware_classification_dataset(data))
    benchmark = class_incremental_benchmark(
        {"train": datasets[0], "test": datasets[1]}, num_experiences=5, seed=config["seed"]
    )
    model = SimpleMLP(num_classes=10, input_size=64, hidden_size=128, hidden_layers=2, drop_rate=0.0)
    arguments = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM),
        "criterion": torch.nn.CrossEntropyLoss(),
        "train_mb_size": BATCH,
        "train_epochs": EPOCHS,
        "eval_mb_size": 512,
        "evaluator": EvaluationPlugin(accuracy_metrics(experience=True, stream=True), loggers=[]),
    }
    if config["variant"] == "lwf":
        strategy = LwF(alpha=2.0, temperature=2.0, **arguments)  # retain's 0.5, times T^2
    elif config["variant"] == "replay":
        strategy = Replay(mem_size=MEMORY, **arguments)
    else:
        strategy = Naive(**arguments)
    for experience in benchmark.train_stream:
        strategy.train(experience)
        results = strategy.eval(benchmark.test_stream)
    (accuracy,) = (value for name, value in results.items() if name.startswith("Top1_Acc_Stream/eval"))
    tune.report({"accuracy": accuracy})


def stock(variants: list[str], seeds: int) -> None:
    """The plain Tune script; prints the accuracies so that they can be compared."""
    from ray import tune

    space = {"variant": tune.grid_search(variants), "seed": tune.grid_search(list(range(seeds)))}
    tuner = tune.Tuner(
        tune.with_resources(stock_trial, {"cpu": 1}),
        param_space=space,
        run_config=tune.RunConfig(verbose=0, storage_path=tempfile.mkdtemp()),
    )
    results = tuner.fit()
    assert not results.errors, results.errors
    for variant in variants:
        found = [r.metrics["accuracy"] for r in results if r.config["variant"] == variant]
        print(f"  stock {variant}: ACC {statistics.mean(found):.3f} over {len(found)} seeds")


def ours(variants: list[str], seeds: int) -> None:
    """The same trials by `retain sweep`."""
    from retain.platform.cli import main

    chosen = {"naive": "{}", "lwf": "{strategies: {lwf: {weight: 0.5}}}"}
    chosen["replay"] = f"{{strategies: {{replay: {{memory: {MEMORY}}}}}}}"
    sweep = ", ".join(f"{variant}: {chosen[variant]}" for variant in variants)
    overrides = [f"sweep.variants={{{sweep}}}", "sweep.streams={}", f"sweep.seeds={list(range(seeds))}"]
    overrides += [f"training.epochs={EPOCHS}", f"training.batch_size={BATCH}", f"training.optimizer.lr={LR}"]
    folder = str(Path(tempfile.mkdtemp()) / "sweep")
    sys.argv = ["retain", "sweep", "quickstart", *overrides, "wandb.mode=disabled", "--folder", folder]
    main()


def main() -> None:
    """Time each side as a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", default="naive,lwf,replay")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=["retain", "stock"])
    parser.add_argument("--side", choices=["retain", "stock"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    variants = given.variants.split(",")
    if given.side:
        (ours if given.side == "retain" else stock)(variants, given.seeds)
        return
    seconds = {}
    for side in ["retain", "stock"] if given.only is None else [given.only]:
        started = time.perf_counter()
        command = [sys.executable, __file__, "--side", side, "--variants", given.variants, "--seeds", str(given.seeds)]
        done = subprocess.run(command, capture_output=True, text=True)
        seconds[side] = time.perf_counter() - started
        assert done.returncode == 0, done.stderr[-3000:]
        print("\n".join(line for line in done.stdout.splitlines() if line.startswith("  stock") or "±" in line))
        print(f"{side}: {seconds[side]:.1f} s for {len(variants) * given.seeds} trials", flush=True)
    if len(seconds) == 2:
        print(f"sweep: stock / retain = {seconds['stock'] / seconds['retain']:.2f} (goal: at least 5)")


if __name__ == "__main__":
    main()
