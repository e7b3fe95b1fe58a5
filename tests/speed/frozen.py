"""Training the head on a frozen trunk: features computed once, features computed in each iteration, the whole network trained.

    uv run python tests/speed/frozen.py [--epochs 10] [--rounds 3] [--only mlp cnn]

CPU seconds per epoch of the work of loops.py (MLP 784-256-256-10, CNN of 16/32 channels and 128 hidden), one thread, as ratios
of the whole network's; the three run in turn and ratios are taken within a round. The single pass that computes the features is
divided among the epochs. Features computed once and in each iteration must end in the same bits.
"""

import argparse
import os
import statistics
import time

import torch
from loops import BATCH, LR, MOMENTUM, WARM_UP, Work, stream_of, works

from retain.platform.config.schema import Optimizer, Training
from retain.platform.training.avalanche_learner import AvalancheLearner as Learner
from retain.strategies import freezing


def learner(work: Work, epochs: int, frozen: bool) -> Learner:
    """Return a learner that has trained a few iterations on the first experience."""
    second = -(-len(work.stream.experiences[1].train) // BATCH) * epochs
    lists = (WARM_UP, second, *[1] * (len(work.stream.experiences) - 2))
    optimizer = Optimizer(name="sgd", lr=LR, momentum=MOMENTUM, clip=None)
    training = Training(iterations=lists, batch_size=BATCH, optimizer=optimizer)
    plugins = [freezing.FreezingPlugin(freezing.Config(), 0)] if frozen else []
    made = Learner(model=work.build(work.stream), stream=work.stream, training=training, plugins=plugins, seed_data=3)
    made.train_experience(0)
    return made


def seconds(work: Work, epochs: int, way: str) -> tuple[float, torch.Tensor]:
    """Return the CPU seconds of an epoch, and the head's weights at the end."""
    made = learner(work, epochs, way != "whole")
    if way == "each time":
        made._frozen_features.lookup = lambda learner: None
    started = time.process_time()
    made.train_experience(1)
    return (time.process_time() - started) / epochs, made.model.head.weight.detach()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=["mlp", "cnn"], default=["mlp", "cnn"])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load {os.getloadavg()[0]:.1f}, {arguments.rounds} rounds of {arguments.epochs} epochs")
    for work in works(stream_of(arguments.quick), arguments.only, arguments.quick):
        ratios: dict[str, list[float]] = {"each time": [], "once": []}
        for _ in range(arguments.rounds):
            results = {way: seconds(work, arguments.epochs, way) for way in ("whole", *ratios)}
            assert torch.equal(results["once"][1], results["each time"][1]), f"{work.name}: the weights differ"
            for way, each in ratios.items():
                each.append(results["whole"][0] / results[way][0])
        for way, each in ratios.items():
            print(
                f"{work.name}, features computed {way}: x{statistics.median(each):.1f} ({min(each):.1f}-{max(each):.1f})"
            )


if __name__ == "__main__":
    main()
