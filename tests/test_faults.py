"""A sample of the campaign in faults.py: one run for each kind of fault, over strategies, streams and ways to checkpoint."""

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
def test_struck_and_gone_on_with_is_never_struck(seed: int, kind: str, campaign: faults.Campaign) -> None:
    """Twice: the second fault meets a trial that has been gone on with."""
    run = campaign.run(seed, [kind, kind])
    assert run.differs == []
    assert kind in run.struck, "the trial had ended before: choose another seed"


def test_a_fault_that_loses_bits_is_seen(campaign: faults.Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: here the reference is that of another seed."""
    other = campaign.undisturbed(faults.drawn(random.Random(5), 2))
    monkeypatch.setattr(campaign, "undisturbed", lambda config: other)
    assert campaign.run(4, ["iteration"]).differs
