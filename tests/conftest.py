"""Fixtures for all tests: one thread, one cache of prepared data per session, tiny streams, quick experiments."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: results depend on the number of threads

import logging
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from retain.platform.config.load import from_dict
from retain.platform.config.schema import Experiment
from retain.platform.contract.trials import with_enough_epochs
from retain.platform.data.streams import Arrays, Part, Stream
from retain.platform.data.streams import Experience as Step
from retain.platform.errors import UserError

Build = Callable[..., Stream]
Make = Callable[..., Experiment]


_RAY = ("test_ray_faults", "test_sweep")
_LONGEST = ("ray", "test_laws", "test_laws of stopping")  # groups


def _seed_globals() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


_signal_handlers: dict[int, Any] = {}  # at the start of the session


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the process.

    A shell without job control starts background jobs with SIGINT ignored, and children inherit that. The random order of
    pytest-randomly comes without its seeds: ours are the same in each run.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _signal_handlers.update({number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)})
    config.option.randomly_reset_seed = False


def _group(nodeid: str) -> str:
    """Return the group of tests that one process runs: a file, whose fixtures are made once, or all tests with Ray clusters."""
    path, _, test = nodeid.partition("::")
    stem = Path(path).stem
    if stem in _RAY:
        return "ray"
    return "test_laws of stopping" if stem == "test_laws" and "resumed" in test.split("[")[0] else stem


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each group to one process (xdist 3.8's own groups, by marks, have no effect with pytest 9)."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return GroupScheduling(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # after pytest-randomly
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Start the longest groups first, so that no process runs one alone at the end."""
    yield
    items.sort(key=lambda item: _LONGEST.index(group) if (group := _group(item.nodeid)) in _LONGEST else len(_LONGEST))


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Seed the global generators before each file is imported: what it draws then does not depend on the other files."""
    if isinstance(collector, pytest.Module):
        _seed_globals()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """Seed the global generators before each fixture of a module or session: any test may be the first that needs it."""
    if fixturedef.scope != "function":
        _seed_globals()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed the global generators before each test, so that its random numbers do not depend on the order of the tests."""
    _seed_globals()


def _torch_and_python() -> dict[str, Any]:
    """Return the global state that no test may change."""
    return {
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "working folder": os.getcwd(),
        "recursion limit": sys.getrecursionlimit(),
        "levels of loggers": {
            name: logger.level
            for name, logger in logging.Logger.manager.loggerDict.items()
            if name.startswith("retain") and isinstance(logger, logging.Logger) and logger.level != logging.NOTSET
        },
    }


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Assert that a test leaves no global state, which would reach the next one.

    Environment variables are restored, and signal handlers are those of the session's start: Ray sets some in every process that
    joins a cluster, in fixtures of modules too. So is the path: the command line puts the working folder on it.
    """
    for number, handler in _signal_handlers.items():
        signal.signal(number, handler)
    environment, path, before = dict(os.environ), list(sys.path), _torch_and_python()
    yield
    sys.path[:] = path
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    assert _torch_and_python() == before


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep prepared data in a folder of this session; subprocesses inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def quick_folder() -> Iterator[Path]:
    """Yield a folder in memory if possible: trials flush to the disk often, and most tests do not test that."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="retain-", dir=memory if os.access(memory, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def tiny_stream() -> Build:
    """Make a stream of random but separable pictures (1, 4, 4) uint8, with 20 / 6 / 10 samples of a class in a split."""
    return _tiny_stream


def _tiny_stream(
    scenario: Literal["class", "domain"] = "class", num_experiences: int = 3, classes_each: int = 2, seed: int = 0
) -> Stream:
    """Make each class (and domain) a different bright pattern under noise; a class stream has new classes in each step."""
    steps = []
    total = classes_each * (num_experiences if scenario == "class" else 1)
    for number in range(num_experiences):
        first = number * classes_each if scenario == "class" else 0
        classes = tuple(range(first, first + classes_each))
        parts = [_clouds(classes, split, size, number, seed) for split, size in enumerate((20, 6, 10))]
        steps.append(Step(f"step {number}", classes, *parts))
    names = tuple("abcdefghijklmnop"[:total])
    return Stream("tiny", scenario, tuple(steps), names, (1, 4, 4), (0.4,), (0.3,))


def _clouds(classes: tuple[int, ...], split: int, size: int, number: int, seed: int) -> Part:
    """Return noise around a pattern for each class, as one split of one step."""
    y = torch.tensor(classes).repeat_interleave(size)
    centres = [_draw(seed, label, number, 9).ge(0.5) * 150 for label in classes]
    noise = _draw(seed, number, split, 10 + len(y), shape=(len(y), 1, 4, 4)) * 100
    x = (torch.stack(centres).repeat_interleave(size, 0).view(-1, 1, 4, 4) + noise).to(torch.uint8)
    order = _draw(seed, number, split, 3, shape=(len(y),)).argsort()
    return Part(Arrays(x, y), order)


def _draw(*where: int, shape: tuple[int, ...] = (16,)) -> torch.Tensor:
    value = 0
    for part in where:
        value = 1009 * value + part
    return torch.rand(shape, generator=torch.Generator().manual_seed(value))


@pytest.fixture(scope="session")
def make_experiment() -> Make:
    """Make an experiment that takes a fraction of a second: ``make(benchmark="split" | "rotated", strategies=..., ...)``."""
    return _make_experiment


_CNN = {"small_cnn": {"channels": [4], "hidden": 16, "norm": "batch"}}
_VIT = {"vit": {"dim": 16, "depth": 2, "heads": 2, "patch": 4, "mlp_ratio": 2}}
NETWORKS: dict[str, dict[str, Any]] = {
    "l2p": _VIT,
    "coda_prompt": _VIT,
    "swap_norm": _CNN,
    "continual_norm": _CNN,
    "batchnorm_per_experience": _CNN,
    "attention_distillation": _CNN,
    "podnet": _CNN,
    "recompute_batchnorm": _CNN,
}  # for strategies that are refused without such layers
_NEED_EPOCHS = {"early_stopping", "swa", "gradual_unfreezing", "stop_at_budget"}


def _make_experiment(
    benchmark: str = "split",
    strategies: dict[str, Any] | None = None,
    seed: int = 0,
    network_for: str = "",
    **training: Any,
) -> Experiment:
    """Make an experiment.

    `split`: ten digits in five steps on an MLP; `pair`: in two; `rotated`: three domains on a CNN with BatchNorm.
    `network_for`: use the network of this strategy, so that the trial can be compared with one of it. Unless `epochs` are
    given, there are as many as the strategies need to act. Gradients are not clipped unless `optimizer` says so: the recorded
    curves and the bare loops that trials are compared with do not clip.
    """
    kinds: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
        "split": ({"split_digits": {}}, {"mlp": {"hidden": [16]}}, {"epochs": 2, "batch_size": 32}),
        "pair": ({"split_digits": {"num_experiences": 2}}, {"mlp": {"hidden": [16]}}, {"epochs": 1, "batch_size": 64}),
        "rotated": ({"rotated_digits": {"angles": [0, 45, 90]}}, _CNN, {"epochs": 1, "batch_size": 64}),
    }
    stream, model, defaults = kinds[benchmark]
    needed = [NETWORKS[name] for name in [network_for, *(strategies or {})] if name in NETWORKS]
    if needed:  # in any order: a transformer has the layers that the others need, or they refuse it
        model = _VIT if _VIT in needed else needed[-1]
    experiment = from_dict(
        {
            "name": "test",
            "benchmark": stream,
            "model": model,
            "strategies": strategies or {},
            "seed": seed,
            "training": defaults | training | {"optimizer": {"clip": None, **training.get("optimizer", {})}},
        }
    )
    if {*(strategies or {})} & _NEED_EPOCHS and "epochs" not in training:
        with suppress(UserError):  # settings that are refused: the test expects that later
            return with_enough_epochs(experiment)
    return experiment
