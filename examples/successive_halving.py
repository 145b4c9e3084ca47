"""Successive halving: of many trials, those that fall behind are ended while they run.

Each trial reports its loss after each epoch. When it comes to a rung, here after 3, 9 and 27
epochs, it goes on only if its loss is in the best third of the losses that have come there so far.
No trial waits for another one. Run it with

    python examples/successive_halving.py --trials 30
    python examples/successive_halving.py --trials 30 --where dask

Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning" (2020), which calls it
ASHA.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import Counter, defaultdict
from typing import Any

from dask_limits import PynisherPlugin, Scheduler, progress

EPOCHS = 40
RUNGS = (3, 9, 27)
BEST_PART = 1 / 3


def train(rate: float) -> float:
    """Fit a line to points by gradient descent, and return the loss: a stand-in for a model."""
    points = [(x / 10, 3 * x / 10 + 1) for x in range(-10, 11)]
    slope = offset = loss = 0.0
    for epoch in range(1, EPOCHS + 1):
        errors = [(slope * x + offset - y, x) for x, y in points]
        loss = sum(error**2 for error, _ in errors) / len(points)
        slope -= rate * sum(error * x for error, x in errors) / len(points)
        offset -= rate * sum(error for error, _ in errors) / len(points)
        time.sleep(0.02)  # a model takes longer
        progress((epoch, loss))  # this also restarts the clock: `wall_time` is that of an epoch
    return loss


def search(scheduler: Scheduler, rates: list[float]) -> None:
    """Run a trial for each learning rate, and print the best one."""
    trial = scheduler.task(train, plugins=PynisherPlugin(memory="500 MiB", wall_time="30 s"))
    rate_of: dict[Any, float] = {}
    n_passed: Counter[Any] = Counter()  # rungs, by trial
    came: defaultdict[int, list[float]] = defaultdict(list)  # losses, by rung
    ended: dict[float, float] = {}  # losses of the trials that were not ended early, by rate

    @scheduler.on_start
    def begin() -> None:
        scheduler.map(trial, rates)

    @trial.on_submitted
    def note(future: Any, rate: float) -> None:
        rate_of[future] = rate

    @trial.on_progress
    def prune(future: Any, value: tuple[int, float]) -> None:
        epoch, loss = value  # the latest: if epochs are short, some are left out
        while (rung := n_passed[future]) < len(RUNGS) and epoch >= RUNGS[rung]:
            n_passed[future] += 1
            came[rung].append(loss)
            n_better = sum(other < loss for other in came[rung])
            if n_better >= math.ceil(len(came[rung]) * BEST_PART):
                future.cancel()
                return

    @trial.on_result
    def keep(future: Any, loss: float) -> None:
        ended[rate_of[future]] = loss

    scheduler.run(on_cancelled="continue")
    best = min(ended, key=ended.__getitem__)
    print(f"{len(rates) - len(ended)} of {len(rates)} trials were ended early")
    print(f"The best rate is {best:.3g}, with a loss of {ended[best]:.2g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--where", choices=("processes", "dask"), default="processes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = random.Random(options.seed)
    make = {"processes": Scheduler.with_processes, "dask": Scheduler.with_dask}[options.where]
    search(make(), [10 ** chosen.uniform(-3, 0) for _ in range(options.trials)])
