"""Trials that use nothing of Avalanche's run without importing it, with the same bits as on Avalanche's template."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import lean_trial
from torch.optim.optimizer import register_optimizer_step_post_hook

from retain.platform.config import registry
from retain.platform.config.load import to_dict
from retain.platform.config.schema import Experiment
from retain.platform.config.yaml_files import dump_yaml
from retain.platform.contract.outcome import assert_same, outcome, same
from retain.platform.data.stream_benchmark import StreamBenchmark
from retain.platform.data.streams import Stream
from retain.platform.training import learner_state
from retain.platform.training.avalanche_learner import AvalancheLearner
from retain.platform.training.learner import Learner
from retain.platform.training.optimizers import SGD, Adam, AdamW
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.run import run

Make = Callable[..., Experiment]
NOTHING_BLOCKED = "[]\n"


def lean_run(config: Path, folder: Path, *stop: str) -> subprocess.CompletedProcess[str]:
    """Run a trial in a new process in which the heavy packages cannot be imported."""
    command = [sys.executable, lean_trial.__file__, str(config), str(folder), *stop]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_trial_runs_stops_and_resumes_without_heavy_packages(make_experiment: Make, quick_folder: Path) -> None:
    folder = quick_folder / "lean"
    folder.mkdir()
    experiment = make_experiment(
        "pair", strategies={"lwf": {}, "replay": {"memory": 20}, "early_stopping": {"patience": 1}}
    )
    run(experiment, folder / "here")  # it also prepares the data
    config = folder / "config.yaml"
    config.write_text(dump_yaml(to_dict(experiment)))
    whole = lean_run(config, folder / "whole")
    assert (whole.returncode, whole.stdout) == (0, NOTHING_BLOCKED), whole.stderr
    stopped = lean_run(config, folder / "stopped", "stop")
    assert stopped.returncode not in (0, 1) and stopped.stdout == NOTHING_BLOCKED, stopped.stderr
    resumed = lean_run(config, folder / "stopped")
    assert (resumed.returncode, resumed.stdout) == (0, NOTHING_BLOCKED), resumed.stderr
    for name in ("whole", "stopped"):
        assert_same(outcome(folder / name), outcome(folder / "here"))


@pytest.mark.parametrize("name", registry.names("strategies"))
def test_both_learners_give_the_same_bits(name: str, make_experiment: Make) -> None:
    """Training, evaluation and the state that a checkpoint holds: so the laws that hold for one hold for the other."""
    builder = build_trial(resolve_experiment(make_experiment("pair", strategies={name: {}})))
    states = []
    for kind in (Learner, AvalancheLearner):
        torch.manual_seed(0)
        arguments = {"seed_data": builder.seeds.data, "seed_initialisation": builder.seeds.initialisation}
        learner = kind(
            model=builder.network(),
            stream=builder.stream,
            training=builder.config.training,
            plugins=builder.plugins(),
            **arguments,
        )
        for number in range(len(builder.stream.experiences)):
            if learner.should_train(number):
                learner.train_experience(number)
        states.append(({**learner_state.capture(learner), "random": None}, learner.logits()))
    assert same(states[0], states[1])


def test_both_benchmarks_have_the_same_attributes(make_experiment: Make) -> None:
    """What plugins look at in an experience, in all three parts."""
    from retain.platform.data.avalanche_export import avalanche_benchmark

    stream: Stream = build_trial(resolve_experiment(make_experiment("pair"))).stream
    ours, theirs = StreamBenchmark(stream), avalanche_benchmark(stream)
    for name in ("train_stream", "valid_stream", "test_stream"):
        pairs = list(zip(getattr(ours, name), theirs.streams[name.removesuffix("_stream")], strict=True))
        assert len(pairs) == len(stream.experiences)
        for own, other in pairs:
            for attribute in ("current_experience", "classes_in_this_experience", "task_label", "task_labels"):
                assert getattr(own, attribute) == getattr(other, attribute)
            for attribute in ("previous_classes", "classes_seen_so_far", "future_classes"):
                assert set(getattr(own, attribute)) == set(getattr(other, attribute))
            assert list(own.dataset.targets) == list(other.dataset.targets)
            assert list(own.dataset.targets_task_labels) == list(other.dataset.targets_task_labels)
            assert own.origin_stream.benchmark is ours and own.benchmark is ours


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (SGD, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
        (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (Adam, torch.optim.Adam, {"weight_decay": 0.01}),
        (AdamW, torch.optim.AdamW, {}),
    ],
)
def test_optimizers_equal_torchs_to_the_bit(ours: Any, theirs: Any, settings: dict[str, Any]) -> None:
    """With groups, a parameter that joins, clipped gradients, and a state that is saved and loaded."""

    def trained(kind: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3), torch.nn.Linear(3, 3))
        optimizer = kind(
            [{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": 0.01}], lr=0.1, **settings
        )
        optimizer.add_param_group({"params": list(net[3].parameters())})
        for step in range(20):
            optimizer.zero_grad()
            net(torch.randn(8, 5)).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            if step == 7:
                optimizer.load_state_dict(optimizer.state_dict())
        return [parameter.detach() for parameter in net.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(trained(ours), trained(theirs), strict=True))
    assert issubclass(ours, theirs)


@pytest.mark.parametrize(("ours", "theirs"), [(SGD, torch.optim.SGD), (Adam, torch.optim.Adam)])
def test_optimizers_call_hooks_and_label_a_profile_as_torchs_do(ours: Any, theirs: Any) -> None:
    """Hooks of the optimizer and of all optimizers; the names in a profile; gradients that are set to zero."""

    def observed(kind: Any) -> list[Any]:
        weight = torch.nn.Parameter(torch.ones(2))
        optimizer, seen = kind([weight], lr=0.1), []
        optimizer.step()
        handles = [
            optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
            optimizer.register_step_post_hook(lambda *_: seen.append("after")),
        ]
        optimizer.step()
        for handle in handles:
            handle.remove()
        handle = register_optimizer_step_post_hook(lambda *_: seen.append("any"))
        optimizer.step()
        handle.remove()
        optimizer.step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            optimizer.zero_grad()
            optimizer.step()
        weight.grad = torch.ones(2)
        optimizer.zero_grad(set_to_none=False)
        names = sorted(event.name for event in profile.events() if event.name.startswith("Optimizer."))
        return [seen, names, weight.grad.tolist(), optimizer.step(closure=lambda: 3.0)]

    assert observed(ours) == observed(theirs)
    assert observed(ours)[0] == ["before", "after", "any"]
