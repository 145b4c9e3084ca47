"""What placing costs on many workers: the program measures, and the model is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from measuring import program

from benchmarks.scaling.page import JSON, PAGE, page
from benchmarks.scaling.points import Cost, Curve, Model, Point, batch_size


@pytest.mark.dask
@pytest.mark.timeout(600)
def test_the_program_measures_few_simulated_workers(tmp_path: Path) -> None:
    file = tmp_path / "file"
    few = ("--workers", "3", "--calls", "20", "--waiting", "70", "--no-long", "--json", file)
    done = program("-m", "benchmarks.scaling", *few)
    assert done.returncode == 0, done.stdout + done.stderr
    points = Curve.read(file).points
    assert [(one.workers, one.in_flight, one.batch) for one in points] == [
        *((3, n, batch) for batch in (False, True) for n in (64, 70))
    ]
    assert all(0 < one.plugin < one.scheduler for one in points)


def test_the_slowest_of_workers_scheduler_and_driver_is_the_limit() -> None:
    model = Model(Cost(0.001), Cost(0.002), Cost(0.0))
    assert model.rate(10, 1) == 10
    assert model.rate(1000, 1) == 500
    assert model.rate(1000, 1, batch=4) == 1000
    assert Model(Cost(0.004), Cost(0.002), Cost(0.0)).rate(1000, 1) == 250
    assert Model(Cost(0.001), Cost(0.002), Cost(0.001), cores=1).rate(10_000, 1) == 250


def test_a_batch_takes_75_ms_and_no_more_than_its_share() -> None:
    assert batch_size(10, 1, 1000) == 1
    assert batch_size(10, 0.001, 10_000) == 75
    assert batch_size(10, 0.001, 60) == 4


def test_a_model_has_the_constants_of_its_curve() -> None:
    costs = {"driver": 100.0, "scheduler": 1000.0, "plugin": 10.0, "simulation": 500.0}
    together = {"driver": 10.0 + 100 / 75, "scheduler": 1000 / 75, "plugin": 1.0}
    curve = Curve(
        {"cores": "2"},
        [
            Point(10, 64, False, 0.001, 1.0, **costs),
            Point(10, 10_000, True, 0.001, 1.0, **together, simulation=0.0),
        ],
    )
    model = Model.of(curve)
    assert model.scheduler == Cost(pytest.approx(0.001), pytest.approx(0, abs=1e-9))
    assert model.driver == Cost(pytest.approx(0.0001), pytest.approx(0.00001))
    assert model.cores == 2


def test_what_a_byte_costs_is_the_difference_to_calls_without_a_load() -> None:
    plain = Point(10, 64, False, 0.001, 1.0, 100.0, 1000.0, 10.0, 500.0)
    loaded = replace(plain, driver=1100.0, scheduler=4000.0, load=1_000_000)
    curve = Curve({}, [plain, loaded])
    assert curve.ns_a_byte == {"driver": 1.0, "scheduler": 3.0, "simulation": 0.0}
    assert curve.short == [plain]
    assert not Curve({}, [plain]).ns_a_byte


def test_the_page_has_the_figures_that_are_kept_beside_it() -> None:
    assert PAGE.read_text() == page(Curve.read(JSON)), "run `python -m benchmarks.scaling.page`"
