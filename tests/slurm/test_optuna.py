"""A study of Optuna whose trials run in jobs of a real SLURM."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cloudpickle
import optuna
from real_slurm import Slurm
from studies import new_study, states_of

from dask_limits.optuna import optimize

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a job shall not import pytest


def in_a_job(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("job", os.environ["SLURM_JOB_ID"])
    for step in range(5):
        trial.report(x, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    if trial.number == 1:
        os.abort()
    while trial.number in (2, 3):  # until the other one runs, too: a job runs one at a time
        if len([one for one in trial.study.trials[2:4] if "job" in one.user_attrs]) == 2:
            break
    return x


def test_trials_run_in_jobs_with_a_storage_in_memory(slurm: Slurm, tmp_path: Path) -> None:
    options = {"n_workers": 2, "cores": 2, "memory": "1 GiB", "walltime": "10 m"}
    options |= {"interface": "lo", "shared_temp_directory": str(tmp_path / "shared")}
    study = new_study(pruner=optuna.pruners.ThresholdPruner(upper=0.5, n_warmup_steps=2))
    study.enqueue_trial({"x": 0.6})
    study.enqueue_trial({"x": 0.1})
    optimize(study, in_a_job, 6, where="slurm", options=options, memory="400 MiB", wall_time=200)
    assert len({trial.user_attrs["job"] for trial in study.trials}) == 2
    assert states_of(study)[:2] == ["PRUNED", "FAIL"]
    assert study.trials[0].intermediate_values == {0: 0.6, 1: 0.6, 2: 0.6}
    assert study.trials[1].user_attrs["dask_limits:cause"].startswith("CrashError: in_a_job()")
    assert all(trial.params for trial in study.trials)
    assert not slurm.jobs()
