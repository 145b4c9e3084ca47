"""The soak: it finds calls that are told twice or never, and what grows; small ones pass."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path

import pytest
from measuring import program

from benchmarks.soak.calls import Item, act
from benchmarks.soak.census import Seen
from benchmarks.soak.growth import LEAST_SAMPLES, Sample, Samples, trends
from benchmarks.soak.mix import KINDS, Mix
from benchmarks.soak.told import Told
from dask_limits import Scheduler


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("where", "calls"), [("processes", 2000), pytest.param("dask", 300, marks=pytest.mark.dask)]
)
def test_a_small_soak_passes(where: str, calls: int, tmp_path: Path) -> None:
    often = ("--kill-every", "0.3", "--sample-every", "1")
    arguments = (where, "--calls", str(calls), *often, "--out", str(tmp_path))
    done = program("-m", "benchmarks.soak", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / f"soak-{where}.json").read_text())
    assert f"seed {report['seed']}\n" in done.stdout
    assert sum(report["ends"].values()) == report["calls"] == calls
    assert not report["wrong"]
    assert (tmp_path / f"soak-{where}.png").exists() == (find_spec("matplotlib") is not None)


def told(*items: Item) -> tuple[Told, Scheduler]:
    """What was told of calls in threads, and their scheduler."""
    found = Told(len(items) + 1)
    scheduler = Scheduler.with_threads(1)
    task = scheduler.task(act)
    found.listen(scheduler, [task])
    scheduler.on_start(lambda: scheduler.map(task, items))
    scheduler.run(on_exception="continue")
    return found, scheduler


def test_calls_that_are_each_told_once_are_well() -> None:
    found, _ = told(Item(0), Item(1, "raise"))
    found.check_all(2)
    assert not found.wrong
    assert found.ends == {"result": 1, "LookupError": 1}


def test_a_call_that_is_never_told_is_found() -> None:
    found, _ = told(Item(0))
    found.check_all(2)
    assert found.wrong == ["call 1 was told of by 00000 only"]


def test_a_call_that_is_told_twice_is_found() -> None:
    found = Told(1)
    scheduler = Scheduler.with_threads(1)
    scheduler.on_future_done(lambda future: scheduler.emit("on_future_result", future, None))
    task = scheduler.task(act)
    found.listen(scheduler, [task])
    scheduler.on_start(lambda: task.submit(Item(0)) and None)
    scheduler.run()
    assert found.wrong == ["call 0 (plain) was told twice"]


def test_a_call_that_is_told_again_after_its_end_is_found() -> None:
    found = Told(1)
    scheduler = Scheduler.with_threads(1)
    task = scheduler.task(act)
    found.listen(scheduler, [task])
    task.on_result(lambda future, result: scheduler.emit("on_future_result", future, result))
    scheduler.on_start(lambda: task.submit(Item(0)) and None)
    scheduler.run()
    assert len(found.wrong) == 1
    assert "a call was told again" in found.wrong[0]


def test_a_call_that_ends_otherwise_than_its_kind_does_is_found() -> None:
    found = Told(1)
    scheduler = Scheduler.with_threads(1)
    task = scheduler.task(lambda item: item._replace(number=1))
    found.listen(scheduler, [task])
    scheduler.on_start(lambda: task.submit(Item(0)) and None)
    scheduler.run()
    assert found.wrong == ["call 0 (plain) ended with None"]


def test_the_same_seed_draws_the_same_calls() -> None:
    one, same, other = (list(Mix(seed).items(iter(range(50_000)))) for seed in (1, 1, 2))
    assert one == same != other
    assert {item.kind for item in one} == {*KINDS}


def samples(memory: list[int], calm_from: int = 0, role: str = "driver") -> list[Sample]:
    return [
        Sample(at, at, [Seen(role, 1, mebibytes * 2**20, 10, 2)], at >= calm_from)
        for at, mebibytes in enumerate(memory)
    ]


def growing(made: list[Sample]) -> list[tuple[str, str]]:
    return [(one.role, one.measure) for one in trends(made) if one.grows]


def test_what_grows_is_found() -> None:
    assert growing(samples([100 + at for at in range(90)])) == [("driver", "memory")]


def test_what_varies_does_not_grow() -> None:
    dice = random.Random(0)
    assert not growing(samples([100 + dice.randrange(40) for _ in range(90)]))
    assert not growing(samples([100] * 50 + [500] * 10 + [100] * 30))


def test_what_is_killed_is_judged_by_what_comes_after() -> None:
    restarted = [50 + at % 10 for at in range(60)]
    made = samples(restarted + list(range(60, 150)), 60, "guardian")
    assert growing(made) == [("guardian", "memory")]
    assert not growing(samples(list(range(60)) + [60] * 90, 60, "guardian"))


def test_samples_are_read_as_they_were_added(tmp_path: Path) -> None:
    made = samples([1, 2, 3], calm_from=1)
    kept = Samples(tmp_path / "file")
    for sample in made:
        kept.add(sample)
    assert kept.read() == made


def test_a_few_samples_show_nothing() -> None:
    assert not list(trends(samples(list(range(LEAST_SAMPLES)))))
