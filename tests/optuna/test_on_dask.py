"""Studies whose trials run on Dask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import optuna
import pytest
from clusters import SETTINGS, nothing_is_left_behind  # noqa: F401
from distributed import Client, LocalCluster
from processes import until
from studies import STORAGES, new_study, states_of, told_of
from test_optimize import everything, learning, seeded, sees_the_other

from dask_limits.exceptions import ClusterLostError, LimitRefusedError
from dask_limits.executors.dask.executor import DaskExecutor
from dask_limits.optuna import optimize

pytestmark = pytest.mark.dask
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest
cloudpickle.register_pickle_by_value(sys.modules[everything.__module__])


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, **SETTINGS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


@pytest.mark.parametrize("storage", STORAGES)
def test_trials_are_the_same_as_in_optuna(storage: str, client: Client, tmp_path: Path) -> None:
    ours, optunas = new_study(storage, tmp_path, **seeded()), new_study(**seeded())
    optimize(ours, everything, 4, where=client, n_jobs=1, memory="1 GiB", wall_time=60)
    optunas.optimize(everything, 4)
    assert told_of(ours) == told_of(optunas)
    assert all(trial.user_attrs["dask_limits:usage"]["cpu_time"] > 0 for trial in ours.trials)


def test_pruners_decide_by_all_that_was_reported(cluster: LocalCluster) -> None:
    pruners = [optuna.pruners.MedianPruner(n_startup_trials=2) for _ in range(2)]
    ours, optunas = (new_study(pruner=pruner, **seeded()) for pruner in pruners)
    optimize(ours, learning, 10, where=cluster, n_jobs=1, wall_time=60)
    optunas.optimize(learning, 10)
    assert told_of(ours) == told_of(optunas)
    assert "PRUNED" in states_of(ours)


def test_trials_run_beside_each_other_and_know_of_each_other(client: Client) -> None:
    study = new_study()
    optimize(study, sees_the_other, 2, where=client, wall_time=60)
    assert states_of(study) == ["COMPLETE"] * 2


def test_a_trial_in_a_thread_of_its_worker_asks_too(client: Client) -> None:
    optimize(study := new_study(), everything, 2, where=client, isolation="thread", wall_time=60)
    optimize(study, everything, 2, where=client.get_executor())
    assert states_of(study) == ["COMPLETE"] * 4


def test_a_cluster_may_be_new_or_given_by_its_address(client: Client) -> None:
    study = new_study()
    optimize(study, everything, 2, where="dask", options={"n_workers": 1}, wall_time=60)
    optimize(study, everything, 2, where=client.scheduler.address, wall_time=60)
    assert states_of(study) == ["COMPLETE"] * 4


def test_more_than_any_worker_has_ends_the_study(client: Client) -> None:
    study = new_study()
    with pytest.raises(LimitRefusedError, match="1000"):
        optimize(study, everything, 100, where=client, memory="1000 TiB")
    assert set(states_of(study)) == {"FAIL"}
    assert len(study.trials) <= 2


def breaches(trial: optuna.Trial) -> float:
    trial.suggest_float("x", 0, 1)
    if trial.number == 0:
        time.sleep(600)
    return 1


def test_a_breach_costs_one_trial(client: Client) -> None:
    study = new_study()
    optimize(study, breaches, 3, where=client, wall_time=6)
    assert states_of(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[0].user_attrs["dask_limits:cause"].startswith("WallTimeBreach: breaches()")


def loses_its_worker(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    seen = trial.user_attrs.get("seen", [])
    trial.set_user_attr("seen", [*seen, x])
    for step in range(2 if seen else 9):
        trial.report(step, step)
    if not seen:
        trial.set_user_attr("above", above())
        time.sleep(600)
    trial.set_user_attr("pruned", trial.should_prune())
    return x


def above() -> list[int]:
    """The processes above this one."""
    found, pid = [], os.getpid()
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


class NotFar(optuna.pruners.BasePruner):
    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        assert trial.last_step == 1, "of this attempt"
        return False


@pytest.mark.parametrize("storage", STORAGES)
def test_a_trial_whose_worker_is_killed_runs_again_as_it_was(
    storage: str, client: Client, tmp_path: Path
) -> None:
    study = new_study(storage, tmp_path, pruner=NotFar())
    runs = threading.Thread(
        target=optimize, args=(study, loses_its_worker, 1), kwargs={"where": client, **LIMITED}
    )
    runs.start()
    until(lambda: study.trials and "above" in study.trials[0].user_attrs)
    workers = set(client.run(os.getpid).values())
    (worker,) = workers.intersection(study.trials[0].user_attrs["above"])
    os.kill(worker, signal.SIGKILL)
    runs.join()
    (trial,) = study.trials
    assert (trial.number, trial.state.name) == (0, "COMPLETE")
    assert trial.user_attrs["seen"] == [trial.params["x"]] * 2
    assert trial.user_attrs["pruned"] is False
    until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 2)


LIMITED: dict[str, Any] = {"n_jobs": 1, "wall_time": 600}


def test_workers_that_join_later_run_trials_too() -> None:
    def grow(*_: object) -> None:
        cluster.scale(2)
        client.wait_for_workers(2)

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster) as client,
    ):
        study = new_study()
        optimize(study, everything, 1, where=client, wall_time=60, callbacks=[grow])
        optimize(study, sees_two, 2, where=client, n_jobs=2, wall_time=60)
        assert states_of(study) == ["COMPLETE"] * 3


def sees_two(trial: optuna.Trial) -> float:
    trial.suggest_float("z", 0, 1)
    while len([one for one in trial.study.trials if "z" in one.params]) < 2:
        pass
    return 1


def stays_from_1(trial: optuna.Trial) -> float:
    trial.set_user_attr("began", True)
    while trial.number and not trial.user_attrs.get("over"):
        time.sleep(0.1)
    return 1


def test_ctrl_c_ends_the_trials_that_run(client: Client) -> None:
    def interrupt(study: optuna.Study, _: object) -> None:
        until(lambda: [one.number for one in study.trials if "began" in one.user_attrs][-1] > 0)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)

    study = new_study()
    with pytest.raises(KeyboardInterrupt):
        optimize(study, stays_from_1, where=client, wall_time=600, callbacks=[interrupt])
    assert states_of(study)[:2] == ["COMPLETE", "FAIL"]
    assert set(states_of(study)[1:]) == {"FAIL"}
    until(lambda: not client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks)))


def test_nothing_listens_after_the_study(client: Client) -> None:
    optimize(new_study(), everything, 2, where=client, wall_time=60)
    until(lambda: not channels_of(client))


def channels_of(client: Client) -> list[str]:
    """The channels that workers listen to."""
    names = Path("/proc/net/unix").read_text().split()
    pids = client.run(os.getpid).values()
    return [
        name
        for name in names
        if name.startswith("@dask-limits-") and int(name.rpartition("-")[2]) in pids
    ]


PROGRAM = """if True:
    import sys, time
    from pathlib import Path
    import optuna
    from distributed import Client
    from dask_limits.optuna import optimize

    folder = Path(sys.argv[2])

    def objective(trial):
        trial.suggest_float("x", 0, 1)
        (folder / str(trial.number)).touch()
        time.sleep(600)

    with Client(sys.argv[1]) as client:
        optimize(optuna.create_study(), objective, where=client, wall_time=1000)
"""


def test_a_program_that_is_killed_leaves_no_trial_and_nothing_that_listens(
    client: Client, tmp_path: Path
) -> None:
    address = client.scheduler.address
    with subprocess.Popen([sys.executable, "-c", PROGRAM, address, tmp_path]) as program:
        until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
        assert channels_of(client)
        program.kill()
    until(lambda: not channels_of(client))
    until(lambda: not client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks)))
    optimize(study := new_study(), everything, 2, where=client, wall_time=60)
    assert states_of(study) == ["COMPLETE"] * 2


def test_a_scheduler_that_is_lost_ends_the_study() -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1, **SETTINGS) as cluster:
        executor = DaskExecutor(Client(cluster))
        study = new_study()

        def lose(*_: object) -> None:
            executor.client.close()

        with executor.client, pytest.raises(ClusterLostError):
            optimize(study, everything, 5, where=executor, wall_time=60, callbacks=[lose])
        assert states_of(study)[0] == "COMPLETE"
        executor.shutdown()
