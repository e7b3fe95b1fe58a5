"""Samples per second of each augmentation, from stored bytes to the network's input, against loaders that work per sample.

    uv run python tests/speed/augmentation.py [--rounds 5] [--only crop cifar] [--sides 32 64] [--no-training]

Ours gathers, normalises and augments a mini-batch of 128 colour pictures. The others: a DataLoader (no workers) with
torchvision's transforms on PIL pictures, or its v2 transforms on tensors, picture by picture; kornia on whole mini-batches, if it
is installed. All run in one thread and in turn within a round, by CPU time (other processes do not count); a ratio is taken
within its round. At the end: what augmentation costs the learner. Nothing is asserted.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from measure import Ratio, save, table
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from retain.platform.config.load import from_dict
from retain.platform.config.schema import Optimizer, Training
from retain.platform.data.augmentation.pipeline import Augmentation
from retain.platform.data.augmentation.presets import resolve_transformations
from retain.platform.data.streams import Arrays, Experience, Part, Stream
from retain.platform.models.networks import small_cnn
from retain.platform.seeding import generator
from retain.platform.training.avalanche_learner import AvalancheLearner as Learner

try:
    import kornia.augmentation as K
except ImportError:
    K = None

BATCH, MEAN, STD = 128, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
Run = Callable[[], Any]
BILINEAR = v2.InterpolationMode.BILINEAR


def theirs(side: int, T: Any) -> dict[str, list[Any]]:
    """Return torchvision's transforms (`T`: `transforms` or `transforms.v2`) for each of ours, with the same settings."""
    single = {
        "crop": T.RandomCrop(side, padding=4),
        "flip": T.RandomHorizontalFlip(),
        "random_resized_crop": T.RandomResizedCrop(side),
        "rotation": T.RandomRotation(15, BILINEAR),
        "scale": T.RandomAffine(0, scale=(0.9, 1.1), interpolation=BILINEAR),
        "translation": T.RandomAffine(0, translate=(0.1, 0.1), interpolation=BILINEAR),
        "elastic": T.ElasticTransform(50.0, 5.0),
        "brightness": T.ColorJitter(brightness=0.4),
        "contrast": T.ColorJitter(contrast=0.4),
        "colour": T.ColorJitter(saturation=0.4),
        "hue": T.ColorJitter(hue=0.1),
        "greyscale": T.RandomGrayscale(0.2),
        "blur": T.RandomApply([T.GaussianBlur(9, (0.1, 1.0))]),
        "randaugment": T.RandAugment(interpolation=BILINEAR),
        "augmix": T.AugMix(interpolation=BILINEAR, all_ops=False),
    }
    affine = T.RandomAffine(7.5, scale=(0.85, 1.15), translate=(0.07, 0.07), interpolation=BILINEAR)
    jitter = T.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)
    return {
        **{name: [one] for name, one in single.items()},
        "cutout": [],  # needs a tensor: below
        "cifar": [single["crop"], single["flip"]],
        "digits": [affine],
        "fashion": [T.RandomCrop(side, padding=2), single["flip"]],
        "natural": [T.RandomResizedCrop(side, scale=(0.25, 1)), single["flip"], jitter],
        "emoji": [
            T.RandomResizedCrop(side, scale=(0.5, 1)),
            single["flip"],
            T.ColorJitter(brightness=0.2, saturation=0.2),
        ],
    }


def kornias(side: int) -> dict[str, list[Any]]:
    """Return kornia's transforms, where it has equivalent ones."""
    if K is None:
        return {}
    size = (side, side)
    crop, flip = K.RandomCrop(size, padding=4), K.RandomHorizontalFlip()
    jitter = [K.RandomBrightness((0.6, 1.4)), K.RandomContrast((0.6, 1.4)), K.RandomSaturation((0.6, 1.4))]
    for one in jitter:
        one.p = 1.0
    return {
        "crop": [crop],
        "flip": [flip],
        "random_resized_crop": [K.RandomResizedCrop(size)],
        "rotation": [K.RandomRotation(15.0, p=1.0)],
        "scale": [K.RandomAffine(0.0, scale=(0.9, 1.1), p=1.0)],
        "translation": [K.RandomAffine(0.0, translate=(0.1, 0.1), p=1.0)],
        "elastic": [K.RandomElasticTransform(p=1.0)],
        "brightness": jitter[:1],
        "contrast": jitter[1:2],
        "colour": jitter[2:],
        "hue": [K.RandomHue((-0.1, 0.1), p=1.0)],
        "greyscale": [K.RandomGrayscale(p=0.2)],
        "blur": [K.RandomGaussianBlur((9, 9), (0.1, 1.0), p=0.5)],
        "cifar": [crop, flip],
        "digits": [K.RandomAffine(7.5, scale=(0.85, 1.15), translate=(0.07, 0.07), p=1.0)],
        "natural": [K.RandomResizedCrop(size, scale=(0.25, 1.0)), flip, *jitter],
    }


class Pictures(Dataset[tuple[Tensor, int]]):
    """Stored pictures, transformed one by one."""

    def __init__(self, x: Tensor, transform: Callable[[Any], Tensor], as_pil: bool) -> None:
        self.x, self.transform, self.as_pil = x, transform, as_pil
        self.arrays = x.permute(0, 2, 3, 1).contiguous().numpy()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[index]) if self.as_pil else self.x[index]), 0


def loader(x: Tensor, name: str, as_pil: bool) -> Run:
    """Do one pass over a shuffled loader."""
    T: Any = v1 if as_pil else v2
    erase = [T.RandomErasing(1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0))] if name == "cutout" else []
    to_float = v1.ToTensor() if as_pil else v2.ToDtype(torch.float32, scale=True)
    whole = T.Compose([*theirs(x.shape[2], T)[name], to_float, *erase, T.Normalize(MEAN, STD)])
    batches = DataLoader(Pictures(x, whole, as_pil), BATCH, shuffle=True)
    return lambda: [None for _ in batches]


def ours(stream: Stream, name: str) -> Run:
    """Do one pass over shuffled indices of the resident bytes."""
    x = stream.experiences[0].train.arrays.x
    augment = augmentation(stream, name)

    def run() -> None:
        for number, index in enumerate(torch.randperm(len(x)).split(BATCH)):
            augment(stream.normalise(x.index_select(0, index)), (0, 0, number))

    return run


def kornia_run(x: Tensor, name: str) -> Run | None:
    """Do the same with kornia's transforms on each mini-batch."""
    if name not in kornias(x.shape[2]):
        return None
    whole = nn.Sequential(*kornias(x.shape[2])[name], K.Normalize(torch.tensor(MEAN), torch.tensor(STD)))

    def run() -> None:
        for index in torch.randperm(len(x)).split(BATCH):
            whole(x.index_select(0, index).float().div_(255))

    return run


def augmentation(stream: Stream, name: str) -> Augmentation:
    """Return a preset, or one transformation with its defaults."""
    chosen: Any = name if name in PRESET_NAMES else [name]
    config = from_dict({"name": "t", "benchmark": "split_digits", "model": "mlp", "training": {"augmentation": chosen}})
    return Augmentation(stream, [built for _, built in resolve_transformations(config)], seed=0)


PRESET_NAMES = ("cifar", "digits", "fashion", "natural", "emoji")


def stream_of(side: int, size: int) -> Stream:
    """Return one experience of smooth random colour pictures (the histogram of noise is unlike any picture's)."""
    coarse = torch.rand(size, 3, 8, 8, generator=generator(0, "pictures"))
    x = nn.functional.interpolate(coarse, (side, side), mode="bilinear").mul(255).to(torch.uint8)
    part = Part(Arrays(x, torch.arange(size) % 10), torch.arange(size))
    few = Part(part.arrays, torch.arange(10))
    names = tuple("abcdefghij")
    return Stream(
        "pictures", "class", (Experience("all", tuple(range(10)), part, few, few),), names, (3, side, side), MEAN, STD
    )


def seconds(run: Run) -> float:
    """Return the CPU time of one pass."""
    started = time.process_time()
    run()
    return time.process_time() - started


def transformations(names: Sequence[str], side: int, rounds: int, size: int) -> list[str]:
    """Return a sentence, and a table of samples/s with the ratio of ours to theirs."""
    stream = stream_of(side, size)
    x = stream.experiences[0].train.arrays.x
    rows = []
    for name in names:
        runs = {"ours": ours(stream, name), "pil": loader(x, name, True), "v2": loader(x, name, False)}
        batched = kornia_run(x, name)
        runs |= {"kornia": batched} if batched else {}
        for run in runs.values():
            run()  # warm-up
        timings = [{way: seconds(run) for way, run in runs.items()} for _ in range(rounds)]
        row = [name, f"{size / statistics.median(times['ours'] for times in timings):,.0f}"]
        for way in ("pil", "v2", "kornia"):
            if way in runs:
                rate = size / statistics.median(times[way] for times in timings)
                faster = statistics.median(times[way] / times["ours"] for times in timings)
                row.append(f"{rate:,.0f} ({faster:.1f})")
            else:
                row.append("-")
        rows.append(row)
        print(*row, file=sys.stderr, flush=True)
    about = f"Samples/s of pictures of {side}x{side}x3; in brackets: ours is so many times as fast (median of {rounds} rounds)."
    return [about, table(["", "ours", "PIL loader", "torchvision v2", "kornia"], rows)]


def training(names: Sequence[str], rounds: int, size: int) -> list[Ratio]:
    """Return what augmentation costs the learner on the small CNN."""
    stream = stream_of(32, size)
    settings = Training(epochs=1, batch_size=BATCH, optimizer=Optimizer(lr=0.01, clip=None))

    def run(name: str | None) -> None:
        network = small_cnn.build(small_cnn.Config(), stream.shape, 10, generator(0))
        augment = augmentation(stream, name) if name else None
        Learner(model=network, stream=stream, training=settings, augment=augment).train_experience(0)

    ways = [None, *names]
    run(None)
    measured = [{name: seconds(lambda name=name: run(name)) for name in ways} for _ in range(rounds)]
    rate = size / statistics.median(times[None] for times in measured)
    return [
        Ratio(
            f"the learner with {name} / without",
            [times[name] / times[None] for times in measured],
            note=f"small_cnn on 32x32x3, batch {BATCH}: {rate:,.0f} samples/s without",
        )
        for name in names
    ]


def main() -> None:
    """Measure, print and save."""
    names = list(theirs(32, v2))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=names, choices=names)
    parser.add_argument("--sides", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--size", type=int, default=4 * BATCH, help="pictures in a pass")
    parser.add_argument("--no-training", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = [] if K else ["kornia is not installed."]
    for side in arguments.sides:
        lines += transformations(arguments.only, side, arguments.rounds, arguments.size)
    presets = [] if arguments.no_training else ["cifar", "digits", "natural", "randaugment"]
    save("augmentation", training(presets, arguments.rounds, 40 * BATCH) if presets else [], lines)


if __name__ == "__main__":
    main()
