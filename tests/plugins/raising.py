"""A user's strategy that scales the loss, leaves notes, and raises in an experience."""

from dataclasses import dataclass

from retain import Plugin, note


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Raise in an experience.

    Attributes:
        experience: its number, from 1; 0: never.
        scale: factor of the loss.
    """

    experience: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"scale={self.scale}: must be above 0")


class Raising(Plugin):
    """Scale the loss; raise after a backward pass."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def state_dict(self):
        return {}

    def before_backward(self, learner, **kwargs):
        learner.loss = learner.loss * self.config.scale

    def after_backward(self, learner, **kwargs):
        if learner.experience.current_experience + 1 == self.config.experience:
            raise RuntimeError("no more of this")

    def after_training_exp(self, learner, **kwargs):
        note(learner, "mine was here")


def build(config, seed):
    return Raising(config)
