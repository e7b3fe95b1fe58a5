"""Classifiers on features and prompts on vision transformers: formulas against oracles, what is refused, plain scripts."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.models import FeCAMClassifier, NCMClassifier
from avalanche.models.fecam import compute_covariance, compute_means
from avalanche.training.supervised.deep_slda import StreamingLDA
from avalanche.training.templates import SupervisedTemplate
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from test_strategies_avalanche import Net, benchmark, network, pair, script
from torch import nn

from retain.platform.config.load import from_dict
from retain.platform.errors import UserError
from retain.platform.methods import prompted_vit
from retain.platform.methods.feature_classifier import FeatureClassifier, add_statistics
from retain.platform.methods.ridge_regression import held_out_errors, ridge_weights
from retain.platform.models.blocks import is_added
from retain.platform.models.heads import Classifier
from retain.platform.models.networks import vit
from retain.platform.seeding import generator
from retain.platform.training.plugin import Plugin
from retain.platform.trial.builder import build_trial
from retain.platform.trial.checks import check_settings_fit
from retain.platform.trial.resolve import resolve_experiment, strategy_builder
from retain.strategies import coda_prompt, fecam, l2p, ncm, ranpac, slda

D = 6  # features
Samples = tuple[torch.Tensor, torch.Tensor]


def clouds(labels: tuple[int, ...], num: int = 40, seed: int = 0) -> Samples:
    """Return correlated positive features (n, D) float64 around a centre of each class, with labels (n,), in random order."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(D, D, generator=draw, dtype=torch.float64)
    features, y = [], []
    for label in labels:
        centre = torch.randn(D, generator=torch.Generator().manual_seed(100 + label), dtype=torch.float64) * 2 + 6
        features.append(torch.randn(num, D, generator=draw, dtype=torch.float64) @ mix * 0.5 + centre)
        y.append(torch.full((num,), label))
    order = torch.randperm(len(labels) * num, generator=draw)
    return torch.cat(features).abs()[order], torch.cat(y)[order]


def updated(plugin: Any, *parts: Samples) -> Any:
    """Return a plugin that has seen these experiences."""
    for number, (features, y) in enumerate(parts):
        plugin.update(features, y, number)
    return plugin


PARTS = (clouds((0, 1)), clouds((2, 3), seed=1))
ALL = tuple(torch.cat(each) for each in zip(*PARTS, strict=True))
TEST = clouds((0, 1, 2, 3), seed=2)[0]


# Nearest class mean.


def test_nearest_mean_by_hand() -> None:
    """Features on a plane, means (0, 0) and (3, 4): squared distances and cosines by head."""
    means = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    features = torch.tensor([[0.0, 4.0]])
    assert ncm.similarity(features, means, "euclidean").tolist() == [[-17.0, -9.0]]
    torch.testing.assert_close(ncm.similarity(features, means, "cosine"), torch.tensor([[0.0, 0.8]]))


def test_nearest_mean_is_avalanches() -> None:
    oracle = NCMClassifier(normalize=False)
    for features, y in PARTS:
        oracle.update_class_means_dict(compute_means(features.float(), y))
    ours = updated(ncm.NCMPlugin(ncm.Config(), 0), *PARTS).classifier()(TEST.float())
    torch.testing.assert_close((-ours).sqrt(), -oracle(TEST.float()), atol=1e-3, rtol=1e-3)


def test_a_repeated_class_is_weighted_by_its_samples() -> None:
    plugin = updated(ncm.NCMPlugin(ncm.Config(), 0), clouds((0, 1), 10), clouds((0,), 30, seed=5))
    features = torch.cat([x[y == 0] for x, y in (clouds((0, 1), 10), clouds((0,), 30, seed=5))])
    assert plugin.statistics["counts"].tolist() == [40, 10]
    torch.testing.assert_close(plugin.statistics["sums"][0] / 40, features.mean(0))


# Streaming LDA.


class _Shrunk:
    """A covariance estimator for scikit-learn: the samples' covariance, shrunk towards the identity."""

    def __init__(self, shrinkage: float) -> None:
        self.shrinkage = shrinkage

    def fit(self, x: np.ndarray) -> None:
        covariance = np.cov(x.T, bias=True)
        self.covariance_ = (1 - self.shrinkage) * covariance + self.shrinkage * np.eye(len(covariance))


@pytest.mark.parametrize("shrinkage", [1e-4, 0.3])
def test_streaming_lda_is_scikit_learns_on_all_samples(shrinkage: float) -> None:
    oracle = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=_Shrunk(shrinkage))
    oracle.fit(ALL[0].numpy(), ALL[1].numpy())
    scores = updated(slda.SLDAPlugin(slda.Config(shrinkage=shrinkage), 0), *PARTS).classifier()(TEST)
    expected = torch.from_numpy(oracle.decision_function(TEST.numpy())) - math.log(0.25)  # equal priors
    torch.testing.assert_close(scores, expected, rtol=1e-8, atol=1e-8)


def test_streaming_lda_against_avalanches_sample_by_sample_update() -> None:
    """The paper's update differs by terms that vanish with more samples; the means are equal."""
    features, y = (torch.cat(each) for each in zip(*(clouds((0, 1, 2, 3), 400, seed) for seed in (3, 4)), strict=True))
    oracle = SimpleNamespace(muK=torch.zeros(4, D), cK=torch.zeros(4), Sigma=torch.zeros(D, D), num_updates=0)
    oracle.streaming_update_sigma = True
    for row, label in zip(features.float(), y, strict=True):
        StreamingLDA.fit(oracle, row.unsqueeze(0), label.unsqueeze(0))
    plugin = updated(slda.SLDAPlugin(slda.Config(), 0), (features, y))
    means = plugin.statistics["sums"] / 800
    torch.testing.assert_close(means.float(), oracle.muK, rtol=1e-4, atol=1e-4)
    ours = slda.within_covariance(plugin.statistics["counts"], means, plugin.statistics["products"])
    assert (ours.float() - oracle.Sigma).norm() < 0.1 * ours.norm()
    weights, biases = slda.linear_classifier(oracle.muK, oracle.Sigma, 1e-4)
    agree = plugin.classifier()(TEST).argmax(1) == (TEST.float() @ weights + biases).argmax(1)
    assert agree.double().mean() > 0.95


# FeCAM.


@pytest.mark.filterwarnings("ignore:To copy construct")  # Avalanche's
@pytest.mark.parametrize(("tukey", "shrinks"), [(0.5, True), (1.0, True), (0.5, False)])
def test_fecam_is_avalanches(tukey: float, shrinks: bool) -> None:
    """Avalanche shrinks twice with 1, which equals once with 3."""
    oracle = FeCAMClassifier(tukey=tukey < 1, tukey1=tukey, shrinkage=shrinks)
    for features, y in PARTS:
        t = oracle.apply_transforms(features.float())
        oracle.update_class_means_dict(compute_means(t, y))
        oracle.update_class_cov_dict(oracle.apply_cov_transforms(compute_covariance(t, y)))
    config = fecam.Config(tukey=tukey, gamma1=3.0 * shrinks, gamma2=3.0 * shrinks)
    ours = updated(fecam.FeCAMPlugin(config, 0), *PARTS).classifier()(TEST.float())
    torch.testing.assert_close(ours.float(), oracle(TEST.float()), rtol=2e-3, atol=1e-5)


def test_shrinking_and_correlation_by_hand() -> None:
    """Elements that are 0 do not count for the mean of the off-diagonal."""
    covariance = torch.tensor([[[4.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    shrunk = fecam.shrink(covariance, 1.0, 0.5)
    assert shrunk.tolist() == [[[6.0, 1.5, 0.5], [1.5, 3.0, 0.5], [0.5, 0.5, 3.0]]]
    correlation = fecam.correlation(shrunk)[0]
    assert correlation.diagonal().tolist() == pytest.approx([1, 1, 1])
    assert correlation[0, 1].item() == pytest.approx(1.5 / math.sqrt(18))


def test_fecam_of_a_class_with_one_sample_is_finite() -> None:
    features, y = clouds((0, 1), 1)
    scores = updated(fecam.FeCAMPlugin(fecam.Config(), 0), (features, y)).classifier()(TEST)
    assert scores.isfinite().all()


def test_tukey_keeps_signs() -> None:
    assert fecam.tukey_transform(torch.tensor([-4.0, 0.0, 9.0]), 0.5).tolist() == [-2.0, 0.0, 3.0]
    torch.testing.assert_close(fecam.tukey_transform(torch.tensor([math.e]), 0), torch.ones(1))


# RanPAC.


def test_ridge_over_experiences_is_the_closed_form_on_all_data() -> None:
    config = ranpac.Config(projection=20, ridge=0.7)
    plugin = updated(ranpac.RanPACPlugin(config, 3), *PARTS)
    h, targets = plugin.project(ALL[0]).numpy(), np.eye(4)[ALL[1].numpy()]
    augmented = np.concatenate([h, math.sqrt(0.7) * np.eye(20)])  # ridge regression as least squares with 20 more rows
    weights = np.linalg.lstsq(augmented, np.concatenate([targets, np.zeros((20, 4))]), rcond=None)[0]
    expected = plugin.project(TEST).numpy() @ weights
    np.testing.assert_allclose(plugin.classifier()(TEST).numpy(), expected, rtol=1e-6, atol=1e-8)
    other = updated(ranpac.RanPACPlugin(config, 3), *reversed(PARTS))
    torch.testing.assert_close(other.classifier()(TEST), plugin.classifier()(TEST), rtol=1e-9, atol=1e-9)


def test_projection_is_nonlinear_and_depends_on_the_seed() -> None:
    plugin = ranpac.RanPACPlugin(ranpac.Config(projection=20), 3)
    h = plugin.project(TEST)
    assert h.shape == (len(TEST), 20) and bool((h >= 0).all()) and bool((h == 0).any())
    assert torch.equal(h, ranpac.RanPACPlugin(ranpac.Config(projection=20), 3).project(TEST))
    assert not torch.equal(h, ranpac.RanPACPlugin(ranpac.Config(projection=20), 4).project(TEST))


@pytest.mark.parametrize("width", [10, 60], ids=["fewer features than samples", "more"])
def test_held_out_errors_equal_those_of_the_solutions(width: int) -> None:
    draw = torch.Generator().manual_seed(0)
    h, other = (torch.randn(n, width, generator=draw, dtype=torch.float64) for n in (30, 8))
    y, other_y = (torch.randn(n, 3, generator=draw, dtype=torch.float64) for n in (30, 8))
    ridges = (1e-3, 1.0, 100.0)
    expected = [(other @ ridge_weights(h.T @ h, h.T @ y, ridge) - other_y).square().mean() for ridge in ridges]
    errors = held_out_errors((h, y), (other, other_y), ridges)
    torch.testing.assert_close(errors, torch.stack(expected), rtol=1e-6, atol=1e-9)


def test_chosen_ridge_follows_the_noise() -> None:
    """With labels that are independent of the features, the most shrunk solution is the best."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(100, D, generator=draw, dtype=torch.float64)
    noise = torch.randint(2, (100,), generator=draw)
    chosen = {}
    for name, y in {"noise": noise, "signal": (features[:, 0] > 0).long()}.items():
        plugin = updated(ranpac.RanPACPlugin(ranpac.Config(projection=50), 0), (features, y))
        chosen[name] = float(plugin.statistics["ridge"])
    assert chosen["noise"] >= 10 * chosen["signal"]


# Common to all of them.

CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "ncm": lambda: ncm.NCMPlugin(ncm.Config()),
    "slda": lambda: slda.SLDAPlugin(slda.Config()),
    "fecam": lambda: fecam.FeCAMPlugin(fecam.Config()),
    "ranpac": lambda: ranpac.RanPACPlugin(ranpac.Config()),
}


def test_sums_grow_with_the_classes() -> None:
    one, other = {"counts": torch.tensor([1.0, 2.0])}, {"counts": torch.tensor([0.0, 1.0, 5.0])}
    assert add_statistics({}, one)["counts"].tolist() == [1, 2]
    assert add_statistics(one, other)["counts"].tolist() == add_statistics(other, one)["counts"].tolist() == [1, 3, 5]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_class_without_statistics_is_never_predicted(name: str) -> None:
    """Class 1 was not seen, class 3 has no row in the statistics yet; before any class was seen, the head predicts."""
    plugin = CLASSIFIERS[name]()
    model = nn.Sequential(nn.Identity(), nn.Linear(D, 4)).eval()
    strategy = SimpleNamespace(model=model, device="cpu")
    x = TEST.float()
    with torch.no_grad():
        assert torch.equal(plugin.predict(strategy, x, model), model(x))
        updated(plugin, clouds((0, 2)))
        scores = plugin.predict(strategy, x, model)
    assert scores.shape == (len(x), 4) and scores.dtype == torch.float32
    assert scores.isinf().any(0).tolist() == [False, True, False, True]
    assert len(set(scores.argmax(1).tolist())) == 2


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_statistics_are_restored_on_resume(name: str) -> None:
    plugin, other = (CLASSIFIERS[name]() for _ in range(2))
    updated(plugin, PARTS[0])
    other.load_state_dict(plugin.state_dict())
    for each in (plugin, other):
        each.update(*PARTS[1], 1)
    assert torch.equal(plugin.classifier()(TEST.float()), other.classifier()(TEST.float()))


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (ncm, {"metric": "manhattan"}, "metric='manhattan': must be 'euclidean'"),
        (slda, {"shrinkage": 0.0}, "shrinkage=0.0: must be a number in (0, 1]"),
        (slda, {"shrinkage": math.nan}, "shrinkage=nan: must be a number in"),
        (fecam, {"tukey": 1.5}, "tukey=1.5: must be a number in [0, 1]"),
        (fecam, {"gamma1": -1.0}, "gamma1=-1.0: must be a number of at least 0"),
        (fecam, {"gamma2": math.nan}, "gamma2=nan: must be a number of at least 0"),
        (ranpac, {"projection": 0}, "projection=0: must be an integer above 0"),
        (ranpac, {"ridge": 0.0}, "ridge=0.0: must be a finite number above 0 or null"),
        (l2p, {"length": -1}, "length=-1: must be an integer of at least 0"),
        (l2p, {"top_k": 0}, "top_k=0: must be an integer above 0"),
        (l2p, {"pool": 4}, "pool=4: must be at least top_k=5"),
        (l2p, {"weight": math.nan}, "weight=nan: must be a finite number of at least 0"),
        (l2p, {"readout": "mean"}, "readout='mean': must be 'prompts'"),
        (l2p, {"from_experience": -1}, "from_experience=-1: must be an integer of at least 0"),
        (coda_prompt, {"experiences": 0}, "experiences=0: must be an integer above 0"),
        (coda_prompt, {"pool": 15}, "pool=15: must be a multiple of experiences=10"),
        (coda_prompt, {"length": 3}, "length=3: must be even"),
    ],
)
def test_bad_values_are_named(module: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        module.Config(**settings)
    assert str(caught.value).startswith(message)


# Prompts.

WIDTH = 16
PROMPTED: dict[str, Any] = {"l2p": l2p, "coda_prompt": coda_prompt}
PICTURES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def transformer(classes: int = 4) -> Any:
    """Return a tiny vision transformer for pictures of 8 x 8, with weights so large that its attention matters."""
    config = vit.Config(dim=WIDTH, depth=2, heads=2, patch=4, mlp_ratio=2)
    made = vit.build(config, (1, 8, 8), classes, generator(0, "network")).eval()
    with torch.no_grad():
        for parameter in made.trunk.parameters():
            parameter.mul_(10 if parameter.ndim > 1 else 1)
    return made


def with_prompts(name: str, network: Any = None, **settings: Any) -> tuple[Any, Any]:
    """Return config and network of a strategy."""
    config = PROMPTED[name].Config(**settings)
    return config, PROMPTED[name].adapt(config, network or transformer(), generator(0, "adapt"))


def test_prompts_are_chosen_by_hand() -> None:
    """Keys along the axes of a plane: the query at 30 degrees is nearest to the first, then the second."""
    keys = torch.tensor([[2.0, 0.0], [0.0, 0.5], [-1.0, 0.0]])
    prompts_ = torch.arange(12.0).view(3, 2, 2)
    query = torch.tensor([[math.sqrt(3) / 2, 0.5], [-1.0, 0.1]])
    tokens = l2p.select_prompts(query, keys, prompts_, 2)
    assert torch.equal(tokens[0], torch.cat([prompts_[0], prompts_[1]]))
    assert torch.equal(tokens[1], torch.cat([prompts_[2], prompts_[1]]))
    first = (1 - math.sqrt(3) / 2) + (1 - 0.5)
    assert l2p.key_pull(query[:1], keys, 2).item() == pytest.approx(first, abs=1e-6)


def test_component_weights_by_hand() -> None:
    """cos(q * a, k): (1, 2) * (1, 0) is along the first axis, (1, 2) * (2, 1) along the diagonal."""
    query, attention = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [2.0, 1.0]])
    weights = coda_prompt.weights(query, torch.tensor([[3.0, 4.0], [0.0, -5.0]]), attention)
    torch.testing.assert_close(weights, torch.tensor([[0.6, -math.sqrt(0.5)]]))


def test_redundancy_by_hand() -> None:
    assert coda_prompt.redundancy(torch.eye(3)).item() == 0
    assert coda_prompt.redundancy(torch.tensor([[2.0, 0.0], [1.0, 0.0]])).item() == (9 + 4 + 4 + 0) / 4


@pytest.mark.parametrize("name", PROMPTED)
def test_length_0_leaves_the_network_alone(name: str) -> None:
    network = transformer()
    before = network(PICTURES)
    _, same = with_prompts(name, network, length=0)
    assert same is network and torch.equal(network(PICTURES), before) and not any(map(is_added, network.state_dict()))


@pytest.mark.parametrize("readout", ["prompts", "token"])
def test_prompted_features_step_by_step(readout: str) -> None:
    """The same from the transformer's parts, picture by picture; the query is its output without prompts."""
    plain, (_, network) = transformer(), with_prompts("l2p", pool=4, length=3, top_k=2, readout=readout)
    network.train()
    prompted = network.features(PICTURES)
    parts, pool = plain.trunk, network.trunk
    torch.testing.assert_close(pool.query, plain.features(PICTURES))
    for picture, query, features in zip(PICTURES, pool.query, prompted, strict=True):
        cosine = torch.cosine_similarity(query.unsqueeze(0), pool.prompt_keys)
        first = cosine.argsort(descending=True)[:2].tolist()
        patches = parts.patches(picture.unsqueeze(0)).flatten(2).transpose(1, 2)
        tokens = torch.cat([parts.token, patches], 1) + parts.positions
        front = torch.cat([pool.prompts[number] for number in first]).unsqueeze(0)
        last = parts.norm(parts.blocks(torch.cat([front, tokens], 1)))[0]
        torch.testing.assert_close(
            features, last[:6].mean(0) if readout == "prompts" else last[6], rtol=1e-4, atol=1e-5
        )


def test_prefixes_are_additional_keys_and_values() -> None:
    """Against attention written out: softmax over the tokens' keys and the prefix's."""
    attention = transformer().trunk.blocks[0].attention
    x, prefix = torch.randn(2, 5, WIDTH), torch.randn(2, 6, WIDTH)
    q, k, v = attention.qkv(x).chunk(3, 2)
    k, v = torch.cat([prefix[:, :3], k], 1), torch.cat([prefix[:, 3:], v], 1)
    q, k, v = (each.unflatten(2, (2, -1)).transpose(1, 2) for each in (q, k, v))
    expected = attention.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    before = attention(x)
    block = nn.Sequential(nn.Module())
    block[0].attention = attention
    (made,) = prompted_vit.add_prefixes(block)
    torch.testing.assert_close(made(x), before)
    with prompted_vit.prefixed([made], prefix.unsqueeze(0)):
        torch.testing.assert_close(made(x), expected)
    torch.testing.assert_close(made(x), before)


def test_an_inactive_prompt_component_has_no_effect() -> None:
    _, network = with_prompts("coda_prompt", pool=4, experiences=2)
    before = network(PICTURES)
    with torch.no_grad():
        network.trunk.prompts_1.add_(5)
    assert torch.equal(network(PICTURES), before)
    network.trunk.active[1] = 1
    assert not torch.allclose(network(PICTURES), before)


@pytest.mark.parametrize("name", PROMPTED)
def test_not_a_transformer_is_refused(name: str, make_experiment: Any) -> None:
    config = resolve_experiment(make_experiment("rotated", strategies={name: {}})).experiment
    other = from_dict({"name": "x", "benchmark": config.benchmark, "model": {"mlp": {}}, "strategies": {name: {}}})
    with pytest.raises(UserError, match=f"strategies.{name}: needs a vision transformer"):
        build_trial(resolve_experiment(other))


def test_what_does_not_fit_the_stream_is_refused() -> None:
    with pytest.raises(UserError, match="strategies.coda_prompt.experiences=2: must be at least 3"):
        coda_prompt.check_stream(coda_prompt.Config(pool=4, experiences=2), 10, 3)
    for name, module in PROMPTED.items():
        with pytest.raises(UserError, match=f"strategies.{name}.from_experience=3: must be below 3"):
            check_settings_fit(module, module.Config(from_experience=3), f"strategies.{name}", 10, 3)
        check_settings_fit(module, module.Config(from_experience=2), "", 10, 3)


def test_the_loss_covers_current_classes_and_those_of_the_mini_batch() -> None:
    logits, y = torch.zeros(2, 6), torch.tensor([2, 5])  # 5 is remembered
    loss = prompted_vit.restrict_to_classes(nn.functional.cross_entropy, [2, 3])(logits, y)
    assert loss.item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("name", PROMPTED)
def test_timms_transformers_take_prompts(name: str) -> None:
    """With random weights; ours and theirs differ in the names of attention and its last layer, and in pooling."""
    timm = pytest.importorskip("timm", reason="timm is an optional package")
    for model in ("test_vit", "test_vit2"):
        trunk = timm.create_model(model, num_classes=0, in_chans=1, img_size=32)
        network = Classifier(trunk, 64, 3, generator(0, "head"))
        x = torch.rand(2, 1, 32, 32)
        plain = network.eval()(x)
        _, made = with_prompts(name, network)
        logits = made.train()(x)
        torch.testing.assert_close(made.head(made.trunk.query), plain)
        assert logits.shape == (2, 3) and not torch.equal(logits, plain)  # test_vit2 scales blocks by 1e-5
        logits.sum().backward()
        first = made.trunk.prompts if name == "l2p" else made.trunk.prompts_0
        assert first.grad is not None and bool((first.grad != 0).any())


def test_timm_networks_without_such_blocks_are_refused() -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional package")
    network = Classifier(timm.create_model("test_convnext", num_classes=0), 64, 3, generator(0, "head"))
    with pytest.raises(UserError, match="needs a vision transformer"):
        prompted_vit.transformer_of(network, "l2p")


# In a plain Avalanche script.


def accuracy(plugin: Plugin, bits: Any, number: int) -> float:
    """Return the accuracy of the plugin's predictions in a plain script's evaluation, on an experience's test samples."""
    x, y = pair(number, 2)
    model = network(bits)
    learner = SimpleNamespace(model=model, device="cpu", mb_x=x, mb_output=None)
    with torch.no_grad():
        plugin.after_eval_forward(learner)
    return float((learner.mb_output.argmax(1) == y).double().mean())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_plain_script(name: str) -> None:
    """Training is the same as without it; the statistics still know what the head forgets."""
    plugin = CLASSIFIERS[name]()
    bits = script([plugin])
    assert all(torch.equal(bits[2][key], tensor) for key, tensor in script([])[2].items())
    assert accuracy(plugin, bits[2], 1) > 0.9
    assert (
        accuracy(plugin, bits[2], 0)
        > (network(bits[2])(pair(0, 2)[0]).argmax(1) == pair(0, 2)[1]).double().mean() + 0.2
    )


def test_plain_script_without_task_labels_takes_all_samples() -> None:
    plugin = ncm.NCMPlugin(ncm.Config(), 0)
    script([plugin], task_labels=False)
    sizes = [len(experience.dataset) for experience in benchmark().train_stream]
    assert plugin.statistics["counts"].sum() == sum(sizes)


def test_with_cumulative_data_each_sample_counts_once() -> None:
    from retain.strategies import cumulative

    plugin = ncm.NCMPlugin(ncm.Config(), 0)
    script([cumulative.CumulativePlugin(cumulative.Config(), 0), plugin])
    sizes = [len(experience.dataset) for experience in benchmark().train_stream]
    assert plugin.statistics["counts"].sum() == sum(sizes)
    assert isinstance(plugin, FeatureClassifier) and Net().classifier is not None


class _Pictures(nn.Module):
    """A transformer with a head of four classes that takes the points of the plain script as pictures of 8 x 1 pixels."""

    def __init__(self) -> None:
        super().__init__()
        config = vit.Config(dim=WIDTH, depth=2, heads=2, patch=1, mlp_ratio=2)
        made = vit.build(config, (1, 8, 1), 4, generator(0, "network"))
        self.trunk, self.head = made.trunk, made.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(x.view(-1, 1, 8, 1)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", PROMPTED)
def test_prompts_in_a_plain_script(name: str) -> None:
    """The trunk keeps its bits, prompts and head are trained; classes of other experiences have no gradient."""
    module = PROMPTED[name]
    config, network = with_prompts(name, _Pictures())
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    learner = SupervisedTemplate(
        model=network,
        optimizer=optimizer,
        train_mb_size=16,
        plugins=[strategy_builder(module, "")(config, 0)],
        evaluator=None,
    )
    data, criterion = benchmark(), learner._criterion
    learner.train(data.train_stream[0], eval_streams=[])
    first = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    learner.train(data.train_stream[1], eval_streams=[])
    moved = {key for key, tensor in network.state_dict().items() if not torch.equal(tensor, first[key])}
    assert not {key for key in before if key.startswith("trunk.trunk.") and not torch.equal(before[key], first[key])}
    assert not {key for key in moved if key.startswith("trunk.trunk.")}
    learned = (
        {"trunk.prompts"} if name == "l2p" else {"trunk.prompts_1", "trunk.prompt_keys_1", "trunk.prompt_attention_1"}
    )
    assert learned <= moved and not any(key.endswith("_0") for key in moved)
    assert learner._criterion is criterion and all(each.requires_grad for each in network.parameters())


def test_a_network_that_was_not_adapted_is_refused_in_a_plain_script() -> None:
    with pytest.raises(UserError, match="strategies.l2p: the network has no prompts"):
        script([l2p.L2PPlugin(l2p.Config(), 0)])
