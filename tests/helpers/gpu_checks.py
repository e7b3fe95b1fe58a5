"""What `make gpu` checks on a GPU and, as far as it makes sense, on a CPU. Each check returns a sentence, or raises."""

import json
import math
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from retain.platform.config.load import to_dict
from retain.platform.config.schema import Experiment, Resources
from retain.platform.config.yaml_files import dump_yaml
from retain.platform.contract import strategy
from retain.platform.contract.errors import NotApplicable, require
from retain.platform.contract.outcome import assert_same, outcome, same
from retain.platform.contract.trials import CNN, Trials, short_experiment, stops_of
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial
from retain.platform.training import learner_state
from retain.platform.training.cuda_graph import CudaGraphs, GraphCompiler, is_capturable
from retain.platform.training.learner import Learner
from retain.platform.training.plugin import Plugin
from retain.platform.trial.builder import build_trial
from retain.platform.trial.checkpoint import load_newest_checkpoint
from retain.platform.trial.resolve import ResolvedPart, resolve_experiment
from retain.platform.trial.run import run
from retain.platform.trial.torch_settings import torch_settings

from .meta_device import waits_of
from .recorded_operations import RecordedOperations, state_of

PICTURES: Mapping[str, Any] = {"retain.platform.contract.random_pictures": {"shape": [1, 8, 8], "num_experiences": 3}}
MLP: Mapping[str, Any] = {"mlp": {"hidden": [16]}}
# each of them with BatchNorm and convolutions, or without
STRATEGIES: Mapping[str, tuple[dict[str, Any], Mapping[str, Any]]] = {
    "lwf": ({}, CNN),
    "feature_distillation": ({}, CNN),
    "ewc": ({}, MLP),
    "mas": ({}, CNN),
    "si": ({}, MLP),
    "replay": ({"memory": 20}, CNN),
    "der": ({"memory": 20}, MLP),
    "agem": ({"memory": 20}, CNN),
    "icarl": ({"memory": 20}, CNN),
    "freezing": ({}, MLP),
    "early_stopping": ({"patience": 1}, CNN),
    "ema": ({}, MLP),
}
_TOGETHER = {"lwf": {}, "replay": {"memory": 20}, "early_stopping": {"patience": 1}}
_CURVE = {"epochs": 3, "batch_size": 8, "optimizer": {"lr": 0.01}}
_KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class Bench:
    """Where checks run.

    Attributes:
        device: cuda or cpu.
        folder: for trials.
        strategies: names of those that are checked, keys of STRATEGIES.
    """

    device: torch.device
    folder: Path
    strategies: tuple[str, ...] = tuple(STRATEGIES)

    @cached_property
    def trials(self) -> Trials:
        """Return the runner of short trials."""
        return Trials(self.folder)

    @property
    def is_gpu(self) -> bool:
        """Return whether there is a GPU."""
        return self.device.type == "cuda"

    def experiment(
        self,
        strategies: Mapping[str, Any],
        network: Mapping[str, Any] = MLP,
        tf32: bool | None = False,
        **training: Any,
    ) -> Experiment:
        """Return a short trial on the device, with the same bits each time; float32 products are not rounded further."""
        experiment = short_experiment(PICTURES, network, strategies, **{"epochs": 2, "batch_size": 16, **training})
        on_gpu = Resources(gpus=1.0, deterministic=True, tf32=tf32)
        return replace(experiment, resources=on_gpu if self.is_gpu else Resources(deterministic=True))

    def part(self, name: str) -> ResolvedPart:
        """Return a strategy of STRATEGIES with its settings."""
        return resolve_experiment(self.experiment({name: STRATEGIES[name][0]}, STRATEGIES[name][1])).strategies[0]


def laws(bench: Bench, name: str) -> str:
    """The laws of a strategy: neutral settings, effect, determinism, evaluation, stop and resume."""
    settings, network = STRATEGIES[name]
    with_it, naive = bench.experiment({name: settings}, network), bench.experiment({}, network)
    trials, part = bench.trials, bench.part(name)
    checked = []
    with torch_settings(with_it.resources):
        for law, check in {
            "neutral": lambda: strategy.check_neutral(naive, replace(naive, strategies={name: _neutral(part)}), trials),
            "acts": lambda: strategy.check_acts(_active(bench, name), trials),
            "same seed": lambda: strategy.check_seed(with_it, trials),
            "evaluation": lambda: strategy.check_nothing_left(strategy.check_evaluation(with_it)[0], 1),
            "resumed": lambda: strategy.check_resume_mid_experience(with_it, trials),
            "between": lambda: strategy.check_resume_between_experiences(with_it, trials),
        }.items():
            with _named(law):
                try:
                    check()
                except NotApplicable:
                    continue
            checked.append(law)
    return ", ".join(checked)


def _neutral(part: ResolvedPart) -> dict[str, Any]:
    return strategy.neutral_settings_of(part)


def _active(bench: Bench, name: str) -> Iterator[tuple[Experiment, Experiment]]:
    settings, network = STRATEGIES[name]
    for training in ({}, {"epochs": 6, "optimizer": {"lr": 0.2}}):  # enough for a patience to run out
        yield bench.experiment({}, network, **training), bench.experiment({name: settings}, network, **training)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Name what was checked in the message of a failure."""
    try:
        yield
    except NotApplicable:
        raise
    except Exception as error:
        error.args = (f"{what}: {error}", *error.args[1:])
        raise


def killed_and_resumed(bench: Bench) -> str:
    """SIGKILL at a boundary and mid-experience; other processes resume, with the bits of a trial that was never killed."""
    config = bench.trials.with_stopper(bench.experiment(_TOGETHER, CNN, epochs=3))
    never, folder = bench.trials(config), bench.trials.new_folder()
    boundary = stops_of(never.events)[1]
    for iteration in (boundary, boundary + 2):
        bench.trials.flag.write_text(f"KILL {iteration}", encoding="utf-8")
        code = in_new_process(config, folder)
        require(code == _KILLED, f"the process ended with {code}, not by SIGKILL")
    require(in_new_process(config, folder) == 0, "the last process failed")
    assert_same(outcome(folder), never)
    return "twice, by SIGKILL; three processes, same bits"


def in_new_process(config: Experiment, folder: Path) -> int:
    """Run or resume a trial in a new process; return its exit code."""
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(dump_yaml(to_dict(config)), encoding="utf-8")
    script = Path(__file__).parent.parent / "gpu.py"
    return subprocess.run([sys.executable, str(script), "--trial", str(path), str(folder)], timeout=300).returncode


def cpu_and_gpu(bench: Bench) -> str:
    """The same trial on the CPU and on the GPU: losses within 1 % (or 0.001) and accuracies within 0.1."""
    if not bench.is_gpu:
        raise NotApplicable("needs a GPU")
    furthest, widest = 0.0, 0.0
    for strategies, network in (({"lwf": {}}, MLP), ({"replay": {"memory": 20}}, CNN), ({"ewc": {}}, MLP)):
        on_gpu = bench.experiment(strategies, network, **_CURVE)
        on_cpu = replace(on_gpu, resources=Resources())
        ours, theirs = bench.trials(on_gpu), bench.trials(on_cpu)
        pairs = list(zip(_losses(ours.events), _losses(theirs.events), strict=True))
        furthest = max(furthest, *(abs(a - b) / max(abs(b), 0.1) for a, b in pairs))
        for view, matrix in ours.matrices.items():
            difference = torch.from_numpy(matrix - theirs.matrices[view]).abs().nan_to_num()
            widest = max(widest, difference.max().item())
    require(furthest < 0.01, f"losses differ by {furthest:.2%}")
    require(widest < 0.1, f"accuracies differ by {widest:.3f}")
    return f"losses within {furthest:.1e}, accuracies within {widest:.3f}"


def _losses(events: list[dict[str, Any]]) -> list[float]:
    return [event["loss"] for event in events if event["kind"] == "epoch"]


class _Limits(Plugin):
    """Sets torch's mode of waiting before the second epoch of an experience, and resets it after that epoch's last iteration."""

    def __init__(self, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first

    def before_training_epoch(self, learner: Any, **kwargs: Any) -> None:
        if self.is_first and learner.clock.train_exp_epochs == 1:
            torch.cuda.set_sync_debug_mode("error")

    def after_training_iteration(self, learner: Any, **kwargs: Any) -> None:
        if not self.is_first and learner.clock.train_epoch_iterations + 1 == len(learner.dataloader):
            torch.cuda.set_sync_debug_mode("default")

    capturable = True


def no_waiting(bench: Bench) -> str:
    """No operation of an epoch waits for the GPU; without one, on torch's meta device."""
    variants: dict[str, tuple[dict[str, Any], Mapping[str, Any], dict[str, Any]]] = {
        name: ({name: STRATEGIES[name][0]}, STRATEGIES[name][1], {}) for name in bench.strategies
    }
    variants |= {
        "augmentation": ({}, CNN, {"augmentation": [{"crop": {"padding": 1}}, {"rotation": {"degrees": 10}}]}),
        "bfloat16, channels_last": ({"lwf": {}}, CNN, {"precision": "bfloat16", "channels_last": True}),
        "adam, schedule": ({}, MLP, {"optimizer": {"name": "adam"}, "schedule": {"name": "cosine"}}),
    }
    if bench.is_gpu:
        variants["graph"] = ({"lwf": {}}, CNN, {"compile": "graph"})
    for text, (strategies, network, training) in variants.items():
        experiment = bench.experiment(strategies, network, **{"epochs": 3, "batch_size": 8, **training})
        with _named(text):
            if bench.is_gpu:
                _train_without_waiting(experiment)
            elif training.get("precision") is None:  # the meta device has no autocast
                waits, copies = waits_of(experiment)
                require(not waits, "; ".join(sorted(set(waits))))
                if all(map(is_capturable, learner_of(experiment).strategies)):
                    require(not copies, f"declared capturable, but {'; '.join(sorted(set(copies)))}")
    return f"{len(variants)} variants" if bench.is_gpu else f"{len(variants) - 1} variants on the meta device"


def _train_without_waiting(experiment: Experiment) -> None:
    experiment = replace(experiment, resources=replace(experiment.resources, deterministic=False))  # as by default
    with torch_settings(experiment.resources), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the mode is a prototype
        learner = learner_of(experiment)
        learner.plugins = [_Limits(True), *learner.strategies, _Limits(False), learner.clock]
        try:
            train(learner)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def learner_of(experiment: Experiment, notes: list[str] | None = None, losses: list[float] | None = None) -> Learner:
    """Return a trial's learner; it appends its notes and its epochs' losses to the lists."""
    builder = build_trial(resolve_experiment(experiment))

    def on_epoch(learner: Any) -> None:
        if losses is not None:
            losses.append(learner.epoch_loss)

    return builder.learner(on_epoch, [].append if notes is None else notes.append)


def train(learner: Learner) -> None:
    """Train on all experiences."""
    for number in range(len(learner.stream.experiences)):
        if learner.should_train(number):
            learner.train_experience(number)


def nonfinite_loss(bench: Bench) -> str:
    """A diverging trial fails with the experience and the settings to change; no checkpoint has its weights."""
    folder = bench.trials.new_folder()
    settings = {"optimizer": {"lr": 1e30, "clip": None}, "epochs": 4}
    try:
        run(bench.experiment({}, CNN, **settings), folder)
    except FloatingPointError as error:
        message = str(error)
    else:
        raise AssertionError("a trial with a learning rate of 1e30 did not diverge")
    require("in experience 1" in message and "training.optimizer.lr=1e+30" in message, f"the message is: {message}")
    status = Trial(folder).status()
    require(status.status == "failed" and message[:40] in (status.error or ""), f"the trial's state is {status}")
    state = load_newest_checkpoint(folder / "checkpoints")
    require(state is None, "there is a checkpoint")
    return message.partition(" (strategies")[0]


def out_of_memory(bench: Bench) -> str:
    """A trial that needs more memory than there is fails with what to change; the next one runs."""
    if not bench.is_gpu:
        raise NotApplicable("needs a GPU")
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info(bench.device)
    allowed = torch.cuda.memory_reserved(bench.device) + 256 * 2**20
    torch.cuda.set_per_process_memory_fraction(allowed / total, bench.device)
    try:
        run(bench.experiment({}, {"mlp": {"hidden": [16384, 16384]}}), bench.trials.new_folder())
    except torch.OutOfMemoryError as error:
        message = str(error)
    else:
        raise AssertionError("1 GiB of weights fitted into 256 MiB")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
        torch.cuda.empty_cache()
    require("the GPU's memory is full" in message and "training.batch_size=16" in message, f"the message is: {message}")
    run(bench.experiment({}), bench.trials.new_folder())
    return message[:150]


def precision(bench: Bench) -> str:
    """bfloat16, float16, TF32 and channels_last: curves near float32's; TF32 only where it is set; stop and resume."""
    expected = _losses(bench.trials(bench.experiment({"lwf": {}}, CNN, **_CURVE)).events)
    variants: dict[str, tuple[float, dict[str, Any]]] = {  # with the largest difference
        "bfloat16": (0.2, {"precision": "bfloat16"}),
        "float16": (
            0.3,
            {"precision": "float16"},
        ),  # which skips the first steps, until the scale of the loss is small enough
        "channels_last": (0.01, {"channels_last": True}),
        "bfloat16 and channels_last": (0.2, {"precision": "bfloat16", "channels_last": True}),
    }
    if bench.is_gpu:
        variants |= {"TF32": (0.05, {"tf32": True}), "TF32 in convolutions": (0.05, {"tf32": None})}
        for value, flags in {None: (False, True), True: (True, True), False: (False, False)}.items():
            with torch_settings(Resources(gpus=1.0, tf32=value)):
                actual = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
            require(actual == flags, f"tf32={value}: products and convolutions are {actual}, not {flags}")
    differences = []
    for text, (allowed, settings) in variants.items():
        losses = _losses(bench.trials(bench.experiment({"lwf": {}}, CNN, **_CURVE, **settings)).events)
        difference = max(abs(a - b) / max(abs(b), 0.1) for a, b in zip(losses, expected, strict=True))
        require(difference < allowed, f"{text}: losses differ from float32's by {difference:.2%}")
        differences.append(f"{text} {difference:.1e}")
    with _named("channels_last, resumed"), torch_settings(bench.experiment({}).resources):
        together = bench.experiment(_TOGETHER, CNN, epochs=3, precision="bfloat16", channels_last=True)
        strategy.check_resume_mid_experience(together, bench.trials)
    return f"losses differ from float32's: {', '.join(differences)}; resumed with the same bits"


class _CountedGraphs(CudaGraphs):
    """CUDA graphs; counts recordings and replays."""

    num_recorded = num_replayed = 0

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        replay = super().record(work)
        self.num_recorded += 1

        def counted() -> None:
            self.num_replayed += 1
            replay()

        return counted


def graph(bench: Bench) -> str:
    """`compile: graph` gives the curve of null for each strategy; without a GPU, recorded operations stand for the graphs."""
    recorded, same_bits, furthest = [], [], 0.0
    cases = {name: ({name: STRATEGIES[name][0]}, STRATEGIES[name][1], {}) for name in bench.strategies}
    cases |= {
        "no strategy": ({}, MLP, {}),
        "adam, cosine": (
            {"lwf": {}},
            CNN,
            {"optimizer": {"name": "adam", "lr": 0.001}, "schedule": {"name": "cosine"}},
        ),
        "bfloat16": ({"lwf": {}, "replay": {"memory": 20}}, CNN, {"precision": "bfloat16"}),
        "dropout": ({}, {"mlp": {"hidden": [16], "dropout": 0.2}}, {}),
    }
    for text, (strategies, network, training) in cases.items():
        experiment = bench.experiment(strategies, network, **{"epochs": 3, "batch_size": 10, **training})
        with _named(text), torch_settings(experiment.resources):
            plain, (compiled, num_replayed) = _curve(bench, experiment, False), _curve(bench, experiment, True)
            difference = max(abs(a - b) / max(abs(b), 0.1) for a, b in zip(compiled[1], plain[0][1], strict=True))
            require(difference < 1e-3, f"losses differ by {difference:.2e}")
        furthest = max(furthest, difference)
        same_bits += [text] * same(compiled, plain[0])
        recorded += [text] * (num_replayed > 0)
    require("no strategy" in recorded and "adam, cosine" in recorded, f"only {recorded} were recorded")
    return f"recorded: {', '.join(recorded)}; same bits: {len(same_bits)} of {len(cases)}, losses within {furthest:.1e}"


def _curve(bench: Bench, experiment: Experiment, recorded: bool) -> tuple[tuple[Any, list[float], Any], int]:
    """Return the learner's state, losses and logits at the end, and the number of replays."""
    losses: list[float] = []
    learner = learner_of(experiment, losses=losses)
    learner.reads_losses = False
    recorder: Any = _CountedGraphs(bench.device) if bench.is_gpu else RecordedOperations(lambda: state_of(learner))
    if recorded:
        learner.__dict__["_compiler"] = GraphCompiler(recorder)
    torch.manual_seed(0)
    train(learner)
    return (learner_state.capture(learner), losses, learner.logits()), recorder.num_replayed


def graph_in_a_trial(bench: Bench) -> str:
    """A whole trial with `compile: graph`, stopped and resumed; without a GPU it is refused before the start."""
    if not bench.is_gpu:
        try:
            bench.experiment({}, compile="graph")
        except (UserError, ValueError) as error:
            return f"refused: {error}"
        raise AssertionError("compile=graph is not refused without a GPU")
    experiment = bench.experiment({"lwf": {}, "replay": {"memory": 20}}, CNN, epochs=3, batch_size=8)
    plain, compiled = experiment, replace(experiment, training=replace(experiment.training, compile="graph"))
    strategy.check_resume_mid_experience(compiled, bench.trials)
    is_same = same(bench.trials(plain).weights, bench.trials(compiled).weights)
    return f"stopped and resumed with the same bits; {'' if is_same else 'not '}those of null"


def inductor(bench: Bench) -> str:
    """`compile: inductor` gives the curve of null within tolerance."""
    experiment = bench.experiment({"lwf": {}}, MLP, **_CURVE)
    compiled = replace(experiment, training=replace(experiment.training, compile="inductor"))
    losses = [_losses(bench.trials(each).events) for each in (experiment, compiled)]
    difference = max(abs(a - b) / max(abs(b), 0.1) for a, b in zip(*losses, strict=True))
    require(math.isfinite(difference) and difference < 0.01, f"losses differ by {difference:.2%}")
    return f"losses within {difference:.1e}"


def environment(bench: Bench) -> dict[str, Any]:
    """Return what the results depend on."""
    found = json.loads(json.dumps({"python": sys.version.split()[0], "torch": torch.__version__, "gpu": None}))
    if bench.is_gpu:
        free, total = torch.cuda.mem_get_info(bench.device)
        found |= {
            "gpu": torch.cuda.get_device_name(bench.device),
            "memory_gib": round(total / 2**30, 1),
            "free_gib": round(free / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found
