"""The global generators of random numbers, where the user seeds them in an initializer, or not."""

import builtins
import random
import sys

import cloudpickle
import pytest

from dask_limits.limits import Limits
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import Preload

numpy = pytest.importorskip("numpy")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

IMPORTED = ("numpy", "the initializer imports NumPy")


def seed():
    import numpy

    random.seed(0)
    numpy.random.seed(0)


def draw_some():
    import numpy

    builtins.drawn = random.random(), float(numpy.random.random_sample())


def draw():
    import numpy

    return random.random(), float(numpy.random.random_sample())


def drawn_before():
    return builtins.drawn


def sequence(length):
    python, other = random.Random(0), numpy.random.RandomState(0)
    return [(python.random(), float(other.random_sample())) for _ in range(length)]


def guardian_of(initializer, imported, **options):
    preload = ["numpy"] if imported == "numpy" else []
    return Guardian(preload=Preload.of(preload, initializer), **options)


def calls(guardian, number, fn=draw, **limits):
    limits = Limits(wall_time=60, **limits)
    return [guardian.run(fn, (), {}, limits).result() for _ in range(number)]


@pytest.mark.parametrize("imported", IMPORTED)
def test_each_clean_call_begins_with_the_seed_of_the_initializer(imported):
    with guardian_of(seed, imported) as guardian:
        assert calls(guardian, 4) == sequence(1) * 4


@pytest.mark.parametrize("imported", IMPORTED)
def test_warm_calls_go_on_from_the_seed_of_the_initializer(imported):
    with guardian_of(seed, imported) as guardian:
        assert calls(guardian, 4, isolation="warm") == sequence(4)


@pytest.mark.parametrize("imported", IMPORTED)
def test_an_initializer_that_only_draws_numbers_seeds_nothing(imported):
    with guardian_of(draw_some, imported) as guardian:
        for drawn in zip(*calls(guardian, 4), strict=True):
            assert len(set(drawn)) == 4


@pytest.mark.parametrize("imported", IMPORTED)
def test_an_initializer_draws_other_numbers_in_each_process(imported):
    with guardian_of(draw_some, imported, max_calls_per_process=1) as guardian:
        for drawn in zip(*calls(guardian, 3, drawn_before), strict=True):
            assert len(set(drawn)) == 3
