"""Runs on a real pseudo-terminal."""

from __future__ import annotations

import pytest
from terminals import Terminal

HEAD = """
import threading, time
from dask_limits import Display, Scheduler, limit

def nap(seconds, name=""):
    held = b"x" * (4 << 20)  # a process that has just begun may have nothing of its own
    time.sleep(seconds)

def fail(text):
    raise ValueError(text)
"""
BEGIN = """
limited = limit(nap, wall_time=600, memory="500 MiB", reserve=False)

@scheduler.on_start
def begin():
    for n in range(3):
        scheduler.submit(fail, f"no {n}")
    scheduler.submit(limit(nap, wall_time=0.2), 60)
    for n in range(40):
        scheduler.submit(limited, 300, f"call {n}")
"""
STOP = """
threading.Thread(target=lambda: (input(), scheduler.stop())).start()
"""
RUN = """
scheduler.run(display=True, wait=False, on_exception="continue", on_cancelled="continue")
"""
PROCESSES = f"{HEAD}\nscheduler = Scheduler.with_processes(30)\n{BEGIN}"


def n_rows(lines):
    """How many running calls are on the screen."""
    return sum("nap " in line and "limit" not in line for line in lines)


def shows_all_running(lines):
    return any("30 running  10 waiting" in line for line in lines) and (
        n_rows(lines) == 30 or f"and {30 - n_rows(lines)} more" in lines
    )


@pytest.mark.parametrize(("columns", "lines"), [(40, 12), (80, 24), (200, 50)])
def test_it_fits_the_terminal_and_the_last_state_stays(columns, lines):
    with Terminal(PROCESSES + STOP + RUN, columns, lines) as terminal:
        shown = terminal.wait_until(
            lambda lines: (
                "3 raised  1 wall_time" in lines
                and shows_all_running(lines)
                and any("nap" in line and "wall_time limit" in line for line in lines)
                and (columns > 40 or any("nap" in line and "iB" in line for line in lines))
            )
        )
        assert shown[0].startswith("30 processes running, ")
        assert len(shown) <= lines - 1
        rows = [line for line in shown if line.startswith("nap ") and "limit" not in line]
        assert len(rows) == 30 if lines == 50 else 1 < len(rows) < 20
        assert ("300, 'call " in rows[0]) == (columns > 40)
        assert (" of 10 min" in rows[0] and " of 500.0 MiB" in rows[0]) == (columns == 200)
        assert "last failures" in shown
        assert terminal.screen.cursor.hidden
        terminal.type("\n")
        assert terminal.wait() == 0
        assert "40 cancelled  3 raised  1 wall_time" in terminal.text
        assert any(line.startswith("30 processes stopped, ") for line in terminal.lines)
        assert n_rows(terminal.lines) == 0
        assert not terminal.screen.cursor.hidden


@pytest.mark.dask
def test_on_dask_it_shows_the_workers():
    make = "scheduler = Scheduler.with_dask(n_workers=2, threads_per_worker=1)"
    program = f"{HEAD}\n{make}\n{BEGIN}{STOP}{RUN}"
    with Terminal(f"if __name__ == '__main__':\n{_indented(program)}", 200, 50) as terminal:
        shown = terminal.wait_until(
            lambda lines: (
                any("2 running  38 waiting" in line for line in lines)
                and sum(line.startswith("nap ") and line[-1] in "01" for line in lines) == 2
            )
        )
        assert any(line.startswith("2 workers, 2 cores") for line in shown)
        terminal.type("\n")
        assert terminal.wait() == 0
        assert "40 cancelled  3 raised  1 wall_time" in terminal.text


def _indented(program):
    return "\n".join(f"    {line}" for line in program.splitlines())


def test_ctrl_c_ends_the_run_and_shows_that():
    with Terminal(PROCESSES + RUN) as terminal:
        terminal.wait_until(shows_all_running)
        terminal.type("\x03")
        assert terminal.wait() != 0
        assert "KeyboardInterrupt" in terminal.text
        assert not terminal.screen.cursor.hidden


def test_what_the_terminal_writes_of_ctrl_c_leaves_no_line_behind():
    """It writes "^C" at the cursor: at the end of a full line, that goes on in the next one."""
    run = RUN.replace("scheduler.run", "try:\n    scheduler.run")
    no_traceback = "except KeyboardInterrupt:\n    raise SystemExit(1) from None\n"
    program = PROCESSES.replace('f"no {n}"', "'long ' * 99") + run + no_traceback
    with Terminal(program) as terminal:
        shown = terminal.wait_until(
            lambda lines: shows_all_running(lines) and any("1 wall_time" in it for it in lines)
        )
        assert max(map(len, shown)) == 80
        terminal.type("\x03")
        assert terminal.wait() != 0
        assert terminal.lines[0].startswith("30 processes interrupted, ")
        assert " running, " not in terminal.text and "^C" not in terminal.text


def test_it_goes_on_when_the_terminal_changes_its_size():
    with Terminal(PROCESSES + STOP + RUN, 100, 30) as terminal:
        terminal.wait_until(shows_all_running)
        for columns, lines in (60, 20), (30, 8), (200, 50):
            terminal.resize(columns, lines)
            terminal.wait_until(
                lambda shown, columns=columns, lines=lines: (
                    shows_all_running(shown)
                    and (n_rows(shown) == 30) == (lines == 50)
                    and max(map(len, shown)) > columns / 2
                )
            )
        terminal.type("\n")
        assert terminal.wait() == 0


def test_names_and_arguments_cannot_control_the_terminal():
    program = (
        HEAD
        + r"""
def odd(*_):
    raise ValueError("[/red]\x1b[2J\x9b31m\u202e")

odd.__name__ = odd.__qualname__ = "[bold]odd\x1b[2J"

class Raises:
    def __repr__(self):
        raise ValueError("no")

scheduler = Scheduler.with_threads(2)
@scheduler.on_start
def begin():
    scheduler.submit(odd, "\x1b[2J[/red]", Raises())
    scheduler.submit(nap, 1)
scheduler.run(display=True, on_exception="continue")
"""
    )
    with Terminal(program, 200, 50) as terminal:
        assert terminal.wait() == 0
        text = terminal.text
        assert r"[bold]odd\x1b[2J('\x1b[2J[/red]', <Raises>)" in text
        assert r"ValueError: [/red]\x1b[2J\x9b31m\u202e" in text


def test_what_callbacks_print_stays_above_it():
    program = (
        HEAD
        + """
from rich.text import Text
scheduler = Scheduler.with_threads(2)
scheduler.on_start(lambda: scheduler.map(abs, range(5)))
scheduler.on_future_result(lambda _, n: print("got", n))
scheduler.run(display=Display(above=Text("my [search]")))
print("after it")
"""
    )
    with Terminal(program) as terminal:
        assert terminal.wait() == 0
        lines = terminal.lines
        assert lines[:6] == ["got 0", "got 1", "got 2", "got 3", "got 4", "my [search]"]
        assert lines[6].startswith("2 threads exhausted, ")
        assert lines[-1] == "after it"


def test_what_cannot_be_rendered_above_does_not_end_the_run():
    program = (
        HEAD
        + """
scheduler = Scheduler.with_threads(2)
scheduler.on_start(lambda: scheduler.submit(abs, -3))
scheduler.on_future_result(lambda _, n: print("got", n))
scheduler.run(display=Display(above="[/odd]"))
"""
    )
    with Terminal(program) as terminal:
        assert terminal.wait() == 0
        assert "got 3" in terminal.text
        assert not terminal.screen.cursor.hidden


def test_a_dumb_terminal_gets_lines():
    program = (
        HEAD
        + """
scheduler = Scheduler.with_threads(1)
scheduler.on_start(lambda: scheduler.submit(abs, -3))
scheduler.run(display=True)
"""
    )
    with Terminal(program, TERM="dumb") as terminal:
        assert terminal.wait() == 0
        assert any("abs(-3) returned; " in line for line in terminal.lines)
