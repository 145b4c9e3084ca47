"""Limits that most calls of a task would have kept, by what its calls have used."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isnan, nan
from numbers import Real
from typing import Any, Final

from dask_limits.report.amounts import bytes_rounded_up, seconds_rounded_up
from dask_limits.report.places import Place
from dask_limits.report.rows import Row
from dask_limits.report.summaries import aligned
from dask_limits.units import parse_bytes, parse_seconds

_LEAST_SECONDS: Final = 1.0
"""On a busy machine, a call of some milliseconds may take as long."""
_LEAST_MEMORY: Final = 16 * 2**20
"""Bytes. A call may have to import what earlier ones have found there."""
_MORE: Final = 2
"""By how much to raise a limit that too many calls went over: what they need is not known."""
_USED: Final = {
    "memory": "peak_memory",
    "wall_time": "wall_time",
    "cpu_time": "cpu_time",
    "num_processes": "num_processes",
}
"""What a call has used, by the names of the limits."""
_ALWAYS: Final = {"memory", "wall_time"}
"""The limits that are suggested for every task. The others are if its calls had them."""


@dataclass(frozen=True)
class Suggestion:
    """Limits for the calls of one task.

    Attributes:
        task: The name of its function.
        limits: The limits, in the form that `limit` takes, by their names.
        n_calls: The calls that it goes by: those that returned, or went over a limit.
        passed: The share of these that is known to keep the limits.
        beside: How many calls with these limits fit beside each other; None if it is not known.
        beside_before: The same with the limits that most of the calls had.
        notes: What these limits cannot promise, a sentence each.
    """

    task: str
    limits: dict[str, str | int]
    n_calls: int
    passed: float
    beside: int | None = None
    beside_before: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """A line to paste, which puts the limits on the function."""
        function = self.task if self.task.isidentifier() else "fn"
        words = [function, *(f"{name}={_literal(value)}" for name, value in self.limits.items())]
        return f"limit({', '.join(words)})"

    @property
    def options(self) -> str:
        """The limits as options of `dask-limits batch`."""
        return " ".join(
            f"--{name.replace('_', '-')} {str(value).replace(' ', '')}"
            for name, value in self.limits.items()
        )

    def cells(self) -> tuple[str, ...]:
        """Its line of a table."""
        beside = ""
        if self.beside is not None and self.beside_before is not None:
            change = self.beside - self.beside_before
            beside = f"{self.beside}, {abs(change)} {'more' if change >= 0 else 'less'}"
        share = math.floor(self.passed * 1000) / 10  # not more than it is
        return self.task, f"{self.n_calls:,}", f"{share:g} %", beside, self.line


class Suggestions(tuple[Suggestion, ...]):
    """The suggestions for the tasks of a report; as text, a table of them."""

    def __repr__(self) -> str:
        if not self:
            return "No limits to suggest: no call that returned has a known usage"
        return "\n".join([aligned([_HEAD, *(one.cells() for one in self)]), *self._notes()])

    def _repr_html_(self) -> str:
        from dask_limits.html.elements import code, heading, note, table, view

        rows = [(*cells, code(line)) for *cells, line in (one.cells() for one in self)]
        title = "Suggested limits" if self else repr(self)
        return view(heading(title), table(rows, _HEAD), *map(note, self._notes()))

    def _notes(self) -> list[str]:
        return [f"{one.task}: {note}" for one in self for note in one.notes]


_HEAD: Final = ("task", "calls", "keep them", "beside each other", "line to paste")


def suggest(
    rows: Iterable[Row], places: Sequence[Place], quantile: float, headroom: float
) -> Suggestions:
    """Suggest limits for each task; see `Report.suggest_limits`."""
    _check("quantile", quantile, 0 < _number("quantile", quantile) <= 1, "more than 0, at most 1")
    _check("headroom", headroom, 1 <= _number("headroom", headroom) < inf, "1 or more")
    tasks: dict[str, _Calls] = {}
    for row in rows:
        if row.ending in ("returned", "breach") and row.wall_time is not None:
            if row.task not in tasks:
                tasks[row.task] = _Calls()
            tasks[row.task].add(row)
    found = sorted(tasks.items(), key=lambda item: -item[1].n)
    return Suggestions(calls.suggestion(task, places, quantile, headroom) for task, calls in found)


class _Calls:
    """What the calls of one task need.

    What a call needs of what it went over is infinite: nobody knows. Then it has ended early, and
    it needs of everything else what it had used by then, at least. NaN is what nobody measured.
    """

    def __init__(self) -> None:
        self.n = 0
        self._needs = {kind: array("d") for kind in _USED}
        self._kinds = set(_ALWAYS)
        self._breached = dict.fromkeys(_USED, 0.0)  # the highest limit that a call went over
        self._reserved: Counter[tuple[int | None, int | None]] = Counter()

    def add(self, row: Row) -> None:
        self.n += 1
        self._reserved[row.memory_limit, row.cores] += 1
        for kind, used in _USED.items():
            its_limit = getattr(row, f"{kind}_limit")
            if its_limit is not None:
                self._kinds.add(kind)
            need = getattr(row, used)
            if need is None:
                need = nan
            if row.ending == "breach" and row.cause == kind:
                need = inf
                self._breached[kind] = max(self._breached[kind], its_limit or 0)
            self._needs[kind].append(need)

    def suggestion(
        self, task: str, places: Sequence[Place], quantile: float, headroom: float
    ) -> Suggestion:
        kinds = [kind for kind in _USED if kind in self._kinds]
        share = 1 - (1 - quantile) / len(kinds)  # of each, so that the share keeps all of them
        before, before_cores = self._reserved.most_common(1)[0][0]
        limits: dict[str, str | int] = {}
        notes = []
        for kind in kinds:
            known = sorted(need for need in self._needs[kind] if not isnan(need))
            if kind == "memory" and not any(known):
                notes.append("no memory was measured: calls used none, or their caller's own")
                if before is not None:
                    limits[kind] = bytes_rounded_up(before)
                continue
            if not known:
                continue
            need = known[max(math.ceil(share * len(known) - 1e-9) - 1, 0)]
            if need == inf:
                n = sum(one == inf for one in known)
                notes.append(_says_too_many(n, len(known), kind))
                limits[kind] = _form(kind, self._breached[kind] * _MORE)
            else:
                limits[kind] = _form(kind, need * headroom)
        if before_cores is not None:
            limits["cores"] = before_cores
        memory = parse_bytes(limits["memory"]) if "memory" in limits else None
        beside: tuple[int | None, int | None] = None, None
        if places:
            fits = [[place.fit(n, before_cores) for place in places] for n in (memory, before)]
            beside = sum(fits[0]), sum(fits[1])
        return Suggestion(task, limits, self.n, self._passed(limits), *beside, tuple(notes))

    def _passed(self, limits: dict[str, str | int]) -> float:
        """The share of the calls that is known to keep limits."""
        most = [_amount(kind, limits[kind]) if kind in limits else inf for kind in _USED]
        calls = zip(*self._needs.values(), strict=True)
        keep = sum(
            all(isnan(n) or (n < inf and n <= limit) for n, limit in zip(needs, most, strict=True))
            for needs in calls
        )
        return keep / self.n


def _says_too_many(n: int, of: int, kind: str) -> str:
    return (
        f"{n} of {of} calls went over their {kind} limit, and what these need is not known: run"
        f" some with {_MORE} times the limit, as suggested, and look again"
    )


def _form(kind: str, amount: float) -> str | int:
    """An amount in the form in which people write it, rounded up."""
    if kind == "memory":
        return bytes_rounded_up(max(amount, _LEAST_MEMORY))
    if kind == "num_processes":
        return math.ceil(amount)
    return seconds_rounded_up(max(amount, _LEAST_SECONDS))


def _amount(kind: str, form: str | int) -> float:
    if kind == "memory":
        return parse_bytes(form)
    return float(form) if kind == "num_processes" else parse_seconds(form)


def _literal(value: str | int) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _number(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}: use a number")
    return value


def _check(name: str, value: float, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise ValueError(f"{name}={value!r} must be {wanted}")
