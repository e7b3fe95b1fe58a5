"""Networks and loops in plain PyTorch, as an expert writes them: the side that retain's learner is compared with.

They hold the experience's samples as float tensors, normalised before any clock starts. The learner's clock includes that.

Shapes: n samples of the experience, B batch, C classes, K old classes, m samples in memory, M of them in a mini-batch.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retain.platform.seeding import generator

BATCH, LR, MOMENTUM, TEMPERATURE, WEIGHT = 64, 0.01, 0.9, 2.0, 10.0  # WEIGHT: of ewc's penalty


def mlp(num_classes: int) -> nn.Module:
    """Return a multilayer perceptron, 784-256-256-C."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, num_classes)
    )


def cnn(num_classes: int) -> nn.Module:
    """Return a small convolutional network: 16 and 32 channels, 128 hidden."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and a shortcut past them."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        self.shortcut = None
        if stride > 1 or num_in != num_out:
            convolution = nn.Conv2d(num_in, num_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(num_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


def resnet18(num_classes: int, width: int = 8) -> nn.Module:
    """Return a slim ResNet-18 with the stem for small pictures."""
    blocks: list[nn.Module] = []
    num_in = width
    for stage in range(4):
        num_out = width * 2**stage
        blocks += [Block(num_in, num_out, 2 if stage else 1), Block(num_out, num_out, 1)]
        num_in = num_out
    stem = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(num_in, num_classes))


@dataclass(frozen=True, eq=False)
class Extras:
    """What the loop does besides minimising the cross-entropy.

    Attributes:
        teacher: the old network, frozen, for lwf.
        recompute: whether the teacher runs on each mini-batch; else once on all samples, before the first epoch.
        memory: inputs (m, *shape) and labels (m,) of the remembered samples, for replay.
        draws: the positions (M,) in memory of each iteration.
        penalty: importances and anchors of each parameter, for ewc; those of the head may have fewer rows.
        validation: inputs and labels of the validation samples, for early stopping.
        clip: the largest norm of the gradients; None: any.
    """

    teacher: nn.Module | None = None
    recompute: bool = False
    memory: tuple[Tensor, Tensor] | None = None
    draws: Sequence[Tensor] = ()
    penalty: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None
    validation: tuple[Tensor, Tensor] | None = None
    clip: float | None = None


def training(net: nn.Module, x: Tensor, y: Tensor, seed: int, extras: Extras) -> Iterator[float]:
    """Train on x (n, 1, 28, 28) and y (n,) in the learner's order; yield the mean loss after each epoch."""
    net.train()
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM)
    teacher, iteration, best = extras.teacher, 0, -1.0
    if teacher is not None and not extras.recompute:
        targets = batched(teacher, x)
        old_targets = None if extras.memory is None else teacher_logits(teacher, extras.memory[0])
    for epoch in count():
        order = torch.randperm(len(y), generator=generator(seed, "order", 1, epoch))
        total, num_batches = 0.0, 0
        for index in order.split(BATCH):
            inputs, labels = x[index], y[index]
            if extras.memory is not None:
                torch.randperm(len(extras.memory[1]))[:BATCH]  # the loop draws, but trains on the learner's draw
                drawn = extras.draws[iteration]
                inputs = torch.cat([inputs, extras.memory[0][drawn]])
                labels = torch.cat([labels, extras.memory[1][drawn]])
            optimizer.zero_grad()
            logits = net(inputs)
            loss = F.cross_entropy(logits, labels)
            if teacher is not None:
                if extras.recompute:
                    wanted = teacher_logits(teacher, inputs)
                elif old_targets is None:
                    wanted = targets[index]
                else:
                    wanted = torch.cat([targets[index], old_targets[drawn]])
                loss = loss + distillation(logits[:, : wanted.shape[1]], wanted)
            if extras.penalty is not None:
                loss = loss + WEIGHT * quadratic(parameters, *extras.penalty)
            total += loss.item()
            loss.backward()
            if extras.clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), extras.clip)
            optimizer.step()
            iteration += 1
            num_batches += 1
        if extras.validation is not None:
            score = accuracy(net, *extras.validation)
            if score > best:
                best, _ = score, copy.deepcopy(net.state_dict())
            net.train()
        yield total / num_batches


def distillation(logits: Tensor, targets: Tensor) -> Tensor:
    """Return T^2 KL(teacher, student), a scalar, of logits (B, K) and the teacher's (B, K)."""
    log_q = F.log_softmax(logits / TEMPERATURE, 1)
    log_p = F.log_softmax(targets / TEMPERATURE, 1)
    return TEMPERATURE**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def quadratic(parameters: Sequence[Tensor], importances: Sequence[Tensor], anchors: Sequence[Tensor]) -> Tensor:
    """Return sum_i F_i (theta_i - theta*_i)^2, a scalar, over the rows that have an importance."""
    terms = [
        (importance * (parameter[: len(anchor)] - anchor) ** 2).sum()
        for parameter, importance, anchor in zip(parameters, importances, anchors, strict=True)
    ]
    return torch.stack(terms).sum()


@torch.no_grad()
def teacher_logits(teacher: nn.Module, x: Tensor) -> Tensor:
    """Return the teacher's logits (n, K) of x (n, 1, 28, 28) in one pass."""
    return teacher(x)


@torch.no_grad()
def batched(net: nn.Module, x: Tensor) -> Tensor:
    """Return logits (n, C) of x (n, 1, 28, 28), batch by batch."""
    return torch.cat([net(part) for part in x.split(BATCH)])


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the accuracy on samples x (n, 1, 28, 28) and y (n,)."""
    net.eval()
    return (batched(net, x).argmax(1) == y).sum().item() / len(y)


def evaluation(net: nn.Module, x: Tensor, y: Tensor, sizes: Sequence[int]) -> list[float]:
    """Return the accuracy on each experience's test samples, which are concatenated in x and y."""
    net.eval()
    correct = batched(net, x).argmax(1) == y
    return [part.sum().item() / len(part) for part in correct.split(list(sizes))]
