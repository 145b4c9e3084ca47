"""Events, what emits them, and how callbacks subscribe to them."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Generic, ParamSpec, Self, TypedDict, TypeVar, Unpack, overload

from dask_limits.exceptions import EventNotKnownError
from dask_limits.printable import repr_of
from dask_limits.units import whole_number

P = ParamSpec("P")
T = TypeVar("T")


class Event(str, Generic[P]):
    """Something that can happen. An event is a string, its name, and can be used as one.

    `P` are the parameters of its callbacks. `Event(name, arguments)` also says what these are
    called with, as in "future, result"; a last "*arguments" is any number of further ones. Then a
    callback that cannot take them is refused when it is subscribed.

    Example:
        >>> SAVED: Event[[int]] = Event("on-saved")
        >>> SAVED == "on-saved", {SAVED: 3}["on-saved"], SAVED.name
        (True, 3, 'on-saved')
    """

    __slots__ = ("arguments",)

    arguments: str | None

    def __new__(cls, name: str, arguments: str | None = None) -> Self:  # noqa: D102
        event = super().__new__(cls, name)
        event.arguments = arguments
        return event

    @property
    def name(self) -> str:
        """The name, as a plain string."""
        return str(self)

    def __repr__(self) -> str:
        return f"Event({self.name!r})"


class CallbackOptions(TypedDict, total=False):
    """When to call a callback. See `Subscriber`."""

    when: Callable[[], bool] | None
    max_calls: int | None
    repeat: int
    every: int
    hidden: bool


@dataclass(slots=True)
class Callback:
    """A function that is subscribed to an event, and when to call it."""

    function: Callable[..., object]
    when: Callable[[], bool] | None
    max_calls: int | None
    repeat: int
    every: int
    hidden: bool
    n_emitted: int = 0
    n_answered: int = 0
    n_calls: int = 0

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call the function if its options allow it this time."""
        self.n_emitted += 1
        if self.n_emitted % self.every or self._used_up():
            return
        if self.when is not None and not self.when():
            return
        self.n_answered += 1
        for _ in range(self.repeat):
            if self._used_up():
                return
            self.n_calls += 1  # before the call, which may emit the same event again
            self.function(*args, **kwargs)

    def _used_up(self) -> bool:
        return self.max_calls is not None and self.n_calls >= self.max_calls

    def is_replaced_by(self, function: Callable[..., object]) -> bool:
        """Whether both come from one cell of a notebook that has been run again, or edited."""
        old, new = self.function, function
        if not (isinstance(old, FunctionType) and isinstance(new, FunctionType)):
            return False
        if not (hasattr(sys, "ps1") and old.__module__ == new.__module__ == "__main__"):
            return False  # no interactive session, or not defined in it
        if old is new:
            return True
        # What one `def` makes in a loop has one code, and all of it is meant.
        is_named = new.__name__ not in ("_", "<lambda>")
        return (
            is_named and old.__qualname__ == new.__qualname__ and old.__code__ is not new.__code__
        )


class Subscriber(Generic[P]):
    """Subscribes callbacks to an event: as a decorator, with or without options, or called.

    Attributes:
        event: The event.
        count: How often it was emitted.

    Example:
        >>> on_saved = Emitter("Store", [Event("on-saved")]).on("on-saved")
        >>> @on_saved
        ... def show(n):
        ...     print("saved", n)
        >>> @on_saved(max_calls=1)
        ... def show_once(n):
        ...     print("the first")
        >>> for n in (1, 2):
        ...     on_saved.emit(n)
        saved 1
        the first
        saved 2
    """

    def __init__(self, owner: str, event: Event[P]) -> None:
        self.event = event
        self.count = 0
        self._owner = owner
        self._callbacks: list[Callback] = []

    @overload
    def __call__(
        self, callback: Callable[P, T], **options: Unpack[CallbackOptions]
    ) -> Callable[P, T]: ...
    @overload
    def __call__(
        self, callback: None = None, **options: Unpack[CallbackOptions]
    ) -> Callable[[Callable[P, T]], Callable[P, T]]: ...
    def __call__(
        self,
        callback: Callable[P, T] | None = None,
        *,
        when: Callable[[], bool] | None = None,
        max_calls: int | None = None,
        repeat: int = 1,
        every: int = 1,
        hidden: bool = False,
    ) -> Callable[P, T] | Callable[[Callable[P, T]], Callable[P, T]]:
        """Subscribe a callback.

        In an interactive session, a function that is defined there replaces the one that was
        subscribed under its name, so a cell of a notebook can be run again. Functions of the name
        `_`, lambdas, and those that one `def` makes in a loop are all kept.

        Args:
            callback: What to call. Without it, this returns a decorator.
            when: Called before each call of the callback, which is skipped if this returns False.
            max_calls: The maximum number of calls in all; each repeat counts as one.
            repeat: How many times to call it each time the event is emitted.
            every: Call it only every n-th time: with 2 the second time, the fourth, ...
            hidden: Whether to leave it out of what is displayed.

        Returns:
            The callback itself.

        Raises:
            TypeError: for something that cannot be called, is an `async def`, or cannot take the
                arguments of the event.
            ValueError: for a count below 1.
        """
        if max_calls is not None:
            whole_number(max_calls, "max_calls", none="no limit")
        whole_number(repeat, "repeat")
        whole_number(every, "every")
        if when is not None:
            _check_callable(when, f"when= of a callback of {self.event.name!r}")

        def subscribe(function: Callable[P, T]) -> Callable[P, T]:
            _check_callable(function, f"A callback of {self.event.name!r}")
            _check_parameters(function, self.event)
            callback = Callback(function, when, max_calls, repeat, every, hidden)
            for at, old in enumerate(self._callbacks):
                if old.is_replaced_by(function):
                    self._callbacks[at] = callback
                    return function
            self._callbacks.append(callback)
            return function

        return subscribe if callback is None else subscribe(callback)

    def remove(self, callback: Callable[..., object]) -> None:
        """Take back every subscription of a callback, from the next emission on.

        Raises:
            ValueError: if it is not subscribed.

        Example:
            >>> on_saved = Emitter("Store", [Event("on-saved")]).on("on-saved")
            >>> on_saved.remove(on_saved(print))
            >>> on_saved.callbacks
            []
        """
        kept = [c for c in self._callbacks if c.function != callback]
        if len(kept) == len(self._callbacks):
            raise ValueError(f"{callback!r} is no callback of {self.event.name!r} of {self._owner}")
        self._callbacks = kept

    def emit(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Emit the event. See `HasEvents.emit`."""
        self.count += 1
        first: Exception | None = None
        for callback in tuple(self._callbacks):  # callbacks may add others
            try:
                callback.answer(args, kwargs)
            except Exception as error:
                if first is None:
                    first = error
                elif error is not first:
                    first.add_note(f"Another callback of this event raised {repr_of(error)}")
        if first is not None:
            raise first

    @property
    def has_callbacks(self) -> bool:
        """Whether there is a callback, hidden or not."""
        return bool(self._callbacks)

    @property
    def callbacks(self) -> list[tuple[Callable[..., object], int]]:
        """The callbacks that are not hidden, and how many times the event called each."""
        return [(c.function, c.n_answered) for c in self._callbacks if not c.hidden]

    def __repr__(self) -> str:
        return f"Subscriber({self.event.name!r} of {self._owner})"


class SubscriberTo(Generic[P]):
    """A class attribute: on an instance, it is the subscriber to one of its events."""

    def __init__(self, event: Event[P]) -> None:
        self.event = event

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: HasEvents, kind: type) -> Subscriber[P]: ...
    def __get__(self, owner: HasEvents | None, kind: type) -> Self | Subscriber[P]:
        return self if owner is None else owner.emitter.on(self.event)


def events_of(cls: type) -> list[Event[...]]:
    """The events among the attributes of a class, those of its base classes first."""
    found: dict[str, Event[...]] = {}
    for base in reversed(cls.__mro__):
        found |= {name: value for name, value in vars(base).items() if isinstance(value, Event)}
    return list(found.values())


class Emitter:
    """The events of an object, and what subscribes to each. `name` is that of the object."""

    def __init__(self, name: str, events: Iterable[Event[...]] = ()) -> None:
        self.name = name
        self._subscribers: dict[Event[...], Subscriber[...]] = {}
        self.add_event(*events)

    def add_event(self, *events: Event[...]) -> None:
        """See `HasEvents.add_event`."""
        for event in events:
            self._subscribers.setdefault(event, Subscriber(self.name, event))

    @property
    def events(self) -> list[Event[...]]:
        """The events, in the order in which they were added."""
        return list(self._subscribers)

    @property
    def subscribers(self) -> list[Subscriber[...]]:
        """What subscribes to each event, in the same order."""
        return list(self._subscribers.values())

    @property
    def counts(self) -> Counter[Event[...]]:
        """How often each event was emitted. Events that never were are left out."""
        return Counter({s.event: s.count for s in self.subscribers if s.count})

    @overload
    def on(self, event: Event[P]) -> Subscriber[P]: ...  # type: ignore[overload-overlap]
    @overload
    def on(self, event: str) -> Subscriber[...]: ...
    def on(self, event: Event[P] | str) -> Subscriber[P] | Subscriber[...]:
        """See `HasEvents.on`."""
        try:
            return self._subscribers[event]  # type: ignore[index]  # an Event is its name
        except KeyError:
            known = [e.name for e in self._subscribers]
            near = difflib.get_close_matches(str(event), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            listed = ", ".join(map(repr, known)) or "none"
            raise EventNotKnownError(
                f"{self.name} has no event {str(event)!r}.{hint} It has: {listed}."
            ) from None

    def emit(self, event: Event[...] | str, /, *args: Any, **kwargs: Any) -> None:
        """See `HasEvents.emit`."""
        self.on(event).emit(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Emitter({self.name!r}, {len(self._subscribers)} events)"


class HasEvents:
    """The methods of an emitter, for classes whose instances have one.

    Attributes:
        emitter: Emits the events.
    """

    emitter: Emitter

    @overload
    def on(self, event: Event[P]) -> Subscriber[P]: ...  # type: ignore[overload-overlap]
    @overload
    def on(self, event: str) -> Subscriber[...]: ...
    @overload
    def on(self, event: Event[P], callback: Callable[P, T]) -> Callable[P, T]: ...
    @overload
    def on(self, event: str, callback: Callable[..., T]) -> Callable[..., T]: ...
    def on(self, event: Any, callback: Any = None) -> Any:
        """Return what subscribes callbacks to an event, by the event or by its name.

        Args:
            event: The event.
            callback: What to call at each of them. With it, this subscribes it, and returns it.

        Raises:
            EventNotKnownError: if there is no such event.
            TypeError: if `callback` cannot be called with its arguments, or is an `async def`.
        """
        subscriber = self.emitter.on(event)
        return subscriber if callback is None else subscriber(callback)

    def emit(self, event: Event[...] | str, /, *args: Any, **kwargs: Any) -> None:
        """Count an event, and call its callbacks in the order of their subscription.

        If a callback raises, the others are called all the same.

        Raises:
            EventNotKnownError: if there is no such event.
            Exception: the first one that a callback raised, with a note about each further one.
        """
        self.emitter.emit(event, *args, **kwargs)

    def add_event(self, *events: Event[...]) -> None:
        """Add events. Events that are there already keep their callbacks."""
        self.emitter.add_event(*events)

    @property
    def event_counts(self) -> Counter[Event[...]]:
        """How often each event was emitted, over all runs. The name of an event is a key too."""
        return self.emitter.counts


def _check_callable(function: object, what: str) -> None:
    if not callable(function):
        raise TypeError(f"{what} must be callable, not {function!r} ({type(function).__name__})")
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{what} must be a plain function: {function!r} is an `async def`")


def _check_parameters(function: Callable[..., object], event: Event[...]) -> None:
    """Raise a TypeError for a callback that would raise one at each emission."""
    if event.arguments is None:
        return
    try:
        # What a decorator returns is called, and not the function within it.
        signature = inspect.signature(function, follow_wrapped=False)
    except Exception:  # some builtins have none, and an object may raise anything
        return
    names = event.arguments.split(", ") if event.arguments else []
    has_more = bool(names) and names[-1].startswith("*")
    bind = signature.bind_partial if has_more else signature.bind
    try:
        bind(*names[: len(names) - has_more])
    except TypeError as error:
        raise TypeError(
            f"A callback of {event.name!r} is called with ({event.arguments}), but"
            f" {repr_of(function)} takes {signature}: {error}"
        ) from None
