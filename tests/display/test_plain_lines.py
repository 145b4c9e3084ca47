"""A run whose output goes to a file or a pipe."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


def lines_of(program, **options):
    """What a program writes into a pipe, without the times."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
        **options,
    )
    lines = done.stdout.decode().splitlines()
    assert all(re.match(STAMP, line) for line in lines), lines
    return [re.sub(STAMP, "", line) for line in lines]


def test_each_failure_has_a_line_with_cause_and_place():
    lines = lines_of(
        r"""
        import time
        from dask_limits import Scheduler, limit

        def sleep(*_):
            time.sleep(60)

        def fail(text):
            raise ValueError(text)

        scheduler = Scheduler.with_processes(2)
        @scheduler.on_start
        def begin():
            scheduler.submit(limit(sleep, wall_time=0.1), "red\x1b[2J")
            for n in range(10):
                scheduler.submit(fail, "red\x1b[2J")
            scheduler.submit(abs, -3)
        scheduler.run(display=True, on_exception="continue")
        """
    )
    assert lines[0].startswith("run on 2 processes (starting, ")
    assert lines[-1].startswith("run on 2 processes (exhausted, ")
    assert "): 1 returned, 10 raised, 1 wall_time; " in lines[-1]
    failed = [line for line in lines if line.startswith("fail(")]
    assert len(failed) == 10
    assert failed[0].startswith(r"fail('red\x1b[2J') raised: ValueError: red\x1b[2J; ")
    assert failed[0].endswith(" in fail")
    (breach,) = (line for line in lines if line.startswith("sleep("))
    assert r"sleep('red\x1b[2J') wall_time: went over its wall_time limit of 0.1 s: " in breach
    assert any(line.startswith("abs(-3) returned; ") for line in lines)


def test_calls_that_return_fast_are_summed_up():
    lines = lines_of(
        """
        from dask_limits import Scheduler
        scheduler = Scheduler.with_threads(2)
        scheduler.on_start(lambda: scheduler.map(abs, range(3000)))
        scheduler.run(display=True)
        """
    )
    left_out = [re.match(r"and (\d+) returned, each too soon", line) for line in lines]
    n_summed = sum(int(found[1]) for found in left_out if found)
    n_lines = sum(line.startswith("abs(") for line in lines)
    assert n_summed + n_lines == 3000
    assert 5 <= n_lines < 100
    assert "3000 returned" in lines[-1]


def test_what_the_encoding_of_a_log_lacks_is_escaped():
    lines = lines_of(
        r"""
        from dask_limits import Scheduler
        scheduler = Scheduler.with_threads(1)
        scheduler.on_start(lambda: scheduler.submit(len, "\u4eba"))
        scheduler.run(display=True)
        """,
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert any(line.startswith(r"len('\u4eba') returned; ") for line in lines)


def test_a_run_goes_on_when_nobody_reads_its_lines_any_more():
    program = """
    import sys
    from dask_limits import Scheduler
    scheduler = Scheduler.with_threads(1)
    @scheduler.on_start
    def begin():
        input()
        scheduler.submit(abs, -3)
        scheduler.submit(abs, -4)
    results = []
    scheduler.on_future_result(lambda _, result: results.append(result))
    scheduler.run(display=True)
    sys.stdout = None
    print(results, file=sys.stderr)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert "starting" in process.stdout.readline()
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.flush()
        assert "[3, 4]" in process.stderr.read()


def test_what_comes_back_from_a_journal_has_no_lines_and_a_summary_soon(tmp_path):
    """The last call of the second run takes longer than that."""
    program = f"""
        import sys, time
        from dask_limits import Display, Scheduler
        scheduler = Scheduler.with_threads(1)
        task = scheduler.task(time.sleep)
        seconds = [0] * 3 if N == 3 else [0] * 3 + [4]
        scheduler.on_start(lambda: [task.submit(s) for s in seconds] and None)
        scheduler.run(journal={str(tmp_path / "run.sqlite")!r}, display=Display(total=4))
    """
    first, again = (lines_of(program.replace("N ==", f"{n} ==")) for n in (3, 4))
    assert first[0].endswith("s): no call has ended") and len(first) == 5
    _, summary, row, last = again
    assert "s): 3 from the journal; " in summary and summary.endswith("; 1 left")
    assert row.startswith("sleep(4) returned; ")
    assert "): 1 returned, 3 from the journal; " in last
