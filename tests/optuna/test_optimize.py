"""A study is optimized as by Optuna: the same trials, with the same parameters, values and ends."""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import optuna
import pytest
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from processes import until
from studies import STORAGES, new_study, sqlite, states_of, told_of

from dask_limits import LimitedExecutor, SequentialExecutor
from dask_limits.optuna import optimize

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest


WITH_WARNINGS = pytest.mark.filterwarnings(
    "ignore::optuna.exceptions.ExperimentalWarning", "ignore::FutureWarning"
)
"""Optuna warns of what is new, and of what is old."""


def everything(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -1, 1)
    y = trial.suggest_float("y", 1e-3, 1, log=True)
    n = trial.suggest_int("n", 2, 10, step=2)
    kind = trial.suggest_categorical("kind", ["a", None, 3, 0.5, True])
    if kind is not None:
        trial.suggest_float("of some", 0, 4, step=0.5)
    assert trial.suggest_float("x", -1, 1) == x
    trial.report(x, step=0)
    trial.report(y, step=7)
    trial.set_user_attr("kind", {"is": [kind, n]})
    assert trial.params["n"] == n
    assert trial.distributions.keys() == trial.params.keys()
    assert trial.user_attrs == {"kind": {"is": [kind, n]}}
    return x * x + y + n


@pytest.mark.parametrize("storage", STORAGES)
def test_trials_have_what_the_objective_suggests_and_says(storage: str, tmp_path: Path) -> None:
    ours, optunas = (new_study(storage, folder, **seeded()) for folder in folders(tmp_path))
    optimize(ours, everything, 4, where=1, memory="1 GiB", wall_time=60)
    optunas.optimize(everything, 4)
    assert told_of(ours) == told_of(optunas)
    for trial in ours.trials:
        assert 0 < trial.user_attrs["dask_limits:usage"]["wall_time"] < 60
        assert trial.user_attrs["dask_limits:usage"]["peak_memory"] < 2**30


def folders(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "ours", tmp_path / "optunas"]
    for folder in made:
        folder.mkdir()
    return made


def seeded(kind: Any = optuna.samplers.RandomSampler) -> dict[str, Any]:
    return {"sampler": kind(seed=3)}


SAMPLERS = {
    "tpe": lambda: optuna.samplers.TPESampler(seed=1, n_startup_trials=4),
    "several at once": lambda: optuna.samplers.TPESampler(
        seed=1, n_startup_trials=4, multivariate=True, constant_liar=True
    ),
    "nsgaii": lambda: optuna.samplers.NSGAIISampler(seed=1, population_size=4),
    "grid": lambda: optuna.samplers.GridSampler({"x": [1, 2, 3], "n": [1, 2, 3]}, seed=1),
    "brute force": lambda: optuna.samplers.BruteForceSampler(seed=1),
}


def of_two(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 4, step=1) * trial.suggest_int("n", 1, 3)


@WITH_WARNINGS
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_go_on_from_the_trials_before(sampler: str) -> None:
    ours, optunas = (new_study(sampler=SAMPLERS[sampler]()) for _ in range(2))
    optimize(ours, of_two, 9, where=1)
    optunas.optimize(of_two, 9)
    assert told_of(ours) == told_of(optunas)


def learning(trial: optuna.Trial) -> float:
    slope = trial.suggest_float("slope", -1, 1)
    for step in range(1, 10):
        trial.report(slope * step, step)
        if trial.should_prune():
            raise optuna.TrialPruned(f"at {step}")
    return slope * 10


PRUNERS = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=2),
    "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(),
    "hyperband": lambda: optuna.pruners.HyperbandPruner(max_resource=9),
    "patient": lambda: optuna.pruners.PatientPruner(None, patience=1),
    "threshold": lambda: optuna.pruners.ThresholdPruner(upper=3.0),
}


@WITH_WARNINGS
@pytest.mark.parametrize("pruner", PRUNERS)
def test_pruners_decide_by_all_that_was_reported(pruner: str) -> None:
    ours, optunas = (
        # Hyperband puts trials into brackets by the name of their study.
        new_study(pruner=PRUNERS[pruner](), study_name="same", **seeded())
        for _ in range(2)
    )
    optimize(ours, learning, 12, where=1)
    optunas.optimize(learning, 12)
    assert told_of(ours) == told_of(optunas)
    assert set(states_of(ours)) == {"COMPLETE", "PRUNED"}
    for trial in ours.trials:
        if trial.state == TrialState.PRUNED:
            assert trial.value == trial.intermediate_values[trial.last_step]


RETURNED = {
    "nan": math.nan,
    "infinite": math.inf,
    "none": None,
    "text": "text",
    "several": (1, 2),
    "one in a list": [3],
    "array": np.array([1.0, 2.0]),
    "number of numpy": np.float32(0.5),
    "true": True,
    "a function": abs,
}


def returning(trial: optuna.Trial) -> Any:
    return RETURNED[trial.suggest_categorical("kind", list(RETURNED))]


def test_what_is_no_number_fails_the_trial_as_in_optuna() -> None:
    ours, optunas = new_study(), new_study()
    for study in (ours, optunas):
        for kind in RETURNED:
            study.enqueue_trial({"kind": kind})
    optimize(ours, returning, len(RETURNED), where=1)
    optunas.optimize(returning, len(RETURNED))
    assert told_of(ours) == told_of(optunas)
    assert {"COMPLETE", "FAIL"} == set(states_of(ours))


def two_values(trial: optuna.Trial) -> tuple[float, float]:
    x = trial.suggest_float("x", 0, 1)
    with pytest_raises(NotImplementedError):
        trial.report(x, 1)
    with pytest_raises(NotImplementedError):
        trial.should_prune()
    with pytest_raises(RuntimeError):
        _ = trial.study.direction
    return x, 1 - x


class pytest_raises:
    """What pytest has by that name, which a call shall not import."""

    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, *_: object) -> bool:
        assert kind is not None, "nothing was raised"
        return issubclass(kind, self._kind)


def test_an_objective_may_have_several_values() -> None:
    study = new_study(directions=["minimize", "maximize"])
    optimize(study, two_values, 3, where=2)
    assert states_of(study) == ["COMPLETE"] * 3
    assert all(trial.values == [trial.params["x"], 1 - trial.params["x"]] for trial in study.trials)


def test_enqueued_trials_come_first_with_their_parameters() -> None:
    study = new_study()
    study.enqueue_trial({"x": 2.0, "n": 3}, user_attrs={"mine": 1})
    optimize(study, of_two, 2, where=2)
    assert study.trials[0].params == {"x": 2.0, "n": 3}
    assert study.trials[0].user_attrs["mine"] == 1


@pytest.mark.parametrize("storage", STORAGES)
def test_each_enqueued_trial_runs_once(storage: str, tmp_path: Path) -> None:
    for n in range(5):
        (folder := tmp_path / str(n)).mkdir()
        study = new_study(storage, folder)
        for x in range(4):
            study.enqueue_trial({"x": x, "n": 1})
        with ThreadPoolExecutor(4) as pool:  # which is quick: those that ask meet
            optimize(study, of_two, 4, where=pool)
        assert [trial.value for trial in study.trials] == [0, 1, 2, 3]


def knows_its_study(trial: optuna.Trial) -> float:
    assert trial.number in [one.number for one in STUDIES[0].trials]  # a copy, as it was then
    return len(STUDIES[0].trials)


STUDIES: list[optuna.Study] = []


def test_an_objective_may_hold_a_study() -> None:
    STUDIES[:] = [new_study()]
    optimize(STUDIES[0], knows_its_study, 2, where=1)
    assert states_of(STUDIES[0]) == ["COMPLETE"] * 2


def with_constraints(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("over", x - 0.5)
    return x


@WITH_WARNINGS
def test_constraints_are_those_of_the_sampler() -> None:
    seen = []

    def constraints(trial: optuna.trial.FrozenTrial) -> tuple[float]:
        seen.append(trial.number)
        return (trial.user_attrs["over"],)

    sampler = optuna.samplers.TPESampler(constraints_func=constraints)
    study = new_study(sampler=sampler)
    optimize(study, with_constraints, 3, where=1)
    assert seen == [0, 1, 2]


def sees_the_other(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    while True:  # until both run, and each sees what the other one has
        running = trial.study.get_trials(states=(TrialState.RUNNING,))
        others = trial.study.get_trials(states=(TrialState.COMPLETE,))
        if len([one for one in [*running, *others] if "x" in one.params]) == 2:
            return x


@pytest.mark.parametrize("storage", STORAGES)
def test_the_parameters_of_trials_that_run_are_known(storage: str, tmp_path: Path) -> None:
    study = new_study(storage, tmp_path)
    optimize(study, sees_the_other, 2, where=2, wall_time=60)
    assert states_of(study) == ["COMPLETE"] * 2


# -- when it ends --------------------------------------------------------------------------------


def test_callbacks_are_called_here_with_each_trial_and_may_stop_the_study() -> None:
    study, called = new_study(), []

    def note(its: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        assert its is study
        assert trial.state.is_finished()
        called.append(trial.number)

    optimize(study, of_two, callbacks=[note, MaxTrialsCallback(3)], where=2)
    assert sorted(called) == list(range(len(study.trials)))
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) in (3, 4)  # one ran beside it


def stops_at_2(trial: optuna.Trial) -> float:
    if trial.number == 2:
        trial.study.stop()
    return trial.number


def test_the_objective_may_stop_the_study() -> None:
    study = new_study()
    optimize(study, stops_at_2, 100, where=1)
    assert states_of(study) == ["COMPLETE"] * 3


def slow(trial: optuna.Trial) -> float:
    time.sleep(0.5)
    return 1


def slower(trial: optuna.Trial) -> float:
    time.sleep(2.5)
    return 1


@pytest.mark.parametrize("timeout", [2, "2000 ms", timedelta(seconds=2)])
def test_after_the_timeout_no_trial_begins_and_those_that_run_go_on(timeout: Any) -> None:
    study = new_study()
    optimize(study, slower, timeout=timeout, where=2)
    assert 1 <= len(study.trials) <= 2
    assert set(states_of(study)) == {"COMPLETE"}
    optimize(study, slow, timeout=0, where=1)
    optimize(study, slow, n_trials=0, where=1)
    assert len(study.trials) <= 2


# -- exceptions ----------------------------------------------------------------------------------


class Mine(Exception):
    pass


def raises_at_1(trial: optuna.Trial) -> float:
    if trial.number == 1:
        raise Mine("at 1")
    return 1


def test_an_exception_that_is_caught_fails_its_trial_alone() -> None:
    study = new_study()
    optimize(study, raises_at_1, 3, where=1, catch=Mine)
    optimize(study, raises_at_1, 1, where=1, catch=[Mine, ValueError])
    assert states_of(study) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert "dask_limits:usage" in study.trials[1].user_attrs
    assert "dask_limits:cause" not in study.trials[1].user_attrs


@pytest.mark.parametrize("where", [1, 2])
def test_any_other_exception_ends_the_study_and_is_raised(where: int) -> None:
    study = new_study()
    with pytest.raises(Mine, match="at 1") as raised:
        optimize(study, raises_at_1, 2, where=where)  # in Optuna's last thread
    assert "raises_at_1" in str(raised.value.__cause__)
    assert states_of(study) == ["COMPLETE", "FAIL"]
    with pytest.raises(Mine):
        optimize(study := new_study(), raises_at_1, 2_000, where=where)
    assert study.trials[1].state == TrialState.FAIL
    assert len(study.trials) < 2_000


def test_what_a_callback_raises_ends_the_study_and_is_raised() -> None:
    def fail(*_: object) -> None:
        raise Mine("in the callback")

    study = new_study()
    with pytest.raises(Mine, match="in the callback"):
        optimize(study, of_two, 2, where=2, callbacks=[fail])
    assert states_of(study)[0] == "COMPLETE"


# -- where trials run ----------------------------------------------------------------------------


@pytest.mark.parametrize("limited", ["not", "clean", "thread"])
def test_threads_run_trials(limited: Any) -> None:
    limits: Any = {} if limited == "not" else {"wall_time": 60, "isolation": limited}
    with ThreadPoolExecutor(2) as pool:
        optimize(study := new_study(), everything, 3, where=pool, **limits)
        assert pool.submit(abs, -1).result() == 1
    assert states_of(study) == ["COMPLETE"] * 3


def test_other_executors_run_trials() -> None:
    study = new_study()
    with ProcessPoolExecutor(1) as pool:
        optimize(study, everything, 2, where=pool, wall_time=60)
    with SequentialExecutor() as sequential:
        optimize(study, everything, 1, where=sequential, wall_time=60)
        optimize(study, everything, 1, where=sequential)
    with LimitedExecutor(1, memory="1 MiB", preload=["optuna"]) as limited:
        optimize(study, everything, 1, where=limited, memory="1 GiB")
        assert limited.submit(abs, -1).result() == 1
    assert states_of(study) == ["COMPLETE"] * 5


def test_so_many_trials_are_there_at_a_time_as_can_run() -> None:
    seen = []

    def count(study: optuna.Study, _: object) -> None:
        seen.append(len(study.get_trials(states=(TrialState.RUNNING,))))

    optimize(new_study(), slow, 4, where=2, callbacks=[count])
    optimize(new_study(), slow, 4, where=2, n_jobs=1, callbacks=[count])
    assert max(seen[:4]) <= 2
    assert seen[4:] == [0] * 4


def test_n_jobs_of_minus_one_is_all_there_are(tmp_path: Path) -> None:
    def meet(trial: optuna.Trial) -> int:
        (tmp_path / f"{trial.number}").touch()
        until(lambda: len([*tmp_path.iterdir()]) == 2)
        return trial.number

    optimize(study := new_study(), meet, 2, where=2, n_jobs=-1, wall_time=100)
    assert states_of(study) == ["COMPLETE"] * 2


def test_garbage_of_this_program_is_collected_after_each_trial_if_that_is_asked_for() -> None:
    collections: list[str] = []
    gc.callbacks.append(lambda phase, about: collections.append(f"{phase} {about['generation']}"))
    gc.disable()
    try:
        optimize(new_study(), slow, 2, where=1)
        assert collections.count("start 2") == 0
        optimize(new_study(), slow, 2, where=1, gc_after_trial=True)
        assert collections.count("start 2") == 2
    finally:
        gc.enable()
        gc.callbacks.pop()


@WITH_WARNINGS
def test_a_stale_trial_of_a_killed_program_is_tried_again(tmp_path: Path) -> None:
    storage = sqlite(
        tmp_path,
        heartbeat_interval=1,
        grace_period=1,
        failed_trial_callback=optuna.storages.RetryFailedTrialCallback(),
    )
    study = optuna.create_study(storage=storage)
    with pytest.warns(UserWarning, match="Heartbeat"):
        lost = study.ask()
    x = lost.suggest_float("x", 0, 4, step=1)
    storage.record_heartbeat(lost._trial_id)
    until(lambda: storage._get_stale_trial_ids(study._study_id))
    optimize(study, of_two, 1, where=1)
    assert states_of(study) == ["FAIL", "COMPLETE"]
    assert study.trials[1].params["x"] == x
    assert not [t for t in threading.enumerate() if "heartbeat" in t.name]
