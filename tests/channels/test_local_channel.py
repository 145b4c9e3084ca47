"""Channels on this machine: only calls of this user are answered."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from required import need_root

from dask_limits.channels.asking import SIZE, Asker
from dask_limits.channels.channel import Answer, LocalChannel
from dask_limits.channels.local_socket import Address, connect

NOBODY = 65534


@pytest.fixture
def channel() -> Iterator[LocalChannel]:
    """One that answers with the question."""

    def answer(question: bytes, answer: Answer) -> None:
        answer(pickle.dumps((True, question.decode())))

    channel = LocalChannel(answer)
    yield channel
    channel.close()


def test_a_question_is_answered_in_any_thread_and_process(channel: LocalChannel) -> None:
    with Asker(channel.address, {"who": "me"}) as asker:
        assert asker.ask(what=[1, None]) == '{"who": "me", "what": [1, null]}'
        copy = pickle.loads(pickle.dumps(asker))
        with copy:
            assert copy.ask() == '{"who": "me"}'


def test_an_error_is_raised_where_it_was_asked() -> None:
    channel = LocalChannel(lambda _, answer: answer(pickle.dumps((False, ValueError("no")))))
    with Asker(channel.address, {}) as asker, pytest.raises(ValueError, match="no"):
        asker.ask()
    channel.close()


def test_after_its_end_questions_fail_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    heard = threading.Event()
    channel = LocalChannel(lambda *_: heard.set())  # it never answers
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            with Asker(channel.address, {}) as asker:
                asker.ask()
        except ConnectionError as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert heard.wait(60)
    channel.close()
    asking.join()
    ask()
    assert [str(error).endswith("listens to it no more") for error in errors] == [True, False]
    assert "cannot reach the program" in str(errors[1])
    channel.close()
    assert capfd.readouterr().err == ""


def test_a_question_that_is_too_long_is_refused(channel: LocalChannel) -> None:
    with Asker(channel.address, {}) as asker:
        with pytest.raises(ValueError, match=r"64\.0 MiB are too much .* 64\.0 MiB at most"):
            asker.ask(text="x" * 64 * 2**20)
        assert asker.ask(n=1) == '{"n": 1}'


def test_garbage_costs_its_own_connection_alone(channel: LocalChannel) -> None:
    asker = Asker(channel.address, {})
    asker.ask()
    for garbage in (b"\0", os.urandom(100), SIZE.pack(2**63), SIZE.pack(10) + b"short"):
        with connect(channel.address) as sock:
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):  # of what it has not read
                assert sock.recv(1) == b""
    assert asker.ask(n=1) == '{"n": 1}'
    asker.close()


def test_nobody_listens_by_two_names_or_after_the_end(channel: LocalChannel) -> None:
    address = channel.address
    assert address.pid == os.getpid()
    with connect(Address(address.channel, None)):  # found among the processes above
        pass
    with pytest.raises(ConnectionError, match="cannot reach the program"):
        connect(Address(address.channel, 1))
    channel.close()
    assert address.channel not in Path("/proc/net/unix").read_text()


PROGRAM = """if True:
    import os, socket, sys
    os.setuid(int(sys.argv[2]))
    sock = socket.socket(socket.AF_UNIX)
    sock.connect("\\0" + sys.argv[1])
    try:
        sock.sendall(b"\\2\\0\\0\\0\\0\\0\\0\\0{}")
        print(len(sock.recv(1)))
    except OSError:
        print(0)
    """


def test_another_user_who_sees_the_name_gets_nothing(channel: LocalChannel) -> None:
    need_root()
    name = f"dask-limits-{channel.address.channel}-{os.getpid()}"
    assert f"@{name}" in Path("/proc/net/unix").read_text()
    for user, gets in ((os.geteuid(), "1\n"), (NOBODY, "0\n")):
        command = [sys.executable, "-c", PROGRAM, name, str(user)]
        assert subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout == gets


def test_a_listener_of_another_user_is_not_asked(tmp_path: Path) -> None:
    need_root()
    program = f"""if True:
        import os, socket, sys
        os.setuid({NOBODY})
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("\\0dask-limits-taken-" + str(os.getpid()))
        sock.listen()
        print(os.getpid(), flush=True)
        while True:
            print(sock.accept()[0].recv(1), flush=True)
        """
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as squatter:
        assert squatter.stdout is not None
        pid = int(squatter.stdout.readline())
        with pytest.raises(ConnectionError):
            connect(Address("taken", pid))
        assert squatter.stdout.readline() == b"b''\n"
        squatter.kill()
