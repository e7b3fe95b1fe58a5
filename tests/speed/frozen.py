"""Training the head on a frozen trunk: features computed once, features computed in each iteration, the whole network trained.

    uv run python tests/speed/frozen.py [--epochs 10] [--rounds 3] [--only mlp cnn]

CPU seconds per epoch of the work of loops.py (MLP 784-256-256-10, CNN of 16/32 channels and 128 hidden), one thread, as ratios
of the whole network's; the three run in turn and ratios are taken within a round. The single pass that computes the features is
divided among the epochs. Features computed once and in each iteration must end in the same bits.
"""

import argparse
import statistics
import time

import torch
from bare import BATCH, LR, MOMENTUM
from loops import WARM_UP, Work, stream_of, works
from measure import Ratio, save

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
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=["mlp", "cnn"], default=["mlp", "cnn"])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ratios: list[Ratio] = []
    for work in works(stream_of(arguments.quick), arguments.only, arguments.quick):
        times: dict[str, list[float]] = {"whole": [], "each time": [], "once": []}
        for _ in range(arguments.rounds):
            results = {way: seconds(work, arguments.epochs, way) for way in times}
            assert torch.equal(results["once"][1], results["each time"][1]), f"{work.name}: the weights differ"
            for way, each in times.items():
                each.append(results[way][0])
        for way in ("each time", "once"):
            values = [whole / frozen for whole, frozen in zip(times["whole"], times[way], strict=True)]
            note = f"{statistics.median(times['whole']):.2f} / {statistics.median(times[way]):.2f} s an epoch"
            name = f"{work.name}: the whole network trained / features computed {way}"
            ratios.append(Ratio(name, values, at_least=True, note=note))
    save("frozen", ratios, [f"{arguments.epochs} epochs a pair, CPU time."])


if __name__ == "__main__":
    main()
