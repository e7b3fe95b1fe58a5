"""The folders of a sweep's trials that have not started: written while the first trials run, or again if they are missing."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..config.load import to_dict
from ..config.schema import Experiment
from ..config.yaml_files import dump_yaml
from ..disk_errors import unwritable_reason
from ..errors import UserError
from ..ledger.journal import extended_experiment, read_journal
from ..ledger.reader import Trial, trials_of
from ..ledger.writer import TrialLedger, with_folder
from .plan import PlannedTrial, plan


def write_pending_trial(folder: Path, trial: PlannedTrial) -> None:
    """Write the folder of a trial that has not started: its config and identity."""
    TrialLedger.create(folder, dump_yaml(to_dict(trial.config)), trial.identity).close()


def write_missing_trials(config: Experiment, folder: Path) -> None:
    """Write the trial folders that are missing because the sweep was killed while it wrote them."""

    def is_written(trial: Trial) -> bool:
        return all((trial.folder / name).exists() for name in ("config.yaml", "trial.json"))

    listed = trials_of(folder)
    missing = [trial for trial in listed if not is_written(trial) and trial.status().status == "pending"]
    if not missing:
        return
    again = planned_by_names(config) if is_extended(folder) else _planned_by_number(config, folder, listed, missing)
    for trial in missing:
        planned = again[names_of(trial.identity)]
        # older versions put other keys into the id and the overrides
        identity = {key: trial.identity[key] for key in planned.identity}
        write_pending_trial(trial.folder, replace(planned, identity=identity))


def is_extended(folder: Path) -> bool:
    """Return whether `retain add` has added trials, so that their numbers are no longer those of the plan."""
    return extended_experiment(read_journal(folder)) is not None


def names_of(identity: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a trial is called in any plan: its stream, variant and seed."""
    return tuple(identity[key] for key in ("stream", "variant", "seed"))


def planned_by_names(config: Experiment) -> dict[tuple[Any, ...], PlannedTrial]:
    """Return the experiment's trials by stream, variant and seed."""
    return {names_of(trial.identity): trial for trial in plan(config)}


def _planned_by_number(
    config: Experiment, folder: Path, listed: Sequence[Trial], missing: Sequence[Trial]
) -> dict[tuple[Any, ...], PlannedTrial]:
    """Return the plan of the missing trials by the numbers in their ids."""
    planned = plan(config)
    if len(planned) != len(listed):
        raise UserError(
            f"{folder}: another version of retain planned {len(listed)} trials, this one {len(planned)}, so the "
            f"{len(missing)} trials without a folder are not known. Start a new sweep, or resume with that version."
        )
    return {names_of(trial.identity): planned[int(trial.id.partition("-")[0])] for trial in missing}


class FolderWriter:
    """A context in which a thread writes the folders of new trials, in their order. It ends when all are written.

    Attributes:
        trials: the trials.
    """

    def __init__(self, folder: Path, planned: Sequence[PlannedTrial]) -> None:
        """Make a context that is not entered yet; `folder`: the sweep's."""
        identities = [with_folder(trial.identity) for trial in planned]
        self.trials = [Trial(folder / identity["folder"], identity) for identity in identities]
        self._planned = planned
        self._thread = ThreadPoolExecutor(1, "trial-folders")
        self._written: dict[str, Future[None]] = {}

    def is_written(self, trial: Trial) -> bool:
        """Return whether a trial's folder is written; raise the error if it cannot be."""
        written = self._written.get(trial.id)
        if written is None or not written.done():
            return written is None  # None: a trial of an earlier process
        written.result()
        return True

    def wait(self) -> None:
        """Wait until all folders are written; raise the error if one cannot be."""
        for written in self._written.values():
            written.result()

    def __enter__(self) -> Self:
        """Start to write."""
        for trial, planned in zip(self.trials, self._planned, strict=True):
            self._written[trial.id] = self._thread.submit(write_pending_trial, trial.folder, planned)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all folders are written, so that the sweep can be resumed by any version; not if the disk is full."""
        self._thread.shutdown(cancel_futures=error is not None and unwritable_reason(error) is not None)
