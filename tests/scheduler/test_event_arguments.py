"""The events are in the documentation, and a callback that cannot take one is refused at once."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import typing
from functools import partial, wraps
from unittest.mock import MagicMock, Mock

import pytest
from pages import ROOT

from dask_limits import Limiter, PynisherPlugin, Retry, Scheduler
from dask_limits.events import Event, SubscriberTo, events_of
from dask_limits.scheduler.events import SchedulerEvents, TaskEvents

PAGE = (ROOT / "docs" / "scheduler.md").read_text()
KINDS = SchedulerEvents, TaskEvents, PynisherPlugin, Limiter, Retry


def written(kind: type) -> dict[str, Event[...]]:
    """The events of a class, as its users write them."""
    if kind not in (SchedulerEvents, TaskEvents):
        return {f'@task.on("{event}")': event for event in events_of(kind)}
    owner = "scheduler" if kind is SchedulerEvents else "task"
    found = inspect.getmembers_static(kind, lambda it: isinstance(it, SubscriberTo))
    return {f"@{owner}.{name}": it.event for name, it in found}


@pytest.mark.parametrize("kind", KINDS)
def test_each_event_has_a_row_with_the_arguments_of_its_callbacks(kind) -> None:
    events = written(kind)
    assert {*events.values()} == {*events_of(kind)}
    for how, event in events.items():
        assert f"\n| `{how}` | `({event.arguments})` | " in PAGE


def test_the_page_has_no_event_that_there_is_not() -> None:
    rows = re.findall(r"^\| `(@.*?)`", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(how for kind in KINDS for how in written(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_are_as_many_as_the_type_of_an_event_has(kind) -> None:
    types = typing.get_type_hints(kind)
    for name, event in vars(kind).items():
        if not isinstance(event, Event):
            continue
        (parameters,) = typing.get_args(types[name])
        names = event.arguments.split(", ") if event.arguments else []
        if parameters is ...:
            assert names[-1] == "*arguments"
        else:
            assert len(names) == len(parameters)


@pytest.fixture
def task():
    scheduler = Scheduler.with_sequential()
    return scheduler.task(pow, plugins=[PynisherPlugin(), Limiter()])


class Method:
    def one(self, future): ...

    def two(self, future, result): ...

    def __call__(self, future, result): ...


@pytest.mark.parametrize(
    "callback",
    [
        lambda: 3,
        lambda _: 3,
        lambda a, b, c: 3,
        lambda a, b, *, c: 3,
        Method().one,
        partial(Method().two, 1),
    ],
)
def test_a_callback_that_cannot_take_its_event_is_refused_at_once(task, callback) -> None:
    with pytest.raises(TypeError, match=r"^A callback of 'on-result' is called with \(future, re"):
        task.on_result(callback)
    assert task.on_result.callbacks == []


def test_the_message_says_what_the_callback_takes(task) -> None:
    with pytest.raises(TypeError, match=r"takes \(a\): too many positional arguments$"):
        task.on("on-exception", lambda a: None)
    with pytest.raises(TypeError, match=r"with \(exception\), .* takes \(future, exception\): mis"):
        task.on("pynisher-timeout")(lambda future, exception: None)
    with pytest.raises(TypeError, match=r"is called with \(\), but"):
        task.scheduler.on_start(lambda n: None)
    with pytest.raises(
        TypeError, match=r"with \(future, \*arguments\), but .* takes \(\): too many"
    ):
        task.on_submitted(lambda: None)


def renamed(function):
    @wraps(function)
    def without_arguments(*_):
        return function()

    return without_arguments


@pytest.mark.parametrize(
    "callback",
    [
        lambda a, b: 3,
        lambda *_: 3,
        lambda a, b=1, *, c=2: 3,
        Method().two,
        Method(),
        partial(lambda a, b, c: 3, 1),
        partial(lambda a, b, c: 3, c=1),
        renamed(lambda: 3),
        Mock(),
        MagicMock(),
        print,
        {}.setdefault,
        max,
        dict,
    ],
)
def test_what_can_take_it_is_called_and_what_has_no_signature_passes(task, callback) -> None:
    assert task.on_result(callback) is callback


def test_further_arguments_of_a_call_are_its_own_business(task) -> None:
    for callback in (lambda future: 0, lambda future, *args: 0, lambda future, *, mod: 0):
        task.on_submitted(callback)
    task.on("call-limit-reached", lambda task, x, y: 0)
    task.on_exception(task.scheduler.stop)
    task.on("pynisher-timeout", task.scheduler.stop)


def test_an_event_keeps_its_arguments_when_it_is_copied_or_pickled() -> None:
    event = TaskEvents.RESULT
    for same in (copy.copy(event), pickle.loads(pickle.dumps(event))):
        assert (same, same.arguments) == (event, "future, result")
    assert Event("on-saved").arguments is None
