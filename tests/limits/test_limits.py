import functools
import multiprocessing
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_limits.limits import Limits, limit

METHODS = multiprocessing.get_all_start_methods()
SECONDS = st.floats(min_value=1e-3, max_value=1e6)
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "memory": st.integers(2**16, 2**50),
        "cpu_time": SECONDS,
        "wall_time": SECONDS,
        "num_processes": st.integers(1, 1000),
        "grace_period": st.just(0) | SECONDS,
        "capture_output": st.booleans() | st.integers(0, 2**30),
    },
)
PLACES = st.one_of(
    st.just({}),
    st.just({"isolation": "warm"}),
    st.just({"isolation": "fresh"}),
    st.sampled_from(METHODS).map(lambda method: {"isolation": "fresh", "context": method}),
)
ANY = st.builds(lambda limits, place: Limits(**limits | place), LIMITS, PLACES)


@given(ANY)
def test_limits_are_made_again_from_what_differs_from_the_default(limits):
    again = Limits(**limits.as_dict())
    assert again == limits
    assert hash(again) == hash(limits)
    assert eval(repr(limits)) == limits
    assert bool(limits) == bool(limits.as_dict())


@given(ANY, ANY)
def test_within_is_never_laxer_than_either(ours, theirs):
    both = ours.within(theirs)
    for name in ("memory", "cpu_time", "wall_time", "num_processes"):
        said = [v for v in (getattr(ours, name), getattr(theirs, name)) if v is not None]
        assert getattr(both, name) == (min(said) if said else None)
    if "isolation" in ours.as_dict():
        assert (both.isolation, both.context) == (ours.isolation, ours.context)


@given(ANY)
def test_within_nothing_and_nothing_within_change_nothing(limits):
    assert limits.within(Limits()) == limits
    assert Limits().within(limits) == limits
    assert limits.within(limits) == limits


def test_in_a_thread_only_what_it_can_give_is_accepted_from_another():
    ours = Limits(isolation="thread", wall_time=5)
    theirs = Limits(isolation="fresh", context="spawn", memory=2**20)
    assert ours.within(theirs) == Limits(isolation="thread", wall_time=5, memory=2**20)
    with pytest.raises(ValueError, match=r"num_processes is not supported with isolation='thread'"):
        ours.within(Limits(num_processes=2))


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"isolation": "cold"}, ValueError, "isolation='cold' is unknown. Use one of 'clean'"),
        ({"context": "fork"}, ValueError, "Use isolation='fresh'"),
        ({"isolation": "thread", "context": "fork"}, ValueError, "Use isolation='fresh'"),
        ({"isolation": "fresh", "context": "spoon"}, ValueError, "context='spoon' is unknown"),
        ({"isolation": "thread", "grace_period": 1}, ValueError, "grace_period is not supported"),
        ({"isolation": "thread", "num_processes": 1}, ValueError, "Use isolation='clean'"),
        ({"grace_period": -1}, ValueError, "grace_period=-1"),
        ({"grace_period": "soon"}, ValueError, "grace_period='soon'"),
        ({"grace_period": float("nan")}, ValueError, "grace_period=nan"),
        ({"grace_period": True}, TypeError, "grace_period=True"),
        ({"capture_output": -5}, ValueError, "capture_output=-5"),
        ({"capture_output": "all"}, ValueError, "capture_output='all'"),
        ({"memory": "500"}, ValueError, 'can need 64.0 KiB. Did you mean "500 MiB"?'),
        ({"memory": 2}, ValueError, "memory=2 is 2 bytes"),
        ({"memory": 2}, ValueError, 'Did you mean "2 GiB"?'),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_a_word_on_what_can(wrong, error, text):
    with pytest.raises(error) as caught:
        Limits(**wrong)
    assert text in str(caught.value)


def test_only_a_memory_limit_without_a_unit_is_taken_for_one_that_lacks_it():
    """What has a unit is not taken for a slip of the pen."""
    for memory in ("10 KiB", (500, "B"), 0.9 * 2**16):
        with pytest.raises(ValueError, match=r"can need 64\.0 KiB$"):
            Limits(memory=memory)


def test_limits_cannot_be_changed():
    with pytest.raises(AttributeError):
        Limits().memory = 3


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("memory_limit", "memory"),
        ("walltime_limit", "wall_time"),
        ("timeout", "wall_time"),
        ("cpu_tme", "cpu_time"),
        ("process_limit", "num_processes"),
    ],
)
def test_a_limit_by_another_name_is_answered_with_the_right_one(name, right):
    for take in (Limits, functools.partial(limit, abs)):
        with pytest.raises(TypeError, match=f"no limit '{name}': did you mean '{right}'"):
            take(**{name: 1})
    with pytest.raises(TypeError, match="no limit 'colour': there are memory, cpu_time"):
        Limits(colour=1)


def test_times_may_be_timedeltas_and_clock_times():
    limits = Limits(wall_time=timedelta(minutes=5), cpu_time="1-12:00:00", grace_period="00:00:02")
    assert (limits.wall_time, limits.cpu_time, limits.grace_period) == (300.0, 129600.0, 2.0)
    assert Limits(grace_period=timedelta()) == Limits()
