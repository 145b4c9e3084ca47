"""The check of one machine, and of every worker of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dask_limits.check.facts import find_facts
from dask_limits.check.trials import Finding, find_all

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Machine:
    """What was found on one machine.

    Attributes:
        where: "here", or the address of a Dask worker.
        facts: What it is.
        findings: What it can enforce.
    """

    where: str
    facts: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether all is as promised."""
        return all(finding.holds for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"holds": self.holds}


def check_here(tell: Callable[[str], object] = lambda _: None) -> Machine:
    """Check the machine that this runs on.

    Args:
        tell: Called with the name of what is tried next.
    """
    return Machine("here", find_facts(), find_all(tell))


def check_workers(address: str, tell: Callable[[str], object]) -> list[Machine]:
    """Check every worker of a Dask cluster, beside the tasks that it runs.

    Workers of the same host are checked one after the other: they would make each other late.

    Args:
        address: Of the cluster's scheduler.
        tell: Called with the address of a worker whose turn it is; by another thread.

    Raises:
        OSError: when there is no scheduler at this address.
        ValueError: when it is no address.
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
    # Not by submit(): a task waits for those before it, and if its worker is gone, for ever.
    try:
        found: Machine = (await client.run(_check_in_thread, workers=[worker]))[worker]
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return Machine(worker, findings=[Finding("check", "can be run", what, holds=False)])
    return Machine(worker, found.facts, found.findings)


async def _check_in_thread() -> Machine:
    """Check a worker, while its event loop goes on."""
    return await asyncio.to_thread(check_here)
