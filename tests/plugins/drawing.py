"""A user's probe that draws from a global generator, and fails if the setting says so."""

from dataclasses import dataclass

import torch

from retain import Probe


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Fail or not.

    Attributes:
        fails: whether to raise.
    """

    fails: bool = False


class Drawing(Probe):
    """Record a random number after each experience."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def after_experience(self, learner, number):
        if self.fails:
            raise ArithmeticError("no such number")
        return {"drawn": float(torch.rand(()))}


def build(config, context):
    return Drawing(config.fails)
