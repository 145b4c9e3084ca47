"""The client and the dashboard of a run."""

from __future__ import annotations

import urllib.request

import dask
import pytest
from distributed import Client, LocalCluster

from dask_limits import Scheduler
from dask_limits.exceptions import SchedulerNotRunningError
from dask_limits.executors.dask.dashboard import tunnel_to


def seen_in_run(scheduler: Scheduler) -> tuple[Client, str | None, str | None]:
    """What is there while it runs, and how the dashboard answers."""
    seen = []

    @scheduler.on_start
    def note() -> None:
        link = scheduler.dashboard_link
        if link is not None:
            with urllib.request.urlopen(link, timeout=60) as page:
                assert page.status == 200
        seen.append((scheduler.client, link, scheduler.dashboard_tunnel))

    scheduler.run(timeout=60)
    return seen[0]


def test_a_run_on_dask_has_its_client_and_its_dashboard():
    """The dashboard answers at that link; afterwards there is neither."""
    scheduler = Scheduler.with_dask(n_workers=1)
    client, link, tunnel = seen_in_run(scheduler)
    assert isinstance(client, Client)
    assert client.status == "closed"
    host, port = link.removeprefix("http://").removesuffix("/status").split(":")
    assert host == "127.0.0.1"
    assert tunnel.startswith(f"ssh -N -L {port}:127.0.0.1:{port} ")
    for name in ("client", "dashboard_link", "dashboard_tunnel"):
        with pytest.raises(SchedulerNotRunningError, match="is not running, so it has no Dask cl"):
            getattr(scheduler, name)


def test_a_cluster_of_the_users_has_its_own_client_and_dashboard():
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as mine,
    ):
        client, link, tunnel = seen_in_run(Scheduler(mine))
        assert client is mine
        its_client, *its = seen_in_run(Scheduler.with_dask(cluster.scheduler_address))
        assert its_client is not mine
        assert its == [link, tunnel]


def test_what_does_not_run_on_dask_has_no_client():
    scheduler = Scheduler.with_processes(1)
    scheduler.on_start(lambda: scheduler.client)
    with pytest.raises(TypeError, match="does not run on Dask"):
        scheduler.run()


def test_a_link_through_a_proxy_needs_no_tunnel():
    """Jupyter's, as Dask's configuration says how to reach the dashboard."""
    with dask.config.set({"distributed.dashboard.link": "/user/ada/proxy/{port}/status"}):
        scheduler = Scheduler.with_dask(n_workers=1)
        links = []
        scheduler.on_start(lambda: links.append(scheduler.dashboard_link))
        scheduler.run()
    assert links[0].startswith("/user/ada/proxy/")
    assert tunnel_to(links[0]) is None
