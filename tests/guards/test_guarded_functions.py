"""A function stays what it is when a guard decorates it."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys

import cloudpickle
import pytest

from dask_limits.guards import ExecutionTimeout, mem_guard, time_guard
from dask_limits.guards.entry import inside

GUARDS = [time_guard(100), mem_guard(1e12)]
BOTH = pytest.mark.parametrize("guard", GUARDS, ids=["time", "memory"])


@time_guard(timeout=100)
def add(a: int, b: int = 1) -> int:
    """The sum."""
    assert len(inside) == 1
    return a + b


@mem_guard(max_memory=1e12)
def also_add(a: int, b: int = 1) -> int:
    assert len(inside) == 1
    return a + b


class Counter:
    def __init__(self) -> None:
        self.count = 0

    @time_guard(100)
    def up(self, by: int) -> int:
        assert len(inside) == 1
        self.count += by
        return self.count

    @classmethod
    @time_guard(100)
    def make(cls) -> Counter:
        return cls()

    @staticmethod
    @mem_guard(1e12)
    def double(n: int) -> int:
        return 2 * n

    @property
    @time_guard(100)
    def value(self) -> int:
        return self.count


def test_it_keeps_its_name_and_signature():
    import inspect

    assert (add.__name__, add.__doc__, add.__module__) == ("add", "The sum.", __name__)
    assert list(inspect.signature(add).parameters) == ["a", "b"]
    assert add.__wrapped__ is not add


def test_it_is_called_as_before():
    assert add(1) == also_add(1) == add(a=1) == also_add(1, b=1) == 2


def test_methods_of_all_kinds_can_be_guarded():
    counter = Counter.make()
    assert counter.up(2) == 2
    assert Counter.up(counter, by=1) == 3
    assert counter.value == 3
    assert Counter.double(4) == counter.double(4) == 8


@BOTH
def test_lambdas_partials_builtins_and_callable_objects_can_be_guarded(guard):
    class Adder:
        def __call__(self, n: int) -> int:
            return n + 1

    assert guard(lambda n: n + 1)(1) == 2
    assert guard(functools.partial(max, 3))(1) == 3
    assert guard(sum)([1, 2]) == 3
    assert guard(Adder())(1) == 2
    assert guard([3, 1].index)(1) == 1


@pytest.mark.parametrize("function", [add, also_add, Counter.up, Counter.double])
def test_it_is_pickled_by_its_name(function):
    assert pickle.loads(pickle.dumps(function)) is function
    assert cloudpickle.loads(cloudpickle.dumps(function)) is function


@BOTH
def test_guards_can_be_pickled(guard):
    again = pickle.loads(pickle.dumps(guard))
    assert repr(again) == repr(guard)
    with again:
        assert len(inside) == 1


@BOTH
def test_a_function_without_a_name_to_be_found_by_is_pickled_whole(guard):
    def guards_inside(n):
        from dask_limits.guards import entry

        return n, len(entry.inside)

    again = cloudpickle.loads(cloudpickle.dumps(guard(guards_inside)))
    assert again(1) == (1, 1)
    assert not inside


def test_a_pickled_function_keeps_its_progress():
    @time_guard(100)
    def reporting():
        return reporting.progress()

    again = cloudpickle.loads(cloudpickle.dumps(reporting))
    assert again() is True
    assert again.progress() is False


def test_a_function_of_main_is_pickled_whole_and_runs_in_another_process(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("""
import sys, cloudpickle
from dask_limits.guards import mem_guard, progress, time_guard

@time_guard(timeout=0.05)
@mem_guard(max_memory=10**9)
def work(spin):
    progress()
    while spin:
        pass
    return "done"

sys.stdout.buffer.write(cloudpickle.dumps(work))
""")
    pickled = subprocess.run([sys.executable, program], capture_output=True, check=True).stdout
    work = pickle.loads(pickled)
    assert work(spin=False) == "done"
    with pytest.raises(ExecutionTimeout, match=r"work\(\) went over its timeout of 0.05 s"):
        work(spin=True)


def test_one_guard_for_two_functions_reports_for_whichever_runs():
    guard = time_guard(100)

    @guard
    def first():
        return second(), second.progress(), first.progress(), guard.progress()

    @guard
    def second():
        return second.progress(), first.progress()

    assert first() == ((True, True), False, True, True)


def test_coroutines_and_generators_are_refused():
    async def coroutine(): ...

    async def stream():
        yield

    def generator():
        yield

    class Awaited:
        async def __call__(self): ...

    for wrong in (coroutine, Awaited(), functools.partial(coroutine)):
        with pytest.raises(TypeError, match=r"is a coroutine function.*asyncio.timeout"):
            time_guard(1)(wrong)
    for wrong in (generator, stream):
        with pytest.raises(TypeError, match=r"is a generator function.*between two yields"):
            mem_guard(1)(wrong)


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="Counter is a class: decorate its methods"):
        time_guard(1)(Counter)
    with pytest.raises(TypeError, match="put @classmethod above it"):
        time_guard(1)(classmethod(add))
    with pytest.raises(TypeError, match="put @staticmethod above it"):
        time_guard(1)(staticmethod(add))
    with pytest.raises(TypeError, match="3 cannot be called"):
        time_guard(1)(3)


PROGRAM = """
from dask_limits.guards import mem_guard, time_guard

@time_guard(timeout=10)
def f(x: int, *, y: str = "") -> float:
    f.progress()
    return float(x)

f(1, y="a").is_integer()
f("1")  # wrong
f.nothing()  # wrong

class C:
    @time_guard(10)
    def method(self, x: int) -> str:
        return str(x)

    @mem_guard(10)
    def other(self, x: int) -> str:
        return str(x)

C().method(1).upper()
C().method("1")  # wrong
C().other(1).upper()
C().other("1")  # wrong

with time_guard(10) as guard:
    guard.progress()
time_guard("10")  # wrong
"""


def test_type_checkers_see_what_is_wrong_and_nothing_else(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(program)], capture_output=True, text=True
    ).stdout
    wrong = [n for n, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")]
    seen = {int(line.split(":")[1]) for line in found.splitlines() if ": error:" in line}
    assert seen == set(wrong), found
