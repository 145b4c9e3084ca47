"""Type checkers know a task's parameters, and what a callback is called with."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from typing import Any

from dask_limits import Event, Plugin, Scheduler, Task, limit
from dask_limits.executors import Future

def f(x: int, *, y: str = "") -> float:
    return float(x)

scheduler = Scheduler.with_threads(1)
task = scheduler.task(f)
future: Future[float] | None = task.submit(1, y="a")
task.submit("a")  # wrong
task.submit(1, z=2)  # wrong
scheduler.submit(f, 3).result().is_integer()
scheduler.submit(f, "3")  # wrong

@task.on_result
def result(future: Future[float], value: float) -> None: ...

@task.on_result  # wrong
def too_few(future: Future[float]) -> None: ...

@task.on_submitted(max_calls=1)
def submitted(future: Future[float], x: int, *, y: str = "") -> None: ...

@task.on("on-result")
def any_event(*args: object) -> None: ...

@task.on_progress
def got_on(future: Future[float], value: Any) -> None: ...

@task.on_progress  # wrong
def got_on_too_few(future: Future[float]) -> None: ...

@scheduler.on_future_progress
def any_got_on(future: Future[Any], value: Any) -> None: ...

@scheduler.task(plugins=())
def decorated(data: bytes) -> int:
    return len(data)

decorated.submit(3)  # wrong

@scheduler.on_start
def start() -> None: ...

@scheduler.on_start  # wrong
def too_many(n: int) -> None: ...

@scheduler.on(Scheduler.FUTURE_RESULT)
def any_result(future: Future[Any], value: Any) -> None: ...

@scheduler.on(Scheduler.STOP)  # wrong
def no_exception(message: str) -> None: ...

@task.on(Task.RESULT)
def float_result(future: Future[float], value: float) -> None: ...

class Model:
    @limit(wall_time=1)
    def fit(self, x: int) -> float:
        return float(x)

    @limit(wall_time=1)
    async def fit_later(self, x: int) -> float:
        return float(x)

Model().fit(1).is_integer()
Model().fit("1")  # wrong
limit(f, wall_time=1)(1).is_integer()
limit(f, wall_time=1)("1")  # wrong

async def wait() -> None:
    (await Model().fit_later(1)).is_integer()
    await Model().fit_later("1")  # wrong

class Loud(Plugin):
    SHOUT: Event[[str]] = Event("shout")

    def attach_task(self, task: Task[Any, Any]) -> None:
        super().attach_task(task)
        task.on_exception(lambda _, error: task.emit(self.SHOUT, str(error)))

    def post_done(self, future: Future[Any]) -> None:
        self.task.on("on-done")(print)
        self.task.on(Task.DONE)(print)
        self.task.scheduler.stop()
        self.task.emit(self.SHOUT, self.task.nme)  # wrong
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
