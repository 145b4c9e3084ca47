"""How calls end that breach no limit, and what is said of it."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
import traceback

import pytest
from processes import until

from dask_limits import exceptions
from dask_limits.limits import CancelToken, LimitedCall, Limits, Outcome, limit
from dask_limits.limits.owner.guardian import Guardian, default_guardian


def run(fn, *args, **kwargs) -> Outcome:
    return default_guardian().run(fn, args, kwargs, Limits(wall_time=30))


class Point:
    """Of a module that a task process can import."""

    def __init__(self, x):
        self.x = x

    def double(self):
        return Point(self.x * 2)


class TwoPartError(Exception):
    """Cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def test_a_call_returns_what_its_function_returns():
    assert limit(divmod, wall_time=30)(7, 2) == (3, 1)
    assert limit(sorted, wall_time=30)([3, 1, 2], reverse=True) == [3, 2, 1]


def test_lambdas_closures_partials_and_methods_can_be_called():
    base = 40
    assert run(lambda x: base + x, 2).result() == 42
    assert run(functools.partial(pow, 2), 5).result() == 32
    assert run(Point(4).double).result().x == 8


def test_classes_of_main_keep_their_identity(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from dask_limits.limits import limit\n"
        "class Thing: pass\n"
        "class Trouble(Exception): pass\n"
        "def make(fail):\n"
        "    if fail: raise Trouble('x')\n"
        "    return Thing()\n"
        "call = limit(make, wall_time=30)\n"
        "assert type(call(False)) is Thing\n"
        "try: call(True)\n"
        "except Trouble as e: assert e.args == ('x',)\n"
        "else: raise AssertionError\n"
    )
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, str(script)) == 0


def test_a_call_runs_in_another_process_and_the_next_in_the_same():
    def pid():
        return run(os.getpid).result()

    assert pid() != os.getpid()
    until(lambda: pid() == pid())  # a call that had to wait for long may be the last of its process


def test_a_users_exception_keeps_its_type_arguments_and_traceback():
    def inner(x):
        raise KeyError("no", x)

    outcome = run(inner, 3)
    error = outcome.exception
    assert type(error) is KeyError
    assert error.args == ("no", 3)
    text = "".join(traceback.format_exception(error))
    assert 'raise KeyError("no", x)' in text
    assert "task_process" not in text
    assert outcome.usage.wall_time > 0


def test_a_system_exit_does_not_reach_the_caller_as_one():
    for code, status in ((3, 3), (None, 0), ("bye", 1)):
        error = run(sys.exit, code).exception
        assert isinstance(error, exceptions.ExitError)
        assert error.exit_code == status


def test_a_process_that_exits_under_its_call_says_with_what_code():
    outcome = run(os._exit, 7)
    assert isinstance(outcome.exception, exceptions.ExitError)
    assert outcome.exception.exit_code == 7
    assert outcome.usage.exit_code == 7
    assert "_exit()" in str(outcome.exception)


def test_a_crash_names_its_signal_and_shows_where():
    def crash():
        os.kill(os.getpid(), signal.SIGSEGV)

    outcome = run(crash)
    assert isinstance(outcome.exception, exceptions.CrashError)
    assert outcome.exception.signal == signal.SIGSEGV
    assert "SIGSEGV" in str(outcome.exception)
    assert "in crash" in outcome.exception.stacks


def test_a_kill_from_outside_is_not_taken_for_a_limit_or_for_want_of_memory():
    outcome = run(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert type(outcome.exception) is exceptions.CrashError
    assert "did not send" in str(outcome.exception)


@pytest.mark.parametrize(
    ("part", "fn", "args"),
    [
        ("arguments", print, (threading.Lock(),)),
        ("result", threading.Lock, ()),
        ("exception", lambda: (_ for _ in ()).throw(Exception(threading.Lock())), ()),
    ],
)
def test_what_cannot_be_pickled_is_named_with_its_call(part, fn, args):
    error = run(fn, *args).exception
    assert isinstance(error, exceptions.CallPicklingError)
    assert error.part == part
    assert f"{error.call}()" in str(error)
    assert "lock" in str(error)


def test_an_exception_that_cannot_be_rebuilt_is_told_with_its_text():
    def fail():
        raise TwoPartError("salt", "pepper")

    error = run(fail).exception
    assert isinstance(error, exceptions.CallPicklingError)
    assert "TwoPartError: salt and pepper" in str(error)
    assert "raise TwoPartError" in str(error.__cause__)


def test_a_function_that_the_task_process_cannot_import_is_told_as_such():
    class Missing:
        def __reduce__(self):
            return __import__, ("no_such_module_anywhere",)

    error = run(print, Missing()).exception
    assert isinstance(error, exceptions.CallPicklingError)
    assert "no_such_module_anywhere" in str(error)


def test_large_arguments_and_results_come_through():
    blob = os.urandom(1000) * 5000
    assert run(lambda b: b[::-1], blob).result() == blob[::-1]


def test_usage_says_what_was_used():
    def use():
        block = bytearray(100_000_000)
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        time.sleep(0.1)
        return len(block)

    usage = run(use).usage
    assert usage.wall_time >= 0.3
    assert 0.2 <= usage.cpu_time <= usage.wall_time
    assert 99e6 < usage.peak_memory < 105e6
    assert usage.num_processes == 1


def test_usage_counts_children_that_have_exited():
    def use():
        import subprocess

        spin = "import time; t = time.process_time() + 0.2\nwhile time.process_time() < t: pass"
        subprocess.run([sys.executable, "-c", spin], check=True)

    assert run(use).usage.cpu_time >= 0.2
    assert run(abs, 1).usage.cpu_time < 0.1


def test_modules_found_after_the_guardian_was_started_are_found_by_calls(tmp_path, monkeypatch):
    run(abs, 1)
    (tmp_path / "latecomer.py").write_text("def hello(): return 'hello'")
    monkeypatch.syspath_prepend(str(tmp_path))
    import latecomer

    assert run(latecomer.hello).result() == "hello"


def test_calls_run_in_their_owners_directory(tmp_path, monkeypatch):
    run(abs, 1)
    monkeypatch.chdir(tmp_path)
    assert run(os.getcwd).result() == str(tmp_path)


def test_lines_that_a_killed_call_has_printed_are_not_lost(capfd):
    def talk():
        print("last words")
        os.kill(os.getpid(), signal.SIGKILL)

    with Guardian() as guardian:  # its output goes where its owner's went when it was started
        guardian.run(talk, (), {})
    assert "last words" in capfd.readouterr().out


def test_random_numbers_differ_between_task_processes(tmp_path):
    def draw():
        import random

        (tmp_path / str(os.getpid())).touch()
        until(lambda: len([*tmp_path.iterdir()]) == 3)  # so none has the process of another
        return os.getpid(), random.random()

    with Guardian() as guardian:
        outcomes = []
        threads = [
            threading.Thread(target=lambda: outcomes.append(guardian.run(draw, (), {})))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        drawn = dict(outcome.result() for outcome in outcomes)
        assert len(drawn) == 3
        assert len(set(drawn.values())) == 3


def test_a_call_that_is_cancelled_while_it_runs_ends_at_once():
    token = CancelToken()
    outcomes = []
    with Guardian() as guardian:
        thread = threading.Thread(
            target=lambda: outcomes.append(guardian.run(time.sleep, (600,), {}, cancel=token))
        )
        thread.start()
        while not token._ends:
            time.sleep(0.001)
        token.cancel()
        thread.join()
        assert isinstance(outcomes[0].exception, exceptions.CallCancelledError)
        assert guardian.run(time.sleep, (0,), {}).ok


def test_the_error_of_a_call_that_is_cancelled_while_it_runs_has_its_stacks(tmp_path):
    def nap():
        (tmp_path / "runs").touch()
        time.sleep(600)

    token, outcomes = CancelToken(), []
    with Guardian() as guardian:
        thread = threading.Thread(
            target=lambda: outcomes.append(guardian.run(nap, (), {}, cancel=token))
        )
        thread.start()
        until((tmp_path / "runs").exists)
        token.cancel()
        thread.join()
    assert isinstance(outcomes[0].exception, exceptions.CallCancelledError)
    assert " in nap" in outcomes[0].exception.stacks


def test_a_call_that_is_cancelled_before_it_starts_never_runs(tmp_path):
    token = CancelToken()
    token.cancel()
    with Guardian() as guardian:
        outcome = guardian.run((tmp_path / "made").touch, (), {}, cancel=token)
    assert isinstance(outcome.exception, exceptions.CallCancelledError)
    assert not (tmp_path / "made").exists()


def test_a_guardian_that_is_closed_cancels_what_runs_and_starts_again_on_need():
    guardian = Guardian()
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(guardian.run(time.sleep, (600,), {})))
    thread.start()
    while guardian._connection is None or not guardian._connection._leases:
        time.sleep(0.001)
    guardian.close()
    thread.join()
    assert isinstance(outcomes[0].exception, exceptions.CallCancelledError)
    assert guardian.run(abs, (-1,), {}).result() == 1
    guardian.close()


def test_with_too_few_files_a_call_runs_or_says_why_it_cannot():
    program = (
        "import resource, sys\n"
        "from dask_limits import limit\n"
        "import dask_limits.limits.owner.guardian\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), 4096))\n"
        "outcome = limit(abs, wall_time=30).run(-1)\n"
        "print(outcome.value or outcome.exception)"
    )
    for open_files in range(4, 16):
        command = [sys.executable, "-c", program, str(open_files)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert said.stdout == "1\n" or "could not be started" in said.stdout, said


def test_a_limit_that_nothing_can_reach_is_no_error():
    most = {"num_processes": 10**30, "wall_time": 1e300, "cpu_time": 1e300}
    call = limit(abs, memory=10**30, reserve=False, **most)
    assert call(-1) == 1


def test_many_threads_share_a_guardian():
    with Guardian() as guardian:
        results = []

        def work(n):
            for i in range(20):
                results.append(guardian.run(pow, (n, i), {}).result() == n**i)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 160
    assert all(results)


def test_a_call_without_limits_is_called_in_place():
    assert LimitedCall(os.getpid)() == os.getpid()


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="cannot be called"):
        limit(3, wall_time=1)
    with pytest.raises(TypeError, match=r"For a command of the shell: command\('sleep 1'\)"):
        limit("sleep 1", wall_time=1)
