import math
from datetime import timedelta

import pytest
from dask.utils import byte_sizes, parse_timedelta, timedelta_sizes
from dask.utils import parse_bytes as dask_bytes
from hypothesis import given
from hypothesis import strategies as st

from dask_limits.limits.limits import Limits
from dask_limits.units import format_bytes, format_seconds, parse_bytes, parse_seconds

PYNISHER_BYTES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
positive = st.floats(min_value=1, max_value=1e6, allow_nan=False)


@given(positive, st.sampled_from(sorted(u for u in byte_sizes if u)), st.sampled_from(["", " "]))
def test_a_string_of_bytes_means_what_it_means_to_dask(number, unit, space):
    text = f"{number}{space}{unit}"
    assert parse_bytes(text) == pytest.approx(dask_bytes(text), abs=1)


@given(positive, st.sampled_from(sorted(u for u in timedelta_sizes if u)))
def test_a_string_of_time_means_what_it_means_to_dask(number, unit):
    text = f"{number} {unit}"
    assert parse_seconds(text) == pytest.approx(parse_timedelta(text))


@given(positive, st.sampled_from(sorted(PYNISHER_BYTES)), st.booleans())
def test_a_tuple_of_bytes_means_what_it_means_to_pynisher_in_any_case(number, unit, upper):
    written = unit if upper else unit.lower()
    assert parse_bytes((number, written)) == round(number * PYNISHER_BYTES[unit])


@given(st.integers(0, 99), st.integers(0, 59), st.integers(1, 59))
def test_a_string_of_several_times_is_their_sum(hours, minutes, seconds):
    assert parse_seconds(f"{hours}h {minutes}m {seconds}s") == hours * 3600 + minutes * 60 + seconds
    assert parse_seconds(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@given(st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(days=99)))
def test_a_timedelta_and_what_it_prints_like_are_the_same_time(span):
    assert parse_seconds(span) == span.total_seconds()
    days, below = divmod(span, timedelta(days=1))
    text = f"{days}-{below}" if days else str(below)
    assert parse_seconds(text) == pytest.approx(span.total_seconds())


@pytest.mark.parametrize("text", ["5:00", "00:60:00", "1-12", "1:00:00:00", "-1:00:00", "0:0:5"])
def test_a_time_of_day_that_can_be_read_in_two_ways_is_refused(text):
    with pytest.raises(ValueError, match='"01:30:00"'):
        parse_seconds(text)


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_fractions_of_a_second_count(number):
    assert parse_seconds(number) == number
    assert parse_seconds((number, "s")) == number


@given(st.text(max_size=12))
def test_any_text_is_an_amount_or_a_value_error_that_shows_the_forms(text):
    for parse in (parse_bytes, parse_seconds):
        try:
            amount = parse(text)
        except ValueError as error:
            assert "Use " in str(error)
        else:
            assert amount > 0
            assert math.isfinite(amount)


@pytest.mark.parametrize("name", ["memory", "cpu_time", "wall_time"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (10**400, ValueError),
        ("", ValueError),
        ("much", ValueError),
        ("-5", ValueError),
        ((1, "parsec"), ValueError),
        ((0, "h"), ValueError),
        (True, TypeError),
        (b"1", TypeError),
        ((1, 2), TypeError),
        (("1", "s"), TypeError),
        ((1, "s", 3), TypeError),
        ({}, TypeError),
    ],
)
def test_a_wrong_limit_is_refused_with_its_name_and_the_right_forms(name, value, error):
    with pytest.raises(error, match=rf"{name}=.*Use .*") as caught:
        Limits(**{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-2, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_a_wrong_number_of_processes_is_refused(value, error):
    with pytest.raises(error, match=r"num_processes=.*1 or more"):
        Limits(num_processes=value)


def test_limits_take_every_form_and_hold_bytes_and_seconds():
    limits = Limits(memory=(2, "gb"), cpu_time=0.5, wall_time="1h 30m", num_processes=3)
    assert (limits.memory, limits.cpu_time) == (2 * 2**30, 0.5)
    assert (limits.wall_time, limits.num_processes) == (5400.0, 3)
    assert limits
    assert not Limits()


@given(st.integers(0, 2**60))
def test_formatted_bytes_can_be_read_again_to_within_a_tenth_of_their_unit(amount):
    text = format_bytes(amount)
    assert amount == 0 or parse_bytes(text) == pytest.approx(amount, rel=0.06)


def test_formatted_seconds_are_short():
    assert [format_seconds(s) for s in (0.0123, 5, 86400)] == ["0.0123 s", "5 s", "86400 s"]
