"""Probes: each changes nothing, is recorded exactly once, and agrees with values by hand or by another formula."""

import base64
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from retain.platform import seeding
from retain.platform.config import registry
from retain.platform.config.load import from_dict, to_dict
from retain.platform.config.schema import Experiment
from retain.platform.contract.outcome import Outcome, differences, outcome, same
from retain.platform.data.cache import DataFolders
from retain.platform.data.samples import gather_parts
from retain.platform.data.streams import Stream
from retain.platform.errors import UserError
from retain.platform.ledger.reader import Trial
from retain.platform.models.features import select_layers
from retain.platform.models.inference import evaluation_mode
from retain.platform.reporting import charts, probe_section
from retain.platform.reporting.html_report import report
from retain.platform.reporting.results import results_of
from retain.platform.reporting.rows import row_of
from retain.platform.seeding import generator
from retain.platform.training.evaluation import TestSet
from retain.platform.training.learner import Learner
from retain.platform.training.probes import cka, curves, evaluate_on, stability_gap, worst_errors
from retain.platform.training.probes._base import Probe, ProbeContext
from retain.platform.training.probes._representation import (
    effective_rank,
    gram,
    layer_features,
    linear_cka,
    linear_probe,
)
from retain.platform.training.probes._samples import accuracies
from retain.platform.trial.builder import build_trial
from retain.platform.trial.probe_runner import ProbeRunner
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.run import run as run_trial
from retain.platform.trial.stop_request import Stopped

Make = Callable[..., Experiment]
Build = Callable[..., Stream]
NAMES = registry.names("probes")
SETTINGS: dict[str, dict[str, Any]] = {  # required settings, and those that make a probe measure often in a short trial
    "curves": {"every": 1},
    "stability_gap": {"every": 4, "samples": 20},
    "evaluate_on": {"streams": [{"rotated_digits": {"angles": [45]}}]},
}
OFF: dict[str, Any] = {"curves": {"every": None}}
ALL = {name: SETTINGS.get(name, {}) for name in NAMES}


@pytest.fixture(scope="module")
def folder(quick_folder: Path) -> Path:
    """Return a folder for trials."""
    path = quick_folder / "probes"
    path.mkdir()
    return path


def run(config: Experiment, folder: Path) -> Outcome:
    """Run a trial and read its results."""
    run_trial(config, folder)
    return outcome(folder)


def without(result: Outcome) -> Outcome:
    """Return the outcome without the events that probes add to the ledger."""
    added = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "generalisation_gap")
    events = [{k: v for k, v in event.items() if k not in added} for event in result.events if event["kind"] != "probe"]
    return replace(result, events=events)


def found_by(result: Outcome, name: str, after: bool = True) -> list[dict[str, Any]]:
    """Return the values of a probe's events, in order."""
    return [event["values"] for event in result.events if event.get("probe") == name and event["after"] is after]


# Laws for every file in platform/training/probes.


@pytest.fixture(scope="module")
def naive(folder: Path, make_experiment: Make) -> dict[str, Outcome]:
    """Run trials without probes."""
    configs = {stream: make_experiment(stream, epochs=2) for stream in ("pair", "rotated")}
    return {stream: run(replace(config, probes=OFF), folder / f"naive-{stream}") for stream, config in configs.items()}


@pytest.mark.parametrize("stream", ["pair", "rotated"])
@pytest.mark.parametrize("name", NAMES)
def test_a_probe_changes_no_bit(
    name: str, stream: str, naive: dict[str, Outcome], folder: Path, make_experiment: Make
) -> None:
    config = replace(make_experiment(stream, epochs=2), probes={**OFF, name: SETTINGS.get(name, {})})
    result = run(config, folder / f"{name}-{stream}")
    assert result.events != naive[stream].events, "it has looked"
    assert differences(without(result), naive[stream]) == []


def test_all_probes_change_no_state_at_any_hook(make_experiment: Make, tmp_path: Path) -> None:
    """Parameters, gradients, flags, hooks, optimizer, clock and generators are compared before and after every measurement."""
    config = resolve_experiment(replace(make_experiment("rotated"), probes=ALL))
    parts = build_trial(config)
    probes, different = ProbeRunner(parts.probes(tmp_path)), list[str]()

    def state(learner: Learner) -> dict[str, Any]:
        model = learner.model
        kinds = [key for key in vars(nn.Module()) if key.endswith("_hooks")]
        return {
            "model": {name: tensor.clone() for name, tensor in model.state_dict().items()},
            "gradients": [p.grad is not None and p.grad.clone() for p in model.parameters()],
            "flags": [(m.training, *(len(getattr(m, kind)) for kind in kinds)) for m in model.modules()],
            "requires_grad": [p.requires_grad for p in model.parameters()],
            "optimizer": json.dumps(learner.optimizer.state_dict(), default=lambda tensor: tensor.tolist()),
            "clock": dict(vars(learner.clock)),
            "random": seeding.capture_generators(),
            "learner": [learner.is_training, learner.samples, id(learner.dataloader), dict(learner.measured)],
        }

    def ask(method: str) -> Callable[..., None]:
        def asked(learner: Learner, *number: int) -> None:
            before = state(learner)
            list(getattr(probes, method)(learner, *number) or ())
            after = state(learner)
            different.extend(f"{method}: {key}" for key in before if not same(before[key], after[key]))

        return asked

    learner = parts.learner(ask("after_epoch"), lambda text: None, ask("between_iterations"))
    for number in range(2):
        ask("before_experience")(learner, number)
        learner.train_experience(number)
        ask("after_experience")(learner, number)
    assert different == []


def test_stopped_mid_experience_and_resumed_each_event_is_recorded_once(folder: Path, make_experiment: Make) -> None:
    flag = folder / "flag"
    strategies = {"plugins.stopper": {"flag": str(flag)}}
    config = replace(make_experiment("split", strategies=strategies), probes=ALL)
    never = run(config, folder / "never")
    flag.write_text(
        "5 9 16 20 36 45"
    )  # mid-epoch, at measurements of stability_gap, at ends of epochs and of experiences
    stops = 0
    while True:
        try:
            run_trial(config, folder / "stopped")
            break
        except Stopped:
            stops += 1
    assert stops == 6
    assert differences(outcome(folder / "stopped"), never) == []
    asked = [
        (event["experience"], event["probe"]) for event in never.events if event["kind"] == "probe" and event["after"]
    ]
    assert asked == [(number, name) for number in range(1, 6) for name in ALL if name != "curves"]
    sheets = sorted(path.name for path in (folder / "never" / "probes").iterdir())
    assert len(sheets) == 10
    assert all(
        (folder / "stopped" / "probes" / n).read_bytes() == (folder / "never" / "probes" / n).read_bytes()
        for n in sheets
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_documented(name: str) -> None:
    module = registry.resolve("probes", name)
    text = module.Config.__doc__ or ""
    assert all(f"    {field.name}: " in text for field in fields(module.Config))


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ({"curves": {"every": 0}}, "probes.curves.every=0: must be an integer above 0 or null"),
        ({"curves": {"samples": -1}}, "probes.curves.samples=-1: must be an integer above 0"),
        ({"curve": {}}, "probes.curve: there is no such name. Did you mean 'curves'?"),
        ({"cka": {"layers": ["trunk.77"]}}, "probes.cka.layers=['trunk.77']: 'trunk.77' fits no layer of the network"),
        ({"effective_rank": {"layers": ["x"]}}, "probes.effective_rank.layers=['x']: 'x' fits no layer"),
        ({"linear_probe": {"layers": ["x"]}}, "probes.linear_probe.layers=['x']: 'x' fits no layer"),
        ({"linear_probe": {"layers": []}}, "probes.linear_probe.layers=[]: must be a list of at least one item"),
        ({"stability_gap": {"every": 0}}, "probes.stability_gap.every=0: must be an integer above 0"),
        ({"worst_errors": {"count": 0}}, "probes.worst_errors.count=0: must be an integer above 0"),
        ({"evaluate_on": {}}, "probes.evaluate_on.streams: is missing"),
        ({"evaluate_on": {"streams": []}}, "probes.evaluate_on.streams=[]: must be a list of at least one item"),
        (
            {"evaluate_on": {"streams": [{"rotated_digits": {"angels": [1]}}]}},
            "probes.evaluate_on.streams[0].rotated_digits.angels: unknown key. Did you mean 'angles'?",
        ),
        ({"evaluate_on": {"streams": ["rotated_digit"]}}, "probes.evaluate_on.streams[0]: "),
    ],
)
def test_invalid_settings_are_refused_before_the_start(
    probes: dict[str, Any], message: str, make_experiment: Make
) -> None:
    with pytest.raises(UserError) as refused:
        build_trial(resolve_experiment(from_dict(to_dict(make_experiment("pair")) | {"probes": probes})))
    assert message in str(refused.value)


def test_a_user_defined_probe(naive: dict[str, Outcome], folder: Path, make_experiment: Make) -> None:
    """It may use global generators; its failure is reported with its name."""
    config = make_experiment("pair", epochs=2)
    result = run(replace(config, probes={**OFF, "plugins.drawing": {}}), folder / "own")
    assert [list(values) for values in found_by(result, "plugins.drawing")] == [["drawn"], ["drawn"]]
    assert differences(without(result), naive["pair"]) == []
    with pytest.raises(ArithmeticError):
        run_trial(replace(config, probes={"plugins.drawing": {"fails": True}}), folder / "fails")
    assert "(in plugins.drawing.Drawing.after_experience, " in str(Trial(folder / "fails").status().error)


# Curves.


def test_curves_are_on_by_default(make_experiment: Make) -> None:
    config = make_experiment("pair")
    assert resolve_experiment(config).experiment.probes == {"curves": {"every": 5, "samples": 500}}
    assert resolve_experiment(replace(config, probes={"cka": {}})).experiment.probes.keys() == {"curves", "cka"}
    off = resolve_experiment(replace(config, probes=OFF))
    assert type(build_trial(off).probes(Path())["curves"]) is Probe


@pytest.mark.parametrize("strategies", [{}, {"cumulative": {}}, {"early_stopping": {"patience": 1}}])
def test_curves_equal_a_pass_over_the_data(strategies: dict[str, Any], make_experiment: Make) -> None:
    """With `samples` above the number of samples: the whole training and validation split, recomputed at the end of the epoch."""
    config = replace(make_experiment("pair", strategies=strategies), probes={"curves": {"every": 1, "samples": 5000}})
    parts = build_trial(resolve_experiment(config))
    probes, compared = ProbeRunner(parts.probes(Path())), 0

    def compare(learner: Learner) -> None:
        nonlocal compared
        values, stream = probes.after_epoch(learner), learner.stream
        number = learner.experience.current_experience
        for side, name in (("train", "train"), ("validation", "validation")):
            used = range(number + 1) if "cumulative" in strategies else [number]
            split = [getattr(stream.experiences[index], side) for index in used]
            x = torch.cat([part.arrays.x[part.indices] for part in split])
            y = torch.cat([part.y for part in split])
            learner.model.eval()
            with torch.no_grad():
                output = learner.model(stream.normalise(x))
            learner.model.train()
            assert values[f"{name}_loss"] == pytest.approx(nn.functional.cross_entropy(output, y).item(), rel=1e-4)
            assert values[f"{name}_accuracy"] == pytest.approx((output.argmax(1) == y).double().mean().item())
        accuracy = learner.measured.get("validation_accuracy", values["validation_accuracy"])
        assert values["generalisation_gap"] == pytest.approx(values["train_accuracy"] - accuracy)
        compared += 1

    learner = parts.learner(compare, lambda text: None)
    for number in range(2):
        learner.train_experience(number)
    assert compared == 2 * config.training.epochs


def test_curves_are_measured_every_n_epochs_and_at_the_last(folder: Path, make_experiment: Make) -> None:
    config = replace(make_experiment("pair", epochs=4), probes={"curves": {"every": 3}})
    epochs = [event for event in run(config, folder / "every").events if event["kind"] == "epoch"]
    assert [event["epoch"] for event in epochs if "train_accuracy" in event] == [3, 4, 3, 4]


def test_without_a_validation_split_there_is_the_training_curve(folder: Path, make_experiment: Make) -> None:
    config = replace(make_experiment("pair"), benchmark={"split_digits": {"num_experiences": 2, "validation": 0.0}})
    epochs = [event for event in run(config, folder / "no-validation").events if event["kind"] == "epoch"]
    assert all("train_accuracy" in event and "validation_accuracy" not in event for event in epochs)


def test_a_class_that_the_head_lacks_is_wrong_and_has_no_loss() -> None:
    output, y = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), torch.tensor([0, 2, 0])
    loss, accuracy, others, none = curves.losses_and_accuracies(output, y, 2)
    assert (accuracy, none) == (0.5, 0.0)
    assert loss == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-5)
    assert others == pytest.approx(math.log(1 + math.exp(2)), rel=1e-5)
    assert math.isnan(curves.losses_and_accuracies(output, y, 3)[2])


# Representations.


def features(n: int, width: int, seed: int = 0) -> torch.Tensor:
    """Return random features (n, width)."""
    return torch.randn(n, width, generator=generator(seed, "test"), dtype=torch.float64)


def test_cka_of_equal_features_is_one_and_invariant_to_rotation_and_scale() -> None:
    x = features(30, 6)
    rotation, _ = torch.linalg.qr(features(6, 6, 1))
    assert linear_cka(gram(x), gram(x)) == pytest.approx(1)
    assert linear_cka(gram(x), gram(3 * x @ rotation + 5)) == pytest.approx(1)
    assert linear_cka(gram(x), gram(x * torch.arange(1, 7))) < 0.95  # not isotropic
    assert math.isnan(linear_cka(gram(x), gram(torch.ones(30, 2))))


def test_cka_by_hand_and_by_the_other_formula() -> None:
    x, y = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]).double(), torch.tensor([[1.0], [-1], [0], [0]]).double()
    assert linear_cka(gram(x), gram(y)) == pytest.approx(
        4 / (math.sqrt(8) * 2)
    )  # |y'x|^2 = 4, |x'x| = sqrt 8, |y'y| = 2
    one, other = features(40, 5), features(40, 7, 1)
    a, b = one - one.mean(0), other - other.mean(0)
    expected = (b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    assert linear_cka(gram(one), gram(other)) == pytest.approx(expected.item())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_effective_rank_of_equal_singular_values_is_their_number(count: int) -> None:
    left, _ = torch.linalg.qr(features(20, count))
    right, _ = torch.linalg.qr(features(8, count, 1))
    assert effective_rank(3 * left @ right.T) == pytest.approx(count)


def test_effective_rank_by_hand_and_of_zeros() -> None:
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]).double())) == pytest.approx(
        math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    )
    x = features(25, 9)
    shares = np.sqrt(np.maximum(np.linalg.eigvalsh((x.T @ x).numpy()), 0))
    shares /= shares.sum()
    assert effective_rank(x) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert math.isnan(effective_rank(torch.zeros(4, 3)))


@pytest.mark.parametrize("width", [20, 300])  # fewer and more features than samples
def test_the_linear_probe_is_scikit_learns_ridge_classifier(width: int) -> None:
    from sklearn.linear_model import RidgeClassifier

    x, y = features(200, width), torch.arange(200) % 4 * 2
    x[:, :4] += 2 * nn.functional.one_hot(y // 2, 4)
    x[:, 5] = 1.0  # a feature that never varies
    train, test = x[:120], x[120:]
    deviation = train.std(0, correction=0)
    deviation[5] = 1
    known, unknown = ((part - train.mean(0)) / deviation for part in (train, test))
    alpha = 0.1 * known.square().sum(1).mean().item()
    expected = RidgeClassifier(alpha=alpha).fit(known.numpy(), y[:120].numpy()).predict(unknown.numpy())
    predicted = linear_probe(train, y[:120], test, 0.1)
    assert predicted.tolist() == expected.tolist()
    assert 0.3 < (predicted == y[120:]).double().mean() < 1


def network(name: str = "small_cnn", **settings: Any) -> nn.Module:
    """Return a network for pictures of 8 x 8."""
    module = registry.resolve("networks", name)
    built: nn.Module = module.build(module.Config(**settings), (1, 8, 8), 4, generator(0, "network"))
    return built


def test_layers_by_default_by_pattern_and_of_other_networks() -> None:
    assert select_layers(network(), None, "layers") == ["trunk.0", "trunk.3", "trunk.7", "features"]
    assert select_layers(network("mlp"), None, "layers") == ["trunk.1", "trunk.3", "features"]
    assert select_layers(network(), ["features", "trunk.[07]"], "layers") == ["trunk.0", "trunk.7", "features"]
    deep = nn.Sequential(*[nn.Linear(4, 4) for _ in range(9)])
    assert select_layers(deep, None, "layers") == ["0", "2", "4", "6", "8", "features"]


def test_captured_outputs_equal_the_layers_outputs_and_no_hook_is_left() -> None:
    model = network()
    x = torch.rand(6, 1, 8, 8, generator=generator(0, "x"))
    with torch.no_grad():
        captured = layer_features(model, ["trunk.0", "features"], x.split(4))
        maps = model.trunk[0](x)
        places = maps.view(6, 16, 4, 2, 4, 2).mean((3, 5))  # 8 x 8 averaged to 4 x 4
        torch.testing.assert_close(captured["trunk.0"], places.flatten(1).double(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(captured["features"], model.features(x).double(), rtol=1e-5, atol=1e-6)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Odd(nn.Module):
    """A network with an activation that runs twice in a pass, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.never, self.again = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.two(self.again(self.one(x))))


def test_layers_that_run_twice_or_never() -> None:
    model, x = Odd(), torch.rand(6, 4, generator=generator(0, "x"))
    assert select_layers(model, ["*"], "layers") == ["one", "two", "never"]
    captured = layer_features(model, ["one", "never", "again"], x.split(4))
    assert set(captured) == {"one", "again"}
    torch.testing.assert_close(captured["again"], model(x).detach().double())


def test_a_diverged_network_has_undefined_values(make_experiment: Make) -> None:
    assert math.isnan(effective_rank(torch.tensor([[1.0, math.inf], [0.0, 1.0]])))
    learner, context = learner_of(make_experiment)
    learner.train_experience(0)
    with torch.no_grad():
        learner.model.trunk[1].bias.fill_(math.inf)
    probe = registry.resolve("probes", "linear_probe")
    with evaluation_mode(learner.model):
        values = probe.build(probe.Config(samples=20), context).after_experience(learner, 0)
    assert [math.isnan(value) for value in values.values()] == [True]


def learner_of(make_experiment: Make, stream: str = "split", **training: Any) -> tuple[Learner, ProbeContext]:
    """Return a learner before its first experience, and the context that its probes are built for."""
    parts = build_trial(resolve_experiment(make_experiment(stream, **training)))
    learner = parts.learner(lambda learner: None, lambda text: None)
    return learner, ProbeContext(parts.stream, 0, DataFolders.of(), Path())


def test_cka_compares_an_experiences_start_with_its_end(make_experiment: Make) -> None:
    """It is 1 if nothing was trained, and for a network whose weights were restored."""
    learner, context = learner_of(make_experiment)
    probe = cka.build(cka.Config(samples=40), context)
    with torch.no_grad():
        probe.before_experience(learner, 1)
        again = cka.build(cka.Config(samples=40), context)
        again.load_state_dict(probe.state_dict())
        assert probe.after_experience(learner, 1) == pytest.approx(
            {f"{layer}/{side}": 1.0 for layer in ("trunk.1", "features") for side in ("old", "new")}
        )
        assert probe.state_dict() == {}
    learner.train_experience(0)
    learner.train_experience(1)
    with torch.no_grad():
        changed = again.after_experience(learner, 1)
    assert all(0 < value < 0.999 for value in changed.values())


# Other streams, the stability gap, the worst errors.


def test_evaluation_on_the_trials_stream_equals_the_matrix(folder: Path, make_experiment: Make) -> None:
    """Classes are matched by name in any order: one stream has another class order, the other has all classes at once."""
    order = [7, 3, 1, 0, 9, 2, 5, 4, 8, 6]
    own = {"split_digits": {"class_order": order}}
    other = {"split_digits": {"class_order": order[::-1]}}
    config = replace(make_experiment("split"), benchmark=own, probes={"evaluate_on": {"streams": [own, other]}})
    result = run(config, folder / "matrix")
    matrix = result.matrices["task_agnostic"]
    for row, values in enumerate(found_by(result, "evaluate_on"), 1):
        first = [values[f"split_digits/experience_{i:02d}"] for i in range(1, 6)]
        second = [values[f"split_digits_2/experience_{i:02d}"] for i in range(5, 0, -1)]
        np.testing.assert_allclose(np.array(first, dtype=float), matrix[row])
        np.testing.assert_allclose(np.array(second, dtype=float), matrix[row])


def test_classes_that_the_stream_lacks_count_as_wrong(tiny_stream: Build) -> None:
    ours = tiny_stream("class", 2)  # a, b; c, d
    theirs = replace(tiny_stream("class", 3), class_names=("d", "x", "a", "b", "y", "z"))
    stream = evaluate_on.match_classes(theirs, ours)
    assert stream.class_names == ("a", "b", "c", "d", "x", "y", "z")
    assert [experience.classes for experience in stream.experiences] == [(3, 4), (0, 1), (5, 6)]
    test_set = TestSet(stream, torch.device("cpu"))
    perfect = nn.functional.one_hot(test_set.y, 7)[:, :4].float()
    assert test_set.row(perfect).task_agnostic == pytest.approx([0.5, 1.0, math.nan], nan_ok=True)


def test_a_stream_of_another_shape_or_without_a_common_class_is_refused(make_experiment: Make, tmp_path: Path) -> None:
    own = build_trial(resolve_experiment(make_experiment("pair"))).stream
    config = evaluate_on.Config(streams=("rotated_digits",))
    renamed = replace(own, class_names=tuple(f"class {i}" for i in range(10)))
    for stream, message in (
        (renamed, "has no class of the trial's stream: 0, 1"),
        (replace(own, shape=(3, 9, 9)), "its samples have the shape [1, 8, 8], the trial's [3, 9, 9]"),
    ):
        with pytest.raises(UserError, match=re.escape(f"probes.evaluate_on.streams[0].rotated_digits: {message}")):
            evaluate_on.build(config, ProbeContext(stream, 0, DataFolders.of(), tmp_path))


class FakeLearner:
    """The parts of a learner that stability_gap needs, with the accuracies that it shall measure."""

    def __init__(self) -> None:
        self.clock = self.experience = self
        self.train_exp_iterations = self.current_experience = 0


def test_the_stability_gap_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """min-ACC over measurements since each was learned, without an experience's first; resumed in the middle of the third."""
    probe = stability_gap.StabilityGap(stability_gap.Config(), 0)
    measured: dict[int, float] = {}
    monkeypatch.setattr(stability_gap.StabilityGap, "_look", lambda self, learner, number: dict(measured))
    learner = FakeLearner()

    def during(number: int, iterations: int, *accuracies: float) -> None:
        measured.clear()
        measured.update(enumerate(accuracies))
        learner.current_experience, learner.train_exp_iterations = number, iterations
        probe.during(learner)

    def after(number: int, *accuracies: float) -> Any:
        measured.clear()
        measured.update(enumerate(accuracies))
        return probe.after_experience(learner, number)

    during(0, 10, 0.1)
    assert after(0, 0.9) == {"experience_01": 0.9, "min_acc": None, "wc_acc": 0.9}
    during(1, 0, 0.05, 0.0)  # before the first iteration
    during(1, 10, 0.2, 0.3)
    during(1, 20, 0.6, 0.5)
    second = after(1, 0.7, 0.8)
    assert (second["min_acc"], second["wc_acc"]) == pytest.approx((0.2, 0.8 / 2 + 0.2 / 2))
    during(2, 10, 0.4, 0.1, 0.0)
    state = json.loads(json.dumps(probe.state_dict()["least"]))
    probe = stability_gap.StabilityGap(stability_gap.Config(), 0)
    probe.load_state_dict({"least": {int(key): value for key, value in state.items()}})
    third = after(2, 0.5, 0.6, 0.9)
    assert (third["min_acc"], third["wc_acc"]) == pytest.approx(((0.2 + 0.1) / 2, 0.9 / 3 + 2 / 3 * 0.15))


def test_the_stability_gap_ends_at_the_matrix_values(folder: Path, make_experiment: Make) -> None:
    """With `samples` above the number of samples, measurements after an experience equal the matrix's row."""
    probes = {"stability_gap": {"every": 5, "samples": 9999}}
    result = run(replace(make_experiment("split"), probes=probes), folder / "gap")
    for row, values in enumerate(found_by(result, "stability_gap"), 1):
        measured = [values[f"experience_{number:02d}"] for number in range(1, row + 1)]
        np.testing.assert_allclose(measured, result.matrices["task_agnostic"][row, :row], rtol=1e-6)
    looks = [event["iteration"] for event in result.events if event.get("after") is False]
    assert looks[:3] == [0, 5, 10] and len(set(looks)) == len(looks)


def test_with_a_given_task_only_its_classes_are_predicted(make_experiment: Make) -> None:
    """As in the matrix: the accuracies equal those of its task-aware view."""
    learner, _ = learner_of(make_experiment)
    for number in range(3):
        learner.train_experience(number)
    tests = [(number, experience.test) for number, experience in enumerate(learner.stream.experiences[:3])]
    subset = gather_parts(learner.stream, tests, learner.device)
    by_scenario = {}
    row = learner.evaluate()
    for scenario in ("class", "task"):
        learner.stream = replace(learner.stream, scenario=scenario)
        with evaluation_mode(learner.model):
            by_scenario[scenario] = accuracies(learner, subset, [0, 1, 2])
    assert by_scenario["class"] == pytest.approx(row.task_agnostic[:3])
    assert by_scenario["task"] == pytest.approx(row.task_aware[:3])
    assert by_scenario["class"] != by_scenario["task"]


def test_the_worst_errors_are_the_most_confident_ones(make_experiment: Make, tmp_path: Path) -> None:
    from PIL import Image

    learner, context = learner_of(make_experiment)
    learner.train_experience(0)
    learner.train_experience(1)
    probe = worst_errors.build(worst_errors.Config(count=5), replace(context, folder=tmp_path / "probes"))
    with torch.no_grad():
        values = probe.after_experience(learner, 1)
        parts = [learner.stream.experiences[i].test for i in range(2)]
        x, y = torch.cat([p.arrays.x[p.indices] for p in parts]), torch.cat([p.y for p in parts])
        shares = learner.model.eval()(learner.stream.normalise(x)).softmax(1)
    confidence, predicted = shares.max(1)
    wrong = predicted != y
    best = confidence[wrong].sort(descending=True).values[:5]
    document = json.loads((tmp_path / "probes" / "worst_errors-002.json").read_text())
    assert [error["probability"] for error in document["errors"]] == pytest.approx(best.tolist(), abs=1e-4)
    assert all(error["true"] != error["predicted"] for error in document["errors"])
    assert values["errors"] == pytest.approx(wrong.double().mean().item())
    assert values["confidence"] == pytest.approx(best.mean().item(), rel=1e-5)
    with Image.open(tmp_path / "probes" / "worst_errors-002.png") as picture:
        assert picture.size == (5 * 80, 108) and picture.format == "PNG"


def test_the_pictures_on_a_sheet_are_those_of_the_data(tiny_stream: Build) -> None:
    stream = tiny_stream()
    stored = stream.experiences[0].test.arrays.x[:3]
    colours = worst_errors.to_colours(stream, stream.normalise(stored))
    assert torch.equal(colours[..., 0], stored[:, 0]) and torch.equal(colours[..., 2], stored[:, 0])


# Rows for dashboards.


def test_rows_of_probes_have_a_separate_axis_and_increasing_keys() -> None:
    about = {"kind": "probe", "experience": 2, "iteration": 40, "probe": "cka", "order": 1, "seconds": 0.5}
    epoch = {"kind": "epoch", "experience": 2, "iteration": 40, "epoch": 4, "validation_accuracy": 0.5}
    experience = {"kind": "experience", "experience": 2, "iteration": 40}
    during = row_of({**about, "after": False, "values": {"experience_01": 0.25}})
    after = row_of({**about, "after": True, "values": {"features/old": 0.5, "features/new": None}})
    rows = [
        row_of(epoch),
        during,
        row_of(experience),
        after,
        row_of({**about, "order": 2, "after": True, "values": {}}),
    ]
    assert during is not None and after is not None
    assert (during.axis, during.step) == ("iteration", 40)
    assert during.values == {"probe_during/cka/experience_01": 0.25, "probe_during/cka/seconds": 0.5}
    assert (after.axis, after.step) == ("experience", 2)
    assert after.values == {"probe/cka/features/old": 0.5, "probe/cka/seconds": 0.5}
    keys = [row.key for row in rows if row is not None]
    assert keys == sorted(set(keys)) and len(keys) == 5


# The report.

EVIL = "</script><img src=x onerror=alert(1)>\"'&{$title}"


@pytest.fixture(scope="module")
def reported(folder: Path, make_experiment: Make) -> Path:
    """Run a trial with every probe, of a variant with HTML in its name."""
    config = replace(make_experiment("pair", epochs=2), probes=ALL)
    identity = {"id": "evil", "variant": EVIL, "stream": "s", "seed": 0, "overrides": {}}
    return run_trial(config, folder / "reported", identity=identity).folder


def test_the_report_shows_every_probe_and_the_sheet(reported: Path, tmp_path: Path) -> None:
    page = report([reported], tmp_path / "one.html").read_text()
    for name in NAMES:
        assert (f"Probe: {name.replace('_', ' ')}<" in page) is (name != "curves")
    assert all(f"Training: {title}<" in page for title in ("loss", "accuracy", "generalisation gap"))
    assert "<b><bdi>trunk.1/old</bdi></b>" in page and "<b><bdi>experience_02, first seed</bdi></b>" in page
    pictures = re.findall('<img alt="([^"]*)" src="data:image/png;base64,([^"]*)">', page)
    sheet = (reported / "probes" / "worst_errors-002.png").read_bytes()
    assert [base64.b64decode(data) for _, data in pictures] == [sheet]
    assert re.match(r"Worst errors after experience 2: \d taken for \d \(\d+\.\d%\); ", pictures[0][0])
    assert report([reported], tmp_path / "two.html").read_text() == page
    assert "<img src=x" not in page.replace("\\u003c", "")


def test_charts_of_probes_hold_the_numbers_of_the_ledger(reported: Path, tmp_path: Path) -> None:
    html = report([reported], tmp_path / "page.html").read_text()
    panel = html[html.index("<b><bdi>trunk.1/new</bdi></b>") :]
    figure = json.loads(re.search(r'application/json">(.*?)</script>', panel)[1])  # type: ignore[index]
    expected = [values["trunk.1/new"] for values in found_by(outcome(reported), "cka")]
    assert figure["data"][-1]["x"] == [1, 2]
    assert figure["data"][-1]["y"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("what", ["text", "large", "odd json", "no json"])
def test_an_invalid_image_sheet_is_not_shown(what: str, reported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(reported, copy)
    for number in (1, 2):
        path = copy / "probes" / f"worst_errors-00{number}.png"
        if what == "text":
            path.write_text("<script>alert(1)</script>")
        elif what == "large":
            path.write_bytes(path.read_bytes() + bytes(2**23))
        elif what == "odd json":
            path.with_suffix(".json").write_text("[1]")
        else:
            path.with_suffix(".json").unlink()
    page = report([copy], tmp_path / "page.html").read_text()
    assert (page.count("<img alt=") == 0) is (what in ("text", "large"))
    assert ("cannot be read" in page) is ("json" in what)


def test_malformed_events_are_left_out(reported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(reported, copy)
    odd: list[dict[str, Any]] = [
        {"values": None},
        {"values": {"x": "1e3"}, "after": True},
        {"probe": EVIL, "after": True, "values": {EVIL: 0.5}},
    ]
    lines = [json.dumps({"kind": "probe", "experience": 1, "iteration": 1, **event}) + "\n" for event in odd]
    with (copy / "metrics.jsonl").open("a") as file:
        file.writelines(lines)
    results = results_of([reported])
    shown = [replace(result, trial=Trial(copy)) for result in results]
    cards = probe_section.probe_cards({EVIL: shown}, charts.variant_styles(results))
    assert [chart.title for card in cards if card.title == EVIL for chart in card.charts] == [EVIL]
    assert [row_of(json.loads(line)) is not None for line in lines] == [True] * 3
