"""Defaults that train stably, and the advice after a diverged loss; tests/stability.py compares defaults on five data sets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.idx_sets import write_idx
from sklearn.datasets import load_digits

from retain.platform.config.load import from_dict
from retain.platform.config.schema import Optimizer, Training
from retain.platform.models.networks import mlp
from retain.platform.seeding import generator
from retain.platform.training.avalanche_learner import AvalancheLearner
from retain.platform.trial.run import run as run_trial
from retain.strategies import eeil

NAIVE: dict[str, Any] = {}
LWF: dict[str, Any] = {"lwf": {}}


@pytest.fixture(scope="module")
def large_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write scikit-learn's digits as 28x28 pictures, under the names of Fashion-MNIST's files: 784 inputs in the same range."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "fashion-mnist"
    folder.mkdir()
    digits = load_digits()
    pictures = np.pad(np.kron(digits.images * 255 / 16, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    for part, rows in (("train", slice(0, 1400)), ("t10k", slice(1400, None))):
        write_idx(folder / f"{part}-images-idx3-ubyte", pictures[rows])
        write_idx(folder / f"{part}-labels-idx1-ubyte", digits.target[rows])
    return root


def learning_accuracy(root: Path, folder: Path, strategies: dict[str, Any], seed: int, **optimizer: Any) -> float:
    """Return the mean accuracy on each experience right after it was trained, of a first config: a stream and a network."""
    config = {
        "name": "first",
        "benchmark": "split_fashion_mnist",
        "model": "mlp",
        "strategies": strategies,
        "training": {"iterations": 40, "optimizer": optimizer},
        "data": {"root": str(root)},
        "probes": {"curves": None},
        "seed": seed,
    }
    result = run_trial(from_dict(config), folder / f"{seed}{[*strategies]}")
    return float(result.summary["task_agnostic"]["learning_accuracy"])


@pytest.mark.parametrize("strategies", [NAIVE, LWF], ids=["naive", "lwf"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_first_config_trains_with_the_defaults(
    strategies: dict[str, Any], seed: int, large_digits: Path, quick_folder: Path
) -> None:
    assert learning_accuracy(large_digits, quick_folder / "defaults", strategies, seed) > 0.9


@pytest.mark.parametrize("strategies", [NAIVE, LWF], ids=["naive", "lwf"])
def test_without_clipping_its_network_dies(strategies: dict[str, Any], large_digits: Path, quick_folder: Path) -> None:
    """Its rectifiers give 0 for every sample from some experience on: it puts all of them into one class."""
    assert learning_accuracy(large_digits, quick_folder / "no clipping", strategies, 1, clip=None) < 0.7


@pytest.mark.parametrize(
    ("data", "model", "optimizer", "advice"),
    [
        (
            "digits",
            {"mlp": {}},
            {"lr": 1e30},
            "lower training.optimizer.lr=1e+30 or training.optimizer.clip=1.0. It also depends on model.mlp.init=kaiming "
            "(torch: smaller weights) and the pixels, which are normalised by mean 0.305 and deviation 0.376, so up to 1.8; "
            "benchmark.class_incremental.data: {digits: {normalise: false}} leaves them in [0, 1].",
        ),
        (
            {"digits": {"normalise": False}},
            {"small_cnn": {"channels": [4], "hidden": 8, "init": "torch"}},
            {"lr": [1e30, 1, 1, 1, 1], "clip": [2, 1, 1, 1, 1]},
            "lower training.optimizer.lr=1e+30 or training.optimizer.clip=2.0. It also depends on model.small_cnn.init=torch "
            "(the smallest weights) and the pixels, which are in [0, 1] here, not normalised.",
        ),
        (
            {"digits": {"normalise": False}},
            {"vit": {"dim": 8, "depth": 1, "heads": 1, "patch": 4}},
            {"lr": 1e30, "clip": None},
            "lower training.optimizer.lr=1e+30, or set training.optimizer.clip=1.0 (it is null: no clipping). It also depends on "
            "the pixels, which are in [0, 1] here, not normalised.",
        ),
    ],
    ids=["defaults", "as small as possible", "no init, no clipping"],
)
def test_the_message_of_a_diverged_loss_names_what_it_depends_on(
    data: Any, model: dict[str, Any], optimizer: dict[str, Any], advice: str, tmp_path: Path
) -> None:
    config = {
        "name": "diverging",
        "benchmark": {"class_incremental": {"data": data}},
        "model": model,
        "training": {"iterations": 4, "optimizer": optimizer},
        "probes": {"curves": None},
    }
    with pytest.raises(FloatingPointError) as raised:
        run_trial(from_dict(config), tmp_path / "trial")
    assert str(raised.value).endswith(f"(strategies: none): {advice}")


def test_balanced_finetuning_clips_gradients_too(tiny_stream: Any) -> None:
    """With a limit far below a float's precision no step moves a weight, whether of an experience or of its finetuning."""
    stream = tiny_stream(num_experiences=2)
    network = mlp.build(mlp.Config(hidden=(8,)), stream.shape, 4, generator(0, "network"))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    training = Training(epochs=2, batch_size=16, optimizer=Optimizer(clip=1e-12))
    learner = AvalancheLearner(
        model=network, stream=stream, training=training, plugins=[eeil.EEILPlugin(eeil.Config(memory=16), 0)]
    )
    for number in range(2):
        learner.train_experience(number)
    torch.testing.assert_close(dict(learner.model.state_dict()), before, rtol=0, atol=1e-9)
