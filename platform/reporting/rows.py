"""Convert the events of a trial's ledger to rows for W&B and TensorBoard: an axis, a step on it, numbers by name.

Also the settings of the projector, and the values of a finished trial (W&B's summary).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..ledger.documents import VIEWS
from ..ledger.reader import Trial

Mode = Literal["online", "offline", "disabled"]
# Fields of an epoch event whose dashboard name is not train/<field>; `iteration` and `epoch` are axes.
_EPOCH_NAMES = {
    "lr": "train/learning_rate",
    "train_loss": "train/evaluated_loss",
    "train_accuracy": "train/accuracy",
    "validation_loss": "validation/loss",
    "validation_accuracy": "validation/accuracy",
}
_AXES = ("kind", "experience", "iteration")
# Before the names of what is measured on the validation splits: W&B would take the parts around a dot for nested keys.
_VALIDATION = "validation_"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectorSettings:
    """Where the projector sends the trials of a folder.

    Attributes:
        mode: W&B's mode. None: WANDB_MODE, or online if there is a key, else offline.
        project: the runs' project on W&B.
        entity: the user or team on W&B that owns the project.
        group: the runs' group. None: the experiment's name.
        tags: tags of each run, besides its variant, stream and strategies.
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
    """One row of numbers.

    Attributes:
        axis: the row's step axis.
        step: the position on it.
        values: the numbers by name.
        key: grows from row to row of a trial, so that repeated events can be recognised.
    """

    axis: Literal["iteration", "experience"]
    step: int
    values: dict[str, float]
    key: tuple[int, ...]


def row_of(event: Mapping[str, Any]) -> MetricsRow | None:
    """Return the row of an epoch, experience or probe event, None for other kinds; null values are left out."""
    experience, iteration = event["experience"], event["iteration"]
    if event["kind"] == "epoch":
        numbers = numbers_of(event, "")
        values = {_EPOCH_NAMES.get(name, f"train/{name}"): value for name, value in numbers.items()}
        return MetricsRow("iteration", iteration, values, (experience, 0, iteration, 0, event.get("epoch", 0)))
    if event["kind"] == "probe":
        return _probe_row(event)
    if event["kind"] != "experience":
        return None
    values = {f"cost/{name}": value for name, value in numbers_of(event, "").items()}
    for results, prefix in ((event, ""), (event.get("validation"), _VALIDATION)):
        if isinstance(results, Mapping):
            values |= _accuracies(results, prefix) | metric_values(results.get("metrics") or {}, prefix)
    return MetricsRow("experience", experience, values, (experience, 1, iteration, 0, 0))


def _accuracies(rows: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The cells of each view's row of the accuracy matrix: "accuracy/task_agnostic/experience_01"."""
    values: dict[str, float] = {}
    for view in VIEWS:
        cells = {f"experience_{number:02d}": cell for number, cell in enumerate(rows.get(view) or (), 1)}
        values |= numbers_of(cells, f"{prefix}accuracy/{view}/")
    return values


def _probe_row(event: Mapping[str, Any]) -> MetricsRow:
    """The row of a probe's result, after an experience or mid-experience."""
    after = bool(event.get("after"))
    prefix = f"{'probe' if after else 'probe_during'}/{event.get('probe')}/"
    values = numbers_of({**(event.get("values") or {}), "seconds": event.get("seconds")}, prefix)
    key = (event["experience"], int(after), event["iteration"], 1, event.get("order", 0))
    return (
        MetricsRow("experience", event["experience"], values, key)
        if after
        else MetricsRow("iteration", event["iteration"], values, key)
    )


def metric_values(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flatten {view: {metric: value}} to {"view/metric": value}; {metric: value} without views counts as task-agnostic.

    `prefix`: stands before each name.
    """
    views = {view: metrics[view] for view in VIEWS if isinstance(metrics.get(view), Mapping)}
    flat: dict[str, float] = {}
    for view, values in (views or {VIEWS[0]: metrics}).items():
        flat |= numbers_of(values, f"{prefix}{view}/")
    return flat


def numbers_of(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return the numbers among `values`, with `prefix` before each name; axes and all other types are left out."""
    return {
        f"{prefix}{name}": value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _AXES
    }


def final_values(trial: Trial) -> dict[str, Any]:
    """Return the values of a whole trial: its state and error, cost, final metrics of both views and accuracy matrices.

    Names of what is measured on the validation splits begin with "validation_".

    The metrics of a trial that is not done are None: W&B would take those so far for its results.
    """
    status = trial.status()
    if status.status != "done":
        return {"status": status.status, "error": status.error or ""} | dict.fromkeys(_metrics_so_far(trial))
    summary, matrix = trial.read("summary") or {}, trial.read("matrix") or {}
    cost = {f"cost/{name}": summary[name] for name in ("seconds", "samples") if summary.get(name) is not None}
    values: dict[str, Any] = {"status": status.status, "error": "", **cost, **metric_values(summary)}
    values |= _final_matrices(matrix, "")
    if isinstance(validation := summary.get("validation"), Mapping):
        values |= metric_values(validation, _VALIDATION)
    if isinstance(validation := matrix.get("validation"), Mapping):
        values |= _final_matrices(validation, _VALIDATION)
    return values


def _final_matrices(matrices: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {f"{prefix}accuracy_matrix/{view}": matrices[view] for view in VIEWS if view in matrices}


def _metrics_so_far(trial: Trial) -> dict[str, float]:
    """The metrics that an unfinished trial has logged after its experiences."""
    logged: dict[str, float] = {}
    for _, event in trial.events():
        if event["kind"] == "experience":
            logged |= metric_values(event.get("metrics") or {})
            if isinstance(validation := event.get("validation"), Mapping):
                logged |= metric_values(validation.get("metrics") or {}, _VALIDATION)
    return logged
