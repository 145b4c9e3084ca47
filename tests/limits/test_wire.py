import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_limits.limits import wire

MESSAGE = st.tuples(st.integers(1, 255), st.integers(0, 2**64 - 1), st.binary(max_size=2000))


@pytest.fixture
def sockets():
    ours, theirs = wire.pair()
    with ours, theirs:
        yield ours, theirs


@settings(max_examples=50, deadline=None)
@given(st.lists(MESSAGE, max_size=5))
def test_what_is_sent_arrives_whole_and_in_order(messages):
    ours, theirs = wire.pair()
    with ours, theirs:
        for kind, number, body in messages:
            wire.send(ours, kind, number, body[:5], body[5:])
        ours.close()
        receiver = wire.Receiver(theirs)
        got = []
        while (message := receiver.receive()) is not None:
            got.append((message.kind, message.number, bytes(message.body)))
    assert got == messages


def test_the_longest_message_fits_into_the_socket(sockets):
    ours, theirs = sockets
    wire.send(ours, 1, 1, bytes(wire.MAX_BODY))
    assert len(wire.Receiver(theirs).receive().body) == wire.MAX_BODY


def test_files_arrive_with_their_message_and_are_not_inherited(sockets):
    ours, theirs = sockets
    read, write = os.pipe()
    wire.send(ours, 1, 1, b"text", fds=[read, write])
    message = wire.Receiver(theirs).receive()
    os.close(read)
    os.close(write)
    assert not any(map(os.get_inheritable, message.fds))
    os.write(message.fds[1], b"x")
    assert os.read(message.fds[0], 10) == b"x"
    message.close()


def test_noise_is_passed_over_and_files_in_it_are_closed(sockets):
    ours, theirs = sockets
    read, write = os.pipe()
    os.close(read)
    for noise in (b"short", b"longer than any header that there is"):
        wire.socket.send_fds(ours, [noise], [write])
    os.close(write)
    wire.send(ours, 9, 7, b"verdict")
    kind, number, body, fds = wire.Receiver(theirs).receive()
    assert (kind, number, bytes(body), fds) == (9, 7, b"verdict", [])
