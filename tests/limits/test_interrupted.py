"""Whether an exception of a result is that of a signal, or its own."""

import functools
import os
import signal
import threading

import pytest

from dask_limits import exceptions
from dask_limits.limits import limit

EACH = [KeyboardInterrupt, MemoryError, SystemExit, GeneratorExit, RecursionError]


class RaisesWhereItIsRebuilt:
    def __init__(self, kind):
        self.kind = kind

    def __reduce__(self):
        return _raise, (self.kind,)


class ErrorThatRaisesWhereItIsRebuilt(Exception):
    def __reduce__(self):
        return _raise_elsewhere, (os.getpid(), *self.args)


class Interrupted:
    def __reduce__(self):
        return signal.raise_signal, (signal.SIGTERM,)


def _raise(kind):
    raise kind("by the result")


def _raise_elsewhere(pid, kind):
    if os.getpid() != pid:
        raise kind("by the result")
    return ErrorThatRaisesWhereItIsRebuilt(kind)


def _raise_error(kind):
    raise ErrorThatRaisesWhereItIsRebuilt(kind)


@pytest.mark.parametrize("kind", EACH, ids=lambda kind: kind.__name__)
def test_what_a_result_raises_while_it_is_unpickled_is_the_error_of_its_call(kind):
    for fn in (RaisesWhereItIsRebuilt, _raise_error):
        outcomes = []
        call = limit(fn, wall_time=30)
        outcomes.append(call.run(kind))
        thread = threading.Thread(target=lambda: outcomes.append(call.run(kind)))  # noqa: B023
        thread.start()
        thread.join()
        for outcome in outcomes:
            assert isinstance(outcome.exception, exceptions.CallPicklingError)
            assert type(outcome.exception.__cause__) is kind
            assert f"{kind.__name__}: by the result" in str(outcome.exception)


class Handler:
    def __call__(self, number, frame):
        raise KeyError("by the handler")

    def method(self, number, frame):
        raise KeyboardInterrupt("by the handler")


def _exit(*_):
    raise SystemExit("by the handler")


HANDLERS = {
    "C": (signal.default_int_handler, KeyboardInterrupt),
    "function": (_exit, SystemExit),
    "method": (Handler().method, KeyboardInterrupt),
    "object": (Handler(), KeyError),
    "partial": (functools.partial(_exit, 1), SystemExit),
}


@pytest.mark.parametrize("handler", HANDLERS)
def test_what_a_signal_raises_while_a_result_is_unpickled_is_raised(handler):
    handle, kind = HANDLERS[handler]
    before = signal.signal(signal.SIGTERM, handle)
    try:
        with pytest.raises(kind):
            limit(Interrupted, wall_time=30).run()
    finally:
        signal.signal(signal.SIGTERM, before)
