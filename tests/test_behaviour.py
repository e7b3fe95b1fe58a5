"""Each strategy improves what its paper says, on real streams over three seeds; see behaviour.py."""

import os
from pathlib import Path

import pytest
from behaviour import CLAIMS, Claim, Found, check

from retain.platform.config.registry import names

pytestmark = pytest.mark.filterwarnings("ignore")


def test_every_strategy_has_a_claim() -> None:
    assert {claim.name for claim in CLAIMS} == set(names("strategies"))
    assert len({(claim.name, claim.stream, claim.metric) for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize(("ours", "theirs", "holds"), [([0.5, 0.6], [0.4, 0.5], True), ([0.4, 0.5], [0.5, 0.6], False)])
def test_a_claim_can_fail(ours: list[float], theirs: list[float], holds: bool) -> None:
    for metric, better in (("ACC", True), ("forgetting", False)):
        claim = Claim(name="replay", strategies={}, stream="split", metric=metric, margin=0.05)
        result = Found(claim, ours, theirs) if better else Found(claim, theirs, ours)
        assert result.holds == holds and result.gain == pytest.approx(0.1 if holds else -0.1)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path(os.environ.get("RETAIN_DATA", "")).joinpath("mnist").exists(), reason="needs MNIST's files"
)
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.name}-{claim.stream}")
def test_it_improves_the_metric_that_its_paper_names(claim: Claim) -> None:
    (result,) = check([claim], jobs=2)
    assert result.holds, result.row()
