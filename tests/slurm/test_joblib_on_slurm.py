"""joblib's calls and a search of scikit-learn in jobs of a real SLURM."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pytest
from estimators import Hungry
from real_slurm import Slurm
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV

import dask_limits.joblib  # noqa: F401
from dask_limits.exceptions import WallTimeBreach
from dask_limits.sklearn import Limited

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")


@contextmanager
def on_slurm(tmp_path: Path, **limits: object) -> Iterator[None]:
    options = {"n_workers": 2, "cores": 2, "memory": "1 GiB", "walltime": "10 m"}
    options |= {"interface": "lo", "shared_temp_directory": str(tmp_path / "shared")}
    with joblib.parallel_config("dask_limits", n_jobs=4, where="slurm", options=options, **limits):
        yield


@pytest.fixture(autouse=True)
def jobs_find_the_modules(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    yield
    slurm.wait_until_empty()


def job_when_both_are_there(folder: Path) -> str:
    """The worker of one may come long after the other's."""
    job = os.environ["SLURM_JOB_ID"]
    (folder / job).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.05)
    return job


def test_calls_of_joblib_run_in_jobs(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    with on_slurm(tmp_path, wall_time=200):
        calls = [joblib.delayed(job_when_both_are_there)(jobs) for _ in range(8)]
        assert len({*joblib.Parallel()(calls)}) == 2
        with pytest.raises(WallTimeBreach):
            joblib.Parallel()([joblib.delayed(limited_nap)()])


def limited_nap() -> None:
    import dask_limits

    dask_limits.limit(time.sleep, wall_time=0.3)(600)


def test_a_breach_costs_its_candidate_alone(tmp_path: Path) -> None:
    X, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 2
    model = Limited(Hungry(), memory="100 MiB", wall_time=60)
    search = GridSearchCV(model, {"estimator__mib": [1, 300, 2]}, cv=2)
    # Both scikit-learn that the job's call has imported and that of the fit count for the call.
    with on_slurm(tmp_path, memory="700 MiB"), pytest.warns(FitFailedWarning, match="MemoryBreach"):
        search.fit(X, y)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True, False]
