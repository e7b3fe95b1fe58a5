"""The transformations and presets that `training.augmentation` can name."""

from collections.abc import Mapping
from typing import Any

from ...config.load import build_config
from ...config.schema import Experiment, Settings
from ...errors import UserError, comma_separated, nearest
from . import affine, colour, policies, spatial
from .base import Transformation

TRANSFORMATIONS: Mapping[str, type[Transformation]] = {
    "crop": spatial.Crop,
    "flip": spatial.Flip,
    "random_resized_crop": spatial.RandomResizedCrop,
    "cutout": spatial.Cutout,
    "rotation": affine.Rotation,
    "scale": affine.Scale,
    "translation": affine.Translation,
    "elastic": affine.Elastic,
    "brightness": colour.Brightness,
    "contrast": colour.Contrast,
    "colour": colour.Colour,
    "hue": colour.Hue,
    "greyscale": colour.Greyscale,
    "blur": colour.Blur,
    "randaugment": policies.RandAugment,
    "augmix": policies.AugMix,
}
PRESETS: Mapping[str, tuple[Settings, ...]] = {
    # He et al. 2016, 4.2
    "cifar": ({"crop": {"padding": 4}}, {"flip": {}}),
    # Ciresan et al. 2010: no mirroring, rotations small enough to tell 1 from 7, scaling; shifts of 2 pixels of 28
    "digits": (
        {"rotation": {"degrees": 7.5}},
        {"scale": {"low": 0.85, "high": 1.15}},
        {"translation": {"amount": 0.07}},
    ),
    # as for CIFAR (like Zhong et al. 2020), but with half the padding, because the clothes fill their 28 pixels
    "fashion": ({"crop": {"padding": 2}}, {"flip": {}}),
    # Szegedy et al. 2015 and the colours of Facebook's ResNet recipe; crops of at least a quarter, for small pictures
    "natural": (
        {"random_resized_crop": {"low": 0.25}},
        {"flip": {}},
        {"brightness": {"amount": 0.4}},
        {"contrast": {"amount": 0.4}},
        {"colour": {"amount": 0.4}},
    ),
    # ours: drawings on white, so no black edges, and colours that keep their meaning
    "emoji": (
        {"random_resized_crop": {"low": 0.5}},
        {"flip": {}},
        {"brightness": {"amount": 0.2}},
        {"colour": {"amount": 0.2}},
    ),
}


def resolve_transformations(experiment: Experiment) -> list[tuple[str, Any]]:
    """Return the transformations of `training.augmentation` as (name, transformation), in order; [] for null.

    Raises:
        UserError: an unknown preset or transformation, or settings that it refuses.
    """
    path, chosen = "training.augmentation", experiment.training.augmentation or ()
    if isinstance(chosen, str):
        if chosen not in PRESETS:
            raise UserError(
                f"{path}={chosen!r}: must be a preset ({comma_separated(PRESETS)}) or a list of transformations "
                f"({comma_separated(TRANSFORMATIONS)}).{nearest(chosen, PRESETS)}"
            )
        chosen = PRESETS[chosen]
    resolved = []
    for number, item in enumerate(chosen):
        named: Settings = {item: {}} if isinstance(item, str) else item
        if len(named) != 1:
            raise UserError(f"{path}[{number}]={list(named)}: must hold exactly one name with its settings.")
        ((name, settings),) = named.items()
        if name not in TRANSFORMATIONS:
            known = f"{nearest(name, TRANSFORMATIONS)} Known: {comma_separated(TRANSFORMATIONS)}."
            raise UserError(f"{path}[{number}].{name}: there is no such transformation.{known}")
        if not isinstance(settings, Mapping | None):
            raise UserError(f"{path}[{number}].{name}={settings!r}: must be a mapping of settings.")
        resolved.append((name, build_config(TRANSFORMATIONS[name], settings or {}, f"{path}[{number}].{name}")))
    return resolved
