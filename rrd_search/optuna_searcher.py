"""Study: the Optuna study behind a search. It proposes configs and is told the truth about every trial.

It lives in a SQLite file, so that a search goes on where it was killed. Ray and MLflow are not needed here.
"""

import math
from collections import deque
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.study import get_all_study_names
from optuna.trial import FrozenTrial, TrialState

from rrd_search.generations import present_study, reference_record
from rrd_search.marks import (
    EARLIER_REFERENCES,
    LEFT,
    REFERENCE_PREFIX,
    SPACE,
    WARM_START,
    check_owner,
    reference_id,
    references_of,
    searched_id,
)
from rrd_search.quiet import quiet_log, quiet_optuna
from rrd_search.samplers import draw, make_sampler
from rrd_search.space import InvalidCombination, Space
from rrd_search.space_check import check
from rrd_search.space_points import draw_unseen
from rrd_search.study_storage import StudyStorage
from rrd_search.trial_records import (
    Proposal,
    TrialRecord,
    curve_of,
    free_id,
    id_of,
    is_kept,
    is_present,
    proposal_of,
    record_of,
    rungs_of,
)
from trainables.config import TrialConfig

OBJECTIVE = "val_accuracy"
SAMPLER_TRIES = 10  # asks in a row that may end in a duplicate or an invalid combination
TOLD = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Study:
    """A search's trials: proposed one by one, reported every epoch, told once how they ended.

    The highest objective is the best. A proposal depends on the seed, its trial's number and what was told so far. No
    config is proposed twice. References are kept apart, where they do not disturb the sampler. One process at a time
    may use a study. ``exhausted`` is True once no new config could be found.
    """

    def __init__(
        self,
        storage_url: str,
        name: str,
        space: Space,
        sampler: str = "tpe",
        seed: int = 0,
        independent_schedules: bool = False,
    ) -> None:
        """Open or begin the study called ``name``. ``independent_schedules``: each trial has its own order and views of
        the images, instead of all the same. ValueError for an unknown sampler, a space that is not right, or a file
        that is another search's."""
        self.exhausted = False
        self.space, self._sampler, self._seed = space, sampler, seed
        self._independent_schedules = independent_schedules
        self.facts = check(space)
        self.name = name
        make_sampler(sampler, seed, 0)  # which checks its name
        self.storage = StudyStorage(storage_url)
        with quiet_optuna():
            check_owner(name, get_all_study_names(self.storage.optuna))
            self._references = _open(self.storage, references_of(name))
        self.read_all()

    def read_all(self) -> None:
        """Everything that is known of the search's present space."""
        with quiet_optuna():
            self.searched = _open(self.storage, present_study(self.storage.optuna, self.name))
        if SPACE not in self.searched.user_attrs:
            self.searched.set_user_attr("objective", OBJECTIVE)
            self.searched.set_user_attr(SPACE, self.facts.description)
        known = self.searched.user_attrs
        self.begun_with: dict[str, Any] = known[SPACE]
        self._earlier_references: dict[str, str] = known.get(EARLIER_REFERENCES, {})  # by id, why
        self.warm_start: str | None = known.get(WARM_START)
        self._rows: dict[str, tuple[int, int]] = {}  # trial id -> the storage's own id, the number in its study
        self._hashes: dict[str, str] = {}  # hash of the config as the space gave it -> trial id, of searched trials
        self._running: dict[str, set[int]] = {}  # trial id -> the epochs reported, while it has not ended
        self._values: dict[str, float] = {}  # trial id -> value, of complete searched trials
        self._numbers = 0  # that Optuna has given to searched trials, those in the queue included
        self._queue: deque[int] = deque()  # numbers of the trials that wait to be asked for
        self._unfinished = self._read()
        self._start_is_queued = False

    def propose(self) -> Proposal | None:
        """The next trial: START points first, then the sampler's. None, and ``exhausted``, where none is left.

        ValueError, with file and line, where the space's function fails.
        """
        if not self._start_is_queued:
            self._queue_start()
        tries = 0
        while not self.exhausted and tries < SAMPLER_TRIES:
            with quiet_log():
                proposal, waited = self._ask()
            if proposal is not None:
                return proposal
            tries += not waited
        if not self.exhausted:
            params = draw_unseen(self.space, draw(self._seed, self._numbers), self._hashes)
            self.exhausted = params is None
            if params is not None:
                self._enqueue(params, {})
                return self._ask()[0]
        return None

    def propose_references(self) -> list[Proposal]:
        """The space's references that the study does not know yet."""
        proposals = []
        known = {reference.point for reference in self.references()}
        for name, config in self.facts.references.items():
            if name not in known:
                trial_id = free_id(reference_id(name), self._rows)  # an earlier space's may have its first one
                with quiet_optuna():
                    trial = self._references.ask()
                trial.set_user_attr("point", name)
                trial.set_user_attr("trial_id", trial_id)
                config = self.scheduled(config, trial_id)
                self._keep(trial, trial_id, config)
                proposals.append(Proposal(trial_id, config, {}, name))
        return proposals

    def report(self, trial_id: str, epoch: int, value: float) -> None:
        """The objective after an epoch. An epoch that was reported before, or a trial that has ended, is left alone."""
        assert trial_id in self._rows, f"trial {trial_id} was never proposed"
        if epoch not in self._running.get(trial_id, (epoch,)):
            self.storage.optuna.set_trial_intermediate_value(self._rows[trial_id][0], epoch, float(value))
            self._running[trial_id].add(epoch)

    def report_rung(self, trial_id: str, epoch: int, value: float) -> None:
        """What trials are compared by after a rung epoch; the first report of an epoch counts, as in ``report``."""
        trial = self._trial(trial_id)
        known = rungs_of(trial)
        if not trial.state.is_finished() and epoch not in known:
            self.storage.optuna.set_trial_user_attr(trial._trial_id, "rungs", {**known, epoch: float(value)})

    def audited(self, trial_id: str) -> int | None:
        """The epoch after which an audited trial would have been stopped; None for others."""
        return self._trial(trial_id).user_attrs.get("audited_at_epoch")

    def audit(self, trial_id: str, epoch: int) -> None:
        """The trial, which would have been stopped after this epoch, runs on to its end."""
        trial = self._trial(trial_id)
        assert not trial.state.is_finished(), f"trial {trial_id} has ended"
        self.storage.optuna.set_trial_user_attr(trial._trial_id, "audited_at_epoch", epoch)

    def tell(self, trial_id: str, state: str, value: float | None, reason: str | None = None) -> None:
        """How a trial ended: complete, pruned (its value is that of the last reported epoch) or failed. Telling again
        changes nothing. A complete trial without a finite value is told as failed."""
        assert state in TOLD, f"a trial ends as one of {', '.join(TOLD)}, not {state}"
        assert trial_id in self._rows, f"trial {trial_id} was never proposed"
        if trial_id not in self._running:
            return
        if state == "complete" and (value is None or not math.isfinite(value)):
            state, reason = "failed", reason or f"{OBJECTIVE} is {value}"
        row, number = self._rows[trial_id]
        if reason is not None:
            self.storage.optuna.set_trial_user_attr(row, "reason", reason)
        with quiet_optuna():
            told = value if state == "complete" else None
            self._study(trial_id).tell(number, told, state=TOLD[state])
        del self._running[trial_id]
        if told is not None and not trial_id.startswith(REFERENCE_PREFIX):
            self._values[trial_id] = told

    def unfinished(self) -> list[Proposal]:
        """Trials that an earlier process had not ended, to be run again under their ids; references first."""
        return [one for one in self._unfinished if one.trial_id in self._running]

    def trials(self) -> list[TrialRecord]:
        """The searched trials in the order of their proposals, without ``earlier`` ones."""
        return [record_of(one, False) for one in self.searched.get_trials(deepcopy=False) if is_present(one)]

    def references(self) -> list[TrialRecord]:
        return [one for one in self.all_references() if one.earlier is None]

    def all_references(self) -> list[TrialRecord]:
        """Those of earlier spaces too."""
        trials = self._references.get_trials(deepcopy=False)
        return [reference_record(one, self._earlier_references) for one in trials if is_kept(one)]

    def earlier(self) -> list[TrialRecord]:
        """The trials that are no points of the present space, as they ended; then such references."""
        trials = [record_of(one, False) for one in self.searched.get_trials(deepcopy=False) if is_kept(one)]
        return [one for one in [*trials, *self.all_references()] if one.earlier is not None]

    def best(self) -> TrialRecord | None:
        """The complete searched trial with the highest value, the earliest of equal ones."""
        first = self.ranked()[:1]
        return record_of(self._trial(first[0]), False) if first else None

    def ranked(self) -> list[str]:
        """The ids of the complete searched trials, the best first, the earlier of equal ones first."""
        return sorted(self._values, key=lambda trial_id: (-self._values[trial_id], trial_id))

    def scheduled(self, config: TrialConfig, trial_id: str) -> TrialConfig:
        """With its own schedule where trials do not share one: drawn from the shared one's seed and the trial's id."""
        if not self._independent_schedules:
            return config
        return config.with_values({"data.schedule_seed": draw(config.data.schedule_seed, trial_id)})

    def close(self) -> None:
        self.storage.close()

    def _read(self) -> list[Proposal]:
        """Learn the ids and configs of earlier trials, and end those that a kill left half proposed. The running."""
        running = []
        for study, reference in ((self._references, True), (self.searched, False)):
            trials = study.get_trials(deepcopy=False)
            if not reference:
                self._numbers = len(trials)
                self._queue.extend(one.number for one in trials if one.state == TrialState.WAITING)
            for trial in trials:
                if is_kept(trial):
                    trial_id = id_of(trial, reference)
                    self._rows[trial_id] = trial._trial_id, trial.number
                    if not is_present(trial):
                        continue
                    if not reference:
                        self._hashes[self._hash_given(trial)] = trial_id
                    if trial.state == TrialState.RUNNING and trial_id in self._earlier_references:
                        self.storage.optuna.set_trial_user_attr(trial._trial_id, "reason", LEFT)
                        study.tell(trial.number, state=TrialState.FAIL)
                    elif trial.state == TrialState.RUNNING:
                        running.append(proposal_of(trial, reference))
                        self._running[trial_id] = set(curve_of(trial))
                    elif trial.state == TrialState.COMPLETE and not reference:
                        self._values[trial_id] = trial.values[0]
                elif trial.state == TrialState.RUNNING:
                    study.tell(trial.number, state=TrialState.FAIL)
        return running

    def _queue_start(self) -> None:
        """Let Optuna ask for the START points first, once in a study's life."""
        known = set()
        for trial in self.searched.get_trials(deepcopy=False):
            dropped = "duplicate_of" in trial.user_attrs or "invalid" in trial.user_attrs
            if is_present(trial) or dropped or trial.state == TrialState.WAITING:
                known.add(trial.user_attrs.get("point"))
        for name, params in self.facts.start.items():
            if name not in known:
                self._enqueue(params, {"point": name})
        self._start_is_queued = True

    def _enqueue(self, params: dict[str, Any], attributes: dict[str, Any]) -> None:
        with quiet_optuna():
            self.searched.enqueue_trial(params, user_attrs=attributes)
        self._queue.append(self._numbers)
        self._numbers += 1

    def _ask(self) -> tuple[Proposal | None, bool]:
        """A new trial, or None where it was a duplicate or invalid; and whether it had been waiting in the queue."""
        waited = bool(self._queue)
        number = self._queue.popleft() if waited else self._numbers
        self._numbers = max(self._numbers, number + 1)
        self.searched.sampler = make_sampler(self._sampler, self._seed, number)
        with quiet_optuna():
            trial = self.searched.ask()
        assert trial.number == number, f"trial {number} was asked for, got {trial.number}: another process is at work"
        try:
            config = self.space.config_of(trial)
        except ValueError as error:
            self._drop(trial, "invalid", str(error))
            if isinstance(error, InvalidCombination):
                return None, waited
            raise
        if config.config_hash in self._hashes:
            self._drop(trial, "duplicate_of", self._hashes[config.config_hash])
            return None, waited
        self._hashes[config.config_hash] = searched_id(number)
        config = self.scheduled(config, searched_id(number))
        self._keep(trial, searched_id(number), config)
        return Proposal(searched_id(number), config, trial.params, trial.user_attrs.get("point")), waited

    def _hash_given(self, trial: FrozenTrial) -> str:
        """That of a kept trial's config, as the space gave it."""
        if not self._independent_schedules:
            return str(trial.user_attrs["config_hash"])
        config = TrialConfig.from_dict(trial.user_attrs["config"])
        return config.with_values({"data.schedule_seed": self.space.base.data.schedule_seed}).config_hash

    def _keep(self, trial: optuna.Trial, trial_id: str, config: TrialConfig) -> None:
        trial.set_user_attr("config_hash", config.config_hash)
        trial.set_user_attr("config", config.to_dict())  # last: it marks a trial that was proposed
        self._rows[trial_id] = trial._trial_id, trial.number
        self._running[trial_id] = set()

    def _drop(self, trial: optuna.Trial, attribute: str, why: str) -> None:
        trial.set_user_attr(attribute, why)
        with quiet_optuna():
            self.searched.tell(trial, state=TrialState.FAIL)

    def _study(self, trial_id: str) -> optuna.Study:
        return self._references if trial_id.startswith(REFERENCE_PREFIX) else self.searched

    def _trial(self, trial_id: str) -> FrozenTrial:
        assert trial_id in self._rows, f"trial {trial_id} was never proposed"
        return self.storage.optuna.get_trial(self._rows[trial_id][0])


def _open(storage: StudyStorage, name: str) -> optuna.Study:
    sampler = RandomSampler(seed=0)  # until a trial is asked for
    return optuna.create_study(
        storage=storage.optuna, study_name=name, sampler=sampler, direction="maximize", load_if_exists=True
    )
