"""Laws that every file in strategies/ must keep, asserted for each of them, found by name."""

import importlib
import json
import multiprocessing
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from bits import Outcome, assert_same, outcome, same

from retain.platform import seeding
from retain.platform.config import registry
from retain.platform.config.load import load_config, to_dict
from retain.platform.config.schema import Experiment
from retain.platform.errors import UserError
from retain.platform.ledger.documents import VIEWS
from retain.platform.ledger.reader import Trial
from retain.platform.training import learner_state
from retain.platform.training.learner import Learner
from retain.platform.training.plugin import Plugin
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import check_plugins, plugin_configs
from retain.platform.trial.run import run as run_trial
from retain.platform.trial.stop_request import Stopped

Make = Callable[..., Experiment]
Settings = dict[str, Any]
NAMES = registry.names("strategies")
STREAMS = ("split", "rotated")
# In addition to the defaults: settings that take other branches. A new strategy needs no entry.
MORE: dict[str, list[Settings]] = {
    "adapters": [{"width": None}],
    "gradual_unfreezing": [{"per": "experience"}],
    "bic": [{"memory": 0, "weight": 0.5}],
    "stop_at_budget": [{"accuracy": None, "loss": 0.3}],
    "attention_distillation": [{"kind": "gradcam"}],
    "feature_distillation": [{"loss": "mse", "layers": ["trunk.1", "features"]}],
    "der": [{"memory": 20, "beta": 0.0, "batch_size": 7}],
    "early_stopping": [{"patience": 1, "metric": "loss"}],
    "ewc": [{"mode": "online", "decay": 0.9, "fisher": "sampled", "num_samples": 20}],
    "l2_sp": [{"reference": "pretrained"}],
    "mas": [{"alpha": 0.5, "num_samples": 20}],
    "si": [{"gradient": "total", "clip": False}],
    "eeil": [{"memory": 0}],
    "freezing": [{"layers": ["trunk.1.*"], "from_experience": 0}],
    "head_init": [{"rows": "mean"}],
    "lwf": [{"loss": "mse"}],
    "forgetting_stop": [{"tolerance": 0.5, "every": 4}],
    "replay": [
        {"memory": 30, "policy": "reservoir", "batch_size": 7},
        {"memory": 30, "policy": "gss", "batch_size": 7, "selection": "mir"},
        {"policy": "herding"},
    ],
}
TOGETHER: Settings = {"lwf": {}, "replay": {"memory": 20}, "early_stopping": {"patience": 1}, "freezing": {}}
CASES: list[Any] = [pytest.param({name: {}}, id=name) for name in NAMES]
CASES += [
    pytest.param({name: settings}, id=f"{name}-{number}")
    for name, more in MORE.items()
    for number, settings in enumerate(more)
]
CASES.append(pytest.param(TOGETHER, id="together"))


def spread(cases: list[Any], others: tuple[Any, ...] = STREAMS) -> list[Any]:
    """Combine each case with one of `others` in a seeded rotation; combinations with the rest are slow."""
    combined = []
    for number, case in enumerate(cases):
        made = case if isinstance(case, type(pytest.param())) else pytest.param(case, id=str(case))
        values, name = made.values, str(made.id)
        turn = (number + seeding.derive(0, name)) % len(others)
        for place, other in enumerate(others):
            marks = made.marks if place == turn else [pytest.mark.slow]
            combined.append(pytest.param(*values, other, id=f"{name}-{other}", marks=marks))
    return combined


def partners() -> list[Any]:
    """Return all ordered pairs; all are slow except each strategy with its two neighbours on each side in a seeded order."""
    order = sorted(NAMES, key=lambda name: seeding.derive(2, name))
    near = {(first, order[(place + step) % len(order)]) for place, first in enumerate(order) for step in (1, 2)}
    return [pytest.param(*pair, marks=[] if pair in near else [pytest.mark.slow]) for pair in permutations(NAMES, 2)]


STOPPER = '''
"""A user-defined strategy that ends the process, once, before a given iteration."""
import os, signal
from dataclasses import dataclass
from pathlib import Path
from retain import Plugin

@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """End before the iteration that the file `flag` names, if it exists."""
    flag: str

class Stopper(Plugin):
    def state_dict(self):
        return {}

    def __init__(self, flag):
        self.flag = Path(flag)

    def before_training_iteration(self, learner, **kwargs):
        if self.flag.exists() and int(self.flag.read_text().split()[1]) == learner.clock.train_iterations:
            how = self.flag.read_text().split()[0]
            self.flag.unlink()
            if how in ("KILL", "TERM", "INT"):
                os.kill(os.getpid(), signal.Signals[f"SIG{how}"])  # TERM and INT: it stops before the next iteration
                return
            raise KeyboardInterrupt

def build(config, seed):
    return Stopper(config.flag)
'''
NOISY = '''
"""A user-defined strategy that draws from every global generator, in every iteration."""
import random
from dataclasses import dataclass
import numpy as np
import torch
from retain import Plugin

@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Nothing to set."""

class Noisy(Plugin):
    def state_dict(self):
        return {}

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss * (0.5 + random.random() * np.random.rand() + torch.rand(()))

def build(config, seed):
    return Noisy()
'''
KEEPER = '''
"""A user-defined strategy that keeps the object of its loaded state, and changes it in place when it adapts the data."""
from dataclasses import dataclass
from retain import Plugin

@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Nothing to set."""

class Keeper(Plugin):
    def __init__(self):
        self.seen = []

    def state_dict(self):
        return {"met": self.seen}

    def load_state_dict(self, state):
        self.seen = state["met"]

    def after_train_dataset_adaptation(self, learner, **kwargs):
        self.seen.append(learner.experience.current_experience)

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss * (1 + 0.1 * len(self.seen))

def build(config, seed):
    return Keeper()
'''
WATCHER = '''
"""A user-defined strategy with an evaluation hook: Avalanche's evaluation loop runs instead of the single pass."""
from dataclasses import dataclass
from retain import Plugin

@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Nothing to set."""

class Watcher(Plugin):
    def state_dict(self):
        return {}

    def after_eval_forward(self, learner, **kwargs):
        pass

def build(config, seed):
    return Watcher()
'''


class Runs:
    """Run trials in new folders; the same trial only once, unless `again`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, Outcome] = {}
        self._num_folders = 0

    def new_folder(self) -> Path:
        """Return a folder that does not exist yet."""
        self._num_folders += 1
        return self.folder / f"trial-{self._num_folders}"

    def __call__(self, config: Experiment, again: bool = False) -> Outcome:
        """Run the trial, or return the remembered outcome."""
        key = json.dumps(to_dict(config))
        if again or key not in self._found:
            folder = self.new_folder()
            run_trial(config, folder)
            self._found[key] = outcome(folder)
        return self._found[key]


@pytest.fixture(scope="module")
def runs(quick_folder: Path) -> Runs:
    folder = quick_folder / "laws"
    folder.mkdir()
    return Runs(folder)


@pytest.fixture(scope="module", autouse=True)
def users_own(quick_folder: Path) -> Iterator[Path]:
    """Put a folder with user-defined strategies on the path; return the path of the stopper's flag."""
    folder = quick_folder / "own"
    folder.mkdir()
    (folder / "lawtest").mkdir()
    (folder / "lawtest" / "stopper.py").write_text(STOPPER)
    (folder / "lawtest" / "watcher.py").write_text(WATCHER)
    (folder / "lawtest" / "noisy.py").write_text(NOISY)
    (folder / "lawtest" / "keeper.py").write_text(KEEPER)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        yield folder / "flag"


def module(name: str) -> Any:
    """Return a strategy's module."""
    return registry.resolve("strategies", name)


def trained(config: Experiment, on_epoch: Callable[[Learner], None] = lambda learner: None) -> Learner:
    """Return a learner at the end of its stream, trained as in a trial."""
    parts = build_trial(check_plugins(config))
    learner = parts.learner(on_epoch, lambda text: None)
    for number in range(len(parts.stream.experiences)):
        seeding.seed_globals(parts.seeds.data, "experience", number)
        if learner.should_train(number):
            learner.train_experience(number)
    return learner


# Built from defaults and from YAML; picklable.


@pytest.mark.parametrize("name", NAMES)
def test_defaults_come_back_from_yaml(name: str, make_experiment: Make, tmp_path: Path) -> None:
    own = module(name).Config()
    assert isinstance(module(name).build(own, seed=0), Plugin)
    written: list[Settings] = [{}, json.loads(json.dumps(asdict(own)))]
    for settings in written:
        config = make_experiment(strategies={name: settings})
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(to_dict(config)))
        loaded = check_plugins(load_config(tmp_path / "x.yaml"))
        assert [built for _, built in plugin_configs(loaded, "strategies")] == [own]
        assert loaded.strategies[name] == json.loads(json.dumps(asdict(own)))


@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_state_dict_to_resume_from(name: str) -> None:
    """Without one, its trials would start again from the first experience after a stop."""
    assert hasattr(module(name).build(module(name).Config(), seed=0), "state_dict")


@pytest.mark.parametrize("name", NAMES)
def test_config_pickles(name: str, make_experiment: Make) -> None:
    own = module(name).Config()
    assert pickle.loads(pickle.dumps(own)) == own
    config = check_plugins(make_experiment(strategies={name: {}}))
    assert pickle.loads(pickle.dumps(config)) == config


# Neutral settings give the naive curve.


def test_neutral_settings_or_the_reason_is_stated() -> None:
    """Print the strategies without neutral settings (pytest -rP shows it)."""
    without = {name: module(name).NEUTRAL_REASON for name in NAMES if module(name).NEUTRAL is None}
    for name, reason in without.items():
        print(f"no neutral settings: {name}: {reason}")
    assert all(len(reason) > 20 for reason in without.values())
    assert set(without) == {
        "cosine_head",
        "cumulative",
        "fecam",
        "icarl",
        "joint",
        "local_similarity",
        "lucir",
        "lwf_mc",
        "ncm",
        "ranpac",
        "slda",
        "ss_il",
        "wa",
    }


@pytest.mark.parametrize(("name", "stream"), spread([name for name in NAMES if module(name).NEUTRAL is not None]))
def test_neutral_settings_give_the_naive_bits(name: str, stream: str, runs: Runs, make_experiment: Make) -> None:
    naive = runs(make_experiment(stream, network_for=name))
    neutral = runs(make_experiment(stream, strategies={name: dict(module(name).NEUTRAL)}))
    for view in VIEWS:
        np.testing.assert_array_equal(neutral.matrices[view], naive.matrices[view])
    assert neutral.events == naive.events
    assert same(neutral.weights, naive.weights)


@pytest.mark.parametrize("name", NAMES)
def test_default_settings_do_something(name: str, runs: Runs, make_experiment: Make) -> None:
    """Otherwise the law above would hold for a strategy that never acts. Enough epochs for patience to run out."""
    training = {"epochs": 6, "optimizer": {"lr": 0.2}}

    def acts(stream: str) -> bool:
        naive = runs(make_experiment(stream, network_for=name, **training))
        with_it = runs(make_experiment(stream, strategies={name: {}}, **training))
        if not same(with_it.weights, naive.weights):
            return True  # or predictions from the same weights differ
        return any(not np.array_equal(with_it.matrices[v], naive.matrices[v], equal_nan=True) for v in VIEWS)

    assert any(acts(stream) for stream in ("pair", "split"))  # the longer stream if the shorter one shows no effect


# Determinism.


@pytest.mark.parametrize(("name", "stream"), spread(NAMES))
def test_same_seed_same_bits_other_seed_other_bits(name: str, stream: str, runs: Runs, make_experiment: Make) -> None:
    config = make_experiment(stream, strategies={name: {}})
    first = runs(config)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - what the process drew before must not matter
    assert_same(first, runs(config, again=True))
    other = runs(replace(config, seed=1))
    assert not same(first.weights, other.weights)
    assert any(not np.array_equal(first.matrices[view], other.matrices[view], equal_nan=True) for view in VIEWS)


# Evaluation changes nothing.


def snapshot(learner: Learner) -> dict[str, Any]:
    """Return everything that evaluation must not change."""
    own = [plugin for plugin in learner.plugins if plugin is not learner.clock]
    return {
        "tensors": {name: tensor.clone() for name, tensor in learner.model.state_dict().items()},
        "objects": [id(parameter) for parameter in learner.model.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in learner.model.parameters()],
        "gradients": [p.grad is not None and p.grad.clone() for p in learner.model.parameters()],
        "flags": [layer.training for layer in learner.model.modules()],
        "head": learner.model.head.num_classes,
        "hooks": num_hooks(learner.model),
        "optimizer": _copied(learner.optimizer.state_dict()),
        "plugins": [_copied(plugin.state_dict()) for plugin in own],
        "listed": [id(plugin) for plugin in learner.plugins],
        "clock": dict(vars(learner.clock)),
        "random": seeding.capture_generators(),
        "learner": {key: id(vars(learner)[key]) for key in ("experience", "adapted_dataset", "dataloader")},
        "training": [learner.is_training, learner._stop_training, learner.train_mb_size, learner.samples],
    }


def _copied(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list | tuple) else state


def num_hooks(model: torch.nn.Module) -> int:
    """Count hooks of any kind on modules and parameters."""
    kinds = [key for key in vars(torch.nn.Module()) if key.endswith("_hooks")]
    assert len(kinds) >= 8
    on_modules = sum(len(getattr(layer, kind)) for layer in model.modules() for kind in kinds)
    return on_modules + sum(len(parameter._backward_hooks or {}) for parameter in model.parameters())


@pytest.mark.parametrize(("strategies", "stream", "watched"), spread(spread(CASES), ("one pass", "its loop")))
def test_evaluation_changes_no_state_and_nothing_is_left_in_the_network(
    strategies: Settings, stream: str, watched: str, make_experiment: Make
) -> None:
    """States are compared after every epoch, inside an experience; the final bits are those without evaluation.

    At the end the network is as it was built: no hooks, nothing frozen, all layers in training mode.
    """
    config = make_experiment(
        stream, strategies={**strategies, **({"lawtest.watcher": {}} if watched == "its loop" else {})}
    )
    different: list[tuple[int, str]] = []

    def evaluate(learner: Learner) -> None:
        before = snapshot(learner)
        learner.evaluate()
        after = snapshot(learner)
        different.extend((learner.clock.train_iterations, key) for key in before if not same(before[key], after[key]))

    evaluated = trained(config, evaluate)
    evaluate(evaluated)
    assert not different
    without = trained(config)
    assert same(learner_state.capture(evaluated), learner_state.capture(without))
    for learner in (evaluated, without):
        assert num_hooks(learner.model) == 0
        assert all(parameter.requires_grad for parameter in learner.model.parameters())
        assert all(layer.training for layer in learner.model.modules())
        assert len(learner.plugins) == len(config.strategies) + 1


# Stopped and resumed equals uninterrupted.


def stops_of(events: list[dict[str, Any]]) -> list[int]:
    """Return iterations to stop before: mid-experience in each, and the first of each but the first (a boundary)."""
    ends = [0, *(event["iteration"] for event in events if event["kind"] == "experience")]
    middles = [(one + other) // 2 for one, other in zip(ends[:-1], ends[1:], strict=True)]
    return sorted({*middles, *ends[1:-1]})


def run_with_stops(config: Experiment, folder: Path, stops: list[int], flag: Path, how: str) -> Outcome:
    """Start the trial, stop it at each of these iterations and resume it each time.

    `how`: "raise" before the iteration, which loses the experience's progress, or "TERM", which does not.
    """
    for iteration in stops:
        flag.write_text(f"{how} {iteration}")
        with pytest.raises((KeyboardInterrupt, Stopped)):
            run_trial(config, folder)
        assert not flag.exists() and Trial(folder).status().status == "stopped"
        newest = max(path.name for path in (folder / "checkpoints").glob("0*")) if how == "TERM" else "+"
        assert "+" in newest, "what was done of the experience is kept"
    run_trial(config, folder)
    return outcome(folder)


GROUPS = {"name": "adam", "lr": 0.01, "weight_decay": 0.1, "groups": {"head.*": {"lr": 3, "weight_decay": 0}}}
RESUMED = [
    pytest.param({}, "split", {}, id="naive"),
    pytest.param({}, "split", {"optimizer": {"name": "adam", "lr": 0.01, "reset": False}}, id="adam kept"),
    pytest.param(
        TOGETHER, "split", {"optimizer": {"name": "adam", "lr": 0.01, "reset": False}}, id="adam kept-together"
    ),
    pytest.param({}, "rotated", {"optimizer": {"name": "sgd", "reset": False}}, id="momentum kept"),
    pytest.param({}, "split", {"optimizer": GROUPS, "schedule": {"name": "cosine"}}, id="groups"),
    pytest.param({}, "split", {"optimizer": GROUPS | {"reset": False}}, id="groups kept"),
    pytest.param({}, "split", {"iterations": 13, "schedule": {"name": "cosine", "warmup": 0.2}}, id="cosine"),
    pytest.param({"lawtest.noisy": {}}, "rotated", {}, id="global generators"),
    pytest.param({"lawtest.keeper": {}}, "split", {}, id="mutable state"),
    pytest.param(TOGETHER, "split", {"precision": "bfloat16"}, id="bfloat16-together"),
    pytest.param(
        {"lwf": {}}, "split", {"precision": "float16", "optimizer": {"name": "adam", "reset": False}}, id="float16"
    ),
    pytest.param({"replay": {}}, "split", {"optimizer": {"clip": 0.1}, "schedule": {"name": "step"}}, id="clip, steps"),
]


@pytest.mark.parametrize(
    ("strategies", "stream", "training"),
    [*(pytest.param(*c.values, {}, id=c.id, marks=c.marks) for c in spread(CASES)), *RESUMED],
)
def test_stopped_mid_experience_and_resumed_equals_uninterrupted(
    strategies: Settings, stream: str, training: Settings, runs: Runs, users_own: Path, make_experiment: Make
) -> None:
    """SIGTERM in the middle of each experience, and around the last iteration of its first epoch.

    A single strategy is stopped less often: in the first epoch, in the middle of every other later experience and, in the last of
    those, two iterations later (mid-epoch, with all state from the previous experiences).
    """
    own = {**strategies, "lawtest.stopper": {"flag": str(users_own)}}
    config = make_experiment(stream, strategies=own, **training)
    never = runs(config)
    ends = [event["iteration"] for event in never.events if event["kind"] == "epoch"]
    stops = stops_of(never.events)
    if len(strategies) != 1:
        stops += [*ends[:3], *(end - way for end in ends[:2] for way in (1, 2))]
    else:
        stops = stops[2::4] or stops
        stops += [ends[0] - 1, stops[-1] + 2]
    stops = sorted({stop for stop in stops if stop < ends[-1] - 1})  # the last iteration is too late
    assert stops
    assert_same(run_with_stops(config, runs.new_folder(), stops, users_own, "TERM"), never)


@pytest.mark.parametrize(
    ("strategies", "stream", "training"),
    # slow, since test_stopped_by_the_report_callback_and_resumed_equals_uninterrupted resumes from the same boundaries
    [*(pytest.param(*c.values, {}, id=c.id, marks=pytest.mark.slow) for c in spread(CASES)), *RESUMED],
)
def test_stopped_between_experiences_and_resumed_equals_uninterrupted(
    strategies: Settings, stream: str, training: Settings, runs: Runs, users_own: Path, make_experiment: Make
) -> None:
    own = {**strategies, "lawtest.stopper": {"flag": str(users_own)}}
    config = make_experiment(stream, strategies=own, **training)
    never = runs(config)
    stops = stops_of(never.events)
    assert len(stops) == (1 if "joint" in strategies else 9 if stream == "split" else 5)
    assert_same(run_with_stops(config, runs.new_folder(), stops, users_own, "raise"), never)


def every_nth(num: int) -> list[Any]:
    """Return the names; all are slow except every `num`-th in a seeded order, since each is also stopped at these boundaries."""
    order = sorted(NAMES, key=lambda name: seeding.derive(3, name))
    return [
        pytest.param(name, marks=[] if place % num == 0 else [pytest.mark.slow]) for place, name in enumerate(order)
    ]


@pytest.mark.parametrize("name", every_nth(4))
def test_stopped_by_the_report_callback_and_resumed_equals_uninterrupted(
    name: str, runs: Runs, make_experiment: Make
) -> None:
    """`report` raises after an experience's checkpoint: the experience is not trained again."""
    config, folder = make_experiment(strategies={name: {}}), runs.new_folder()
    never, reported = runs(config), []

    def report(values: dict[str, Any]) -> None:
        reported.append(values["experience"])
        raise RuntimeError("the scheduler has enough")

    while not folder.exists() or Trial(folder).status().status != "done":
        try:
            run_trial(config, folder, report=report)
        except RuntimeError:
            assert Trial(folder).status().status == "failed"
    assert reported == ([5] if name == "joint" else [1, 2, 3, 4, 5])
    assert_same(outcome(folder), never)


@pytest.fixture(scope="module")
def server() -> multiprocessing.context.ForkServerContext:
    """Yield a server of new processes that have imported what a trial needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["retain.platform.trial.run"])
    return context


@pytest.mark.parametrize("strategies", [{"lwf": {}}, {"replay": {"memory": 40}, "early_stopping": {"patience": 1}}])
def test_killed_and_resumed_equals_uninterrupted(
    strategies: Settings, runs: Runs, users_own: Path, make_experiment: Make, server: Any
) -> None:
    """SIGKILL at a boundary and mid-experience; another process resumes."""
    config = make_experiment(strategies={**strategies, "lawtest.stopper": {"flag": str(users_own)}})
    never, folder = runs(config), runs.new_folder()
    boundary = stops_of(never.events)[1]
    for iteration in (boundary, boundary + 20):
        users_own.write_text(f"KILL {iteration}")
        process = server.Process(target=run_trial, args=(config, folder))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        assert Trial(folder).status().status == "running"
    run_trial(config, folder)
    assert_same(outcome(folder), never)


@pytest.mark.parametrize("all_damaged", [False, True])
def test_a_damaged_checkpoint_is_skipped(
    all_damaged: bool, runs: Runs, users_own: Path, make_experiment: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The previous checkpoint is used or, if there is none, the trial starts again; the bits are the same."""
    strategies = {"replay": {}, "lawtest.stopper": {"flag": str(users_own)}}
    config, folder = make_experiment(strategies=strategies), runs.new_folder()
    never = runs(config)
    users_own.write_text(f"stop {stops_of(never.events)[-1]}")
    with pytest.raises(KeyboardInterrupt):
        run_trial(config, folder)
    saved = sorted((folder / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["000003", "000004"]
    for path in saved[0 if all_damaged else 1 :]:
        file = path / "tensors.safetensors"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    run_trial(config, folder)
    assert caplog.text.count("is passed over") == (2 if all_damaged else 1)
    assert_same(outcome(folder), never)


# Pairs of strategies.


@pytest.mark.parametrize(("first", "second"), partners())
def test_every_pair_of_strategies_runs_or_is_refused(
    first: str, second: str, runs: Runs, make_experiment: Make
) -> None:
    """Refusals come before the start, with the reason, in any order of the two."""
    config = make_experiment("pair", strategies={first: {}, second: {}})
    folder = runs.new_folder()
    try:
        run_trial(config, folder)
    except UserError as refusal:
        assert not folder.exists()
        assert str(refusal).startswith("strategies") and len(str(refusal)) > 40
        with pytest.raises(UserError):
            build_trial(check_plugins(make_experiment("pair", strategies={second: {}, first: {}})))
        return
    accuracy = outcome(folder).summary["task_agnostic"]["average_accuracy"]
    assert 0.0 < accuracy <= 1.0


def test_a_strategy_by_dotted_path_is_recorded_in_the_config(
    runs: Runs, users_own: Path, make_experiment: Make
) -> None:
    folder = runs.new_folder()
    run_trial(make_experiment("pair", strategies={"lawtest.watcher": {}}), folder)
    config = Trial(folder).read("config")
    assert config is not None and config["strategies"] == {"lawtest.watcher": {}}
    assert "lawtest.watcher" in sys.modules
