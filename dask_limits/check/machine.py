"""Checks this machine, or every worker of a cluster."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dask_limits import dask_names, probe_scheduler
from dask_limits.check.facts import find_facts, version_of
from dask_limits.check.trials import Finding, find_all

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Machine:
    """The result of the check of one machine: "here", or the address of a Dask worker."""

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
    """Check this machine. The name of each trial is told before it starts."""
    return Machine("here", find_facts(), [*find_all(tell), *find_names()])


def find_names() -> list[Finding]:
    """One finding for all undocumented names of Dask; after it, one for each that is missing."""
    names = [name for name in dask_names() if name.is_there is not None]
    missing = [name for name in names if not name.is_there]
    packages = dict.fromkeys(name.package for name in names)
    versions = ", ".join(f"{package} {version_of(package)}" for package in packages)
    return [
        Finding(
            "names of Dask",
            "all undocumented names that are used are there",
            f"{len(names) - len(missing)} of {len(names)} ({versions})",
            holds=not missing,
        ),
        *(
            Finding(name.path, f"is there, {name.what_for}", f"missing: {name.without}", False)
            for name in missing
        ),
    ]


def check_workers(address: str, tell: Callable[[str], object]) -> list[Machine]:
    """Check every worker of a Dask cluster, beside the tasks that it runs.

    Workers on the same host are checked one after the other: they would delay each other. The
    address of each is told before its check, in another thread.

    Raises:
        OSError: if there is no scheduler at this address.
        ValueError: if it is not an address.
    """
    from distributed import Client

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
        return [await _check_worker(client, worker, tell) for worker in workers]

    return list(itertools.chain(*await asyncio.gather(*map(check_host, hosts))))


async def _check_worker(client: Client, worker: str, tell: Callable[[str], object]) -> Machine:
    tell(worker)
    # Not by submit(): a task waits for earlier tasks, and for ever if its worker is lost.
    try:
        found: Machine = (await client.run(_check_in_thread, workers=[worker]))[worker]
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return Machine(worker, findings=[Finding("check", "runs", what, holds=False)])
    return replace(found, where=worker)


async def _check_in_thread() -> Machine:
    """Check a worker without blocking its event loop."""
    return await asyncio.to_thread(check_here)
