"""Functions and classes of a script, which no other process can import, in calls and results."""

from __future__ import annotations

import abc
import collections
import contextlib
import dataclasses
import enum
import functools
import gc
import sys
import threading
import types
import typing
import weakref

import cloudpickle
import pytest
from isolations import on_processes

from dask_limits import limit
from dask_limits.limits import Limits
from dask_limits.limits.owner.guardian import Guardian

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # as if it were the script

T = typing.TypeVar("T")
P = typing.ParamSpec("P")
Ts = typing.TypeVarTuple("Ts")
UserId = typing.NewType("UserId", int)


class Plain:
    """A class with a bit of everything."""

    number = 1
    numbers: typing.ClassVar = [1, 2]

    class Nested:
        def what(self):
            return "nested"

    def __init__(self):
        self.inner = Plain.Nested()

    def own(self):
        return Plain, self.number

    @classmethod
    def of_class(cls):
        return cls.number

    @staticmethod
    def of_nothing():
        return 5

    @property
    def doubled(self):
        return 2 * self.number

    @functools.cached_property
    def halved(self):
        return self.number / 2

    @functools.lru_cache  # noqa: B019
    def cached(self, n):
        return n

    added = functools.partialmethod(pow, 2)


class Slots:
    __slots__ = ("__weakref__", "a")


class Colour(enum.Enum):
    RED = 1

    def shown(self):
        return self.name


@dataclasses.dataclass(slots=True)
class Data:
    x: int = 1
    y: list = dataclasses.field(default_factory=list)


class Pair(typing.NamedTuple):
    a: int = 1
    b: str = "b"

    def both(self):
        return self


class OddError(ValueError):
    def __init__(self, code=3):
        super().__init__(f"code {code}")
        self.code = code

    def __reduce__(self):
        return OddError, (self.code,)


class Abstract(abc.ABC):
    @abc.abstractmethod
    def do(self): ...


class Concrete(Abstract):
    def do(self):
        return super().do()


class Meta(type):
    def __len__(cls):
        return 0


class WithMeta(metaclass=Meta):
    pass


class Box(typing.Generic[T]):
    pass


Point = collections.namedtuple("Point", "x y", defaults=(1, 2))
CLASSES = [Plain, Plain.Nested, Slots, Data, Pair, OddError, Concrete, WithMeta, Box, Point]


@on_processes
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__qualname__)
def test_an_instance_comes_back_as_one_of_the_callers_own_class(isolated, cls):
    before = dict(vars(cls))
    made = isolated(lambda: cls(), wall_time=30)()
    assert type(made) is cls
    assert {name: id(value) for name, value in vars(cls).items()} == {
        name: id(value) for name, value in before.items()
    }


def test_members_of_an_enumeration_come_back_as_the_callers_own():
    before = dict(vars(Colour))
    assert limit(lambda: [Colour.RED, Colour.RED.shown()], wall_time=30)() == [Colour.RED, "RED"]
    assert dict(vars(Colour)) == before


def test_an_exception_of_the_script_is_one_of_the_callers_own_class():
    def fail():
        raise OddError(7)

    before = dict(vars(OddError))
    with pytest.raises(OddError) as caught:
        limit(fail, wall_time=30)()
    assert caught.value.code == 7
    assert dict(vars(OddError)) == before


def test_a_class_and_a_function_that_are_results_are_the_callers_own():
    things = Plain, helper, fibonacci, UserId, P, T
    assert list(map(id, limit(lambda *things: things, wall_time=30)(*things))) == [*map(id, things)]


def test_a_bound_method_comes_back_as_one_of_its_own_class():
    method = limit(lambda: Plain().own, wall_time=30)()
    assert method.__func__ is Plain.own
    assert method() == (Plain, 1)
    assert limit(lambda: Plain.of_class, wall_time=30)() == Plain.of_class


def test_what_a_call_does_to_a_class_stays_in_its_process():
    def change():
        Plain.number, Plain.new, Plain.own = 7, 8, None
        Plain.numbers.append(3)
        return Plain()

    made = limit(change, wall_time=30)()
    assert (made.number, made.numbers, hasattr(made, "new")) == (1, [1, 2], False)
    assert made.own() == (Plain, 1)


def test_what_a_call_does_to_a_class_is_not_seen_in_the_next_call():
    def change():
        before = vars(Plain).get("new"), Plain.number, list(Plain.numbers)
        Plain.new, Plain.number = 8, 7
        Plain.numbers.append(3)
        return *before, Plain()

    with Guardian() as guardian:
        for _ in range(3):
            outcome = guardian.run(change, (), {}, Limits(wall_time=30))
            new, number, numbers, made = outcome.result()
            assert (new, number, numbers) == (None, 1, [1, 2])
            assert type(made) is Plain


def test_what_the_caller_does_to_its_class_is_seen_in_the_next_call(monkeypatch):
    look = limit(lambda: (Plain.number, Plain().doubled), wall_time=30)
    assert look() == (1, 2)
    monkeypatch.setattr(Plain, "number", 4)
    assert look() == (4, 8)


def test_a_class_that_a_call_defines_comes_back_as_a_new_one():
    def define():
        class Sub(Plain):
            number = 9

            def twice(self):
                return 2 * self.number

        return Sub()

    made = limit(define, wall_time=30)()
    assert isinstance(made, Plain)
    assert made.twice() == 18
    # It can be sent again, and comes back as what it is here.
    again = limit(lambda it: [it, it.own()], wall_time=30)(made)
    assert type(again[0]) is type(made)
    assert again[1] == (Plain, 9)


def test_a_call_in_a_call_gives_back_the_classes_of_its_outermost_caller():
    def outer():
        made = limit(lambda: Plain(), wall_time=20)()
        assert type(made) is Plain
        return made

    assert type(limit(outer, wall_time=30)()) is Plain


def test_a_class_that_only_the_call_refers_to_lives_until_its_result_is_there():
    def make():
        class Local:
            def __init__(self):
                gc.collect()

        return lambda: Local()

    with Guardian() as guardian:
        outcome = guardian.run(make(), (), {})
    made = outcome.result()
    assert type(made).__name__ == "Local"
    gone = weakref.ref(type(made))
    del made, outcome
    gc.collect()
    assert gone() is None  # and no longer


def test_a_result_does_not_bring_back_what_its_class_refers_to():
    counted = limit(lambda: [Holder(), Holder.pickled], wall_time=30)()
    assert counted[1] == 0
    assert Holder.pickled == 1


class Counted:
    def __reduce__(self):
        Holder.pickled += 1
        return Counted, ()


class Holder:
    pickled = 0
    counted = Counted()


# -- what a script has at hand -----------------------------------------------------------------


def helper(x):
    return x + 1


@functools.cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


@functools.lru_cache(maxsize=3, typed=True)
def cached(x):
    """Its docstring."""
    return x


@functools.singledispatch
def kind_of(x):
    return "anything"


@kind_of.register
def _(x: int):
    return "a number"


@kind_of.register(list)
def kind_of_list(x):
    return [kind_of(item) for item in x]


class Dispatching:
    @functools.singledispatchmethod
    def kind(self, x):
        return "anything"

    @kind.register
    def _(self, x: int):
        return "a number"


@contextlib.contextmanager
def managed():
    yield 7


def synchronized(fn):
    lock = threading.RLock()

    @functools.wraps(fn)
    def locked(*args):
        with lock:
            return fn(*args)

    return locked


@synchronized
def locked_here(x):
    return x


def count_under_a_lock():
    with LOCK, CONDITION, SEMAPHORE:
        CONDITION.notify()
        return EVENT.is_set(), CONDITION._lock is LOCK_OF_CONDITION, hasattr(LOCAL, "x")


def annotated(x: UserId, *args: P.args) -> collections.abc.Callable[P, Box[T]]:
    return UserId(x)


class Parametrized(typing.Generic[P]):
    pass


LOCK = threading.Lock()
LOCK_OF_CONDITION = threading.RLock()
CONDITION = threading.Condition(LOCK_OF_CONDITION)
SEMAPHORE = threading.Semaphore(2)
EVENT = threading.Event()
EVENT.set()
LOCAL = threading.local()
WEAK = weakref.WeakValueDictionary(), weakref.WeakKeyDictionary()
PLAIN = Plain()
SCRIPT = {
    "cache": (lambda: fibonacci(30), 832040),
    "lru_cache": (lambda: (cached(2), cached.cache_parameters()["maxsize"]), (2, 3)),
    "its name": (lambda: (cached.__name__, cached.__doc__), ("cached", "Its docstring.")),
    "lru_cache on a method": (lambda: PLAIN.cached(3), 3),
    "singledispatch": (lambda: kind_of([1, "a"]), ["a number", "anything"]),
    "singledispatchmethod": (lambda: Dispatching().kind(1), "a number"),
    "cached_property": (lambda: PLAIN.halved, 0.5),
    "partialmethod": (lambda: Plain.__dict__["added"].args, (2,)),
    "contextmanager": (lambda: managed().__enter__(), 7),
    "a lock in a decorator": (lambda: locked_here(3), 3),
    "module-level locks": (count_under_a_lock, (True, True, False)),
    "weak dictionaries": (lambda: [*map(len, WEAK)], [0, 0]),
    "typing": (lambda: annotated(3), 3),
    "ParamSpec": (lambda: Parametrized.__parameters__[0] is P, True),
    "TypeVarTuple": (lambda: Ts.__name__, "Ts"),
    "abstract": (lambda: Concrete().do(), None),
    "super": (lambda: isinstance(Concrete(), Abstract), True),
}


@on_processes
@pytest.mark.parametrize(("fn", "expected"), SCRIPT.values(), ids=SCRIPT)
def test_a_call_can_use_what_its_script_defines(isolated, fn, expected):
    assert isolated(fn, wall_time=30)() == expected


def test_a_lock_of_the_caller_is_free_in_a_call_while_it_is_held_here():
    def lock():
        return LOCK.acquire(blocking=False)

    with LOCK:
        assert limit(lock, wall_time=30)()


def test_functions_share_their_lock_in_a_call():
    def held():
        return LOCK.locked()

    def hold():
        with LOCK:
            return held()

    assert limit(hold, wall_time=30)()


def test_a_lock_cannot_be_an_argument():
    with pytest.raises(Exception, match=r"argument 1 \(lock\) cannot be pickled"):
        limit(lambda lock: None, wall_time=30)(threading.Lock())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no type aliases")
def test_a_type_alias_of_the_script_can_be_used_in_a_call():
    module = types.ModuleType("aliases")
    exec("type Alias[X] = list[X]\ndef look(): return str(Alias), Alias.__value__", vars(module))
    assert limit(module.look, wall_time=30)() == ("Alias", list[module.Alias.__type_params__[0]])
