"""What a call prints: into its usage where that is asked for, else where its owner prints."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolations import FORKSERVER, FRESH, SPAWN, WARM, nothing_goes_on, on_each
from kinds import KINDS
from processes import until

from dask_limits import exceptions
from dask_limits.limits import CancelToken, LimitedCall, Limits, run_call
from dask_limits.limits.linux.standard_output import _Kept
from dask_limits.limits.owner.guardian import Guardian

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

on_each_that_captures = on_each("capture_output")


def say_it_in_every_way():
    print("Python")
    print("an error of Python", file=sys.stderr)
    ctypes.CDLL(None).puts(b"C")
    os.write(1, b"the file\n")
    subprocess.run("echo a child; echo an error of a child >&2", shell=True, check=True)


@pytest.mark.parametrize("isolated", [WARM, FRESH, SPAWN, FORKSERVER], ids=str)
def test_all_that_a_call_prints_is_captured(isolated, capfd):
    usage = isolated(say_it_in_every_way, capture_output=True).run().usage
    assert set(usage.stdout.split("\n")) == {"Python", "C", "the file", "a child", ""}
    assert usage.stderr == "an error of Python\nan error of a child\n"
    silent = isolated(abs, capture_output=True).run(1).usage
    assert (silent.stdout, silent.stderr) == ("", "")
    assert capfd.readouterr() == ("", "")


@on_each_that_captures
def test_without_it_output_goes_where_the_owners_goes(isolated, capfd):
    with Guardian() as guardian:  # its output goes where its owner's went when it was started
        captured = isolated(say_it_in_every_way, capture_output=True)
        plain = isolated(say_it_in_every_way, wall_time=30)
        for call in (captured, plain, captured):
            outcome = guardian.run(call.fn, (), {}, call.limits)
            assert outcome.ok
    assert outcome.usage.stdout is not None
    printed = capfd.readouterr()
    assert sorted(printed.out.split()) == sorted(["Python", "C", "the", "file", "a", "child"])
    assert printed.err == "an error of Python\nan error of a child\n"


def last_words(act):
    print("last words")
    act()


@on_each_that_captures
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_a_call_printed_before_its_breach_comes_with_it(isolated, kind):
    limits = kind.reached | {"capture_output": True}
    outcome = isolated(last_words, **limits).run(kind.over)
    assert isinstance(outcome.exception, kind.breach)
    assert outcome.usage.stdout == outcome.exception.usage.stdout == "last words\n"


@pytest.mark.parametrize("isolated", [WARM, FRESH, SPAWN], ids=str)
@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), exceptions.CrashError),
        (lambda: ctypes.string_at(0), exceptions.CrashError),
        (lambda: os._exit(3), exceptions.ExitError),
        (lambda: sys.exit(3), exceptions.ExitError),
        (lambda: 1 / 0, ZeroDivisionError),
        (lambda: threading.Lock(), None),
    ],
    ids=["killed", "crashed", "exited", "exits", "raised", "returned"],
)
def test_what_a_call_printed_comes_with_any_end_of_it(isolated, act, expected):
    outcome = isolated(last_words, capture_output=True).run(act)
    assert isinstance(outcome.exception, expected or type(None))
    assert outcome.usage.stdout == "last words\n"


@on_each_that_captures
def test_what_a_call_printed_before_it_was_cancelled_comes_with_it(isolated, tmp_path):
    token = CancelToken()
    outcomes = []

    def talk():
        print("last words")
        (tmp_path / "said").touch()
        time.sleep(600)

    call = isolated(talk, capture_output=True)
    thread = threading.Thread(target=lambda: outcomes.append(run_call(call, (), {}, cancel=token)))
    thread.start()
    while not (tmp_path / "said").exists():
        time.sleep(0.005)
    token.cancel()
    thread.join()
    assert isinstance(outcomes[0].exception, exceptions.CallCancelledError)
    assert outcomes[0].usage.stdout == "last words\n"


@on_each_that_captures
def test_a_call_that_prints_without_end_neither_blocks_nor_fills_memory(isolated):
    def flood(megabytes):
        line = b"x" * 1023 + b"\n"
        os.write(1, b"first\n")
        for _ in range(megabytes):
            os.write(1, line * 1024)
        os.write(1, b"last\n")

    usage = isolated(flood, capture_output="10 kiB", wall_time=250).run(1024).usage
    assert usage.stdout.startswith("first\n")
    assert usage.stdout.endswith("last\n")
    assert f"[... {2**30 + 11 - 10 * 1024} bytes left out ...]" in usage.stdout
    assert len(usage.stdout) < 10 * 1024 + 100


@on_each_that_captures
def test_what_is_no_text_comes_as_far_as_it_is(isolated):
    usage = isolated(os.write, capture_output=True).run(1, b"caf\xe9 \xff\x00 caf\xc3\xa9").usage
    assert usage.stdout == "caf\ufffd \ufffd\x00 caf\u00e9"


@on_each_that_captures
def test_a_child_that_keeps_the_pipe_keeps_nobody_waiting(isolated, tmp_path):
    said = tmp_path / "said"
    program = f"echo on; touch {said}; while true; do echo on; done"

    def leave():
        subprocess.Popen(program, shell=True, start_new_session=True)
        until(said.exists)
        return "left"

    outcome = isolated(leave, capture_output=True, wall_time=50).run()
    assert outcome.result() == "left"
    assert "on" in outcome.usage.stdout
    nothing_goes_on()


@on_each_that_captures
def test_a_stream_of_the_calls_making_harms_nobody(isolated):
    class Stuck:
        def write(self, text):
            return len(text)

        def flush(self):
            raise SystemExit(3)

    def replace():
        sys.stdout = Stuck()
        return "replaced"

    class StuckForEver(Stuck):
        def flush(self):
            time.sleep(600)

    def stick():
        sys.stdout = StuckForEver()

    assert isolated(replace, capture_output=True)() == "replaced"
    stuck = isolated(stick, capture_output=True, wall_time=0.5).run().exception
    assert isinstance(stuck, exceptions.WallTimeBreach)
    assert isolated(print, capture_output=True).run("again").usage.stdout == "again\n"


@on_each_that_captures
def test_closed_files_lose_what_is_printed_and_nothing_else(isolated):
    assert isolated(lambda: os.closerange(0, 3), capture_output=True).run().ok
    assert isolated(print, capture_output=True).run("again").usage.stdout == "again\n"


@on_each_that_captures
def test_captured_calls_leave_no_file_open(isolated):
    def files():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    call, show = isolated(files, capture_output=True), isolated(print, capture_output=True)
    show.run("x")
    inside, outside = {call() for _ in range(2)}, files()
    for _ in range(40):
        show.run("x")
    assert call() <= max(inside)
    assert files() <= outside + 3  # task processes come and go; one leaked a call would make it 40


PARTS = st.lists(st.binary(max_size=200) | st.integers(0, 200_000).map(bytes), max_size=12)


@given(PARTS, st.integers(1, 300))
def test_of_a_stream_the_start_and_the_end_are_kept(parts, keep):
    kept, whole = _Kept(keep), b"".join(parts)
    for part in parts:
        kept.add(part)
        assert len(kept._head) + len(kept._tail) <= keep + 200_000 + 64 * 1024
    text = kept.text()
    if len(whole) <= keep:
        assert text == whole.decode(errors="replace")
    else:
        head, tail = whole[: keep // 2], whole[len(whole) - (keep - keep // 2) :]
        gap = f"\n[... {len(whole) - keep} bytes left out ...]\n"
        assert text == head.decode(errors="replace") + gap + tail.decode(errors="replace")


def test_capturing_is_refused_where_it_makes_no_sense():
    for wrong in (-1, "much"):
        with pytest.raises(ValueError, match="capture_output"):
            Limits(capture_output=wrong)
    assert Limits(capture_output=True).capture_output == 64 * 1024
    assert Limits(capture_output="1 MiB").capture_output == 2**20
    assert not Limits(capture_output=False)
    with contextlib.suppress(TypeError):
        Limits(capture_output=[])
    assert LimitedCall(print, Limits(capture_output=True)).run("x").usage.stdout == "x\n"
