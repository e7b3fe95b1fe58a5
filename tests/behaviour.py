"""Check on real streams what each strategy's paper says it improves: `python tests/behaviour.py [NAME ...]`.

A claim compares a strategy with what it builds on (by default naive finetuning) on one stream and one metric, over three seeds.
`make behaviour` writes the table to docs/strategies.md; tests/test_behaviour.py (slow) asserts the directions.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

SEEDS = (0, 1, 2)
MLP = {"mlp": {"hidden": [200, 200]}}
CNN = {"small_cnn": {"channels": [16, 32], "hidden": 64, "norm": "batch"}}
VIT = {"vit": {"dim": 32, "depth": 2, "heads": 4, "patch": 2, "mlp_ratio": 2}}
TRAINING = {"epochs": 1, "batch_size": 64, "optimizer": {"name": "sgd", "lr": 0.05, "clip": None}}
STREAMS: dict[str, dict[str, Any]] = {
    "split": {
        "class_incremental": {"data": "mnist", "num_experiences": 5}
    },  # the network chooses among all ten classes
    "tasks": {"task_incremental": {"data": "mnist", "num_experiences": 5}},  # two classes, the task is given
    "permuted": {"permuted": {"data": "mnist", "num_experiences": 5}},
    "rotated": {"rotated": {"data": "mnist", "angles": [0, 30, 60, 90, 120]}},
    # scikit-learn's, 8 x 8, for strategies that take longer
    "digits": {"rotated_digits": {"angles": [0, 30, 60, 90]}},
    # a hundred training pictures of each class, all test pictures
    "few tasks": {"task_incremental": {"data": "mnist", "num_experiences": 5, "shots": 100, "shots_from": 0}},
    "digit tasks": {"task_incremental": {"data": "digits", "num_experiences": 5}},
}
# metric -> (view, key of summary.json, whether more is better)
METRICS = {
    "ACC": ("task_agnostic", "average_accuracy", True),
    "ACC, task-aware": ("task_aware", "average_accuracy", True),
    "learning accuracy": ("task_agnostic", "learning_accuracy", True),
    "forgetting": ("task_agnostic", "forgetting_max", False),
    "forgetting, task-aware": ("task_aware", "forgetting_max", False),
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The claim that `strategies` improves `metric` on `stream` compared with `against`, as its paper says.

    name: the file in strategies/ that the claim is about.
    margin: the least improvement of the mean over the seeds; the smallest that is not noise.
    model, training: other than the defaults above, for both sides.
    """

    name: str
    strategies: dict[str, Any]
    stream: str
    metric: str = "ACC"
    against: dict[str, Any] = field(default_factory=dict)
    margin: float = 0.01
    model: dict[str, Any] = field(default_factory=lambda: MLP)
    training: dict[str, Any] = field(default_factory=dict)

    def config(self, strategies: dict[str, Any], seed: int) -> dict[str, Any]:
        """Return the experiment of one side."""
        return {
            "name": "behaviour",
            "benchmark": STREAMS[self.stream],
            "model": self.model,
            "strategies": strategies,
            "training": TRAINING | self.training,
            "probes": {"curves": None},
            "seed": seed,
        }


LONG = {"epochs": 20, "batch_size": 32}  # so that early stopping has something to stop
SHORT = {"epochs": 10, "batch_size": 32}
FEW = {"epochs": 10, "batch_size": 32, "optimizer": {"name": "sgd", "lr": 0.02, "clip": None}}
STEADY = {"epochs": 10, "batch_size": 32, "optimizer": {"name": "sgd", "lr": 0.1, "clip": None}}
CLAIMS: list[Claim] = [
    Claim(name="replay", strategies={"replay": {"memory": 500}}, stream="split", margin=0.4),
    Claim(name="lwf", strategies={"lwf": {"weight": 1.0}}, stream="tasks", margin=0.02),
    # on the domains, where one head serves all, the head forgets with the trunk frozen too: see docs/strategies.md
    Claim(name="freezing", strategies={"freezing": {}}, stream="few tasks", training=FEW, margin=0.02),
    Claim(name="joint", strategies={"joint": {}}, stream="split", margin=0.5),
    Claim(name="cumulative", strategies={"cumulative": {}}, stream="split", margin=0.5),
    Claim(name="icarl", strategies={"icarl": {"memory": 500}}, stream="split", margin=0.4),
    Claim(
        name="der",
        strategies={"der": {"memory": 200}},
        against={"replay": {"memory": 200, "policy": "reservoir"}},
        stream="permuted",
        margin=0.01,
    ),
    Claim(name="agem", strategies={"agem": {"memory": 250, "sample_size": 256}}, stream="permuted", margin=0.03),
    Claim(name="ncm", strategies={"freezing": {}, "ncm": {}}, stream="split", against={"freezing": {}}, margin=0.2),
    Claim(name="slda", strategies={"freezing": {}, "slda": {}}, stream="split", against={"freezing": {}}, margin=0.4),
    Claim(
        name="fecam",
        strategies={"freezing": {}, "fecam": {}},
        stream="split",
        against={"freezing": {}, "ncm": {}},
        margin=0.02,
    ),
    Claim(
        name="ranpac",
        strategies={"freezing": {}, "ranpac": {"projection": 1000}},
        stream="split",
        against={"freezing": {}, "ncm": {}},
        margin=0.02,
    ),
    Claim(
        name="wa",
        strategies={"replay": {"memory": 500}, "lwf": {}, "wa": {}},
        stream="split",
        against={"replay": {"memory": 500}, "lwf": {}},
    ),
    Claim(
        name="head_init",
        strategies={"freezing": {}, "head_init": {}},
        stream="split",
        metric="learning accuracy",
        against={"freezing": {}},
        training={"iterations": 10},
    ),
    Claim(name="bic", strategies={"bic": {"memory": 500}}, stream="split", against={"replay": {"memory": 500}}),
    *(
        Claim(name=name, strategies={name: {}}, stream="few tasks", training=FEW, margin=0.02)
        for name in ("gradual_unfreezing", "bitfit", "lora", "adapters")
    ),
    Claim(
        name="er_ace",
        strategies={"er_ace": {"memory": 200}},
        against={"replay": {"memory": 200, "policy": "reservoir"}},
        stream="split",
        margin=0.02,
    ),
    Claim(
        name="gem",
        strategies={"gem": {"memory": 100}},
        stream="permuted",
        margin=0.1,
        training={"iterations": 200},
    ),
    Claim(
        name="gdumb",
        strategies={"gdumb": {"memory": 500}},
        stream="split",
        margin=0.4,
        training={"iterations": 200},  # twenty-five epochs of the memory
    ),
    Claim(name="eeil", strategies={"eeil": {"memory": 500}}, stream="split", against={"replay": {"memory": 500}}),
    Claim(
        name="ss_il",
        strategies={"ss_il": {"memory": 500}},
        stream="split",
        metric="forgetting",
        against={"replay": {"memory": 500}},
    ),
    Claim(name="ewc", strategies={"ewc": {}}, stream="permuted", margin=0.1),
    Claim(name="si", strategies={"si": {}}, stream="permuted", margin=0.1),
    Claim(name="mas", strategies={"mas": {}}, stream="permuted", margin=0.05),
    Claim(name="rwalk", strategies={"rwalk": {}}, stream="permuted", margin=0.1),
    Claim(name="l2_sp", strategies={"l2_sp": {}}, stream="permuted", margin=0.02),
    Claim(name="lfl", strategies={"lfl": {}}, stream="rotated", metric="forgetting", margin=0.02),
    Claim(name="lwf_mc", strategies={"lwf_mc": {}}, stream="split", margin=0.2),
    Claim(name="feature_distillation", strategies={"feature_distillation": {}}, stream="tasks", margin=0.005),
    Claim(
        name="cosine_head",
        strategies={"replay": {"memory": 500}, "cosine_head": {}},
        stream="split",
        against={"replay": {"memory": 500}},
    ),
    Claim(
        name="local_similarity",
        strategies={"replay": {"memory": 500}, "local_similarity": {}},
        stream="split",
        against={"replay": {"memory": 500}},
    ),
    Claim(
        name="lucir",
        strategies={"replay": {"memory": 500}, "lucir": {}},
        stream="split",
        against={"replay": {"memory": 500}},
        margin=0.02,
    ),
    Claim(name="podnet", strategies={"podnet": {}}, stream="tasks", margin=0.05, model=CNN),
    Claim(
        name="attention_distillation",
        strategies={"attention_distillation": {}},
        stream="tasks",
        margin=0.03,
        model=CNN,
    ),
    Claim(
        name="ema",
        strategies={"replay": {"memory": 500}, "ema": {}},
        against={"replay": {"memory": 500}},
        stream="split",
    ),
    Claim(
        name="early_stopping",
        strategies={"early_stopping": {"patience": 2}},
        stream="digits",
        metric="forgetting",
        training=LONG,
    ),
    Claim(
        name="stop_at_budget",
        strategies={"stop_at_budget": {"accuracy": 0.9}},
        stream="digits",
        metric="forgetting",
        training=LONG,
    ),
    Claim(
        name="forgetting_stop",
        strategies={"forgetting_stop": {"every": 5}},
        stream="digits",
        metric="forgetting",
        training=LONG,
        margin=0.2,
    ),
    Claim(name="swa", strategies={"swa": {}}, stream="digit tasks", training=STEADY, margin=0.02),
    Claim(name="mixup", strategies={"mixup": {}}, stream="digit tasks", training=STEADY, margin=0.05),
    Claim(  # ten iterations: running averages of the old domain are still in the statistics
        name="recompute_batchnorm",
        strategies={"recompute_batchnorm": {}},
        stream="digits",
        metric="learning accuracy",
        model=CNN,
        training={"iterations": 10, "batch_size": 32, "optimizer": {"name": "sgd", "lr": 0.1, "clip": None}},
        margin=0.02,
    ),
    Claim(
        name="swap_norm",
        strategies={"swap_norm": {}},
        stream="digit tasks",
        metric="forgetting",
        model=CNN,
        training=SHORT,
        margin=0.02,
    ),
    Claim(
        name="continual_norm",
        strategies={"continual_norm": {}},
        stream="digits",
        metric="forgetting",
        model=CNN,
        training=SHORT,
        margin=0.02,
    ),
    Claim(
        name="batchnorm_per_experience",
        strategies={"freezing": {"layers": ["*.0.*", "*.4.*"]}, "batchnorm_per_experience": {}},
        stream="digit tasks",
        metric="forgetting",
        against={"freezing": {"layers": ["*.0.*", "*.4.*"]}},
        model=CNN,
        training=SHORT,
    ),
    *(  # on what the first task has taught the network, instead of a pretrained network
        Claim(
            name=name,
            strategies={name: {"from_experience": 1}},
            stream="digit tasks",
            metric="forgetting",
            model=VIT,
            training={"epochs": 15, "batch_size": 16, "optimizer": {"name": "adam", "lr": 0.002, "clip": None}},
            margin=0.1,
        )
        for name in ("l2p", "coda_prompt")
    ),
    Claim(name="snapshot_ensemble", strategies={"snapshot_ensemble": {}}, stream="rotated", margin=0.05),
]


def value(config: dict[str, Any], metric: str) -> float:
    """Return the metric of one trial."""
    from retain.platform.config.load import from_dict
    from retain.platform.trial.run import run as run_trial

    view, key, _ = METRICS[metric]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        result = run_trial(from_dict(config), Path(folder) / "trial")
    return float(result.summary[view][key])


def sides(claim: Claim) -> list[tuple[str, str]]:
    """Return (config as JSON, metric) of each trial: the strategy's by seed, then the other side's."""
    return [
        (json.dumps(claim.config(strategies, seed), sort_keys=True), claim.metric)
        for strategies in (claim.strategies, claim.against)
        for seed in SEEDS
    ]


def _value(task: tuple[str, str]) -> float:
    gc.collect()  # reference cycles of the previous trial
    return value(json.loads(task[0]), task[1])


@dataclass(frozen=True)
class Found:
    """A claim with its result: the metric by seed, with the strategy and with what it is compared to."""

    claim: Claim
    ours: list[float]
    theirs: list[float]

    @property
    def gain(self) -> float:
        """Return how much better the mean is."""
        sign = 1 if METRICS[self.claim.metric][2] else -1
        return sign * (mean(self.ours) - mean(self.theirs))

    @property
    def holds(self) -> bool:
        """Return whether the metric improved as the paper says."""
        return self.gain >= self.claim.margin

    def row(self) -> str:
        """Return a line of the table."""
        claim = self.claim
        settings, against = (
            json.dumps(each).replace('"', "")[1:-1] or "naive" for each in (claim.strategies, claim.against)
        )
        ours, theirs = (f"{100 * mean(each):.1f} ± {100 * stdev(each):.1f}" for each in (self.ours, self.theirs))
        sign = "yes" if self.holds else "**no**"
        return f"| {claim.name} | `{settings}` | {claim.stream} | {claim.metric} | {against} | {theirs} | {ours} | {sign} |"


def check(claims: list[Claim], jobs: int) -> Iterator[Found]:
    """Run each trial of the claims once and compare; yield a claim's result as soon as its trials are done."""
    tasks = list(dict.fromkeys(task for claim in claims for task in sides(claim)))
    with ProcessPoolExecutor(jobs, mp_context=get_context("forkserver")) as pool:
        values = {task: pool.submit(_value, task) for task in tasks}
        for claim in claims:
            got = [values[task].result() for task in sides(claim)]
            yield Found(claim, got[: len(SEEDS)], got[len(SEEDS) :])


NAMES = {claim.name for claim in CLAIMS}
PAGE = Path(__file__).resolve().parent.parent / "docs" / "strategies.md"
HEADER = """| strategy | settings | stream | metric | against | its % | ours % | as the paper says |
| --- | --- | --- | --- | --- | ---: | ---: | --- |"""


def write(row: str) -> None:
    """Put a row into the table of docs/strategies.md, replacing the strategy's previous row."""
    before, mark, rest = PAGE.read_text().partition("<!-- behaviour -->\n")
    table, end, after = rest.partition("<!-- /behaviour -->")
    rows = {line.split(" |")[0]: line for line in [*table.splitlines()[2:], row]}
    lines = "\n".join([HEADER, *(rows[name] for name in sorted(rows) if name.removeprefix("| ") in NAMES)])
    PAGE.write_text(f"{before}{mark}{lines}\n{end}{after}")


def main() -> int:
    """Check the named strategies, or all, and print their rows; with --write also put them into docs/strategies.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="strategies; default: all")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the rows into docs/strategies.md")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - NAMES)
    if unknown:
        parser.error(f"no claim is about {', '.join(unknown)}")
    claims = [claim for claim in CLAIMS if not arguments.names or claim.name in arguments.names]
    print(HEADER, flush=True)
    all_hold = True
    for result in check(claims, arguments.jobs):
        print(result.row(), flush=True)
        all_hold &= result.holds
        if arguments.write:
            write(result.row())
    return 0 if all_hold else 1


if __name__ == "__main__":
    sys.exit(main())
