from __future__ import annotations

from typing import TYPE_CHECKING, cast

from dask_limits.exceptions import SchedulerNotRunningError
from dask_limits.scheduler.submitter import Submitter

if TYPE_CHECKING:
    import distributed

    from dask_limits.executors.dask.executor import DaskExecutor


class OnDask(Submitter):
    """What a `Scheduler` has of Dask while it runs there."""

    @property
    def client(self) -> distributed.Client:
        """The Dask client of the run, for `scatter()`, `scheduler_info()` and the rest.

        Raises:
            SchedulerNotRunningError: if the scheduler does not run.
            TypeError: if it does not run on Dask.
        """
        return self._on_dask().client

    @property
    def dashboard_link(self) -> str | None:
        """The address of the dashboard of Dask's scheduler; None if it has none.

        Raises:
            SchedulerNotRunningError: if the scheduler does not run.
            TypeError: if it does not run on Dask.
        """
        return self._on_dask().dashboard_link

    @property
    def dashboard_tunnel(self) -> str | None:
        """The command that makes `dashboard_link` work on your own computer; None if there is none.

        For a run on the login node of a cluster: `ssh -N -L 8787:127.0.0.1:8787 ada@login1`.

        Raises:
            SchedulerNotRunningError: if the scheduler does not run.
            TypeError: if it does not run on Dask.
        """
        from dask_limits.executors.dask.dashboard import tunnel_to

        link = self.dashboard_link
        return None if link is None else tunnel_to(link)

    def _on_dask(self) -> DaskExecutor:
        if (run := self._run) is None:
            raise SchedulerNotRunningError(
                "The scheduler is not running, so it has no Dask client. It has one in callbacks,"
                " such as those of @scheduler.on_start."
            )
        executor = run.executor
        if not hasattr(executor, "client"):
            raise TypeError(f"{self!r} has no Dask client: it does not run on Dask")
        return cast("DaskExecutor", executor)
