"""Calls that write to the socket of their process what only our processes send there."""

import gc
import math
import os
import pickle
import socket
import sys
import time

import cloudpickle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dask_limits import exceptions
from dask_limits.limits import Limits
from dask_limits.limits.ipc import messages, payload, task_cells, transport
from dask_limits.limits.owner import received
from dask_limits.limits.task import fresh
from dask_limits.limits.task.main import TaskProcess

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

ACCOUNT = messages.ACCOUNT.pack(0, 0, 0, 0, 0, 0)
KINDS = {name: n for name, n in vars(messages).items() if type(n) is int}
LOOKS_RIGHT = [
    *(b"os", b"os\0\n", b"\0\n", b"os\0/x\0y\n", b"x\0/etc/passwd" + b"/x" * 2000 + b"\n"),
    b"x" * 8 + pickle.dumps((os._exit, (7,))),
]
FLOATS = st.floats() | st.sampled_from([0.0, 1.0, -1.0])
INTEGERS = st.integers(0, 2**64 - 1)
HEADS = st.builds(payload._HEAD.pack, st.integers(-3, 40), st.integers(0, 3) | INTEGERS)
TEXTS = st.sampled_from([b"", b"0", b"-1", b"256", b"wall_time", b"result\0a\0b\0c", b"\xff"])
PICKLES = st.sampled_from([pickle.dumps(thing) for thing in (1, (1, 2), (OSError(1), "text"))])
BODIES = st.one_of(
    st.binary(max_size=100),
    st.tuples(
        st.builds(messages.ACCOUNT.pack, FLOATS, FLOATS, FLOATS, FLOATS, INTEGERS, INTEGERS),
        HEADS,
        TEXTS | PICKLES,
        st.builds(payload._BUFFER.pack, st.integers(0, 255), INTEGERS, INTEGERS, st.booleans()),
    ).flatmap(lambda parts: st.integers(1, 4).map(lambda n: b"".join(parts[:n]))),
    st.sampled_from(LOOKS_RIGHT),
)


def forge(kind, body, n_files=0):
    """Send this as the process of this call."""
    (process,) = (one for one in gc.get_objects() if type(one) is TaskProcess)
    number = process._task_cells.get(0, task_cells.CALL)
    sealed = payload.pack(bytes(100_000), pickle.Pickler).fds
    files = [*sealed, *(os.open("/dev/null", os.O_RDONLY) for _ in range(n_files))][:n_files]
    transport.send(process._sock, kind, number, body, fds=files)
    return "my own"


def run(guardian, *arguments):
    return guardian.run(*arguments, {}, Limits(wall_time=60))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(sorted(KINDS.values())), BODIES, st.sampled_from([0, 1, 32, 60]))
def test_whatever_a_call_sends_it_has_an_outcome_and_the_next_call_runs(
    guardian, kind, body, n_files
):
    outcome = run(guardian, forge, (kind, body, n_files))
    forged = kind in (messages.RETURNED, messages.RAISED)
    if not forged and outcome.exception is None:
        assert outcome.value == "my own"
    elif not forged:
        assert isinstance(outcome.exception, exceptions.CallError)
    assert run(guardian, abs, (-1,)).value == 1


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("RETURNED", b""),
        ("RETURNED", b"\xff" * 200),
        ("RETURNED", messages.ACCOUNT.pack(math.nan, 0, 0, 0, 0, 0) + payload.pack_texts("").head),
        ("RAISED", b"abc"),
        ("EXITED", ACCOUNT + payload.pack_texts("256").head),
        ("BREACHED", ACCOUNT + payload.pack_texts("x").head),
        ("UNPICKLABLE", ACCOUNT + payload.pack_texts("result", "", "").head),
        ("VERDICT", b""),
        ("VERDICT", b"x" * 8 + pickle.dumps(messages.Verdict("cancelled", None, False, "", None))),
        ("UNBEGUN", b""),
        ("IMPORTED", b"\0\n"),
        ("PREPARED_IMPORTS", b"os"),
        ("SPAWNED", b""),
        ("REQUEST", b""),
    ],
)
def test_what_none_of_our_processes_sends_is_the_end_of_its_call(guardian, kind, body):
    error = run(guardian, forge, (KINDS[kind], body)).exception
    assert type(error) is exceptions.CrashError
    assert "the socket of its process" in str(error)
    assert type(error.__cause__) is received.MalformedError
    assert run(guardian, abs, (-1,)).value == 1


def test_a_fresh_process_that_answers_something_else_ends_its_call_at_once(guardian):
    def answer():
        (sender,) = (one for one in gc.get_objects() if type(one) is fresh._Sender)
        account = messages.FRESH_ACCOUNT.pack(0, 0, 0, 0, 0)
        transport.send(sender.sock, messages.SPAWN, sender.number, account)

    limits = Limits(wall_time=60, isolation="fresh")
    error = guardian.run(answer, (), {}, limits).exception
    assert type(error) is exceptions.CrashError
    assert "the socket of its process" in str(error)


def test_nothing_but_a_result_runs_code_in_the_caller(guardian, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trap"),)

    trap = pickle.dumps(Trap())
    for kind in set(KINDS.values()) - {messages.RETURNED, messages.RAISED}:
        for body in (trap, b"12345678" + trap, ACCOUNT + payload._HEAD.pack(-1, 0) + trap):
            run(guardian, forge, (kind, body))
    assert not (tmp_path / "trap").exists()
    assert run(guardian, forge, (messages.RETURNED, ACCOUNT + payload._HEAD.pack(-1, 0) + trap)).ok
    assert (tmp_path / "trap").exists()  # as with every result: it is pickled


def test_a_call_that_makes_its_socket_too_small_for_a_verdict_is_ended_all_the_same(guardian):
    def leave_no_room():
        def wait(depth):
            return wait(depth - 1) if depth else time.sleep(60)

        (process,) = (one for one in gc.get_objects() if type(one) is TaskProcess)
        process._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        wait(200)

    outcome = guardian.run(leave_no_room, (), {}, Limits(wall_time=0.5))
    assert isinstance(outcome.exception, exceptions.CallError)
