"""Modules that calls had begun to import when they were ended.

What a call has imported that was answered, a template can import too. Of these nobody knows: one of
them may be what has ended the call, because its import takes long, or for ever, or much memory. So
a template tries them under limits of its own, and once. Meanwhile the function's next calls wait:
without these modules they would be ended in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from dask_limits.limits.owner.use import Use

_MORE_TIME: Final = 10
"""How many times as long as its call had an import may take: with what it leaves the call, on a
busy machine too. As long the function's next calls wait for an import that never ends."""
_LEAST_PATIENCE_S: Final = 10.0
_MORE_MEMORY: Final = 2
"""How much memory imports may take, as a multiple of what their call was allowed."""
_LEAST_MEMORY: Final = 256 * 2**20
"""Bytes. scikit-learn and pandas take 150 MiB; half of this is reserved in a batch job, too."""


class Doubt(NamedTuple):
    """What a call had that was ended."""

    seconds: float
    memory: int  # its limit, in bytes; 0 is none


class Doubts:
    """Knows these modules, until a call is answered that has imported them, or a template ready."""

    def __init__(self) -> None:
        self._doubts: dict[str, Doubt] = {}
        self._given_up: set[str] = set()
        self._missing: dict[Use, frozenset[str]] = {}  # by what had its last call ended

    def add(self, modules: Iterable[str], doubt: Doubt) -> None:
        """Note these modules, unless a template has tried them."""
        self._doubts |= dict.fromkeys(set(modules) - self._given_up, doubt)

    def among(self, modules: Iterable[str]) -> set[str]:
        """Those of these modules that are in doubt."""
        return self._doubts.keys() & modules

    def untried(self, modules: Iterable[str]) -> list[str]:
        """These modules without those that are given up."""
        return [name for name in modules if name not in self._given_up]

    def limits_on(self, modules: Iterable[str]) -> tuple[float, int]:
        """Seconds and bytes that it may take to import these modules; 0 bytes are no limit."""
        doubts = [self._doubts[name] for name in self.among(modules)]
        patience = max(_LEAST_PATIENCE_S, *(_MORE_TIME * doubt.seconds for doubt in doubts))
        if not all(doubt.memory for doubt in doubts):
            return patience, 0
        return patience, max(_LEAST_MEMORY, *(_MORE_MEMORY * doubt.memory for doubt in doubts))

    def clear(self, modules: Iterable[str]) -> None:
        """Note that these modules can be imported."""
        self._given_up.difference_update(modules)
        for name in self.among(modules):
            self._doubts.pop(name, None)

    def give_up(self, modules: set[str]) -> None:
        """Note that a template was not ready because of one of these modules."""
        self._given_up |= modules
        self.clear_missing(modules)
        for name in modules:
            self._doubts.pop(name, None)

    def miss(self, use: Use, modules: frozenset[str]) -> None:
        """Note that the last call of this use was ended, and had to import these modules."""
        if modules:
            self._missing[use] = modules

    def missed_by(self, use: Use) -> frozenset[str]:
        """The modules that the last call of this use had to import, if it was ended."""
        return self._missing.get(use, frozenset())

    def clear_missing(self, modules: set[str]) -> None:
        """Note that these modules are there now, or never."""
        left = {use: missing - modules for use, missing in list(self._missing.items())}
        self._missing = {use: missing for use, missing in left.items() if missing}
