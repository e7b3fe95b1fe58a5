"""Combinations of strategies and settings that could silently do something unexpected: each works or is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from retain.platform.errors import UserError
from retain.platform.methods import per_sample_gradients
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.run import run as run_trial
from retain.strategies import agem, lora


@pytest.mark.parametrize(
    ("strategies", "message"),
    [
        ({"l2p": {}, "bitfit": {}}, "l2p and bitfit cannot run together: each freezes"),
        ({"lora": {}, "coda_prompt": {}}, "cannot run together: each freezes"),
        ({"gdumb": {}, "lwf": {}}, "gdumb and lwf cannot run together: gdumb starts the network afresh"),
        ({"freezing": {}, "gdumb": {}}, "cannot run together: gdumb starts the network afresh"),
        ({"wa": {}, "cosine_head": {}}, "a cosine head scales its rows to length 1"),
        ({"cosine_head": {}, "head_init": {"rows": "zero"}}, "head_init.rows=zero: a cosine head"),
        ({"continual_norm": {}, "batchnorm_per_experience": {}}, "its statistics are taken after its GroupNorm"),
        ({"forgetting_stop": {}, "joint": {}}, "no past for forgetting_stop to use"),
        ({"feature_distillation": {"layers": ["*"]}}, "fits 'head'; outputs are what lwf distils"),
    ],
)
def test_refused_before_the_start(strategies: dict[str, Any], message: str, make_experiment: Any) -> None:
    with pytest.raises(UserError, match=message):
        build_trial(resolve_experiment(make_experiment("rotated", strategies=strategies)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("renamed_role", "ROLES has 'loss of its own': it was renamed to 'second loss'"),
        ("unknown_role", "ROLES has 'memry': must be one of criterion, "),
        ("renamed_hook", "Mine.trains_on: it was renamed to should_train"),
    ],
)
def test_old_names_in_a_module_of_the_user_are_refused(name: str, message: str, make_experiment: Any) -> None:
    """A role or hook that nothing asks for would silently do nothing."""
    with pytest.raises(UserError, match=message):
        build_trial(resolve_experiment(make_experiment(strategies={f"plugins.refused.{name}": {}})))


def test_the_old_name_of_the_mask_is_refused(make_experiment: Any) -> None:
    """Also where code asks first whether it is there."""
    builder = build_trial(resolve_experiment(make_experiment()))
    learner = builder.learner(lambda learner: None, lambda text: None)
    with pytest.raises(TypeError, match="own_outputs was renamed to mask_other_tasks"):
        hasattr(learner, "own_outputs")


@pytest.mark.parametrize("name", ["der", "agem", "gem", "eeil"])
def test_label_smoothing_is_refused_with_strategies_that_ignore_it(name: str, make_experiment: Any) -> None:
    with pytest.raises(UserError, match=f"training.label_smoothing=0.1: is not used with strategies.{name}"):
        build_trial(resolve_experiment(make_experiment(strategies={name: {}}, label_smoothing=0.1)))


@pytest.mark.parametrize("name", ["lwf_mc", "lucir"])
def test_a_full_head_is_refused_where_unseen_classes_would_count(name: str, make_experiment: Any) -> None:
    with pytest.raises(UserError, match=f"training.full_head: strategies.{name} cannot run with it"):
        build_trial(resolve_experiment(make_experiment(strategies={name: {}}, full_head=True)))


def test_mir_needs_more_candidates_than_are_replayed(make_experiment: Any, tmp_path: Path) -> None:
    config = make_experiment(strategies={"replay": {"selection": "mir", "candidates": 10}})
    with pytest.raises(UserError, match="strategies.replay.candidates=10: must be more than the 32 that are replayed"):
        run_trial(config, tmp_path / "trial")


def test_grad_cam_of_frozen_maps_adds_nothing(make_experiment: Any, tmp_path: Path) -> None:
    strategies = {"freezing": {}, "attention_distillation": {"kind": "gradcam"}}
    config = make_experiment("rotated", strategies=strategies)
    with_it = run_trial(config, tmp_path / "with").matrices["task_agnostic"]
    alone = run_trial(replace(config, strategies={"freezing": {}}), tmp_path / "alone").matrices["task_agnostic"]
    assert torch.equal(torch.as_tensor(with_it), torch.as_tensor(alone))


@pytest.mark.parametrize("which", ["gradient", "reference"])
def test_a_float16_overflow_is_left_to_the_gradient_scaler(which: str) -> None:
    """float16: the scaler skips such a step; a projection would make the other gradient NaN too, or never end."""
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[1.0, torch.inf if which == "gradient" else 2.0]])
    plugin = agem.AGEMPlugin(agem.Config(), 0)
    plugin._reference = torch.tensor([torch.nan if which == "reference" else -1.0, 0.0])
    before = model.weight.grad.clone()
    plugin.after_backward(type("Strategy", (), {"model": model})())
    assert torch.equal(model.weight.grad, before)


def test_importances_of_low_rank_factors(make_experiment: Any) -> None:
    """Networks of plain linear layers have a closed form; lora's layers are not plain linear layers."""
    parts = build_trial(resolve_experiment(make_experiment(strategies={"lora": {}})))
    model = parts.network()
    factors = [name for name, _ in model.named_parameters() if "lora_b" in name]
    assert factors and lora.Config().rank > 0
    x = torch.rand(4, *parts.stream.shape, generator=torch.Generator().manual_seed(0))
    rows = torch.zeros(4, 1)
    sums = per_sample_gradients.gradient_sums(
        model, x, rows, lambda logits, row: logits.square().sum(1, keepdim=True), 2
    )
    assert all(bool(sums[name].gt(0).any()) for name in factors)


@pytest.mark.parametrize("name", ["ema", "ewc"])
def test_prompts_work_with_functional_calls(name: str, make_experiment: Any, tmp_path: Path) -> None:
    """Functional calls evaluate averaged weights and compute per-sample gradients."""
    result = run_trial(make_experiment("pair", strategies={"coda_prompt": {}, name: {}}), tmp_path / "trial")
    assert 0 < result.summary["task_agnostic"]["average_accuracy"] <= 1
