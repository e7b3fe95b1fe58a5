"""What can be tested of GPUs without one: `make gpu` itself, settings that need one, graphs, waiting, layouts."""

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu
import pytest
import torch
from helpers.meta_device import waits_of
from helpers.recorded_operations import RecordedOperations, state_of

from retain.platform import seeding
from retain.platform.config import registry
from retain.platform.config.load import from_dict
from retain.platform.config.schema import Experiment, Resources, Training
from retain.platform.contract import strategy
from retain.platform.contract.outcome import same
from retain.platform.contract.trials import CNN, NETWORKS, Trials, short_experiment, with_enough_epochs
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial
from retain.platform.methods.gradient_projection import GradientProjectionPlugin
from retain.platform.training import compile as compiling
from retain.platform.training import learner_state
from retain.platform.training.cuda_graph import ITERATION_EVENTS, GraphCompiler, is_capturable
from retain.platform.training.learner import Learner
from retain.platform.training.plugin import Plugin, overrides_hook
from retain.platform.trial.builder import TrialBuilder, build_trial
from retain.platform.trial.gpu_memory import explain_out_of_memory
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.run import run
from retain.platform.trial.state_codec import flatten, unflatten
from retain.platform.trial.torch_settings import torch_settings
from retain.strategies import gem, lwf

PICTURES = {"retain.platform.contract.random_pictures": {"shape": [1, 8, 8], "num_experiences": 2}}
NAMES = registry.names("strategies")


def plugin_of(name: str) -> Plugin:
    """Return a shipped strategy's plugin."""
    plugin: Plugin = (
        resolve_experiment(short_experiment(PICTURES, NETWORKS[0], {name: {}})).strategies[0].build_strategy(0)
    )
    return plugin


def acts_in_iterations(plugin: Plugin) -> bool:
    """Return whether it has a hook that is called in each iteration."""
    return any(overrides_hook(plugin, event) for event in ITERATION_EVENTS)


def short(name: str, **training: Any) -> Experiment:
    """Return a short trial of a strategy on the first network that it accepts."""
    for network in NETWORKS:
        try:
            experiment = with_enough_epochs(short_experiment(PICTURES, network, {name: {}}, **training))
            build_trial(resolve_experiment(experiment))
        except UserError:
            continue
        return experiment
    raise AssertionError(f"{name} accepts none of the networks")


# make gpu


def test_without_a_gpu_it_says_so_and_checks_what_it_can(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    output = tmp_path / "gpu.json"
    only = ["--only", "laws", "non-finite", "out of memory", "graph in a trial", "--strategies", "freezing"]
    assert gpu.main([*only, "--output", str(output)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("There is no GPU")
    lines = {line[:35].strip(): line[35:].split()[0] for line in text.splitlines()[2:-1]}
    assert lines == {
        "laws of freezing": "passed",
        "non-finite loss": "passed",
        "out of memory": "not",  # applicable
        "graph in a trial": "passed",
    }
    assert '"state": "not applicable"' in output.read_text(encoding="utf-8")


def test_a_failed_check_and_one_without_time_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("the reason")

    report = gpu.Report([], end=float("inf"))
    assert report.run("first", lambda: "detail") == "detail" and report.run("second", fail) is None
    assert report.failed == ["second"] and "ValueError: the reason" in capsys.readouterr().out
    report = gpu.Report([], end=0.0)
    assert report.run("third", lambda: "detail") is None and report.rows[0]["state"] == "not run"


def test_missing_packages_are_taken_from_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "NEEDED", {"no_such_package": "no-such-package"})
    monkeypatch.setattr(gpu, "WHEELS", tmp_path / "wheels")
    monkeypatch.setenv("PYTHONPATH", "before")
    (tmp_path / "wheels").mkdir()
    with pytest.raises(SystemExit):
        gpu.prepare_path(tmp_path)
    with zipfile.ZipFile(tmp_path / "wheels" / "no_such_package-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("no_such_package.py", "VALUE = 7")
    gpu.prepare_path(tmp_path)
    import no_such_package

    assert no_such_package.VALUE == 7


def test_it_needs_no_other_package_than_it_says() -> None:
    """Those of a lean trial, torch and what torch brings along; measured in a new process."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from helpers import gpu_checks, gpu_speed
for name, module in sys.modules.items():
    if "." not in name and "site-packages" in str(getattr(module, "__file__", "")):
        print(name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    brought = {"torch", "numpy", "torchgen", "triton", "sympy", "mpmath", "tqdm", "dill", "cuda", "attr", "opt_einsum"}
    imported = {name for name in done.stdout.split() if not name.startswith(("_", "cmeel"))} - brought
    assert imported <= set(gpu.NEEDED) and "pydantic" in imported


# Settings that need a GPU, a compiler or convolutions


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training": {"compile": "graph"}}, r"training.compile='graph': needs a GPU.*set resources.gpus above 0"),
        (
            {"training": {"compile": "graph", "precision": "float16"}, "resources": {"gpus": 1}},
            r"training.compile='graph': cannot run with precision='float16'.*bfloat16",
        ),
        ({"training": {"compile": "jit"}}, r"training.compile='jit': must be .*'graph'.*'inductor'.*null"),
        ({"training": {"compiled": "graph"}}, r"training.compiled: unknown key. Did you mean 'compile'"),
        ({"training": {"channels_last": 1}}, r"training.channels_last=1: must be true or false"),
        ({"resources": {"tf32": True}}, r"resources.tf32=true: is for GPUs: set gpus above 0"),
        ({"resources": {"tf32": "yes", "gpus": 1}}, r"resources.tf32='yes': must be true or false or null"),
    ],
)
def test_what_cannot_work_is_refused_before_the_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict({"name": "test", "benchmark": "split_digits", "model": "mlp", **settings})


def test_channels_last_needs_a_convolution() -> None:
    resolved = resolve_experiment(short_experiment(PICTURES, NETWORKS[0], channels_last=True))
    with pytest.raises(UserError, match=r"training.channels_last=true: model.mlp has no convolution"):
        build_trial(resolved, planning=True)


def test_inductor_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    resolved = resolve_experiment(short_experiment(PICTURES, NETWORKS[0], compile="inductor"))
    message = r"training.compile='inductor': torch.compile needs a C\+\+ compiler, and no-such-compiler is not found"
    with pytest.raises(UserError, match=message):
        build_trial(resolved)
    build_trial(resolved, planning=True)  # the trials may run on other machines
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UserError, match="needs a C compiler"):
        compiling.check_compile("inductor", torch.device("cuda"))


def test_a_learner_on_the_cpu_refuses_graphs() -> None:
    builder = build_trial(resolve_experiment(short_experiment(PICTURES, NETWORKS[0])))
    learner = Learner(model=builder.network(), stream=builder.stream, training=Training(compile="graph"))
    with pytest.raises(UserError, match=r"needs a GPU \(CUDA graphs\), and this trial runs on cpu"):
        learner.train_experience(0)


@pytest.mark.parametrize(
    ("tf32", "expected"), [(None, ("highest", True)), (True, ("high", True)), (False, ("highest", False))]
)
def test_tf32_sets_torch_for_the_trial_only(tf32: bool | None, expected: tuple[str, bool]) -> None:
    def present() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = present()
    with torch_settings(Resources(gpus=1.0, tf32=tf32)):
        assert present() == expected
    assert present() == before


# Graphs: recorded operations stand for them


def curve(experiment: Experiment, recorded: bool, plugins: list[Any] | None = None) -> tuple[Any, int, list[str]]:
    """Return the learner's state, losses and logits at the end, the number of replays, and the notes."""
    builder: TrialBuilder = build_trial(resolve_experiment(experiment))
    losses: list[float] = []
    notes: list[str] = []
    learner = builder.learner(lambda learner: losses.append(learner.epoch_loss), notes.append)
    learner.plugins = [*learner.strategies, *(plugins or []), learner.clock]
    learner.reads_losses = False
    recorder = RecordedOperations(lambda: state_of(learner))
    if recorded:
        learner.__dict__["_compiler"] = GraphCompiler(recorder)
    seeding.seed_globals(0, "test")
    for number in range(2):
        if learner.should_train(number):
            learner.train_experience(number)
    return (learner_state.capture(learner), losses, learner.logits()), recorder.num_replayed, notes


CAPTURABLE = [name for name in NAMES if is_capturable(plugin_of(name)) and acts_in_iterations(plugin_of(name))]
_ALIKE = {"lfl", "podnet", "lwf_mc", "l2_sp"}  # slow: each is much like another one
_ON_PICTURES = {"podnet", "attention_distillation", "lwf"}
CASES: list[Any] = [
    pytest.param({name: {}}, {}, id=name, marks=[pytest.mark.slow] if name in _ALIKE else []) for name in CAPTURABLE
]
CASES += [
    pytest.param({}, {"optimizer": {"name": "adam", "lr": 0.01}}, id="adam"),
    pytest.param({"lwf": {}}, {"schedule": {"name": "cosine", "warmup": 0.2}}, id="schedule"),
    pytest.param({"lwf": {}, "replay": {"selection": "mir"}}, {"precision": "bfloat16"}, id="bfloat16"),
    pytest.param({"replay": {"memory": 20}, "lwf": {}}, {}, id="a memory with cached outputs"),
    pytest.param({}, {"augmentation": [{"crop": {"padding": 1}}]}, id="augmentation"),
    pytest.param({"attention_distillation": {"kind": "gradcam"}}, {}, id="gradcam"),
    pytest.param({"gradual_unfreezing": {}}, {"epochs": 4}, id="parameters that thaw"),
    pytest.param({"freezing": {"layers": ["trunk.*.weight"]}}, {"optimizer": {"reset": False}}, id="optimizer kept"),
]


@pytest.mark.parametrize(("strategies", "training"), CASES)
def test_a_recorded_iteration_gives_the_same_bits(strategies: dict[str, Any], training: dict[str, Any]) -> None:
    """Whole iterations, or without the optimizer's step; the last mini-batch of an epoch is smaller and runs as usual."""
    network = CNN if _ON_PICTURES & strategies.keys() or "augmentation" in training else NETWORKS[0]
    experiment = short_experiment(PICTURES, network, strategies, **{"epochs": 2, "batch_size": 9, **training})
    plain, (compiled, num_replayed, notes) = curve(experiment, False), curve(experiment, True)
    assert same(compiled, plain[0])
    assert num_replayed >= (3 if "freezing" in strategies else 8)
    assert not [note for note in notes if "graph" in note and "so far" not in note]


def test_there_are_capturable_strategies() -> None:
    expected = {"lwf", "lwf_mc", "ewc", "mas", "l2_sp", "replay", "feature_distillation", "lfl", "podnet", "lucir"}
    assert set(CAPTURABLE) == expected | {"attention_distillation"}


class Inherited(lwf.LwFPlugin):
    """It has another hook than its base, so it must declare for itself."""

    def after_update(self, learner: Any, **kwargs: Any) -> None:
        """Do nothing."""


class Reading(Plugin):
    """Declares what is not true."""

    capturable = True

    def before_backward(self, learner: Any, **kwargs: Any) -> None:
        learner.loss = learner.loss * (1.0 if learner.loss.item() > -1 else 2.0)


def test_without_the_declaration_nothing_is_recorded_and_a_note_says_why() -> None:
    experiment = short_experiment(PICTURES, NETWORKS[0], {"si": {}}, epochs=2, batch_size=9)
    plain, (compiled, num_replayed, notes) = curve(experiment, False), curve(experiment, True)
    assert same(compiled, plain[0]) and num_replayed == 0
    text = "training.compile=graph: runs without a graph: si may decide something on the host in each iteration"
    assert notes == [text, text]  # one per experience
    assert is_capturable(lwf.LwFPlugin(lwf.Config(), 0)) and not is_capturable(Inherited(lwf.Config(), 0))


def test_what_waits_for_the_device_falls_back_to_usual_iterations() -> None:
    experiment = short_experiment(PICTURES, NETWORKS[0], epochs=2, batch_size=9)
    plain = curve(experiment, False, [Reading()])
    with pytest.warns(RuntimeWarning, match="experience 1 runs without a graph: aten._local_scalar_dense"):
        compiled, num_replayed, _ = curve(experiment, True, [Reading()])
    assert num_replayed == 0 and same(compiled[1:], plain[0][1:])


# Waiting for a GPU: torch's meta device stands for it

WAIT = {"gem": "gem.py"}  # it solves a small problem on the host in each iteration


def mostly_slow(names: list[str], fast: set[str]) -> list[Any]:
    """Return the names; those that are not in `fast` are slow."""
    return [pytest.param(name, marks=[] if name in fast else [pytest.mark.slow], id=name) for name in names]


@pytest.mark.filterwarnings("ignore:.*meta parameter")
@pytest.mark.parametrize("name", mostly_slow(NAMES, {"gem", "icarl", "der", "agem", "freezing"}))
def test_no_iteration_waits_for_the_device(name: str) -> None:
    waits, copies = waits_of(short(name, batch_size=8))
    if name in WAIT:
        assert waits and all(WAIT[name] in text for text in waits)
    else:
        assert waits == []
    assert not copies or name not in CAPTURABLE


@pytest.mark.parametrize(
    "act",
    [
        lambda learner: learner.loss.item(),
        lambda learner: bool(learner.mb_output.sum() > 0),
        lambda learner: learner.mb_y.nonzero(),
        lambda learner: learner.mb_output[learner.mb_y > 0],
        lambda learner: learner.mb_output[[0, 1]],
        lambda learner: torch.tensor([1.0, 2.0], device=learner.device),
        lambda learner: torch.ones(3).to(learner.device),
        lambda learner: learner.mb_output.cpu(),
    ],
)
@pytest.mark.filterwarnings("ignore:.*meta parameter")
def test_what_waits_is_found(act: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        lwf.LwFPlugin, "after_backward", lambda self, learner, **kwargs: learner.device.type == "cpu" or act(learner)
    )
    waits, _ = waits_of(short_experiment(PICTURES, NETWORKS[0], {"lwf": {}}, batch_size=8))
    assert waits and "test_gpu.py" in waits[0]


# Errors


def test_a_diverging_trial_on_a_gpu_fails_at_the_end_of_the_epoch() -> None:
    """Losses are summed on the device, and read once per epoch."""
    diverging = {"lr": 1e30, "clip": None}
    builder = build_trial(resolve_experiment(short_experiment(PICTURES, CNN, epochs=2, optimizer=diverging)))
    learner = builder.learner(lambda learner: None, lambda text: None)
    learner.reads_losses = False
    with pytest.raises(FloatingPointError, match=r"in experience 1, epoch 1, by iteration 3 \(a GPU's losses"):
        learner.train_experience(0)
    assert learner.clock.train_exp_epochs == 0  # before strategies act on the epoch, and before a checkpoint


def test_a_full_gpu_is_explained(quick_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plugins import acting

    def fill(learner: Any) -> None:
        if learner.clock.train_iterations == 1:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 is full. Including more."
            )

    monkeypatch.setattr(acting, "CALL", [fill])
    experiment = short_experiment(PICTURES, NETWORKS[0], {"plugins.acting": {"what": "call"}})
    shared = replace(experiment, resources=Resources(gpus=0.25))
    with pytest.raises(torch.OutOfMemoryError) as raised:
        with monkeypatch.context() as patch:
            patch.setattr("retain.platform.trial.builder.device_of", lambda resources: torch.device("cpu"))
            run(shared, quick_folder / "full")
    message = str(raised.value)
    assert message.startswith("the GPU's memory is full in experience 1, iteration 2: lower training.batch_size=16")
    assert (
        "raise resources.gpus=0.25" in message
        and "Tried to allocate 20.00 GiB" in message
        and "Including" not in message
    )
    assert "memory is full" in str(Trial(quick_folder / "full").status().error)


class Heavy(torch.nn.Linear):
    """A network that does not fit."""

    def to(self, *arguments: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_a_network_that_does_not_fit_is_explained() -> None:
    experiment = short_experiment(PICTURES, NETWORKS[0])
    stream = build_trial(resolve_experiment(experiment)).stream
    with pytest.raises(torch.OutOfMemoryError, match="the GPU's memory is full: lower training.batch_size=16 or"):
        with explain_out_of_memory(experiment):
            Learner(model=Heavy(64, 2), stream=stream, training=experiment.training)


class _NoProjection(GradientProjectionPlugin[Any]):
    def reference(self, learner: Any) -> torch.Tensor:
        return torch.full((6,), torch.inf)

    def project(self, gradient: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return torch.full_like(gradient, torch.nan)


def test_a_gradient_that_is_not_finite_is_not_projected() -> None:
    """Without reading whether it is: that would wait for a GPU."""
    learner = type("Learner", (), {"model": torch.nn.Linear(2, 2)})()
    learner.model(torch.ones(1, 2)).sum().backward()
    before = learner.model.weight.grad.clone()
    plugin = _NoProjection(gem.Config(), 0)
    plugin._reference = plugin.reference(learner)
    plugin.after_backward(learner)
    assert torch.equal(learner.model.weight.grad, before)
    infinite = torch.tensor([1.0, torch.inf])
    assert torch.equal(gem.project_gradient(infinite, -torch.ones(2, 2), 0.5), infinite)


# channels_last


def test_convolutions_get_the_layout_and_checkpoints_keep_it() -> None:
    experiment = short_experiment(PICTURES, CNN, channels_last=True, optimizer={"reset": False})
    builder = build_trial(resolve_experiment(experiment))
    learner = builder.learner(lambda learner: None, lambda text: None)
    learner.train_experience(0)
    convolutions = [each for each in learner.model.parameters() if each.ndim == 4]
    assert convolutions
    tensors: dict[str, torch.Tensor] = {}
    state = learner_state.capture(learner)
    loaded = unflatten(flatten(state, tensors), {name: tensor.clone() for name, tensor in tensors.items()})
    for each in convolutions:
        assert each.stride() == torch.empty(each.shape, memory_format=torch.channels_last).stride()
    strides = {name: tensor.stride() for name, tensor in state["model"].items()}
    assert {name: tensor.stride() for name, tensor in loaded["model"].items()} == strides
    assert all(tensor.is_contiguous() for tensor in tensors.values())  # what safetensors can write
    momentum = [each["momentum_buffer"] for each in loaded["optimizer"]["state"].values()]
    saved = [each["momentum_buffer"] for each in state["optimizer"]["state"].values()]
    assert [each.stride() for each in momentum] == [each.stride() for each in saved]


@pytest.mark.parametrize("strategies", [{"lwf": {}, "replay": {"memory": 20}}, {"ema": {}}])
def test_channels_last_stopped_and_resumed(strategies: dict[str, Any], quick_folder: Path) -> None:
    folder = quick_folder / f"layout-{'-'.join(strategies)}"
    folder.mkdir()
    experiment = short_experiment(PICTURES, CNN, strategies, channels_last=True, epochs=2, batch_size=9)
    strategy.check_resume_mid_experience(experiment, Trials(folder))


def test_older_checkpoints_have_no_layout() -> None:
    tensors = {"0:": torch.ones(2, 3, 4, 4)}
    assert unflatten({"__tensor__": "0:"}, tensors) is tensors["0:"]
    plain: dict[str, torch.Tensor] = {}
    assert flatten(torch.ones(2, 3, 4, 4), plain) == {"__tensor__": "0:"}


# torch.compile


@pytest.fixture
def _recursion_limit() -> Iterator[None]:
    """Restore what torch's compiler raises when it is imported."""
    limit = sys.getrecursionlimit()
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.slow
@pytest.mark.usefixtures("_recursion_limit")
def test_inductor_gives_the_curve_and_resumes_with_the_same_bits(quick_folder: Path) -> None:
    """A compiled network rounds differently; a trial that is stopped and resumed is compiled in the same way again."""
    folder = quick_folder / "inductor"
    folder.mkdir()
    trials = Trials(folder)
    plain = short_experiment(PICTURES, NETWORKS[0], {"lwf": {}}, epochs=2, batch_size=9)
    compiled = replace(plain, training=replace(plain.training, compile="inductor"))
    losses = [
        [event["loss"] for event in trials(each).events if event["kind"] == "epoch"] for each in (plain, compiled)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    strategy.check_resume_mid_experience(compiled, trials)


@pytest.mark.slow
@pytest.mark.usefixtures("_recursion_limit")
def test_inductor_leaves_networks_alone_that_a_strategy_watches() -> None:
    experiment = short_experiment(PICTURES, CNN, {"feature_distillation": {}}, compile="inductor")
    notes: list[str] = []
    learner = build_trial(resolve_experiment(experiment)).learner(lambda learner: None, notes.append)
    for number in range(2):
        learner.train_experience(number)
    assert notes == ["training.compile=inductor: runs without, since a strategy watches layers: head"]
