import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_limits.limits import wire

MESSAGE = st.tuples(st.integers(1, 255), st.integers(0, 2**64 - 1), st.integers(0, 500_000))


@pytest.fixture
def sockets():
    ours, theirs = wire.pair()
    with ours, theirs:
        yield ours, theirs


@settings(max_examples=30, deadline=None)
@given(st.lists(MESSAGE, max_size=5))
def test_what_is_sent_arrives_whole_and_in_order(messages):
    ours, theirs = wire.pair()
    with ours, theirs:
        bodies = [bytes([kind]) * size for kind, _, size in messages]

        def send():
            for (kind, number, _), body in zip(messages, bodies, strict=True):
                wire.send(ours, kind, number, body)
            ours.close()

        sender = threading.Thread(target=send)
        sender.start()
        receiver = wire.Receiver(theirs)
        got = []
        while (message := receiver.receive()) is not None:
            kind, number, body = message
            got.append((kind, number, bytes(body)))
        sender.join()
    assert got == [(k, n, b) for (k, n, _), b in zip(messages, bodies, strict=True)]


def test_a_long_message_that_is_cut_off_gives_way_to_the_next(sockets):
    ours, theirs = sockets
    header = wire._HEADER.pack(wire._MARK, 3, 7, 10_000_000)
    ours.send(header + b"x" * 1000)
    wire.send(ours, 9, 7, b"verdict")
    kind, number, body = wire.Receiver(theirs).receive()
    assert (kind, number, bytes(body)) == (9, 7, b"verdict")


def test_a_stream_that_ends_within_a_message_ends(sockets):
    ours, theirs = sockets
    ours.send(wire._HEADER.pack(wire._MARK, 3, 7, 10_000_000) + b"x" * 1000)
    ours.close()
    assert wire.Receiver(theirs).receive() is None
