"""What limits reserve, read from annotations without making `Limits` of them."""

from __future__ import annotations

from typing import Any

import dask
import pytest
from clusters import SETTINGS
from distributed import Client, LocalCluster

from dask_limits import LimitsWorkerPlugin, annotate, limit
from dask_limits.dask.reservations import annotation_error, request_of
from dask_limits.executors.dask.executor import DaskExecutor
from dask_limits.limits import Limits
from dask_limits.placement.resources import Request, WorkerResources


@pytest.mark.parametrize(
    ("limits", "request_"),
    [
        ({}, Request()),
        ({"memory": 7, "cores": 3}, Request(7, 3)),
        ({"wall_time": 2.0, "grace_period": 0.5}, Request(seconds=2.5)),
        ({"grace_period": 0.5}, Request()),
        ({"memory": "2 GiB", "wall_time": "1 m"}, Request(2 * 2**30, seconds=60)),
        ({"memory": -1, "cores": 3}, Request()),
        ({"cores": "many"}, Request()),
        (None, Request()),
    ],
)
def test_a_request_is_read_from_annotations(limits: Any, request_: Request) -> None:
    assert request_of(limits) == request_


def test_an_invalid_limit_is_told_also_where_too_much_is_asked_for() -> None:
    limits = {"memory": 100_000, "isolation": "space"}
    error = annotation_error("fit", limits, [WorkerResources(memory=10)])
    assert "isolation='space' is unknown" in str(error)


def test_limits_are_made_once_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    make = Limits.__init__

    def counted(self: Limits, **arguments: Any) -> None:
        nonlocal made
        made += 1
        make(self, **arguments)

    # Client, scheduler and worker are in this process.
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **SETTINGS) as cluster,
        Client(cluster) as client,
        DaskExecutor(client, batch=False) as executor,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        limited = limit(abs, wall_time=60)
        with annotate(memory="1 GiB", wall_time=60):
            function = dask.delayed(abs)
            monkeypatch.setattr(Limits, "__init__", counted)
            futures: list[Any] = [executor.submit(limited, -n) for n in range(10)]
            futures += client.compute([function(-n) for n in range(10)])
        assert [future.result() for future in futures] == 2 * list(range(10))
    assert made == 20


@pytest.mark.parametrize("memory", [100_000, 2**60])
def test_a_call_says_what_is_wrong_with_its_annotation(memory: int) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **SETTINGS) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        with dask.annotate(executor="limits", limits={"memory": memory, "isolation": "space"}):
            future = client.submit(abs, -1)
        with pytest.raises(ValueError, match="isolation='space' is unknown"):
            future.result(timeout=60)
