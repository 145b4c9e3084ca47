"""Trials that go over a limit, crash, lose what runs them, or are interrupted."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle
import optuna
import psutil
import pytest
from processes import all_gone, below, until
from studies import STORAGES, new_study, sqlite, states_of

from dask_limits import LimitedExecutor, exceptions, limit
from dask_limits.optuna import optimize

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest
MIB = 2**20


def goes_wrong(trial: optuna.Trial) -> float:
    how = trial.suggest_categorical("how", ["memory", "time", "crash", "exit", "well"])
    trial.report(7, step=3)
    if how == "memory":
        return len(bytearray(900 * MIB))
    if how == "time":
        time.sleep(600)
    if how == "crash":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(3)
    return 1


CAUSES = {
    "memory": ("MemoryBreach: goes_wrong() ", "400"),
    "time": ("WallTimeBreach: goes_wrong() ", "limit of 5 s"),
    "crash": ("CrashError: goes_wrong() ", "SIGSEGV"),
    "exit": ("ExitError: goes_wrong() ", "exit code 3"),
}
WRONG = [*CAUSES]


def study_of(*hows: str, storage: str = "memory", folder: Path = Path()) -> optuna.Study:
    study = new_study(storage, folder)
    for how in hows:
        study.enqueue_trial({"how": how})
    return study


@pytest.mark.parametrize("storage", STORAGES)
def test_a_breach_or_a_crash_costs_one_trial_and_its_cause_is_kept(
    storage: str, tmp_path: Path
) -> None:
    study = study_of(*WRONG, "well", storage=storage, folder=tmp_path)
    optimize(study, goes_wrong, 5, where=2, memory="400 MiB", wall_time=5)
    assert states_of(study) == ["FAIL"] * 4 + ["COMPLETE"]
    for trial in study.trials[:4]:
        begin, figure = CAUSES[trial.params["how"]]
        cause = trial.user_attrs["dask_limits:cause"]
        assert cause.startswith(begin)
        assert figure in cause
        assert trial.user_attrs["dask_limits:usage"]["wall_time"] > 0
        assert trial.intermediate_values == {3: 7}
    used = {trial.params["how"]: trial.user_attrs["dask_limits:usage"] for trial in study.trials}
    assert used["memory"]["peak_memory"] > 400 * MIB
    assert used["time"]["wall_time"] >= 5
    assert used["crash"]["exit_code"] == -signal.SIGSEGV
    assert "dask_limits:cause" not in study.trials[4].user_attrs


def test_a_trial_that_is_ended_may_count_as_pruned_or_have_a_value() -> None:
    study = study_of("time", "exit")
    # Its report comes before, on a busy machine too.
    optimize(study, goes_wrong, 2, where=2, wall_time=4, on_breach="prune")
    assert [(t.state.name, t.value) for t in study.trials] == [("PRUNED", 7), ("PRUNED", 7)]
    study = study_of("time", "crash")
    optimize(study, goes_wrong, 2, where=2, wall_time=0.5, on_breach=1e6)
    assert [(t.state.name, t.value) for t in study.trials] == [("COMPLETE", 1e6)] * 2
    assert all("dask_limits:cause" in trial.user_attrs for trial in study.trials)


def test_an_objective_has_limits_of_its_own_first() -> None:
    study = study_of("time")
    optimize(study, limit(goes_wrong, wall_time=0.2), 1, where=1, wall_time=600)
    assert "0.2" in study.trials[0].user_attrs["dask_limits:cause"]


def test_a_call_that_cannot_begin_ends_the_study() -> None:
    study, no_pickle = new_study(), (n for n in range(3))
    with pytest.raises(exceptions.CallPicklingError, match="cannot be sent"):
        optimize(study, lambda trial: next(no_pickle), 100, where=1)
    assert states_of(study) == ["FAIL"]


# -- what runs trials is killed --------------------------------------------------------------------


def kills_its_guardian(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    seen = trial.user_attrs.get("seen", [])
    trial.set_user_attr("seen", [*seen, x])
    for step in range(3 if seen else 9):
        trial.report(step + 100 * len(seen), step)
    if not seen:
        process = psutil.Process()
        while process.name().startswith("limits-"):
            process, last = process.parent(), process
        last.kill()
        time.sleep(600)
    trial.set_user_attr("pruned", trial.should_prune())
    return x


class LastStep(optuna.pruners.BasePruner):
    """Prunes what has come as far as the first attempt did."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        assert trial.last_step == 2, "of this attempt"
        return False


@pytest.mark.parametrize("storage", STORAGES)
def test_a_trial_whose_guardian_is_killed_runs_again_as_it_was(
    storage: str, tmp_path: Path
) -> None:
    study = new_study(storage, tmp_path, pruner=LastStep())
    optimize(study, kills_its_guardian, 1, where=1, wall_time=600)
    (trial,) = study.trials
    assert (trial.number, trial.state.name) == (0, "COMPLETE")
    assert trial.user_attrs["seen"] == [trial.params["x"]] * 2
    assert trial.user_attrs["pruned"] is False
    assert [trial.intermediate_values[step] for step in range(4)] == [100, 101, 102, 3]


def always_kills_its_guardian(trial: optuna.Trial) -> float:
    trial.set_user_attr("times", trial.user_attrs.get("times", 0) + 1)
    process = psutil.Process()
    while process.name().startswith("limits-"):
        process, last = process.parent(), process
    last.kill()
    time.sleep(600)
    return 1


def test_a_trial_that_always_ends_its_guardian_has_failed() -> None:
    study = new_study()
    optimize(study, always_kills_its_guardian, 1, where=1, wall_time=600)
    (trial,) = study.trials
    assert trial.state.name == "FAIL"
    assert trial.user_attrs["times"] == 3
    assert trial.user_attrs["dask_limits:cause"].startswith("GuardianLostError: ")


PROGRAM = """if True:
    import sys, time
    from pathlib import Path
    import optuna
    from dask_limits.optuna import optimize

    def objective(trial):
        trial.suggest_float("x", 0, 1)
        (folder / str(trial.number)).touch()
        time.sleep(600)

    folder = Path(sys.argv[2])
    study = optuna.create_study(storage=sys.argv[1], study_name="it")
    optimize(study, objective, where=2, wall_time=1000)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_fails_the_trials_that_run_and_a_killed_program_leaves_no_process(
    how: signal.Signals, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, storage, tmp_path], stderr=subprocess.PIPE, text=True
    )
    with program:
        until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
        started = below(program.pid)
        assert len(started) >= 4
        program.send_signal(how)
        _, said = program.communicate()
        all_gone(started)
    study = optuna.load_study(storage=sqlite(tmp_path), study_name="it")
    if how == signal.SIGINT:
        assert said.rstrip().endswith("KeyboardInterrupt")
        assert states_of(study) == ["FAIL"] * 2
    else:
        assert states_of(study) == ["RUNNING"] * 2


# -- how it must not be done ---------------------------------------------------------------------


def asks(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def test_a_trial_that_would_be_sent_elsewhere_is_refused_with_what_to_call() -> None:
    study = new_study()
    what_to_call = r"call dask_limits\.optuna\.optimize\(study, objective, \.\.\.\)"
    with pytest.raises(exceptions.CallPicklingError, match=what_to_call):
        study.optimize(limit(asks, wall_time=60), 1)
    with LimitedExecutor(1) as executor:
        error = executor.submit(asks, study.ask()).exception()
        assert isinstance(error, exceptions.CallPicklingError)
        error = executor.submit(lambda held: held[0], [{1: study.ask()}]).exception()
        assert "dask_limits.optuna.optimize" in str(error)
        frozen = executor.submit(lambda trial: trial.number, study.trials[0]).result()
        assert frozen == 0


WRONG_ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"study": None}, TypeError, "not an optuna.Study"),
    ({"objective": 3}, TypeError, "cannot be called"),
    ({"n_trials": -1}, ValueError, "n_trials=-1"),
    ({"n_trials": 1.5}, TypeError, "n_trials=1.5"),
    ({"n_jobs": 0}, ValueError, "n_jobs=0 .* or None for as many .* where=8 is for 8 processes"),
    ({"n_jobs": -2}, ValueError, "n_jobs=-2"),
    ({"timeout": -1}, ValueError, "-1"),
    ({"timeout": "5 parsecs"}, ValueError, "parsecs"),
    ({"catch": "ValueError"}, TypeError, "not a class of exceptions"),
    ({"catch": [ValueError, 3]}, TypeError, "not a class of exceptions"),
    ({"on_breach": "ignore"}, ValueError, "'fail', 'prune', or the value"),
    ({"on_breach": float("nan")}, ValueError, "'fail', 'prune', or the value"),
    ({"on_breach": (1, 2)}, ValueError, "a value for each objective of the study: it has 1"),
    ({"memory": "0 B"}, ValueError, "memory"),
    ({"memory_limit": 1}, TypeError, "did you mean 'memory'"),
    ({"where": 0}, ValueError, "max_workers=0"),
    ({"where": object()}, TypeError, "concurrent.futures.Executor"),
    ({"where": 1, "options": {"n": 1}}, TypeError, "'n' is no option"),
]


@pytest.mark.parametrize("wrong", range(len(WRONG_ARGUMENTS)))
def test_wrong_arguments_are_refused_before_anything_starts(wrong: int) -> None:
    arguments, kind, message = WRONG_ARGUMENTS[wrong]
    study = new_study()
    with pytest.raises(kind, match=message):
        optimize(**{"study": study, "objective": asks, "n_trials": 1, "where": 1, **arguments})
    assert not study.trials


def test_without_optuna_the_error_says_what_to_install() -> None:
    program = """if True:
        import sys
        sys.modules["optuna"] = None
        import dask_limits
        try:
            dask_limits.optuna.optimize(None, None)
        except ImportError as error:
            print(error)
        """
    said = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert said.stdout.endswith('needs Optuna: pip install "dask-limits[optuna]"\n')


def test_optuna_and_scikit_learn_are_imported_when_they_are_used() -> None:
    program = """if True:
        import sys
        import dask_limits.optuna
        dask_limits.LimitedExecutor, dask_limits.optuna.optimize
        print({"optuna", "sklearn"} & sys.modules.keys())
        """
    said = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert said.stdout == "set()\n"
