"""The quickstart sweep against the same trials as a plain script of Ray Tune and stock Avalanche; see docs/speed.md.

    uv run python tests/speed/sweep.py                              all 42 trials, both sides
    uv run python tests/speed/sweep.py --streams new_classes --variants naive replay lwf
    uv run python tests/speed/sweep.py --only stock

Each side is a separate process, timed from start to end: imports, Ray, data, training, evaluation and (on our side) ledger,
checkpoints, W&B offline and the report. Both must finish every trial, which is asserted; times are only printed. The random
numbers differ, so accuracies are similar, not equal: both are printed.
"""

from __future__ import annotations  # Ray's pickling does not carry the names in a nested class's annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
GOAL = 5.0
Results = dict[tuple[str, str, int], float]  # (stream, variant, seed) -> accuracy on all classes at the end


# --- the plain script: what a user of Ray Tune and Avalanche writes ---


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


def stock(config: dict[str, Any], folder: Path) -> Results:
    """Run the plain script's trials with Tune's defaults: a new worker for each trial."""
    from ray import tune

    trials = list(trials_of(config))
    tuner = tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(trials), "training": config["training"], "sweep": config["sweep"]},
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    results = tuner.fit()
    assert not results.errors, results.errors[0]
    return {tuple(result.config["trial"]): result.metrics["accuracy"] for result in results}


# --- ours ---


def retain(config: dict[str, Any], folder: Path) -> Results:
    """Run `retain sweep` as a user does, then read the results from the ledger."""
    (folder / "quickstart.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [str(Path(sys.executable).with_name("retain")), "sweep", "quickstart.yaml", f"output={folder / 'output'}"]
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    results: Results = {}
    for file in folder.glob("output/*/trials/*/trial.json"):
        trial, summary = (json.loads(path.read_text()) for path in (file, file.with_name("summary.json")))
        results[trial["stream"], trial["variant"], trial["seed"]] = summary["task_agnostic"]["average_accuracy"]
    return results


# --- both ---


def trials_of(config: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    sweep = config["sweep"]
    for stream in sweep["streams"]:
        for variant in sweep["variants"]:
            for seed in sweep["seeds"]:
                yield stream, variant, seed


def chosen_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the quickstart config, or a part of it."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    sweep = config["sweep"]
    sweep["seeds"] = list(range(arguments.seeds))
    for key, names in (("streams", arguments.streams), ("variants", arguments.variants)):
        sweep[key] = {name: sweep[key][name] for name in names or sweep[key]}
    return config


def timed(side: str) -> tuple[float, Results]:
    """Run a side in a separate process, with the arguments of this one."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--results", file.name]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - started
        return seconds, {(s, v, n): a for s, v, n, a in json.loads(Path(file.name).read_text())}


def one_side(arguments: argparse.Namespace, config: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = (stock if arguments.side == "stock" else retain)(config, Path(folder))
    Path(arguments.results).write_text(json.dumps([[*trial, accuracy] for trial, accuracy in results.items()]))


def show_accuracies(results: dict[str, Results]) -> None:
    """Print the mean final accuracy of each variant, per side."""
    some = next(iter(results.values()))
    print(f"{'accuracy over all classes, last':<50}" + "".join(f"{side:>10}" for side in results))
    for stream, variant in dict.fromkeys((stream, variant) for stream, variant, _ in some):
        means = [
            statistics.mean(a for t, a in accuracies.items() if t[:2] == (stream, variant))
            for accuracies in results.values()
        ]
        print(f"{stream + ' ' + variant:<50}" + "".join(f"{mean:10.3f}" for mean in means))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["stock", "retain"])
    parser.add_argument("--streams", nargs="+", choices=["new_classes", "new_domains"])
    parser.add_argument("--variants", nargs="+", help="some of the quickstart's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--side", choices=["stock", "retain"], help=argparse.SUPPRESS)
    parser.add_argument("--results", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    config = chosen_config(arguments)
    if arguments.side:
        one_side(arguments, config)
        return
    trials = list(trials_of(config))
    print(f"{len(trials)} trials on {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}", flush=True)
    times, results = {}, {}
    for side in [arguments.only] if arguments.only else ["retain", "stock"]:
        times[side], results[side] = timed(side)
        assert sorted(results[side]) == sorted(trials), f"{side}: trials are missing"
        print(
            f"{side:<8} {times[side]:8.1f} s   {times[side] / len(trials):6.2f} s a trial   load {os.getloadavg()[1]:.1f}",
            flush=True,
        )
    if len(times) == 2:
        print(f"ratio    {times['stock'] / times['retain']:8.2f}     goal {GOAL:g}")
    show_accuracies(results)


if __name__ == "__main__":
    main()
