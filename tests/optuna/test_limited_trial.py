"""What an objective can do with its trial, in a call: what it can do with one of Optuna."""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import numpy as np
import optuna
import pytest
from studies import new_study, states_of

from dask_limits import limit
from dask_limits.optuna import optimize
from dask_limits.optuna.questions import Answers, Question

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest


def of_call(objective: Callable[[optuna.Trial], Any], study: optuna.Study | None = None) -> Any:
    """What an objective says of itself, in the attribute `said` of its trial."""
    study = new_study() if study is None else study

    def saying(trial: optuna.Trial) -> float:
        trial.set_user_attr("said", objective(trial))
        return 1

    optimize(study, saying, 1, where=1, wall_time=60)
    return study.trials[-1].user_attrs["said"]


def raised(function: Callable[[], object]) -> str:
    """The exception that a function raises."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("nothing was raised")


def test_its_trial_is_one_of_optuna_and_has_what_such_have() -> None:
    def look(trial: optuna.Trial) -> Any:
        study = trial.study
        study.set_user_attr("from", "a call")
        assert isinstance(trial, optuna.Trial)
        assert isinstance(trial, optuna.trial.BaseTrial)
        assert trial.datetime_start is not None
        return [
            trial.number,
            trial._trial_id,
            study.study_name,
            study.direction.name,
            [d.name for d in study.directions],
            study.user_attrs,
            study.best_value,
            study.best_params,
            study.best_trial.number,
            [one.number for one in study.best_trials],
            [one.state.name for one in study.trials],
            [one.number for one in study.get_trials(False, (optuna.trial.TrialState.RUNNING,))],
        ]

    study = new_study(direction="maximize", study_name="mine")
    study.optimize(lambda trial: trial.suggest_int("n", 5, 5), 2)
    study.optimize(lambda trial: trial.suggest_int("n", 6, 6), 1)
    assert of_call(look, study) == [
        *(3, study.trials[3]._trial_id),
        *("mine", "MAXIMIZE", ["MAXIMIZE"], {"from": "a call"}),
        *(6, {"n": 6}, 2, [2]),
        *(["COMPLETE", "COMPLETE", "COMPLETE", "RUNNING"], [3]),
    ]


def test_choices_are_the_objects_of_the_objective() -> None:
    def choose(trial: optuna.Trial) -> Any:
        layers = [(50,), (100, 50), (np.int64(3), None)]
        chosen = trial.suggest_categorical("layers", layers)
        assert any(chosen is one for one in layers)
        assert trial.suggest_categorical("size", np.array([4]))[()] == 4
        assert trial.suggest_categorical("text", ("a",)) == "a"
        return raised(lambda: trial.suggest_categorical("kind", [int, str]))

    def choose_types(trial: optuna.Trial) -> Any:
        return raised(lambda: trial.suggest_categorical("kind", [np.float32, np.float64]))

    with warnings.catch_warnings():  # Optuna's, of choices that other storages do not have
        warnings.simplefilter("ignore")
        said = of_call(choose)
    assert said.startswith("TypeError: The choice <class 'int'> of 'kind' is of type type. Use")
    assert of_call(choose_types).startswith("TypeError: The choice <class 'numpy.float32'> of")


def test_what_optuna_refuses_is_raised_in_the_objective() -> None:
    def misuse(trial: optuna.Trial) -> Any:
        trial.suggest_int("n", 1, 4)
        return [
            raised(lambda: trial.suggest_float("x", 2, 1)),
            raised(lambda: trial.suggest_float("x", 0, 1, log=True)),
            raised(lambda: trial.suggest_categorical("n", [1, 2])),
            raised(lambda: trial.suggest_categorical("m", [])),
            raised(lambda: trial.report("high", 1)),  # type: ignore[arg-type]
            raised(lambda: trial.report(1, "soon")),  # type: ignore[arg-type]
            raised(lambda: trial.report(1, -1)),
            raised(lambda: trial.set_user_attr("model", object())),
            raised(lambda: trial.storage),
            raised(lambda: trial.study.enqueue_trial({})),
            raised(lambda: trial.study._storage),
        ]

    said = of_call(misuse)
    kinds = [text.partition(":")[0] for text in said]
    assert (
        kinds
        == [*["ValueError"] * 4, *["TypeError"] * 2, "ValueError", "TypeError"]
        + ["AttributeError"] * 3
    )
    assert "low" in said[0]
    assert "supposed to be a float" in said[4]
    assert "which JSON does not have" in said[7]
    assert "has no 'storage', as its storage is in another process" in said[8]
    assert "It has constraints, datetime_start, distributions, number, params" in said[8]
    assert "directions, get_trials, metric_names, set_user_attr, stop, study_name" in said[9]


def test_numbers_of_numpy_are_numbers() -> None:
    def use(trial: optuna.Trial) -> Any:
        x = trial.suggest_float("x", np.float32(1), np.int64(2))
        n = trial.suggest_int("n", np.int8(1), np.int64(3))
        trial.report(np.float32(0.5), np.int64(2))
        trial.report(np.array(0.25), 3)
        trial.set_user_attr("seen", {"b": np.bool_(True), "i": [np.int64(n)]})
        return [type(x).__name__, type(n).__name__, trial.user_attrs["seen"]["b"]]

    study = new_study()
    assert of_call(use, study) == ["float", "int", True]
    assert study.trials[0].intermediate_values == {2: 0.5, 3: 0.25}


def test_constraints_and_attributes_of_the_system_are_those_of_the_version() -> None:
    def say(trial: optuna.Trial) -> Any:
        if hasattr(optuna.Trial, "set_constraint"):
            trial.set_constraint("over", np.float32(0.5))
            return [trial.constraints, raised(lambda: trial.set_constraint("nan", float("nan")))]
        trial.set_system_attr("over", 0.5)
        return [trial.system_attrs, "ValueError"]

    with warnings.catch_warnings():  # of what is deprecated
        warnings.simplefilter("ignore")
        constraints, refused = of_call(say)
    assert constraints == {"over": 0.5}
    assert refused.startswith("ValueError")


def test_threads_forks_and_copies_of_the_call_ask_too() -> None:
    def spread(trial: optuna.Trial) -> Any:
        x = trial.suggest_float("x", 0, 1)
        with ThreadPoolExecutor(4) as pool:
            seen = list(pool.map(lambda n: trial.suggest_int(f"n{n % 3}", n % 3, n % 3), range(40)))
        assert seen == [n % 3 for n in range(40)]
        if (pid := os.fork()) == 0:
            trial.report(trial.suggest_float("x", 0, 1), 1)
            os._exit(0)
        os.waitpid(pid, 0)
        assert pickle.loads(pickle.dumps(trial)).suggest_float("x", 0, 1) == x
        assert copy.deepcopy(trial).number == trial.number
        # A call of the call: it asks the same driver.
        return limit(lambda inner: inner.suggest_float("x", 0, 1) == x, wall_time=60)(trial)

    study = new_study()
    assert of_call(spread, study) is True
    assert study.trials[0].intermediate_values == {1: study.trials[0].params["x"]}


def test_warnings_of_optuna_are_given_in_this_program() -> None:
    def repeat(trial: optuna.Trial) -> Any:
        trial.report(1, 1)
        trial.report(2, 1)
        return 0

    with pytest.warns(UserWarning, match="already reported"):
        of_call(repeat)


def interrupted(trial: optuna.Trial) -> float:
    try:
        while True:
            trial.suggest_float("x", 0, 1)
    except Exception:  # the warning of a grace period comes anywhere, also in a question
        trial.set_user_attr("late", trial.suggest_int("n", 3, 3))
    return 1


def test_a_question_that_a_warning_interrupts_does_not_confuse_the_next_one() -> None:
    study = new_study()
    # Of CPU time, which it takes in its loop alone, however busy the machine is.
    optimize(study, interrupted, 3, where=2, cpu_time=0.5, grace_period=60)
    assert states_of(study) == ["COMPLETE"] * 3
    assert [trial.user_attrs["late"] for trial in study.trials] == [3] * 3


def stays(trial: optuna.Trial) -> float:
    threading.Thread(target=lambda: [trial.user_attrs for _ in range(2000)], daemon=True).start()
    return trial.suggest_float("x", 0, 1)


def test_what_a_call_has_left_gets_no_answers() -> None:
    study = new_study()
    optimize(study, stays, 6, where=2, wall_time=60)
    assert states_of(study) == ["COMPLETE"] * 6


# -- a hostile call ------------------------------------------------------------------------------


NO_QUESTIONS = [
    b"",
    b"\xff\xfe",
    b"null",
    b"[]",
    b'{"trial": 1, "attempt": "a", "ask": "params"}',
    b'{"trial": "t", "attempt": "a"}',
    b'{"trial": "t", "attempt": "a", "ask": "params", "args": [1]}',
    b"[" * 100_000,
    pickle.dumps({"trial": "t"}),
]


@pytest.mark.parametrize("text", NO_QUESTIONS, ids=range(len(NO_QUESTIONS)))
def test_what_is_no_question_is_no_question(text: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        Question.read(text)


@pytest.mark.parametrize(
    "ask",
    ["__class__", "study._storage", "study.optimize", "_suggest", "study.tell", "storage", ""],
)
def test_a_question_can_ask_for_nothing_but_what_trials_have(ask: str) -> None:
    answers = Answers(new_study().ask())
    text = json.dumps({"trial": "t", "attempt": "a", "ask": ask})
    is_value, error = pickle.loads(answers.to(Question.read(text.encode())))
    assert not is_value
    assert "cannot ask for" in str(error)


def test_an_attempt_that_was_given_up_gets_no_more_answers() -> None:
    answers = Answers(new_study().ask())

    def ask(attempt: str) -> tuple[bool, Any]:
        question = Question("t", attempt, "suggest_int", {"name": "n", "low": 1, "high": 9})
        found: tuple[bool, Any] = pickle.loads(answers.to(question))
        return found

    first, second = ask("first"), ask("second")
    assert first == second
    is_value, error = ask("first")
    assert not is_value
    assert "runs elsewhere" in str(error)
    assert ask("second") == first
