"""Mixup and CutMix: timm's soft targets, torchvision's boxes, both by hand; the share's distribution, which samples are mixed."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_strategies_avalanche import naive, same, script  # noqa: F401 - a fixture
from torch.nn import CrossEntropyLoss
from torch.nn.functional import cross_entropy, one_hot
from torchvision.transforms.v2 import CutMix

from retain.platform.errors import UserError
from retain.platform.seeding import generator
from retain.platform.trial.builder import build_trial
from retain.platform.trial.resolve import resolve_experiment
from retain.platform.trial.run import run as run_trial
from retain.strategies import mixup


def strategy(x: torch.Tensor, y: torch.Tensor, tasks: torch.Tensor | None = None, iteration: int = 0) -> Any:
    """Return the attributes of a strategy that the plugin reads."""
    parts = [x, y] if tasks is None else [x, y, tasks]
    made = SimpleNamespace(mbatch=parts, _criterion=CrossEntropyLoss(label_smoothing=0.1))
    made.experience = SimpleNamespace(current_experience=0)
    made.clock = SimpleNamespace(train_exp_iterations=iteration)
    made.mb_x = x
    return made


def samples(num: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(num)
    return torch.rand(num, 1, 6, 4, generator=draw), torch.randint(3, (num,), generator=draw)


@pytest.mark.parametrize("settings", [{"alpha": 0.4}, {"alpha": 0.0, "cutmix_alpha": 1.0}])
def test_loss_is_that_of_soft_targets(settings: dict[str, float]) -> None:
    x, y = samples()
    running, plugin = strategy(x, y), mixup.MixupPlugin(mixup.Config(**settings), seed=3)
    plugin.before_training_exp(running)
    plugin.before_forward(running)
    partner, r = plugin._partner, plugin._share
    assert partner is not None and sorted(partner.tolist()) == list(range(8)) and 0 <= r <= 1
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    soft = r * one_hot(y, 3) + (1 - r) * one_hot(y[partner], 3)
    torch.testing.assert_close(running._criterion(logits, y), cross_entropy(logits, soft, label_smoothing=0.1))
    if "cutmix_alpha" in settings:
        changed = (running.mbatch[0] != x).any(1)
        for mixed, was, other, where in zip(running.mbatch[0], x, x[partner], changed, strict=True):
            torch.testing.assert_close(mixed, torch.where(where, other, was))
        same_box = changed[partner != torch.arange(8)]
        assert bool((same_box == same_box[0]).all())
        assert same_box[0].float().mean().item() == pytest.approx(1 - r)
    else:
        torch.testing.assert_close(running.mbatch[0], r * x + (1 - r) * x[partner])
    other_samples = cross_entropy(logits[:3], y[:3], label_smoothing=0.1)  # another number of samples: unchanged
    torch.testing.assert_close(running._criterion(logits[:3], y[:3]), other_samples)
    plugin.after_training_exp(running)
    assert isinstance(running._criterion, CrossEntropyLoss)


def test_loss_is_that_of_timms_targets() -> None:
    """timm mixes each sample with its mirror image in the mini-batch."""
    targets = pytest.importorskip("timm.data.mixup").mixup_target
    y, logits = torch.tensor([0, 2, 1, 0]), torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    running, plugin = strategy(torch.rand(4, 1, 2, 2), y), mixup.MixupPlugin(mixup.Config(alpha=0.4), seed=3)
    plugin.before_training_exp(running)
    plugin._partner, plugin._share = torch.arange(4).flip(0), 0.3
    soft = targets(y, 3, lam=0.3, smoothing=0.1)
    torch.testing.assert_close(running._criterion(logits, y), -(soft * logits.log_softmax(1)).sum(1).mean())


@pytest.mark.parametrize("r", [0.1, 0.4, 0.75])
def test_boxes_are_torchvisions(r: float) -> None:
    """Check all of them, since a small picture has few."""
    theirs, draws = CutMix(num_classes=3), range(600)
    theirs._dist = SimpleNamespace(sample=lambda size: torch.tensor([r]))
    picture, boxes = torch.zeros(2, 1, 5, 7), set()
    for _ in draws:
        left, top, right, bottom = theirs.make_params([picture])["box"]
        boxes.add((top, bottom, left, right))
    ours = [mixup.box(5, 7, r, generator(number)) for number in draws]
    assert {(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in ours} == boxes
    assert len(boxes) > 10


def test_box_by_hand() -> None:
    x, other = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    mixed, r = mixup.paste_box(x, other, slice(1, 3), slice(0, 3))
    assert mixed.sum() == 6 and r == 1 - 6 / 16
    sizes = []
    for number in range(300):
        rows, columns = mixup.box(20, 10, 0.75, generator(number))
        assert 0 <= rows.start <= rows.stop <= 20 and 0 <= columns.start <= columns.stop <= 10
        sizes.append((rows.stop - rows.start, columns.stop - columns.start))
    assert max(sizes) == (10, 4)  # half of each side, in whole pixels on both sides of the centre
    assert len(set(sizes)) > 5, "cut at the edges"


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_share_has_betas_mean_and_variance(alpha: float) -> None:
    drawn = torch.tensor([mixup.sample_ratio(alpha, generator(number)) for number in range(3000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert drawn.mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(variance / 3000))
    assert drawn.var().item() == pytest.approx(variance, rel=0.1)


def test_only_samples_of_the_same_task_are_mixed() -> None:
    x, y = samples(64)
    tasks = torch.arange(64) % 2
    running, plugin = strategy(x, y, tasks), mixup.MixupPlugin(mixup.Config(), seed=0)
    plugin.before_training_exp(running)
    plugin.before_forward(running)
    assert plugin._partner is not None and torch.equal(tasks[plugin._partner], tasks)
    assert (plugin._partner != torch.arange(64)).sum() > 16


@pytest.mark.parametrize("mixed", [False, True])
def test_teacher_outputs_are_not_cached_where_samples_are_mixed(mixed: bool, make_experiment: Any) -> None:
    strategies = {"lwf": {}} | ({"mixup": {}} if mixed else {})
    parts = build_trial(resolve_experiment(make_experiment(strategies=strategies)))
    assert parts.learner(lambda learner: None, lambda text: None).augments == mixed


def test_with_smoothed_labels_and_a_memory_of_other_tasks(make_experiment: Any, tmp_path: Path) -> None:
    config = make_experiment("split", strategies={"replay": {}, "mixup": {"cutmix_alpha": 1.0}}, label_smoothing=0.1)
    tasks = run_trial(trial_config(config), tmp_path / "tasks")
    assert tasks.summary["task_aware"]["average_accuracy"] > 0.5


def trial_config(config: Any) -> Any:
    """Return a config for a task-incremental stream."""
    from retain.platform.config.load import from_dict, to_dict

    return from_dict(to_dict(config) | {"benchmark": {"task_incremental": {"data": "digits", "num_experiences": 5}}})


def test_cutmix_needs_pictures() -> None:
    plugin = mixup.MixupPlugin(mixup.Config(alpha=0.0, cutmix_alpha=1.0), seed=0)
    running = strategy(torch.rand(4, 5), torch.zeros(4, dtype=torch.int64))
    plugin.before_training_exp(running)
    with pytest.raises(UserError, match="strategies.mixup.cutmix_alpha=1.0: needs pictures"):
        plugin.before_forward(running)


@pytest.mark.parametrize("settings", [{"alpha": -0.1}, {"cutmix_alpha": math.inf}, {"alpha": math.nan}])
def test_bad_values_are_refused(settings: dict[str, float]) -> None:
    (name, value), *_ = settings.items()
    with pytest.raises(ValueError, match=f"{name}={value}: must be a finite number of at least 0"):
        mixup.Config(**settings)


def test_in_a_plain_script(naive: Any) -> None:  # noqa: F811
    one, other = (script([mixup.MixupPlugin(mixup.Config(), seed=0)]) for _ in range(2))
    assert same(one[1], other[1]) and not same(one[1], naive[1])
