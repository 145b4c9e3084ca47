"""Listening to topics of Dask's events."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import distributed

Listener = Callable[[float, object], None]
"""A method that is called with the time of an event by the scheduler's clock, and its message."""

_Listeners = list["weakref.WeakMethod[Listener]"]
_listeners: weakref.WeakKeyDictionary[distributed.Client, dict[str, _Listeners]] = (
    weakref.WeakKeyDictionary()
)
"""By client: Dask has one handler for each topic of a client, and a client may have several
executors. A listener has its client, so it is not held here: neither would ever be released."""
_lock: Final = threading.Lock()


def listen(client: distributed.Client, topic: str, listener: Listener) -> None:
    """Have a listener called, in the client's thread, with each event of a topic."""
    with _lock:
        topics = _listeners.setdefault(client, defaultdict(list))
        is_new = topic not in topics
        listeners = topics[topic]
        listeners[:] = [one for one in listeners if one() is not None]
        listeners.append(weakref.WeakMethod(listener))
        if is_new:
            client.subscribe_topic(topic, lambda event: _hand_on(listeners, event))


def unlisten(client: distributed.Client, topic: str, listener: Listener) -> None:
    """Undo `listen`, if it was called."""
    with _lock:
        listeners = _listeners.get(client, {}).get(topic, [])
        if (mine := weakref.WeakMethod(listener)) in listeners:
            listeners.remove(mine)
            if not listeners:
                del _listeners[client][topic]
                with contextlib.suppress(Exception):  # the client may be closed
                    client.unsubscribe_topic(topic)


def _hand_on(listeners: _Listeners, event: tuple[float, object]) -> None:
    stamp, message = event
    for one in list(listeners):
        if (listener := one()) is not None:
            listener(stamp, message)
