"""What becomes of a search that goes on with another space than it was begun with: which of its trials still count."""

from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution, json_to_distribution
from optuna.trial import FrozenTrial

from rrd_search.generations import carried, next_study
from rrd_search.marks import EARLIER_REFERENCES, HISTORY, SPACE, searched_id
from rrd_search.optuna_searcher import Study
from rrd_search.quiet import quiet_log, quiet_optuna
from rrd_search.space import InvalidCombination, one_line
from rrd_search.space_check import range_of
from rrd_search.space_points import Point, point_of, seeds_of
from rrd_search.trial_records import ending_of, is_present
from trainables.config import TrialConfig

Sides = tuple[Any, Any]  # before and now


class SpaceChange:
    """Between the space that a study is of and the one that it was opened with. It is true where they differ.

    ``lines`` are ``field: before -> now``; ``base`` is whether values of the base differ. ``unfit`` are trials and
    references that are no points of the new space: by id, why.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        begun, now = study.begun_with, study.facts.description
        self.lines = [f"{name}: {before} -> {after}" for name, (before, after) in _differences(begun, now).items()]
        self.base = begun["base"] != now["base"]
        self.unfit: dict[str, str] = self._unfit() if self.lines else {}

    def __bool__(self) -> bool:
        return bool(self.lines)

    @property
    def begun_base(self) -> TrialConfig:
        return TrialConfig().with_values(self._study.begun_with["base"])

    def take(self) -> None:
        """Let the study go on with the new space. Trials that are points of it stay as they are, under their ids. The
        others are ``earlier`` ones: they guide no sampler, do not win, and have failed where they ran. CMA-ES, NSGA-II
        and QMC begin anew."""
        study = self._study
        known = {name: value for name, value in study.searched.user_attrs.items() if name != SPACE}
        known |= {EARLIER_REFERENCES: self._unfit_references(), SPACE: study.facts.description}
        with quiet_optuna():
            trials = [carried(trial, self._fit) for trial in study.searched.get_trials(deepcopy=False)]
            next_study(study.storage.optuna, study.name, trials, known)
        study.read_all()

    def _unfit(self) -> dict[str, str]:
        unfit = {}
        with quiet_log():
            for trial in filter(is_present, self._study.searched.get_trials(deepcopy=False)):
                if isinstance(why := self._fit(trial), str):
                    unfit[searched_id(trial.number)] = why
        now = {one.trial_id for one in self._study.references()}
        return unfit | {trial_id: why for trial_id, why in self._unfit_references().items() if trial_id in now}

    def _fit(self, trial: FrozenTrial) -> Point | str:
        """A trial as a point of the new space, or why it is none. The search's history may have other seeds."""
        history = trial.user_attrs.get(HISTORY)
        config = TrialConfig.from_dict((history or trial.user_attrs)["config"])

        def seeded(given: TrialConfig) -> TrialConfig:
            if history:
                return given.with_values(seeds_of(config))
            return self._study.scheduled(given, searched_id(trial.number))

        try:
            values = config.flat() | ending_of(trial)[2]
            return point_of(self._study.space, values, config.config_hash, seeded)
        except InvalidCombination as error:
            return one_line(error)

    def _unfit_references(self) -> dict[str, str]:
        """Of all references: those of earlier spaces may be right again."""
        unfit = {}
        for one in self._study.all_references():
            config = self._study.facts.references.get(one.point or "")
            if config is None:
                unfit[one.trial_id] = "no reference of the space any more"
            elif self._study.scheduled(config, one.trial_id).config_hash != one.config.config_hash:
                unfit[one.trial_id] = "another base"
        return unfit


def _differences(begun: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """By field, what is told of it before and now, of two of ``SpaceFacts.description``."""
    found = {}
    for name in sorted({*begun["base"], *begun["searched"], *now["base"], *now["searched"]}):
        base = begun["base"].get(name), now["base"].get(name)
        searched = begun["searched"].get(name), now["searched"].get(name)
        if base[0] != base[1] or searched[0] != searched[1]:
            found[name] = _told(base, searched)
    return found


def _told(base: Sides, searched: Sides) -> tuple[str, str]:
    before, after = (_ranges(ranges) if ranges else _plain(value) for value, ranges in zip(base, searched, strict=True))
    if before != after:
        return before, after
    if searched[0] != searched[1]:  # by less than people are told
        return str(searched[0]), str(searched[1])
    return f"{_plain(base[0])} where it is not searched", _plain(base[1])


def _ranges(ranges: list[str]) -> str:
    return " or ".join(range_of(one) + _scale(one) for one in map(json_to_distribution, ranges))


def _scale(distribution: Any) -> str:
    if not isinstance(distribution, (FloatDistribution, IntDistribution)):
        return ""
    step = f" in steps of {distribution.step:g}" if distribution.step not in (None, 1) else ""
    return step + (", logarithmic" if distribution.log else "")


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)
