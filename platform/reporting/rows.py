"""Events of a trial's ledger -> rows of numbers with their own step axis, as W&B and TensorBoard take them.

And what is needed to follow many ledgers: which to look at now, whether one has changed, what was sent (projector.json).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..ledger.documents import VIEWS
from ..ledger.reader import Trial

Mode = Literal["online", "offline", "disabled"]
# Fields of an epoch's event whose dashboard name is not train/<field>; `iteration` and `epoch` are axes.
_EPOCH_NAMES = {
    "lr": "train/learning_rate",
    "train_loss": "train/evaluated_loss",
    "train_accuracy": "train/accuracy",
    "validation_loss": "validation/loss",
    "validation_accuracy": "validation/accuracy",
}
_AXES = ("kind", "experience", "iteration")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectorSettings:
    """What to project to.

    Attributes:
        mode: of W&B; None: what WANDB_MODE says, else online where a key is found, else offline.
        project, entity: where the runs go on W&B.
        group: of the runs; None: the experiment's name.
        tags: on each run, beside its variant, stream and strategies.
        tensorboard: whether to write <folder>/tensorboard too.
    """

    mode: Mode | None = None
    project: str = "retain"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    tensorboard: bool = False


@dataclass(frozen=True, slots=True)
class MetricsRow:
    """One row: its axis and place on it, the numbers by name, and its key, which grows along a trial."""

    axis: Literal["iteration", "experience"]
    step: int
    values: dict[str, float]
    key: tuple[int, ...]


def row_of(event: Mapping[str, Any]) -> MetricsRow | None:
    """Return the row of an epoch's, an experience's or a probe's event, None for other kinds; nulls are left out."""
    experience, iteration = event["experience"], event["iteration"]
    if event["kind"] == "epoch":
        numbers = _numbers(event, "")
        values = {_EPOCH_NAMES.get(name, f"train/{name}"): value for name, value in numbers.items()}
        return MetricsRow("iteration", iteration, values, (experience, 0, iteration, 0, event.get("epoch", 0)))
    if event["kind"] == "probe":
        return _probe_row(event)
    if event["kind"] != "experience":
        return None
    values = {f"cost/{name}": value for name, value in _numbers(event, "").items()}
    for view in VIEWS:
        cells = {f"experience_{number:02d}": cell for number, cell in enumerate(event.get(view) or (), 1)}
        values |= _numbers(cells, f"accuracy/{view}/")
    values |= metric_values(event.get("metrics") or {})
    return MetricsRow("experience", experience, values, (experience, 1, iteration, 0, 0))


def _probe_row(event: Mapping[str, Any]) -> MetricsRow:
    """What a probe found: after an experience, or amid one."""
    after = bool(event.get("after"))
    prefix = f"{'probe' if after else 'probe_during'}/{event.get('probe')}/"
    values = _numbers({**(event.get("values") or {}), "seconds": event.get("seconds")}, prefix)
    key = (event["experience"], int(after), event["iteration"], 1, event.get("order", 0))
    return (
        MetricsRow("experience", event["experience"], values, key)
        if after
        else MetricsRow("iteration", event["iteration"], values, key)
    )


def metric_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Flatten {view: {metric: value}} (or one view's {metric: value}, which is then task-agnostic) to view/metric."""
    views = {view: metrics[view] for view in VIEWS if isinstance(metrics.get(view), Mapping)}
    found: dict[str, float] = {}
    for view, values in (views or {VIEWS[0]: metrics}).items():
        found |= _numbers(values, f"{view}/")
    return found


def _numbers(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {
        f"{prefix}{name}": value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _AXES
    }


def final_values(trial: Trial) -> dict[str, Any]:
    """What is true of a whole trial: its state, cost, final metrics of both views and accuracy matrices."""
    summary, matrix = trial.read("summary") or {}, trial.read("matrix") or {}
    cost = {f"cost/{name}": summary[name] for name in ("seconds", "samples") if summary.get(name) is not None}
    matrices = {f"accuracy_matrix/{view}": matrix[view] for view in VIEWS if view in matrix}
    return {"status": trial.status().status, **cost, **metric_values(summary), **matrices}
