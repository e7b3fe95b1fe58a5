"""A sample of the campaign in faults.py: one run for each kind of fault, over strategies, streams and checkpoint intervals."""

import random
from collections.abc import Iterator
from pathlib import Path

import faults
import pytest


@pytest.fixture(scope="module")
def campaign(quick_folder: Path) -> Iterator[faults.Campaign]:
    folder = quick_folder / "faults"
    folder.mkdir()
    yield faults.Campaign(folder)


@pytest.mark.parametrize(("seed", "kind"), list(enumerate(faults.KINDS)), ids=list(faults.KINDS))
def test_faulted_and_resumed_equals_uninterrupted(seed: int, kind: str, campaign: faults.Campaign) -> None:
    """Two faults: the second one strikes a trial that was resumed."""
    run = campaign.run(seed, [kind, kind])
    assert run.differs == []
    assert kind in run.struck, "the trial had ended before: choose another seed"


def test_a_fault_that_loses_bits_is_detected(campaign: faults.Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: here the reference is a trial with another seed."""
    other = campaign.uninterrupted(faults.random_config(random.Random(5), 2))
    monkeypatch.setattr(campaign, "uninterrupted", lambda config: other)
    assert campaign.run(4, ["iteration"]).differs
