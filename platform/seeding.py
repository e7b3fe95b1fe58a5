"""Generators derived from a seed and a purpose, so that each random draw can be reproduced on its own.

The data path never samples from a global generator. Each draw has a separate generator, derived from the seed and from where
it is used (experience, epoch). Global generators are seeded at the start of each experience, for third-party code that uses
them.
"""

import hashlib
import random
from typing import Any

import numpy as np
import torch


def derive(seed: int, *where: int | str) -> int:
    """Return a seed in [0, 2^63) that depends on `seed` and on each part of `where`; the same on every machine."""
    text = "/".join(str(part) for part in (seed, *where))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *where: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, *where))


def seed_globals(seed: int, *where: int | str) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices) with `derive`."""
    value = derive(seed, *where)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


def capture_generators() -> dict[str, Any]:
    """Return the state of the global generators as plain data and tensors."""
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
    if torch.cuda.is_initialized():  # otherwise there is no state, and reading it would allocate memory on every GPU
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_generators(state: dict[str, Any]) -> None:
    """Set the global generators to a state that `capture` returned."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
