from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_limits.events import Emitter, Event, HasEvents, SubscriberTo, events_of
from dask_limits.exceptions import EventNotKnownError

SAVED: Event[[int]] = Event("on-saved")


def emitter() -> Emitter:
    return Emitter("Store", [SAVED, Event("on-loaded")])


def test_an_event_is_its_name():
    assert SAVED == "on-saved"
    assert hash(SAVED) == hash("on-saved")
    assert {SAVED: 1}["on-saved"] == 1
    assert SAVED.name == "on-saved"
    assert repr(SAVED) == "Event('on-saved')"


def test_callbacks_are_called_in_the_order_of_their_registration():
    store, seen = emitter(), []
    for n in range(5):
        store.on(SAVED)(lambda _, n=n: seen.append(n))
    store.emit(SAVED, 1)
    assert seen == [0, 1, 2, 3, 4]


def test_a_decorator_works_with_and_without_arguments_and_returns_the_function():
    store, seen = emitter(), []

    @store.on("on-saved")
    def plain(n):
        seen.append(n)

    @store.on("on-saved")(max_calls=1)
    @store.on("on-loaded")()
    def once(n):
        seen.append(-n)

    store.emit(SAVED, 1)
    store.emit("on-saved", 2)
    store.emit("on-loaded", 3)
    plain(4)
    once(5)
    assert seen == [1, -1, 2, -3, 4, -5]


def test_counts_are_found_by_event_and_by_name_and_leave_out_what_never_was():
    store = emitter()
    store.emit(SAVED, 1)
    store.emit("on-saved", 1)
    assert store.counts == {SAVED: 2} == {"on-saved": 2}
    assert store.counts["on-saved"] == store.counts[SAVED] == 2
    assert store.counts["on-loaded"] == 0


def test_an_unknown_event_names_the_nearest_and_the_known_ones():
    for ask in (lambda: emitter().on("on-save"), lambda: emitter().emit("on-save")):
        with pytest.raises(EventNotKnownError) as error:
            ask()
        text = str(error.value)
        assert "Store has no event 'on-save'" in text
        assert "Did you mean 'on-saved'?" in text
        assert "'on-loaded'" in text


class Store(HasEvents):
    SAVED = SAVED
    on_saved = SubscriberTo(SAVED)

    def __init__(self):
        self.emitter = Emitter("Store", events_of(type(self)))


def test_a_class_declares_an_event_once_and_its_instances_each_emit_it():
    class Archive(Store):
        PACKED = Event("on-packed")

    one, other, seen = Archive(), Archive(), []
    assert one.emitter.events == [SAVED, "on-packed"]
    assert one.on_saved(seen.append) == seen.append
    one.emit(Archive.SAVED, 1)
    other.emit("on-saved", 2)
    assert seen == [1]
    assert (one.event_counts, other.event_counts) == ({SAVED: 1}, {"on-saved": 1})
    assert repr(one.on_saved) == "Subscriber('on-saved' of Store)"


def test_events_are_added_to_one_of_several():
    one, other = Store(), Store()
    one.add_event(Event("on-lost"))
    one.on("on-lost")(print)
    with pytest.raises(EventNotKnownError, match="on-lost"):
        other.on("on-lost")


def test_when_is_asked_at_each_emission():
    store, seen, open_ = emitter(), [], [False]
    store.on(SAVED)(seen.append, when=lambda: open_[0])
    store.emit(SAVED, 1)
    open_[0] = True
    store.emit(SAVED, 2)
    assert seen == [2]


def test_a_callback_that_emits_its_own_event_is_still_called_no_more_than_max_calls():
    store, seen = emitter(), []

    @store.on(SAVED)(max_calls=3)
    def again(n):
        seen.append(n)
        store.emit(SAVED, n + 1)

    store.emit(SAVED, 0)
    assert seen == [0, 1, 2]


def test_a_callback_registered_during_an_emission_is_called_from_the_next_one_on():
    store, seen = emitter(), []
    store.on(SAVED)(lambda _: store.on(SAVED)(seen.append), max_calls=1)
    store.emit(SAVED, 1)
    assert seen == []
    store.emit(SAVED, 2)
    assert seen == [2]


def test_a_callback_that_is_taken_back_is_called_no_more():
    store, seen = emitter(), []
    store.on(SAVED)(seen.append, max_calls=5)
    store.on(SAVED)(seen.append)
    assert store.on(SAVED).remove(seen.append) is None
    store.emit(SAVED, 1)
    assert seen == []
    with pytest.raises(ValueError, match=r"append.* is no callback of 'on-saved' of Store"):
        store.on(SAVED).remove(seen.append)


CELLS = r"""
from dask_limits.events import Emitter, Event
saved, seen = Emitter("Store", [Event("on-saved")]).on("on-saved"), []
show = "@saved(repeat=2)\ndef show(n): seen.append(n)"
unnamed = "@saved\ndef _(n): seen.append('_')"
for cell in [show, show, show.replace("append(n)", "append(-n)"), "saved(show)", unnamed, unnamed]:
    exec(compile(cell, "<cell>", "exec"))
for name in "ab":
    @saved
    def in_a_loop(n, name=name): seen.append(name)
for _ in range(2):
    saved(seen.append)
saved.emit(1)
print(*seen)
"""


@pytest.mark.parametrize(
    ("options", "told"),
    [(["-qi"], "-1 _ _ a b 1 1"), (["-"], "1 1 1 1 -1 -1 -1 _ _ a b 1 1")],
    ids=["interactive", "script"],
)
def test_a_cell_that_is_run_again_replaces_its_callback(options, told):
    """Only in an interactive session, and neither what a loop makes nor what has no name."""
    ran = subprocess.run(
        [sys.executable, *options],
        input=f"exec({CELLS!r})\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.strip() == told, ran.stderr


def test_an_error_in_a_callback_does_not_keep_the_next_from_being_called():
    store, seen = emitter(), []

    def fail(n):
        raise ValueError(f"number {n}")

    store.on(SAVED)(fail)
    store.on(SAVED)(seen.append)
    store.on(SAVED)(lambda _: 1 / 0)
    with pytest.raises(ValueError, match="number 1") as error:
        store.emit(SAVED, 1)
    assert seen == [1]
    assert "division by zero" in error.value.__notes__[0]
    assert error.traceback[-1].name == "fail"


@pytest.mark.parametrize("option", ["max_calls", "repeat", "every"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_count_below_one_is_refused_and_named(option, value):
    error = ValueError if type(value) is int else TypeError
    with pytest.raises(error, match=f"{option}={value}"):
        emitter().on(SAVED)(print, **{option: value})


def test_only_plain_callables_can_be_callbacks():
    async def coroutine(n): ...

    for bad in (3, "print", coroutine):
        with pytest.raises(TypeError, match="on-saved"):
            emitter().on(SAVED)(bad)
    with pytest.raises(TypeError, match="when="):
        emitter().on(SAVED)(print, when=True)


def test_what_is_displayed_leaves_out_hidden_callbacks_and_counts_events_answered():
    store = emitter()
    store.on(SAVED)(print, hidden=True, when=lambda: False)
    callback = store.on(SAVED)(lambda n: n, repeat=3)
    store.emit(SAVED, 1)
    saved, loaded = store.subscribers
    assert (saved.event, saved.count, saved.callbacks) == ("on-saved", 1, [(callback, 1)])
    assert (loaded.event, loaded.count, loaded.callbacks) == ("on-loaded", 0, [])


@given(
    openings=st.lists(st.booleans(), max_size=20),
    every=st.integers(1, 4),
    repeat=st.integers(1, 4),
    max_calls=st.none() | st.integers(1, 10),
)
def test_options_combine_as_they_are_documented(openings, every, repeat, max_calls):
    store, calls, now = emitter(), [], [False]
    store.on(SAVED)(
        calls.append, when=lambda: now[0], every=every, repeat=repeat, max_calls=max_calls
    )
    expected: list[int] = []
    for n, opening in enumerate(openings, 1):
        now[0] = opening
        store.emit(SAVED, n)
        if opening and n % every == 0:
            room = repeat if max_calls is None else min(repeat, max_calls - len(expected))
            expected += [n] * room
    assert calls == expected
    assert store.counts[SAVED] == len(openings)
