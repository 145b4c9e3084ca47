"""What a call can do between its warning and its end."""

import os
import signal
import sys
import time

import cloudpickle
import pynisher
import pytest
from isolations import FORKSERVER, FRESH, SPAWN, WARM, nothing_goes_on, on_each, on_processes
from kinds import CPU_TIME, REACHED_S, WALL_TIME
from overdoing import spin, wait_on

from dask_limits import exceptions
from dask_limits.limits import Limits

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

ON_TIME = [WALL_TIME, CPU_TIME]
on_each_time = pytest.mark.parametrize("kind", ON_TIME, ids=str)


def warned_of(error):
    """Raise it again, out of the function."""
    raise error


@pytest.mark.parametrize("isolated", [WARM, FRESH, SPAWN, FORKSERVER], ids=str)
@on_each_time
def test_a_warning_that_the_function_lets_through_is_the_whole_breach(isolated, kind):
    outcome = isolated(kind.over, grace_period=600, **kind.reached).run()
    error = outcome.exception
    assert type(error) is kind.breach
    assert error.limits == Limits(**isolated.options, grace_period=600, **kind.reached)
    assert error.call == kind.over.__name__
    assert f"in {kind.over.__name__}" in error.stacks
    assert f"in {kind.over.__name__}" in str(error)
    assert f"{kind.name} limit of {kind.reached[kind.name]:g} s" in str(error)
    assert error.usage == outcome.usage
    assert error.usage.exit_code is None


@on_each("grace_period")
@on_each_time
def test_a_function_can_clean_up_and_its_value_counts(isolated, kind, tmp_path):
    def catch(over):
        try:
            over()
        except pynisher.TimeoutException as error:
            return str(error)
        finally:
            (tmp_path / "cleaned").touch()

    text = isolated(catch, grace_period=600, **kind.reached)(kind.over)
    assert f"{kind.name} limit" in text
    assert (tmp_path / "cleaned").exists()


@on_each("grace_period")
@on_each_time
def test_a_function_can_handle_the_signal_itself(isolated, kind):
    def handle(over):
        number = signal.SIGALRM if over is wait_on else signal.SIGXCPU
        came = []
        signal.signal(number, lambda *_: came.append(number))
        while not came:
            time.sleep(0.001)
            sum(range(10_000))
        return came

    limits = kind.reached if kind is WALL_TIME else {"cpu_time": 0.1}
    came = isolated(handle, grace_period=600, **limits)(kind.over)
    assert came == [signal.SIGALRM if kind is WALL_TIME else signal.SIGXCPU]


@on_each("grace_period")
@on_each_time
def test_a_function_that_does_not_heed_it_is_ended_when_the_grace_is_over(isolated, kind):
    def stubborn(over):
        while True:
            try:
                over()
            except BaseException:
                pass

    outcome = isolated(stubborn, grace_period=0.3, **kind.limits).run(kind.over)
    assert type(outcome.exception) is kind.breach
    assert outcome.usage.exit_code == -signal.SIGKILL
    assert outcome.usage.wall_time > 0.5
    nothing_goes_on()


@on_each("grace_period")
@on_each_time
def test_a_function_that_has_reset_the_signals_dies_of_its_breach(isolated, kind):
    def reset(over):
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        over()

    error = isolated(reset, grace_period=600, **kind.limits).run(kind.over).exception
    assert type(error) is kind.breach


@on_each("grace_period")
def test_a_warning_that_comes_while_arguments_are_rebuilt_is_the_breach(isolated):
    class Slow:
        def __reduce__(self):
            return time.sleep, (0.6,)

    outcome = isolated(print, wall_time=0.2, grace_period=600).run(Slow())
    assert type(outcome.exception) is exceptions.WallTimeBreach


@on_each("grace_period")
def test_a_warning_that_comes_while_the_result_is_pickled_harms_nothing(isolated):
    class Slow:
        def __reduce__(self):
            time.sleep(REACHED_S + 0.5)
            return abs, (-1,)

    assert isolated(Slow, wall_time=REACHED_S, grace_period=600)() == 1


@on_each("grace_period")
def test_a_call_that_got_on_after_its_warning_is_warned_again(isolated):
    def get_on():
        from dask_limits.limits import progress

        came = 0
        while came < 3:
            try:
                time.sleep(60)
            except exceptions.WallTimeBreach:
                came += 1
                progress()
        return came

    assert isolated(get_on, wall_time=REACHED_S / 2, grace_period=600)() == 3


@on_each("grace_period")
def test_alarms_of_a_calls_own_stay_its_own(isolated):
    def alarm():
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        time.sleep(60)

    error = isolated(alarm, wall_time=30, grace_period=5).run().exception
    assert type(error) is exceptions.CrashError
    assert error.signal == signal.SIGALRM


@on_processes
@pytest.mark.parametrize("limits", [{"wall_time": 0.05}, {"cpu_time": 0.05}], ids=str)
def test_calls_that_end_about_when_they_are_warned_end_in_one_way_or_the_other(isolated, limits):
    def work(seconds, cpu):
        if cpu:
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass
        else:
            time.sleep(seconds)
        return "done"

    call = isolated(work, grace_period=600, **limits)
    for n in range(30):
        outcome = call.run(0.04 + n % 10 * 0.002, "cpu_time" in limits)
        assert outcome.ok or isinstance(outcome.exception, exceptions.Breach)
        assert isolated(os.getpid, wall_time=30).run().ok


def test_without_a_grace_period_there_is_no_warning():
    def handle():
        signal.signal(signal.SIGALRM, lambda *_: None)
        spin()

    outcome = WARM(handle, wall_time=0.2).run()
    assert type(outcome.exception) is exceptions.WallTimeBreach
    assert outcome.usage.exit_code == -signal.SIGKILL
