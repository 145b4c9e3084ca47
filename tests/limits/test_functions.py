"""`limit` as a decorator: of functions, methods, coroutine functions."""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import subprocess
import sys
import time
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


@pytest.mark.parametrize("dumps", [pickle.dumps, pytest.importorskip("cloudpickle").dumps])
def test_it_is_pickled_by_its_name(dumps) -> None:
    assert pickle.loads(dumps(fit)) is fit
    assert pickle.loads(dumps(Model.add)) is Model.add
    assert len(dumps(fit)) < 100
    bound = pickle.loads(dumps(Model(2).add))
    assert isinstance(bound, LimitedCall)
    assert not isinstance(bound.fn, LimitedCall)
    assert bound(3)[0] == 5


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
    assert asyncio.iscoroutinefunction(answer.fn)


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
    from loky import ProcessPoolExecutor
    with ProcessPoolExecutor(1) as pool:
        print(pool.submit(factorial, 3).result())
"""


def test_functions_of_a_script_can_be_decorated_too(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "6 2\n6 2\n6\n", done.stderr


def test_what_cannot_be_decorated_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be called"):
        limit(wall_time=1)(3)
    with pytest.raises(TypeError, match="takes one function"):
        limit(fit, 3, wall_time=1)
    with pytest.raises(TypeError, match="did you mean 'memory'"):
        limit(memory_limit=1)
