"""A small data set with domains, as a user's module: `Config` and `build`, named by ``data: sets.domains``."""

from dataclasses import dataclass

import numpy as np
import torch

from retain.platform.data.cache import DataFolders
from retain.platform.data.dataset import DataSet, make_data_set

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox")
DOMAINS = ("photo", "paint", "pencil")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Six animals in three domains, noise of 2x4x5 pixels around a pattern of each class and domain.

    sessions: the test part has a single other domain, "later", which the training part lacks.
    lacking: "pencil" has no fox.
    """

    sessions: bool = False
    lacking: bool = False


def build(config: Config, folders: DataFolders) -> DataSet:
    """Make the set; sizes differ between classes and domains."""
    arrays = {}
    for part, (name, least) in enumerate((("train", 8), ("test", 3))):
        shown = [3] if config.sessions and part else [0, 1, 2]
        labels = [(c, d) for d in shown for c in range(6) for _ in range(least + c + d)]
        labels = [pair for pair in labels if pair != (5, 2) or not config.lacking]
        y, domains = (torch.tensor(column) for column in zip(*labels, strict=True))
        generator = np.random.default_rng(part)
        order = generator.permutation(len(y))
        patterns = np.random.default_rng(9).integers(0, 2, (6, 4, 2, 4, 5)) * 120
        x = patterns[y, domains] + generator.integers(0, 130, (len(y), 2, 4, 5))
        picked = torch.from_numpy(order)
        arrays |= {f"{name}_x": torch.from_numpy(x.astype(np.uint8))[picked]}
        arrays |= {f"{name}_y": y[picked], f"{name}_d": domains[picked]}
    domains_named = (*DOMAINS, "later") if config.sessions else DOMAINS
    return make_data_set("animals", arrays, NAMES, (0.5, 0.5), (0.25, 0.25), domains_named)
