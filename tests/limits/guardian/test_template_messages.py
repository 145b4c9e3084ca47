"""What a template imports, and an initializer, writes to the socket of the template as it likes."""

import inspect
import os
import socket
import stat
import sys
import threading
import time

import cloudpickle
import pytest
from on_guardian import LONG_S, call
from our_processes import guardian_process
from processes import until

from dask_limits.limits.ipc import messages, transport
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import NOTHING, Preload

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

KINDS = {
    name: kind
    for name, kind in vars(messages).items()
    if isinstance(kind, int) and not name.startswith("_")
}
SAID = {
    "nonsense": b"abc",
    "nonsense as long as a message": b"x" * 1000,
    "a process has ended in no way": transport.record(
        messages.ENDED, 1, messages.ENDED_BODY.pack(0x7F, 0, 0, 0)
    ),
    "a process has taken for ever": transport.record(
        messages.SETTLED, 1, messages.SETTLED_BODY.pack(float("inf"))
    ),
    "what is no text": transport.record(messages.FAILED, 1, b"\xff"),
    "another process is a new one": transport.record(
        messages.FORKED, 1, messages.FORKED_BODY.pack(os.getpid(), 0)
    ),
    **{
        f"{name} of {size} bytes": transport.record(kind, 2**63, bytes(size))
        for name, kind in KINDS.items()
        for size in (0, 28)
        if kind not in (messages.PREPARED, messages.FAILED, messages.EXCLUDED)
    },
}
DECISIVE = {
    f"{name} of {size} bytes": transport.record(KINDS[name], 0, bytes(size))
    for name in ("PREPARED", "FAILED", "EXCLUDED")
    for size in (0, 8)
}
"""What a template says once: an import that says it fails, or its calls do."""


def say(*said):
    """Write this to the socket of the template: the first one of messages that is open here."""
    for fd in range(3, 1000):
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
        except OSError:
            continue
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.type == socket.SOCK_SEQPACKET:
                for one in said:
                    sock.send(one)
                return


TEXT = """
import os, socket, stat
{say}
say({said})
"""


def saying(module, *said):
    """A module that says so when it is imported."""
    return module("saying", TEXT.format(say=inspect.getsource(say), said=repr(said)[1:-1]))


def test_no_message_that_a_module_sends_when_it_is_imported_disturbs_calls(module):
    with Guardian(preload=Preload.of([saying(module, *SAID.values())])) as guardian:
        assert call(guardian, abs, -1) == 1
        before = guardian_process(guardian)
        guardian.preload = NOTHING
        assert call(guardian, abs, -1) == 1
        assert guardian_process(guardian) == before


@pytest.mark.parametrize("said", DECISIVE)
def test_a_module_that_decides_about_its_template_does_so_for_that_alone(module, said):
    with Guardian() as guardian:
        assert call(guardian, abs, -1) == 1
        before = guardian_process(guardian)
        guardian.preload = Preload.of([saying(module, DECISIVE[said])])
        guardian.run(abs, (-1,), {})
        guardian.preload = NOTHING
        assert call(guardian, abs, -1) == 1
        assert guardian_process(guardian) == before


def test_no_message_that_an_initializer_sends_ends_another_call(tmp_path):
    begun, go_on, speak = (tmp_path / name for name in ("begun", "go_on", "speak"))
    spoken = tmp_path / "spoken"

    def run():
        begun.write_text(str(os.getpid()))
        until(go_on.exists)
        return "well"

    def begin(said):
        if speak.exists():
            pid = int(begun.read_text())
            ended = messages.ENDED_BODY.pack(9, 0, 0, 0)
            forked = messages.FORKED_BODY.pack(pid, 0)
            of_it = [
                transport.record(messages.ENDED, pid, ended),
                *(transport.record(messages.FORKED, n, forked) for n in range(20)),
            ]
            say(*said, *of_it)
            spoken.touch()

    said = [*SAID.values(), *DECISIVE.values()]
    ended = []
    with Guardian(preload=Preload.of((), begin, [said])) as guardian:
        assert call(guardian, abs, -1) == 1
        before = guardian_process(guardian)
        thread = threading.Thread(target=lambda: ended.append(guardian.run(run, (), {})))
        thread.start()
        until(begun.exists)
        until(begun.read_text)
        speak.touch()

        def again():
            time.sleep(LONG_S)  # so that each has a process of its own
            return "done"

        until(lambda: call(guardian, again) == "done" and spoken.exists())
        assert call(guardian, again) == "done"
        go_on.touch()
        thread.join()
        assert ended[0].value == "well"
        assert guardian_process(guardian) == before
