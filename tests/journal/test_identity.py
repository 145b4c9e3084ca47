"""What a call is known by: the same in every process, and different for different calls."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_limits import command, limit, share
from dask_limits.journal.identity import NoIdentityError, function_of, identity_of

ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
NAMES = st.text(max_size=5)
PLAIN = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(NAMES, inner),
    max_leaves=10,
)


def of(fn, *args, key=None, **kwargs) -> bytes:
    function = function_of(fn)
    return identity_of("task", function.version, key, args, kwargs, function)


@given(PLAIN, PLAIN)
def test_calls_are_the_same_only_if_their_plain_arguments_are(one, other):
    same = repr(one) == repr(other) or (type(one) is type(other) is dict and one == other)
    if not same and one != other:
        assert of(fit, one) != of(fit, other)
    assert of(fit, one) == of(fit, one)


def fit(x, depth=3):
    return x


VALUES = """
import functools, numpy as np, pandas as pd, datetime, decimal, enum, dataclasses, pathlib
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from dask_limits import share
from dask_limits.journal.identity import *
@dataclasses.dataclass
class Config:
    names: set
    rate: float = 0.1
class Color(enum.Enum):
    RED = 1
def fit(x): return x
values = [
    {"a", "b", "c"}, frozenset("xyz"), {"k": {"m", "n"}}, np.arange(6).reshape(2, 3), np.float64(2),
    pd.DataFrame({"a": [1, 2]}), LogisticRegression(C=2), Config({"p", "q"}), Color.RED,
    GridSearchCV(LogisticRegression(), {"C": [1, 2]}), datetime.date(2026, 1, 1),
    decimal.Decimal("1.5"), pathlib.Path("/tmp"), share(np.arange(1000)), fit, 10**5000, range(9),
]
function = function_of(fit)
for value in values:
    print(identity_of("t", function.version, None, (value,), {}, function).hex())
"""


def test_a_call_is_known_again_in_another_process():
    """Whatever the order of sets is there, which follows the seed of hashes."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", VALUES],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1
    lines = outputs.pop().split()
    assert len(set(lines)) == len(lines) == 17


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((np.zeros(4),), (np.zeros((2, 2)),)),
        ((np.zeros(2),), (np.zeros(4, "f4"),)),
        ((np.float64(1),), (1.0,)),
        ((1,), (True,)),
        ((1,), (1.0,)),
        (("1",), (1,)),
        (([1, 2],), ((1, 2),)),
        ((1, 2), ((1, 2),)),
        ((b"a",), ("a",)),
    ],
)
def test_arguments_that_only_look_alike_are_different(one, other):
    assert of(fit, *one) != of(fit, *other)


def test_the_order_of_keyword_arguments_does_not_matter():
    assert of(fit, x=1, depth=2) == of(fit, depth=2, x=1)


def test_what_a_partial_a_method_or_an_object_gives_to_its_function_counts():
    class Model:
        def __init__(self, depth):
            self.depth = depth

        def fit(self, x):
            return x

        def __call__(self, x):
            return x

        def __dask_tokenize__(self):
            return self.depth

    calls = [
        of(functools.partial(fit, depth=1), 0),
        of(functools.partial(fit, depth=2), 0),
        of(Model(1).fit, 0),
        of(Model(2).fit, 0),
        of(Model(1), 0),
        of(Model(2), 0),
    ]
    assert len(set(calls)) == len(calls)
    assert of(Model(1).fit, 0) == calls[2]


def test_a_value_that_holds_itself_has_a_hash():
    one: list = [1]
    one.append(one)
    other: list = [1]
    other.append([1, other])
    assert of(fit, one) == of(fit, one) != of(fit, other)


class Base:
    @classmethod
    def make(cls):
        return cls.__name__


class Left(Base):
    class Config:
        pass


class Right(Base):
    class Config:
        pass


def test_methods_of_builtins_and_of_classes_and_classes_of_one_name_are_told_apart():
    assert of("abc".upper) == of("abc".upper) != of("xyz".upper)
    assert of(fit, "abc".upper) != of(fit, "xyz".upper)
    assert of(Left.make) == of(Left.make) != of(Right.make)
    assert of(fit, Left.Config) != of(fit, Right.Config)
    assert of(len, "a") != of(abs, "a")


def test_a_key_stands_for_the_arguments_and_not_for_what_a_partial_holds():
    one, other = functools.partial(fit, "A"), functools.partial(fit, "B")
    assert of(one, 1, key="k") == of(one, 2, key="k") != of(other, 1, key="k")
    lines = [limit(command("echo {x} A")), limit(command("echo {x} B"))]
    assert of(lines[0], x=1, key="k") != of(lines[1], x=1, key="k")


def test_a_key_stands_for_the_object_whose_method_it_is():
    """It may change all the time, and hold what has no hash."""

    class Search:
        def __init__(self):
            self.lock = threading.Lock()

        def trial(self, x):
            return x

    assert of(Search().trial, 1, key="k") == of(Search().trial, 1, key="k")
    with pytest.raises(NoIdentityError):
        of(Search().trial, 1)


def test_plain_values_that_a_function_closes_over_count():
    def make(value):
        return lambda x: (x, value)

    assert of(make(1), 0) == of(make(1), 0) != of(make(2), 0)
    assert of(make(threading.Lock()), 0) == of(make(threading.Lock()), 0)


def test_what_a_decorator_wraps_counts():
    def decorated(fn, decorate):
        return decorate(fn)

    def logging(fn):
        @functools.wraps(fn)
        def wrapper(x):
            return fn(x)

        return wrapper

    def one(x):
        return x + 1

    def other(x):
        return x + 2

    other.__qualname__, other.__name__ = one.__qualname__, one.__name__
    for decorate in (logging, functools.lru_cache):
        assert of(decorated(one, decorate), 0) == of(decorated(one, decorate), 0)
        assert of(decorated(one, decorate), 0) != of(decorated(other, decorate), 0)


def test_limits_are_no_part_of_a_call():
    """They can be raised between two runs."""
    assert of(limit(fit, memory="1 GiB"), 3) == of(limit(fit, wall_time=5), 3) == of(fit, 3)


def test_a_shared_object_is_known_by_what_it_holds():
    assert of(fit, share(np.arange(9))) == of(fit, share(np.arange(9)))
    assert of(fit, share(np.arange(9))) != of(fit, share(np.arange(8)))


def test_an_argument_without_a_hash_needs_a_key():
    lock = threading.Lock()
    with pytest.raises(NoIdentityError, match="cannot pickle"):
        of(fit, lock)
    assert of(fit, lock, key="a") == of(fit, 5, key="a") != of(fit, lock, key="b")


# -- versions of functions ---------------------------------------------------------------------


def version(source: str) -> str:
    names: dict = {}
    exec(compile(source, f"<{hash(source)}>", "exec"), names)
    return function_of(names["f"]).version


BASE = "def f(x):\n    y = x + 1\n    return {'a', 'b'} , [lambda z: z * y]\n"


@pytest.mark.parametrize(
    "same",
    [
        "\n\n\n" + BASE,
        "def f(x):\n    # why\n    y = x + 1  # here\n\n    return {'a', 'b'}, [lambda z: z * y]",
        "def f(x):\n    'It does.'\n    y = x + 1\n    return {'a', 'b'}, [lambda z: z * y]",
        "import os\n\ndef g(): pass\n\n" + BASE,
    ],
)
def test_comments_docstrings_and_lines_do_not_change_a_function(same):
    assert version(same) == version(BASE)


@pytest.mark.parametrize(
    ("old", "new"), [("x + 1", "x + 2"), ("z * y", "z - y"), ("(x)", "(w, x)"), ("'b'", "'c'")]
)
def test_another_code_changes_a_function(old, new):
    assert version(BASE.replace(old, new)) != version(BASE)


@pytest.mark.parametrize("body", ["return 'a'", "return x, 'a'", "g(k='a')", "return x == 'a'"])
def test_a_docstring_that_is_a_constant_too_changes_a_function(body):
    """The compiler makes one constant of both."""
    old = f"def f(x):\n    'a'\n    {body}\n"
    assert version(old) == version("# again\n" + old)
    assert version(old.replace("'a'", "'b'")) != version(old)
    assert version(old.replace("'a'\n", "'b'\n", 1)) != version(old)
    other = old.replace("'a'\n", "'It does.'\n", 1)
    assert version(other) == version(other.replace("It does", "It did"))


def test_a_function_has_one_version_in_all_processes():
    """The order of a set of constants follows the seed of hashes."""
    program = f"exec({BASE!r}); from dask_limits.journal.identity import *; "
    program += "print(function_of(f), identity_of('t', '', None, (), {}, function_of(f)))"
    found = {
        subprocess.check_output(
            [sys.executable, "-c", program.replace("{'a', 'b'}", "x in {'a', 'b', 'c'}")],
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2", "3", "4")
    }
    assert len(found) == 1
