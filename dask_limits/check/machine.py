"""Checks this machine, or every worker of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dask_limits.check.facts import find_facts
from dask_limits.check.names import find_names
from dask_limits.check.trials import Finding, find_all

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Machine:
    """The result of the check of one machine.

    Attributes:
        where: "here", or the address of a Dask worker.
        facts: Its system, memory and versions, by name.
        findings: The result of each trial.
    """

    where: str
    facts: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every trial had the expected result."""
        return all(finding.holds for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """As JSON represents it."""
        return asdict(self) | {"holds": self.holds}


def check_here(tell: Callable[[str], object] = lambda _: None) -> Machine:
    """Check this machine.

    Args:
        tell: Called with the name of each trial before it starts.
    """
    return Machine("here", find_facts(), [*find_all(tell), *find_names()])


def check_workers(address: str, tell: Callable[[str], object]) -> list[Machine]:
    """Check every worker of a Dask cluster, beside the tasks that it runs.

    Workers on the same host are checked one after the other: they would delay each other.

    Args:
        address: The address of the cluster's scheduler.
        tell: Called in another thread with the address of each worker before its check.

    Raises:
        OSError: if there is no scheduler at this address.
        ValueError: if it is not an address.
    """
    from distributed import Client

    from dask_limits import probe_scheduler

    probe_scheduler(address)
    with Client(address) as client:
        hosts: dict[str, list[str]] = {}
        for worker, about in client.scheduler_info(n_workers=-1)["workers"].items():
            hosts.setdefault(about["host"], []).append(worker)
        machines: list[Machine] = client.sync(_check_hosts, client, list(hosts.values()), tell)
        return machines


async def _check_hosts(
    client: Client, hosts: list[list[str]], tell: Callable[[str], object]
) -> list[Machine]:
    async def check_host(workers: list[str]) -> list[Machine]:
        machines = []
        for worker in workers:
            tell(worker)
            machines.append(await _check_worker(client, worker))
        return machines

    found = await asyncio.gather(*map(check_host, hosts))
    return [machine for machines in found for machine in machines]


async def _check_worker(client: Client, worker: str) -> Machine:
    # Not by submit(): a task waits for earlier tasks, and for ever if its worker is lost.
    try:
        found: Machine = (await client.run(_check_in_thread, workers=[worker]))[worker]
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return Machine(worker, findings=[Finding("check", "runs", what, holds=False)])
    return Machine(worker, found.facts, found.findings)


async def _check_in_thread() -> Machine:
    """Check a worker without blocking its event loop."""
    return await asyncio.to_thread(check_here)
