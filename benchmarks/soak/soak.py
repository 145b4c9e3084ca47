"""One soak: three parts, one after the other."""

from __future__ import annotations

import faulthandler
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Final

import click

from benchmarks.soak.calls import Item, act
from benchmarks.soak.census import census
from benchmarks.soak.growth import Sample, Samples
from benchmarks.soak.killer import Killer
from benchmarks.soak.mix import KINDS, USUAL, Mix
from benchmarks.soak.told import Told, Took
from dask_limits import PynisherPlugin, Scheduler

STORM: Final = 0.4
"""The part in which also is killed what lives long."""
STUCK_S: Final = 180
"""A soak in which nothing is told for so long is stuck. No call takes 60 s."""
LOOK_EVERY_S: Final = 0.1
BLOCK: Final = 1000
"""How many calls are timed at the start, and at the end."""


class Soak:
    """Runs plain calls, which are timed; then a mix of all kinds; then plain calls again.

    Args:
        scheduler: Where they run.
        calls: The most calls.
        seconds: The most time for the mix.
        seed: Of what each call does, and of what is killed when.
        kill_every_s: How long it is, on average, from one kill to the next one.
        sample_every_s: From one sample to the next one.
        samples: Takes them.

    Attributes:
        timed: How long the timed calls took, at the start and at the end.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        calls: int,
        seconds: float,
        seed: int,
        kill_every_s: float,
        sample_every_s: float,
        samples: Samples,
    ) -> None:
        self.told = Told(calls)
        self.killer = Killer(seed, kill_every_s)
        self.samples = samples
        self.timed: list[Took] = []
        self.n_submitted = 0
        self._scheduler = scheduler
        self._calls, self._most_seconds = calls, seconds
        self._block = min(BLOCK, calls // 10)
        self._mix = Mix(seed)
        self._sample_every_s = sample_every_s
        self._start = time.monotonic()
        self._mix_starts = self._mix_ends = float("inf")
        self._timed: list[tuple[int, int]] = []
        self._over = threading.Event()
        self._moved_at = self._start
        self._tasks = {
            name: scheduler.task(act, plugins=PynisherPlugin(**USUAL | kind.limits))
            for name, kind in KINDS.items()
        }
        self._parts = iter([self._timed_part, self._mixed_part, self._timed_part])

    def run(self) -> None:
        scheduler = self._scheduler
        self.told.listen(scheduler, list(self._tasks.values()))
        self._tasks["cancel"].on_submitted(self._cancel_later)
        scheduler.on_start(self._next_part)
        scheduler.on_empty(self._next_part)
        watch = threading.Thread(target=self._watch, name="soak-watch")
        watch.start()
        try:
            scheduler.run(on_exception="continue", on_cancelled="continue")
        finally:
            self._over.set()
            watch.join()
        self.told.check_all(self.n_submitted)
        self.timed = [self.told.took(between) for between in self._timed]

    # -- what is submitted -----------------------------------------------------------------

    def _next_part(self) -> None:
        if (part := next(self._parts, None)) is not None:
            part()

    def _timed_part(self) -> None:
        self._mix_ends = min(self._mix_ends, time.monotonic())
        self._timed.append(self.told.stamp_next(self._block, self._block))
        numbers = range(self.n_submitted, self.n_submitted + 2 * self._block)
        self._scheduler.map(self._tasks["plain"], self._counted(map(Item, numbers)))

    def _mixed_part(self) -> None:
        self._mix_starts = time.monotonic()
        self._mix_ends = float("inf")
        numbers = itertools.count(self.n_submitted)
        items = self._counted(self._mix.items(itertools.takewhile(self._goes_on, numbers)))
        self._scheduler.map(self._tasks["plain"], self._plain_of(items))

    def _goes_on(self, number: int) -> bool:
        return number < self._calls - 2 * self._block and self._part_done(number) < 1

    def _part_done(self, number: int) -> float:
        """How much of the mix is over."""
        of_time = (time.monotonic() - self._mix_starts) / self._most_seconds
        return max(of_time, number / self._calls)

    def _counted(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            self.n_submitted += 1
            yield item

    def _plain_of(self, items: Iterator[Item]) -> Iterator[Item]:
        """The plain ones. The others are submitted to their tasks when it is their turn."""
        for item in items:
            if item.kind == "plain":
                yield item
            else:
                self._tasks[item.kind].submit(item)

    def _cancel_later(self, future: Future[Any], _: Item) -> None:
        if after_s := self._mix.patience():
            self._scheduler.call_later(after_s, future.cancel)
        else:
            future.cancel()

    # -- what goes on beside ----------------------------------------------------------------

    def _watch(self) -> None:
        n_told, sample_at = 0, 0.0
        while not self._over.wait(LOOK_EVERY_S):
            now = time.monotonic()
            if self._mix_starts <= now < self._mix_ends:
                is_calm = self._part_done(self.told.n_told) > STORM
                self.killer.look(now - self._mix_starts, self.told.n_told, is_calm=is_calm)
                if now >= sample_at:
                    sample_at = now + self._sample_every_s
                    sample = Sample(now - self._start, self.told.n_told, census(), is_calm)
                    self.samples.add(sample)
            if self.told.n_told != n_told:
                n_told, self._moved_at = self.told.n_told, now
            elif now > self._moved_at + STUCK_S:
                self._give_up()

    def _give_up(self) -> None:
        waiting = [item[:2] for item in list(self.told.items.values())]
        click.echo(f"Nothing was told for {STUCK_S} s; {len(waiting)} calls wait:", err=True)
        click.echo(f"{waiting[:20]}", err=True)
        faulthandler.dump_traceback(all_threads=True)
        os._exit(1)


def timed(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start
