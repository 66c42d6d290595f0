"""Loading spaces, pinning fields in them, and finding their mistakes before a search starts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from rrd_search.space import InvalidCombination, Space, load_space
from rrd_search.space_check import check
from trainables.config import TrialConfig

HEAD = """from dataclasses import replace
from trainables.config import TrialConfig
BASE = TrialConfig()
"""


def tuned(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    temperature = trial.suggest_float("loss.student_temperature", 0.02, 0.3, log=True)
    kd_weight = trial.suggest_categorical("kd_weight", (0.0, 1.0))
    values = {"loss.student_temperature": temperature, "kd_weight": kd_weight}
    if kd_weight:
        values["kd_temperature"] = trial.suggest_float("kd_temperature", 1.0, 10.0)
    return base.with_values(values | {"loss.teacher_temperature": 2 * temperature})


def space_of(**parts: Any) -> Space:
    return Space(**{"name": "tuned", "function": tuned, "base": TrialConfig(), **parts})


def ask(seed: int = 0) -> optuna.Trial:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()


def error_of(space: Space) -> str:
    with pytest.raises(ValueError, match="space") as caught:
        check(space)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_a_space(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        HEAD + "TRIALS = 7\nSTART = {'usual': {'ce_weight': 1}}\n"
        "def space(trial, base):\n    return replace(base, ce_weight=trial.suggest_float('ce_weight', 0.5, 2))\n"
    )
    space = load_space(str(file))
    assert (space.name, space.trials, space.references) == ("mine", 7, {})
    facts = check(space)
    assert facts.searched == ("ce_weight",)
    assert facts.start == {"usual": {"ce_weight": 1.0}}


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    for name in ("nothing", str(tmp_path / "nothing.py"), "../rrd", "__init__"):
        with pytest.raises(ValueError, match=r"no search space .*quickstart, rrd, rrd_kd.*path of a .py file"):
            load_space(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_like_it\n", r"No module named 'nothing_like_it' \(.*mine.py:1\)"),
        ("x = 1\nx = (\n", r"SyntaxError: .* \(.*mine.py:2\)"),
        (HEAD.replace("TrialConfig()", "TrialConfig(student='x')"), r"student must be one of .* \(.*mine.py:3\)"),
        ("x = 1\n", r"BASE must be a TrialConfig, it is missing \(.*mine.py:1\)"),
        ("\nBASE = 3\n", r"BASE must be a TrialConfig, got 3 \(.*mine.py:2\)"),
        (HEAD, r"space must be a function of a trial and the base, it is missing \(.*mine.py:1\)"),
        (HEAD + "space = 5\n", r"space must be a function .* got 5 \(.*mine.py:4\)"),
        (HEAD + "def space(t, b): ...\nSTART = [1]\n", r"START must be a dictionary of points.*\(.*mine.py:5\)"),
        (HEAD + "def space(t, b): ...\nREFERENCES: dict = {'a': 1}\n", r"REFERENCES must be .*\(.*mine.py:5\)"),
        (HEAD + "def space(t, b): ...\nTRIALS = 0\n", r"TRIALS must be a whole number of 1.* got 0 \(.*mine.py:5\)"),
    ],
)
def test_a_file_that_is_no_space(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_space(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", r"ZeroDivisionError: division by zero \(.*mine.py:5\)"),
        ("return trial.suggest_flaot('x', 0, 1)", r"AttributeError: .*suggest_flaot.*\(.*mine.py:5\)"),
        ("return 5", r"must return a TrialConfig, returned int \(.*mine.py:4\)"),
        ("return None", r"must return a TrialConfig, returned NoneType"),
        ("return base", r"nothing left to search"),
        ("return replace(base, kd_weight=-trial.suggest_float('kd_weight', 1, 2))", r"none of 32.*kd_weight.*py:5"),
        ("return replace(base, kd_weight=trial.suggest_float('kd_weight', 2, 1))", r"kd_weight: .*low.*\(.*mine.py:5"),
        (
            "n = trial.suggest_int('epochs', 1, 3)\n    return replace(base, epochs=n, "
            "kd_weight=trial.suggest_categorical('kd_weight', list(range(n))))",
            r"kd_weight: .*dynamic value space.*\(.*mine.py:6\)",
        ),
    ],
)
def test_a_function_that_is_wrong(tmp_path: Path, body: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"{HEAD}def space(trial, base):\n    {body}\n")
    with pytest.raises(ValueError, match=message) as caught:
        check(load_space(str(file)))
    assert "\n" not in str(caught.value)


def test_some_invalid_combinations_are_tolerated() -> None:
    def halves(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
        return replace(base, kd_weight=trial.suggest_float("kd_weight", -1, 1))

    space = space_of(function=halves)
    assert check(space).searched == ("kd_weight",)
    with pytest.raises(InvalidCombination, match="kd_weight must be a number of 0 or more"):
        space.config_of(optuna.trial.FixedTrial({"kd_weight": -0.5}))


def test_start_points_are_completed_from_the_base() -> None:
    facts = check(space_of(start={"usual": {"kd_weight": 1.0}}))
    expected = {"loss.student_temperature": 0.04, "kd_weight": 1.0, "kd_temperature": 4.0}
    assert facts.start == {"usual": expected}


def test_what_the_base_has_outside_of_the_range_is_left_to_the_sampler() -> None:
    base = TrialConfig().with_values({"loss.student_temperature": 5.0})
    assert check(space_of(base=base, start={"usual": {"kd_weight": 0.0}})).start == {"usual": {"kd_weight": 0.0}}


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"batch_size": 32}, "sets 'batch_size', which is not searched; searched: loss.student_temperature, kd_"),
        ({"loss.student_temperature": 1.0}, "loss.student_temperature must be from 0.02 to 0.3, got 1.0"),
        ({"kd_weight": 0.5}, "kd_weight must be one of 0.0, 1.0, got 0.5"),
        ({"loss.student_temperature": "warm"}, "must be from 0.02 to 0.3, got 'warm'"),
    ],
)
def test_a_start_point_outside_of_the_space(point: dict[str, Any], message: str) -> None:
    error = error_of(space_of(start={"strange": point}))
    assert "START point 'strange'" in error
    assert message in error


def test_a_reference_that_is_no_config() -> None:
    error = error_of(space_of(references={"nothing": {"kd_wieght": 1.0}}))
    assert "reference 'nothing': no field 'kd_wieght'" in error
    assert "nothing': ce_weight" in error_of(space_of(references={"nothing": {"ce_weight": 0.0, "loss.weight": 0.0}}))


def test_a_pinned_field_keeps_its_value() -> None:
    space = space_of(start={"a": {"loss.student_temperature": 0.1, "kd_weight": 1.0}})
    pinned = space.with_values({"kd_weight": 1.0, "loss.teacher_temperature": 0.07, "epochs": 3})
    trial = ask()
    config = pinned.config_of(trial)
    assert (config.kd_weight, config.epochs) == (1.0, 3)
    assert config.flat()["loss.teacher_temperature"] == 0.07  # the space computes it: twice the other
    assert set(trial.params) == {"loss.student_temperature", "kd_temperature"}
    facts = check(pinned)
    assert facts.pinned == ("kd_weight",)
    assert facts.searched == ("loss.student_temperature", "kd_temperature")
    assert facts.start == {"a": {"loss.student_temperature": 0.1, "kd_temperature": 4.0}}
    assert space.pinned == {}


def test_pins_of_two_calls_add_up_and_have_the_type_of_the_field() -> None:
    space = space_of().with_values({"kd_weight": "1"}).with_values({"kd_temperature": 2})
    assert space.pinned == {"kd_weight": 1.0, "kd_temperature": 2.0}
    assert isinstance(space.pinned["kd_weight"], float)
    space = space.with_values({"kd_weight": 0.5})
    assert (space.pinned["kd_weight"], space.config_of(ask()).kd_weight) == (0.5, 0.5)


def test_a_bad_value_names_the_field() -> None:
    with pytest.raises(ValueError, match="kd_weight must be a number of 0 or more, got -1"):
        space_of().with_values({"kd_weight": -1})
    with pytest.raises(ValueError, match="no field 'kd_wait'"):
        space_of().with_values({"kd_wait": 1})


def test_points_that_do_not_go_with_pins_are_left_out_and_said() -> None:
    space = space_of(
        start={
            "cold": {"loss.student_temperature": 0.04, "kd_weight": 0.0},
            "cold + KD": {"loss.student_temperature": 0.04, "kd_weight": 1.0, "kd_temperature": 4.0},
        },
        references={"no labels": {"kd_weight": 0.0, "ce_weight": 0.0}},
    )
    facts = check(space.with_values({"kd_weight": 0.0, "loss.weight": 0.0}))
    assert list(facts.start) == ["cold"]
    assert facts.left_out["cold + KD"] == "the same as 'cold'"
    assert facts.left_out["no labels"].startswith("ce_weight, kd_weight and loss.weight must be not all 0")


def test_nothing_left_to_search() -> None:
    pinned = space_of().with_values({"kd_weight": 0.0, "loss.student_temperature": 0.1})
    assert error_of(pinned).endswith("nothing left to search; pinned: loss.student_temperature, kd_weight")


def test_the_description_sees_the_base_and_the_ranges() -> None:
    def wider(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
        trial.suggest_float("loss.student_temperature", 0.01, 0.3, log=True)
        return tuned(trial, base)

    spaces = [
        space_of(),
        space_of(base=TrialConfig(epochs=3)),
        space_of().with_values({"kd_weight": 0.0}),  # the base's own value, pinned
        space_of(function=wider),
    ]
    assert len({json.dumps(check(space).description, sort_keys=True) for space in spaces}) == 4
    assert check(space_of(name="other", trials=3)).description == check(space_of()).description
