import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_limits.limits.ipc import transport

MESSAGE = st.tuples(st.integers(1, 255), st.integers(0, 2**64 - 1), st.binary(max_size=2000))


@pytest.fixture
def sockets():
    ours, theirs = transport.pair()
    with ours, theirs:
        yield ours, theirs


@settings(max_examples=50, deadline=None)
@given(st.lists(MESSAGE, max_size=5))
def test_what_is_sent_arrives_whole_and_in_order(messages):
    ours, theirs = transport.pair()
    with ours, theirs:
        for kind, number, body in messages:
            transport.send(ours, kind, number, body[:5], body[5:])
        ours.close()
        receiver = transport.Receiver(theirs)
        got = []
        while (message := receiver.receive()) is not None:
            got.append((message.kind, message.number, bytes(message.body)))
    assert got == messages


def test_the_longest_message_fits_into_the_socket(sockets):
    ours, theirs = sockets
    transport.send(ours, 1, 1, bytes(transport.MAX_BODY))
    assert len(transport.Receiver(theirs).receive().body) == transport.MAX_BODY


def test_files_arrive_with_their_message_and_are_not_inherited(sockets):
    ours, theirs = sockets
    read, write = os.pipe()
    transport.send(ours, 1, 1, b"text", fds=[read, write])
    message = transport.Receiver(theirs).receive()
    os.close(read)
    os.close(write)
    assert not any(map(os.get_inheritable, message.fds))
    os.write(message.fds[1], b"x")
    assert os.read(message.fds[0], 10) == b"x"
    message.close()


def test_files_wait_until_the_kernel_has_room_for_files_on_their_way():
    script = """if True:
        import os, resource, threading, time
        from dask_limits.limits.ipc import transport
        if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)  # for root there is room
        ours, theirs = transport.pair()
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
        sent = []
        def send():
            with ours:
                for n in range(20):
                    transport.send(ours, 1, n, fds=[0] * 5)
                    sent.append(n)
        thread = threading.Thread(target=send)
        thread.start()
        while len(sent) < 4: time.sleep(0.01)  # with the next it has too many on their way
        receiver = transport.Receiver(theirs)
        for _ in range(20):
            message = receiver.receive()
            assert message is not None, "the sender has failed"
            message.close()
        thread.join()
    """
    subprocess.run([sys.executable, "-c", script], check=True)


def test_noise_is_passed_over_and_files_in_it_are_closed(sockets):
    ours, theirs = sockets
    read, write = os.pipe()
    os.close(read)
    for noise in (b"short", b"longer than any header that there is"):
        transport.socket.send_fds(ours, [noise], [write])
    os.close(write)
    transport.send(ours, 9, 7, b"verdict")
    kind, number, body, fds = transport.Receiver(theirs).receive()
    assert (kind, number, bytes(body), fds) == (9, 7, b"verdict", [])
