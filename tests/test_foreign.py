"""An Avalanche benchmark, named by the dotted path of the function that makes it, is used like ours."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

import retain
from retain.platform.config.registry import resolve
from retain.platform.data.avalanche_import import stream_of
from retain.platform.errors import UserError
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import ResolvedExperiment, resolve_experiment


@pytest.fixture
def name() -> str:
    return "plugins.streams"


def config(name: str, settings: str) -> ResolvedExperiment:
    overrides = [f"benchmark={{{name}: {settings}}}", "training.epochs=10", "training.batch_size=8"]
    return resolve_experiment(retain.load_config("quickstart", overrides))


def test_an_avalanche_benchmark_becomes_a_stream_with_labels_in_order_of_appearance(name: str) -> None:
    stream = build_trial(config(name, "{num_experiences: 3}")).stream
    assert stream.scenario == "class"
    assert [experience.classes for experience in stream.experiences] == [(0, 1), (2, 3), (4, 5)]
    assert [{int(n) for n in stream.class_names[i : i + 2]} for i in (0, 2, 4)] == [{3, 1}, {0, 2}, {5, 4}]
    for experience in stream.experiences:
        for part in (experience.train, experience.test):
            x = stream.normalise(part.arrays.x[part.indices])
            original = torch.tensor([int(stream.class_names[label]) for label in part.y])
            assert torch.equal(x.flatten(1).argmax(1), original), "each sample kept its picture and its class"
        assert len(experience.validation) == 0


def test_a_trial_trains_on_an_avalanche_benchmark(name: str, tmp_path: Path) -> None:
    result = retain.run(config(name, "{num_experiences: 3}").experiment, tmp_path / "trial")
    assert result.summary["task_agnostic"]["learning_accuracy"] == 1.0
    assert result.matrices["task_agnostic"].shape == (4, 3)


def test_wrong_arguments_are_a_user_error(name: str) -> None:
    importlib.import_module(name)
    with pytest.raises(UserError, match=rf"benchmark\.{name}=.*num_experiments"):
        stream_of(name, sys.modules[name].make, {"num_experiments": 3})


def test_only_avalanches_classic_benchmarks_are_named_without_a_module(name: str) -> None:
    benchmark = resolve("benchmarks", "avalanche.benchmarks.SplitMNIST")
    assert benchmark.__module__.startswith("avalanche.benchmarks.classic.")
    for other in (f"{name}.make", "avalanche.checkpointing.maybe_load_checkpoint", "torch.load"):
        with pytest.raises(UserError, match=rf"benchmark\.{other}: is no module"):
            resolve("benchmarks", other)
    for standard in ("os.system", "subprocess.Popen", "antigravity.geohash"):
        with pytest.raises(UserError, match="is not imported: .* of the standard library"):
            resolve("benchmarks", standard)
    with pytest.raises(UserError, match="is no module"):
        resolve("strategies", "avalanche.logging.CSVLogger")  # it writes to any path


def test_data_in_a_run_folder_are_not_passed_to_avalanche(tmp_path: Path, name: str) -> None:
    (tmp_path / "trial.json").write_text("{}")
    with pytest.raises(UserError, match=r"dataset_root=.* lies in a run's folder"):
        stream_of("x.y", print, {"dataset_root": str(tmp_path)})
