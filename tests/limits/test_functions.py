"""`limit` as a decorator: of functions, methods, coroutine functions."""

from __future__ import annotations

import abc
import asyncio
import functools
import inspect
import os
import pickle
import subprocess
import sys
import time
import typing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from processes import all_gone, start_sleeping, written_pid

from dask_limits import LimitedExecutor, Limits, exceptions, limit
from dask_limits.limits import LimitedCall


@limit(memory="1 GiB", wall_time="1 m")
def fit(n: int, *, plus: int = 0) -> int:
    """Fit it."""
    return n + plus


@limit(wall_time="1 m")
def factorial(n: int) -> int:
    return n * factorial.fn(n - 1) if n else 1


@limit(wall_time=0.2)
def oversleep() -> None:
    time.sleep(60)


class Model:
    def __init__(self, n: int) -> None:
        self.n = n

    @limit(wall_time="1 m")
    def add(self, m: int) -> tuple[int, int]:
        return self.n + m, os.getpid()

    @staticmethod
    @limit(wall_time="1 m")
    def inner(n: int) -> int:
        return n

    @limit(wall_time="1 m")
    @staticmethod
    def outer(n: int) -> int:
        return n

    @limit(wall_time="1 m")
    @classmethod
    def named(cls, n: int) -> tuple[str, int]:
        return cls.__name__, n


loaded = None


def load() -> None:
    global loaded
    loaded = 42


class Reader:
    """Functions that change a variable of this module, and read it: not one of a copy."""

    @limit(wall_time="1 m")
    def plain(self) -> int | None:
        load()
        return loaded

    @classmethod
    @limit(wall_time="1 m")
    def outer_class(cls) -> int | None:
        load()
        return loaded

    @limit(wall_time="1 m")
    @classmethod
    def inner_class(cls) -> int | None:
        load()
        return loaded

    @property
    @limit(wall_time="1 m")
    def read(self) -> int | None:
        load()
        return loaded

    @functools.cached_property
    @limit(wall_time="1 m")
    def cached(self) -> int | None:
        load()
        return loaded

    @limit(wall_time="1 m")
    def __private(self) -> int | None:
        load()
        return loaded

    def private(self) -> int | None:
        return self.__private()


@functools.lru_cache
@limit(wall_time="1 m")
def remembered() -> int | None:
    load()
    return loaded


@limit(memory="1 GiB")
@limit(wall_time="1 m")
def twice() -> int | None:
    load()
    return loaded


class Abstract(abc.ABC):
    @limit(wall_time="1 m")
    @abc.abstractmethod
    def fill(self) -> None: ...


@limit(wall_time="1 m")
async def answer(n: int) -> int:
    await asyncio.sleep(0.01)
    return n


@limit(wall_time=600)
async def sleep_long(file: Path) -> None:
    start_sleeping(file, 600)


def test_a_decorated_function_is_what_it_was_with_limits() -> None:
    assert fit(2, plus=3) == 5
    assert fit.run(2).usage.wall_time > 0
    assert fit.limits == Limits(memory="1 GiB", wall_time=60)
    assert (fit.__name__, fit.__doc__, fit.__module__) == ("fit", "Fit it.", __name__)
    assert str(inspect.signature(fit)) == "(n: 'int', *, plus: 'int' = 0) -> 'int'"
    assert factorial(5) == 120
    with pytest.raises(exceptions.WallTimeBreach):
        oversleep()


def test_methods_run_in_processes_of_their_own_and_know_their_objects() -> None:
    total, pid = Model(2).add(3)
    assert total == 5
    assert pid != os.getpid()
    assert Model.add(Model(1), 1)[0] == 2
    assert (Model.inner(3), Model(1).outer(4), Model.named(5)) == (3, 4, ("Model", 5))


@pytest.mark.parametrize(
    "read",
    [
        lambda: Reader().plain(),
        lambda: Reader.outer_class(),
        lambda: Reader.inner_class(),
        lambda: Reader().read,
        lambda: Reader().cached,
        lambda: Reader().private(),
        remembered,
        twice,
    ],
)
def test_each_runs_in_its_own_module_and_not_in_a_copy(read) -> None:
    assert read() == 42
    assert loaded is None


def test_it_keeps_what_other_decorators_have_left() -> None:
    assert typing.get_type_hints(fit)["n"] is int
    with pytest.raises(TypeError, match="abstract"):
        Abstract()  # type: ignore[abstract]


@pytest.mark.parametrize("dumps", [pickle.dumps, pytest.importorskip("cloudpickle").dumps])
def test_it_is_pickled_by_its_name(dumps) -> None:
    assert pickle.loads(dumps(fit)) is fit
    assert pickle.loads(dumps(Model.add)) is Model.add
    assert len(dumps(fit)) < 100
    bound = pickle.loads(dumps(Model(2).add))
    assert isinstance(bound, LimitedCall)
    assert not isinstance(bound.fn, LimitedCall)
    assert bound(3)[0] == 5
    of_class = pickle.loads(dumps(Model.named))
    assert not isinstance(of_class.fn, LimitedCall)
    assert of_class(5) == ("Model", 5)


def test_executors_take_it() -> None:
    with LimitedExecutor(1, memory="100 MiB") as executor:
        assert executor.submit(fit, 2).result() == 2
        assert executor.submit(Model(2).add, 3).result()[0] == 5
        assert executor.submit(answer, 3).result() == 3
        assert executor.submit(lambda: fit(7)).result() == 7
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(fit, 2).result() == 2


def test_a_coroutine_function_is_awaited_while_others_go_on() -> None:
    async def both() -> tuple[int, int, float]:
        start = time.monotonic()
        first, second = await asyncio.gather(answer(1), answer(2))
        return first, second, time.monotonic() - start

    assert asyncio.run(both())[:2] == (1, 2)
    assert asyncio.iscoroutinefunction(answer)


def test_a_cancelled_coroutine_ends_its_call(tmp_path: Path) -> None:
    async def give_up() -> None:
        running = asyncio.create_task(sleep_long(tmp_path / "pid"))
        pid = await asyncio.to_thread(written_pid, tmp_path / "pid")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        all_gone({pid})

    asyncio.run(give_up())


SCRIPT = """
from dask_limits import LimitedExecutor, limit
@limit(wall_time="1 m")
def factorial(n):
    return n * factorial(n - 1) if n else 1
class Model:
    @limit(wall_time="1 m")
    def add(self, m):
        return m + 1
if __name__ == "__main__":
    print(factorial(3), Model().add(1))
    with LimitedExecutor(1) as executor:
        print(executor.submit(factorial, 3).result(), executor.submit(Model().add, 1).result())
    import loky, concurrent.futures as standard, multiprocessing
    with loky.ProcessPoolExecutor(1) as pool:
        print(pool.submit(factorial, 3).result())
    with standard.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        print(pool.submit(factorial, 3).result())
"""


def test_functions_of_a_script_can_be_decorated_too(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "6 2\n6 2\n6\n6\n", done.stderr


def test_what_cannot_be_decorated_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be called"):
        limit(wall_time=1)(3)

    def generate():
        yield 1

    with pytest.raises(TypeError, match="generator"):
        limit(wall_time=1)(generate)
    with pytest.raises(TypeError, match="takes one function"):
        limit(fit, 3, wall_time=1)
    with pytest.raises(TypeError, match="did you mean 'memory'"):
        limit(memory_limit=1)
