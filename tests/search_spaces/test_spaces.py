"""One contract for every search space that comes with the project, and the published values."""

from dataclasses import replace
from typing import Any

import optuna
import pytest

from rrd_search.space import load_space, space_names
from rrd_search.space_check import check
from trainables.config import RRD, OptimizerConfig, TrialConfig, embedding_dim

VERSION_2 = {
    "loss.student_temperature": 0.04,
    "loss.teacher_temperature": 0.10,
    "loss.enqueue": "after",
    "loss.queue_size": 16384,
    "loss.projection_dim": 128,
    "loss.teacher_projection": "random",
    "loss.student_projection": "linear",
    "loss.weight": 1.0,
    "kd_weight": 0.0,
    "ce_weight": 1.0,
    "optimizer.learning_rate": 0.05,
}
LATER_VERSION = VERSION_2 | {
    "loss.student_temperature": 0.10,
    "loss.teacher_temperature": 0.02,
    "loss.enqueue": "before",
}
PUBLISHED = {
    "version 2": VERSION_2,
    "later version": LATER_VERSION,
    "version 2 + KD": VERSION_2 | {"kd_weight": 1.0, "kd_temperature": 4.0},
    "later version + KD": LATER_VERSION | {"kd_weight": 1.0, "kd_temperature": 4.0},
}


def start_configs(name: str) -> dict[str, TrialConfig]:
    space = load_space(name)
    return {point: space.config_of(optuna.trial.FixedTrial(params)) for point, params in check(space).start.items()}


def sampled(name: str, values: dict[str, Any], count: int = 40) -> list[TrialConfig]:
    space = load_space(name).with_values(values)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [space.config_of(study.ask()) for _ in range(count)]


def test_the_spaces_that_the_project_promises_are_there() -> None:
    assert {"rrd", "rrd_kd", "quickstart", "temperatures", "queue", "projection", "weights"} <= set(space_names())


@pytest.mark.parametrize("name", space_names())
def test_contract(name: str) -> None:
    space = load_space(name)
    assert (space.name, space.pinned) == (name, {})
    facts = check(space)
    fields = space.base.flat()
    assert set(facts.searched) <= set(fields), "a parameter is named after the field that it sets"
    assert facts.left_out == {}
    assert facts.description == check(load_space(name)).description
    assert set(facts.references) >= {"KD alone", "student alone"}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    for _ in range(100):
        trial = study.ask()
        config = space.config_of(trial)
        assert TrialConfig.from_dict(config.to_dict()) == config
        flat = config.flat()
        assert {one: flat[one] for one in trial.params} == trial.params
        touched = {one for one in fields if flat[one] != fields[one]}
        assert touched <= set(facts.searched), "what is not searched stays as in the base"


@pytest.mark.parametrize("name", space_names())
def test_published_points_are_as_published(name: str) -> None:
    space = load_space(name)
    configs = start_configs(name) | check(space).references
    assert "version 2" in configs
    assert "later version" in configs
    for point, published in PUBLISHED.items():
        if point in configs:
            flat = configs[point].flat()
            small_queue = {"loss.queue_size": 256} if name == "quickstart" else {}
            assert {one: flat[one] for one in published} == published | small_queue


def test_the_big_spaces_train_as_published() -> None:
    for name in set(space_names()) - {"quickstart"}:
        base = load_space(name).base
        recipe = (base.data.name, base.teacher.architecture, base.student, base.epochs, base.batch_size)
        assert recipe == ("cifar100", "resnet32x4", "resnet8x4", 240, 64)
        assert (base.schedule.kind, base.schedule.milestones) == ("step", (0.625, 0.75, 0.875))


def test_references_leave_the_method_out() -> None:
    references = check(load_space("rrd_kd")).references
    kd, alone = references["KD alone"], references["student alone"]
    assert (kd.loss.weight, kd.kd_weight, kd.kd_temperature, kd.ce_weight) == (0, 1, 4, 1)
    assert (alone.loss.weight, alone.kd_weight, alone.ce_weight) == (0, 0, 1)


def test_kd_temperature_is_searched_only_where_kd_is_on() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    space = load_space("rrd")
    for _ in range(40):
        trial = study.ask()
        config = space.config_of(trial)
        assert ("kd_temperature" in trial.params) == (config.kd_weight > 0)


def test_the_projection_fits_the_teacher() -> None:
    """Small teachers, and one whose embedding is longer than any searched projection."""
    for teacher in ("resnet56", "wrn_40_2", "ResNet50"):
        dim = embedding_dim(teacher)
        base = {"data.name": "cifar100", "teacher.architecture": teacher}
        kinds = set()
        for config in sampled("projection", base):
            assert isinstance(config.loss, RRD.Config)
            kinds.add(config.loss.teacher_projection)
            expected = {"identity": dim, "pca": min(dim, 512), "random": 512}[config.loss.teacher_projection]
            assert config.loss.projection_dim <= expected
            assert config.loss.teacher_projection != "identity" or config.loss.projection_dim == dim
        assert kinds == {"random", "identity", "pca"}


@pytest.mark.parametrize("student", ["MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_some_students_learn_gently(student: str) -> None:
    rates = [config.optimizer.learning_rate for config in sampled("rrd", {"student": student})]
    assert 0.001 <= min(rates) < 0.01 < max(rates) <= 0.02
    rates = [config.optimizer.learning_rate for config in sampled("rrd", {"student": "vgg8"})]
    assert 0.01 <= min(rates) < 0.05 < max(rates) <= 0.2


@pytest.mark.parametrize("student", ["MobileNetV2", "ShuffleV1"])
@pytest.mark.parametrize("name", ["rrd", "rrd_kd", "temperatures", "queue", "projection", "weights"])
def test_published_points_have_the_published_rate(student: str, name: str) -> None:
    space = load_space(name).with_values({"student": student})
    assert space.base.optimizer.learning_rate == 0.01
    facts = check(space)
    assert {config.optimizer.learning_rate for config in facts.references.values()} <= {0.01}
    assert {point.get("optimizer.learning_rate", 0.01) for point in facts.start.values()} <= {0.01}
    if "optimizer.learning_rate" in facts.searched:
        assert all("optimizer.learning_rate" in point for point in facts.start.values()), "no rate is left to chance"
    given = load_space(name).with_values({"student": student, "optimizer.learning_rate": 0.02})
    assert given.base.optimizer.learning_rate == 0.02
    own = replace(load_space(name).base, optimizer=OptimizerConfig(learning_rate=0.1))
    assert own.with_values({"student": student}).optimizer.learning_rate == 0.1, "a rate that somebody chose stays"


def test_the_quickstart_can_find_what_beats_kd() -> None:
    """RRD at 0.1 and 0.05 with KD, both of weight 1, beat KD alone on digits when the spaces were written."""
    space = load_space("quickstart")
    values = {
        "loss.student_temperature": 0.1,
        "loss.teacher_temperature": 0.05,
        "loss.weight": 1.0,
        "loss.queue_size": 512,
        "loss.enqueue": "after",
        "kd_weight": 1.0,
        "kd_temperature": 4.0,
    }
    config = space.config_of(optuna.trial.FixedTrial(values))
    assert {one: config.flat()[one] for one in values} == values
    assert space.trials >= 12
    assert (space.base.epochs, space.base.data.held_out) == (5, 0.25)


def test_a_space_for_rrd_says_so_when_given_another_loss() -> None:
    with pytest.raises(ValueError, match=r"loss\.name must be rrd"):
        check(load_space("quickstart").with_values({"loss.name": "kd"}))
