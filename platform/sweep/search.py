"""Run a search's trials in the right order: search trials, and the reported trials of a study once it has chosen.

Independent of Ray: `next_trial` says what to run, `reported` and `ended` take what came of it. It holds no state that is not in
the sweep's folder, so a new process that opens the folder continues exactly.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..ledger.journal import append_to_journal, current_choices, read_journal
from ..ledger.pruned_record import pruned_in, record_pruned
from ..ledger.reader import Trial, trials_of
from ..ledger.writer import with_folder, write_status
from .earlier_searches import add_earlier_results
from .plan import PlannedTrial
from .search_plan import SearchPlan
from .study import Configuration, Study
from .trial_stopping import TrialStopping

_log = logging.getLogger(__name__)
WritePending = Callable[[Path, PlannedTrial], None]


class Search:
    """The studies of a sweep, and its reported trials.

    Attributes:
        plan: what is searched and reported.
        studies: (stream, variant) -> the study.
        is_finished: whether every trial has been handed out and has ended.
    """

    def __init__(
        self, folder: Path, plan: SearchPlan, write_pending: WritePending, only: Collection[str] | None = None
    ) -> None:
        """Open a sweep's folder: a new one, or one whose search was stopped or killed.

        Args:
            folder: the sweep's; its trials.json has the reported trials of variants without a space.
            plan: what is searched and reported.
            write_pending: writes the folder of a trial that has not started.
            only: ids of the trials to run, failed ones of the search too; nothing is suggested or chosen. None: all but these.
        """
        self.plan, self._folder, self._write_pending, self._only = plan, folder, write_pending, only
        self._trials = {trial.id: trial for trial in trials_of(folder)}
        put_back(folder, [self._trials[each] for each in only or ()])
        self._entries = read_journal(folder)
        self._began = time.monotonic()
        self._elapsed = max((float(entry.get("elapsed", 0)) for entry in self._entries), default=0.0)
        self._running: set[str] = set()
        self._waiting: deque[Trial] = deque()  # search trials that an earlier process began
        self._reported: deque[Trial] = deque()
        self._chosen = set(current_choices(self._entries))
        self.studies: dict[tuple[str, str], Study] = {}
        self._stopping: dict[tuple[str, str], TrialStopping] = {}
        for part in plan.searched:
            key = (part.stream, part.variant)
            self.studies[key] = Study(folder, part, plan.settings, plan.first_points(part))
            self._stopping[key] = TrialStopping(plan.settings)
        self._restore()

    @property
    def is_finished(self) -> bool:
        """Return whether every trial has ended."""
        idle = not (self._running or self._waiting or self._reported)
        return idle and (self._only is not None or all(study.is_over for study in self.studies.values()))

    @property
    def is_open(self) -> bool:
        """Return whether a study has not chosen yet, or a trial of the search waits."""
        return bool(self._waiting) or (self._only is None and len(self._chosen) < len(self.studies))

    def next_trial(self) -> Trial | None:
        """Return the next trial to run, whose folder exists; None: none now, wait for one to end (or `is_finished`)."""
        while True:
            trial = self._waiting.popleft() if self._waiting else self._next_of_studies()
            if trial is None and self._reported:
                trial = self._reported.popleft()
            if trial is None:
                return None
            if trial.status().status in ("done", "pruned"):
                continue
            if not all((trial.folder / name).exists() for name in ("config.yaml", "trial.json")):
                self._write_pending(trial.folder, self._planned(trial))  # the process was killed before it was written
            self._running.add(trial.id)
            return trial

    def on_report(self, trial_id: str, report: Mapping[str, Any]) -> bool:
        """Take what a trial reports after an experience; return whether to stop it early, which is recorded in its folder."""
        trial = self._trials[trial_id]
        if not is_search_trial(trial) or trial.seed != self.plan.settings.seeds[0]:
            return False
        reason = self._stopping[_study_key(trial)].on_report(trial, report)
        if reason:
            record_pruned(trial.folder, int(report["experience"]), reason)
        return bool(reason)

    def ended(self, trial_id: str, error: str | None = None) -> None:
        """Take that a trial has ended: done, failed, stopped early, or only stopped.

        Args:
            trial_id: the trial's id.
            error: why Ray gave it up; None: it did not.
        """
        self._running.discard(trial_id)
        trial = self._trials[trial_id]
        status = trial.status()
        if (pruned := pruned_in(trial.folder)) is not None and status.status not in ("done", "failed"):
            write_status(trial.folder, "pruned", status.experience, pruned)
        elif error is not None and status.status not in ("done", "failed"):
            write_status(trial.folder, "failed", status.experience, error)
        if is_search_trial(trial):
            self.studies[_study_key(trial)].ended(trial)

    # --- what an earlier process left ---

    def _restore(self) -> None:
        """Rebuild the studies and the schedulers from the journal and the trials' folders."""
        by_study: dict[tuple[str, str], list[Trial]] = {key: [] for key in self.studies}
        for trial in self._trials.values():
            if is_search_trial(trial):
                by_study.setdefault(_study_key(trial), []).append(trial)
            elif trial.role == "reported" and self._may_report(trial):
                self._reported.append(trial)
        for key, trials in by_study.items():
            if key not in self.studies:
                raise UserError(
                    f"{self._folder}: its search has trials of {key[1]} on {key[0]}, which the config no longer has."
                )
            self._restore_stopping(key, trials)
            entries = [each for each in self._entries if (each.get("stream"), each.get("variant")) == key]
            self.studies[key].restore(entries, trials)
            self.studies[key].is_over = key in self._chosen
            waiting = [trial for trial in trials if trial.status().status not in ("done", "failed", "pruned")]
            self._waiting.extend(trial for trial in waiting if self._only is None or trial.id in self._only)
        open_studies = [study for study in self.studies.values() if not study.is_over and self._only is None]
        add_earlier_results(self._folder, self.plan.settings, open_studies, self._entries)
        for study in open_studies:
            study.decide_seeds()

    def _may_report(self, trial: Trial) -> bool:
        """Return whether a reported trial can run: one of a search that chooses again waits for the choice."""
        if self._only is not None:
            return trial.id in self._only
        study = self._study_of(trial)
        return study is None or study.key in self._chosen

    def _study_of(self, trial: Trial) -> Study | None:
        """Return the study that has chosen the configuration of a reported trial; None if its variant has no space."""
        if "configuration" not in trial.identity:
            return None
        study = next((each for (_, variant), each in self.studies.items() if variant == trial.variant), None)
        return self.studies.get((trial.stream, trial.variant), study)

    def _restore_stopping(self, key: tuple[str, str], trials: list[Trial]) -> None:
        """Give a scheduler the results that trials have reported; a decision that was not recorded is made again.

        A trial that runs again after it has failed had not been stopped before.
        """
        lines = [each["trials"] for each in self._entries if each["kind"] == "retry"]
        passed = {trial_id: experience for line in lines for trial_id, experience in line.items()}
        first = [trial for trial in trials if trial.seed == self.plan.settings.seeds[0]]
        ended = [trial for trial in first if trial.status().status in ("done", "failed", "pruned")]
        for trial in (*ended, *(each for each in first if each not in ended)):
            reason, experience = self._stopping[key].restore(trial)
            if trial in ended:
                continue
            recorded = pruned_in(trial.folder)
            if recorded is None and (reason is None or experience <= passed.get(trial.id, 0)):
                continue
            if recorded is None:
                record_pruned(trial.folder, experience, str(reason))
            write_status(trial.folder, "pruned", trial.status().experience, recorded or reason)

    # --- what to run next ---

    def _next_of_studies(self) -> Trial | None:
        """Return the next search trial, of the study with the fewest configurations first; studies that are over choose."""
        if self._only is not None:
            return None
        elapsed = self._elapsed + time.monotonic() - self._began
        # first: a configuration that the process was killed before it could run
        for study in sorted(self.studies.values(), key=lambda each: (not each.has_unstarted, len(each.configurations))):
            if study.is_over:
                continue
            following = study.next_trial(elapsed)
            if following is not None:
                configuration, seed = following
                planned = self.plan.search_trial(
                    study.part, configuration.point, configuration.number, seed, len(self._trials)
                )
                trial = self._add(planned)
                study.started(configuration.number, trial)
                return trial
            if study.is_over:
                self._choose(study)
        return None

    def _choose(self, study: Study) -> None:
        """Choose a study's configuration: the journal gets one line with it, its reported trials and those that no longer are."""
        chosen = study.chosen()
        planned: list[PlannedTrial] = []
        if chosen is None:
            _log.warning("search (%s, %s): no configuration is complete, so none is reported", *study.key)
        else:
            planned = self.plan.reported_trials(study.part, chosen.point, chosen.number, len(self._trials))
        known = [each for each in self._trials.values() if not is_search_trial(each) and self._study_of(each) is study]
        number = None if chosen is None else chosen.number
        kept = {(each.stream, each.seed): each for each in known if each.identity["configuration"] == number}
        old = [each for each in known if each.role == "reported" and each not in kept.values()]
        again = [each for each in kept.values() if each.role == "superseded"]
        missing = [each for each in planned if (each.identity["stream"], each.identity["seed"]) not in kept]
        added = [each.numbered(position) for position, each in enumerate(missing, len(self._trials))]
        lists = {"superseded": [each.id for each in old], "again": [each.id for each in again]}
        identities = [with_folder(each.identity) for each in added]
        append_to_journal(
            self._folder, "chosen", {**study.names, **_choice(study, chosen), "trials": identities, **lists}
        )
        self._chosen.add(study.key)
        for trial in old:
            self._trials[trial.id] = Trial(trial.folder, {**trial.identity, "role": "superseded"})
        for trial in again:
            self._trials[trial.id] = Trial(trial.folder, {**trial.identity, "role": "reported"})
            if trial.status().status == "failed":  # so that a new failure is recorded
                write_status(trial.folder, "pending", trial.status().experience, None)
        self._reported.extend(self._trials[each.id] for each in kept.values())
        self._reported.extend(self._new(each) for each in added)

    def _add(self, planned: PlannedTrial) -> Trial:
        """Add a trial of the search: to the journal first, then its folder."""
        append_to_journal(self._folder, "trial", with_folder(planned.identity))
        return self._new(planned)

    def _new(self, planned: PlannedTrial) -> Trial:
        """Write the folder of a trial that the journal has."""
        identity = with_folder(planned.identity)
        trial = self._trials[identity["id"]] = Trial(self._folder / identity["folder"], identity)
        self._write_pending(trial.folder, planned)
        return trial

    def _planned(self, trial: Trial) -> PlannedTrial:
        """Plan a trial again whose folder is missing; it keeps its identity."""
        identity = {key: value for key, value in trial.identity.items() if key != "folder"}
        if is_search_trial(trial):
            study = self.studies[_study_key(trial)]
            configuration = study.configurations[int(identity["configuration"])]
            planned = [self.plan.search_trial(study.part, configuration.point, configuration.number, trial.seed, 0)]
        elif "configuration" in identity:
            chosen_by = self._study_of(trial)
            assert chosen_by is not None  # `_restore` has refused a variant that is not searched any more
            point = chosen_by.configurations[int(identity["configuration"])].point
            planned = self.plan.reported_trials(chosen_by.part, point, int(identity["configuration"]), 0)
        else:
            planned = self.plan.fixed_trials()
        names = (trial.variant, trial.stream, trial.seed)
        for each in planned:
            if tuple(each.identity[key] for key in ("variant", "stream", "seed")) == names:
                return replace(each, identity=identity)
        raise UserError(f"{trial.folder}: is missing, and the config no longer plans it: start a new sweep.")


def is_search_trial(trial: Trial) -> bool:
    """Return whether a trial belongs to a search, and is not reported."""
    return trial.role == "search"


def put_back(folder: Path, trials: Iterable[Trial]) -> None:
    """Let the failed search trials among some run again; their searches then choose once more.

    The journal says so first: suggestions that are made from now on know these trials as running ones.
    """
    failed: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        if is_search_trial(trial) and trial.status().status == "failed":
            failed.setdefault(_study_key(trial), []).append(trial)
    for (stream, variant), members in failed.items():
        experiences = {trial.id: trial.status().experience for trial in members}
        append_to_journal(folder, "retry", {"stream": stream, "variant": variant, "trials": experiences})
        for trial in members:
            write_status(trial.folder, "pending", trial.status().experience, None)


def _study_key(trial: Trial) -> tuple[str, str]:
    return trial.stream, str(trial.identity["searched"])


def _choice(study: Study, chosen: Configuration | None) -> dict[str, Any]:
    """Return what the journal keeps of a choice."""
    states = [each.state for each in study.configurations.values()]
    counts = {state: states.count(state) for state in ("complete", "pruned", "failed")}
    if chosen is None:
        return {"number": None, "configurations": len(states), **counts}
    objectives = [each.key for each in study.settings.objectives]
    values = dict(zip(objectives, chosen.means(), strict=True))
    return {"number": chosen.number, "point": chosen.point, "values": values, "configurations": len(states), **counts}
