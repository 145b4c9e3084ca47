from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from dask_limits import in_short
from dask_limits.in_short import MOST, arguments_in_short


@pytest.fixture(autouse=True)
def no_type_was_slow_before(monkeypatch):
    """Any may have been, in another test of this process on a busy machine."""
    monkeypatch.setattr(in_short, "_slow", {})


class Counting:
    def __init__(self):
        self.n = 0

    def __repr__(self):
        self.n += 1
        return f"<asked {self.n}>"


class Raising:
    def __repr__(self):
        raise ValueError("no")


class Endless(list):  # has the `__repr__` of a list, under another name
    pass


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "True"),
        (0.5, "0.5"),
        (2 / 3, "0.666667"),
        ("it's", '"it\'s"'),
        pytest.param(b"x" * 10**8, "b'" + "x" * 35 + "...", id="bytes"),
        (range(3), "range(0, 3)"),
        (list(range(10**6)), "[0, 1, 2, 3, ...]"),
        (Endless(range(10**6)), "[0, 1, 2, 3, ...]"),
        (dict.fromkeys(range(10**6)), "{0: None, 1: None, 2: None, 3: None, ...}"),
        ({1: {2: {3: 4}}}, "{1: {2: {...}}}"),
        (set(), "set()"),
        (frozenset({1}), "{1}"),
        pytest.param(10**5000, "<int>", id="long"),
        (np.zeros((3, 4)), "<ndarray 3x4>"),
        (np.int64(7), "np.int64(7)"),
        (pd.DataFrame({"a": [1, 2]}), "<DataFrame 2x1>"),
        (Raising(), "<Raising>"),
        ([1, Raising()], "<list>"),
        ("\x1b[2J[/red]\n", r"'\x1b[2J[/red]\n'"),
    ],
)
def test_an_argument_is_shown_in_a_few_characters(value, shown):
    assert arguments_in_short([value], {}) == shown
    assert arguments_in_short([], {"n": value}) == f"n={shown}"


def test_what_a_class_says_is_made_printable():
    class Odd:
        def __repr__(self):
            return "red\x1b[2J\r\n\u202e"

    assert arguments_in_short([Odd()], {}) == r"red\x1b[2J\r\n\u202e"


def test_many_arguments_are_cut_and_the_rest_is_not_asked():
    asked = [Counting() for _ in range(1000)]
    text = arguments_in_short(asked, {})
    assert len(text) == MOST and text.endswith("...")
    assert sum(one.n for one in asked) < 20 and max(one.n for one in asked) == 1


def test_a_class_that_takes_long_to_say_what_it_is_is_asked_once():
    class Slow(Counting):
        def __repr__(self):
            time.sleep(0.2)
            return super().__repr__()

    slow = Slow()
    assert arguments_in_short([slow, slow, [slow]], {}) == "<asked 1>, <Slow>, [<Slow>]"
    assert slow.n == 1


class Nameless(type):
    @property
    def __name__(cls):
        raise RuntimeError("no name")


class Odd(str):
    def isprintable(self):
        raise RuntimeError("no answer")

    __format__ = __getitem__ = __len__ = isprintable


class Unnamed(metaclass=Nameless):
    def __repr__(self):
        raise RuntimeError("no repr")


class ByOdd:
    def __repr__(self):
        return Odd("odd\x1b")


class Quits:
    def __repr__(self):
        raise SystemExit


def test_nothing_that_an_argument_does_is_raised():
    assert arguments_in_short([Unnamed(), ByOdd(), Quits()], {}) == r"<Unnamed>, odd\x1b, <Quits>"


def test_a_shape_that_took_long_is_not_asked_again():
    asked = []

    class Slow:
        @property
        def shape(self):
            asked.append(1)
            time.sleep(0.2)
            return (3, 4)

    assert arguments_in_short([Slow()], {}) == "<Slow 3x4>"
    assert arguments_in_short([Slow()], {}) == "<Slow>"
    assert len(asked) == 1


def test_where_all_calls_are_asked_a_class_that_is_slow_each_time_is_not_asked_for_ever(
    monkeypatch,
):
    """Once may be the fault of a busy machine, and others are asked by those who look."""
    monkeypatch.setattr(in_short, "_SLOW_S", 60)  # which a busy machine does not make of 2 ms

    class Slow(Counting):
        def __repr__(self):
            time.sleep(0.002)
            return super().__repr__()

    slow = Slow()
    texts = [arguments_in_short([slow], {}, quick=True) for _ in range(30)]
    assert texts[0] == "<asked 1>" and texts[-1] == "<Slow>"
    assert slow.n == 10
    assert arguments_in_short([slow], {}) == "<asked 11>"
