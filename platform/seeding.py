"""One seed for everything, split into class order, initialisation and data; randomness that can be computed afresh.

The data path never draws from a global generator: each draw has a generator of its own, derived from the seed and from where
it is used (experience, epoch). Global generators are seeded at the start of each experience, for foreign code that uses them.
"""

import hashlib
import random
from typing import Any

import numpy as np
import torch


def derive(seed: int, *where: int | str) -> int:
    """A seed in [0, 2^63) that depends on `seed` and on each of `where`, the same on every machine."""
    text = "/".join(str(part) for part in (seed, *where))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *where: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, *where))


def seed_globals(seed: int, *where: int | str) -> None:
    """Seed the generators of python, numpy and torch (all devices)."""
    value = derive(seed, *where)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


def capture() -> dict[str, Any]:
    """State of the global generators, as plain data and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    state = {
        "python": [version, list(internal), gauss_next],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():  # else there is nothing, and asking would take memory on every GPU
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict[str, Any]) -> None:
    """Put the global generators back to what `capture` returned."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
