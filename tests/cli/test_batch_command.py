"""`dask-limits batch`, as people run it."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from pages import ROOT
from processes import all_gone, below, until
from terminals import Terminal

COMMAND = [sys.executable, "-m", "dask_limits", "batch"]
HOG = f"{sys.executable} -c 'import time; x = b\"1\" * (300 << 20); time.sleep(600)'; true"
"""It keeps its memory until it is ended: what looks at it may come late on a busy machine."""


def batch(*arguments, stdin="", **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=200,
        **options,
    )


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def file(tmp_path):
    def write(*lines):
        path = tmp_path / "commands.txt"
        path.write_text("\n".join(lines))
        return path

    return write


def test_the_output_of_each_command_comes_in_one_piece(file):
    lines = [
        f"for i in 1 2 3; do echo {n}; echo e{n} >&2; sleep 0.0$(( {n} % 3 )); done"
        for n in range(9)
    ]
    run = batch(file("# comment", "", *lines), "--workers", 4)
    assert run.returncode == 0
    for printed, prefix in ((run.stdout, ""), (run.stderr, "e")):
        said = printed.split()
        assert said[::3] == said[1::3] == said[2::3]
        assert sorted(said[::3]) == [f"{prefix}{n}" for n in range(9)]


def test_output_of_any_length_is_printed_whole(file):
    run = batch(file("yes | head -c 3000000"), "--memory", "100MiB")
    assert len(run.stdout) == 3_000_000


def test_keep_order_is_the_order_of_the_commands(file):
    run = batch(
        file("sleep 0.5; echo 1", "echo 2", "exit 1", "echo 4"), "--keep-order", "--workers", 2
    )
    assert run.stdout == "1\n2\n4\n" and run.returncode == 1


def test_commands_have_their_number_and_an_empty_input_and_this_folder(tmp_path):
    line = 'cat; echo "$DASK_LIMITS_INDEX of $DASK_LIMITS_COUNT in $PWD"'
    (tmp_path / "c").write_text(f"{line}\n{line}")
    run = batch("c", "--keep-order", cwd=tmp_path, stdin="not theirs")
    assert run.stdout == f"1 of 2 in {tmp_path}\n2 of 2 in {tmp_path}\n"


def test_a_template_runs_once_for_each_combination():
    run = batch("--param", "a=1..2", "--param", "b=x y,$z", "echo {a} {b}", "--keep-order")
    assert run.stdout == "1 x y\n1 $z\n2 x y\n2 $z\n"


def test_results_are_a_row_for_each_command(file, tmp_path):
    lines = ["echo out; echo err >&2", "exit 3", "kill -9 $$; true", "sleep 600", HOG]
    out = tmp_path / "out"
    run = batch(
        file(*lines), "--out", out, "--wall-time", "8s", "--memory", "150MiB", "--keep-order"
    )
    assert run.returncode == 1
    rows = rows_of(out)
    assert [row["command"] for row in rows] == lines
    assert [row["index"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [row["ending"] for row in rows] == [
        *("returned", "exited", "crashed", "wall_time", "memory"),
    ]
    assert [row["exit_code"] for row in rows] == ["0", "3", "-9", "", ""]
    assert rows[1]["cause"] == "exit code 3"
    assert re.fullmatch(r"went over its wall_time limit of 8 s: it took \S+ s", rows[3]["cause"])
    assert rows[4]["cause"].startswith("went over its memory limit") and "in:" not in str(rows)
    log = run.stdout.replace(HOG, "")
    assert "command(4: sleep 600) wall_time: went over " in log and ".py" not in log
    assert float(rows[3]["wall_time_s"]) >= 8 and int(rows[4]["peak_memory_bytes"]) > 150 << 20
    assert {(row["host"], row["job"], row["tries"]) for row in rows} == {
        (os.uname().nodename, "", "1")
    }
    assert (out / "output/1.out").read_text() == "out\n"
    assert (out / "output/1.err").read_text() == "err\n"
    assert f"dask-limits batch --resume {out} --rerun failed" in run.stderr
    assert "batch: 1 succeeded, 4 failed (" in run.stderr
    assert re.search(r"limits by what commands used: --memory \S+ --wall-time \S+\n", run.stderr)


def test_what_failed_is_told_at_the_end(file, tmp_path):
    """The first ten of them, each with the last line of its standard error."""
    out = tmp_path / "out"
    lines = ["true", "echo first >&2; echo last >&2; exit 3", "sleep 600"]
    run = batch(file(*lines, *["exit 4"] * 10), "--out", out, "--wall-time", "5s", "--keep-order")
    told = [line for line in run.stderr.splitlines() if line.startswith("failed: ")]
    assert len(told) == 10 and "and 2 more, see results.csv" in run.stderr
    assert "failed: 2 (echo first >&2; echo last >&2; exit 3): exit code 3: last" in told
    assert "failed: 5 (exit 4): exit code 4" in told


def test_parameters_are_in_the_results(tmp_path):
    table = tmp_path / "p.csv"
    table.write_text("lr,note\n0.1,a b\n0.2,c\n")
    out = tmp_path / "out"
    assert batch("--csv", table, "echo {lr}", "--out", out, "--keep-order").returncode == 0
    assert [json.loads(row["parameters"]) for row in rows_of(out)] == [
        {"lr": "0.1", "note": "a b"},
        {"lr": "0.2", "note": "c"},
    ]


def test_what_fails_is_tried_again_with_higher_limits(file, tmp_path):
    hog = (
        f"test -e {tmp_path}/second; first=$?; touch {tmp_path}/second;"
        f' {sys.executable} -c \'import sys, time; x = b"1" * (200 << 20);'
        " time.sleep(600 * int(sys.argv[1]))' $first"
    )
    flaky = f"echo >> {tmp_path}/tries; test $(wc -l < {tmp_path}/tries) = 3"
    out = tmp_path / "out"
    options = ["--retries", 2, "--memory", "100MiB", "--memory-factor", 3]
    assert batch(file(hog, flaky), "--out", out, *options, "--keep-order").returncode == 0
    assert [row["tries"] for row in rows_of(out)] == ["2", "3"]
    final = tmp_path / "final"
    assert batch(file("exit 1"), "--out", final, *options, "--no-retry-exits").returncode == 1
    assert rows_of(final)[0]["tries"] == "1"


def test_fail_fast_ends_the_others(file, tmp_path):
    out = tmp_path / "out"
    began = time.monotonic()
    run = batch(
        file("sleep 0.5; exit 7", "sleep 600", "sleep 600"),
        "--fail-fast",
        "--workers",
        2,
        "--out",
        out,
    )
    assert run.returncode == 1 and time.monotonic() - began < 100
    assert [row["exit_code"] for row in rows_of(out)] == ["7"]
    assert f"to go on: dask-limits batch --resume {out}" in run.stderr


def test_a_dry_run_prints_the_commands(file, tmp_path):
    run = batch(file("#", f"touch {tmp_path}/ran", "ls"), "--dry-run")
    assert run.stdout == f"touch {tmp_path}/ran\nls\n" and run.returncode == 0
    assert not (tmp_path / "ran").exists()


def test_commands_of_a_pipe_run_while_it_is_open(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "-", "--workers", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    with process:
        for n in range(3):
            process.stdin.write(f"echo {n}\n".encode())
            assert process.stdout.readline() == f"{n}\n".encode()
        process.stdin.write(b"echo last")
        process.stdin.close()
        assert process.stdout.read() == b"last\n"
    assert process.returncode == 0


def test_of_an_endless_pipe_as_much_is_read_as_there_is_room_for():
    run = subprocess.run(
        f"yes 'echo x' | {' '.join(COMMAND)} - --workers 2 | head -n 20",
        shell=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.stdout == "x\n" * 20
    assert "Traceback" not in run.stderr


def test_a_bad_line_of_a_pipe_ends_the_batch_after_those_before_it():
    run = batch("-", stdin="echo 1\necho 2\na\0b\necho 4\n")
    assert sorted(run.stdout.split()) == ["1", "2"] and run.returncode == 2
    assert "standard input, line 3 has a NUL character" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give a FILE of commands"),
        (["nowhere.txt"], "There is no file nowhere.txt."),
        (["bad.txt"], "bad.txt, line 2 has a NUL character"),
        (["c.txt", "--rerun", "all"], "--rerun needs --resume."),
        (["c.txt", "--out", "full"], "--out full is not empty."),
        (["--resume", "full"], "full has no batch that can be resumed"),
        (["--param", "a=1", "--csv", "c.txt", "x"], "cannot go together"),
        (["--param", "a=1", "echo '{a}'"], "Leave the quotes out"),
        (["c.txt", "--memory", "many"], "--memory 'many' is not an amount of memory"),
        (
            ["c.txt", "--walltime", "1h"],
            "--walltime needs --executor slurm, pbs, ..., not processes",
        ),
        (["c.txt", "--executor", "lsf", "--workers", "1"], "needs LSF's command bsub"),
        (["c.txt", "--memory", "900 TB"], "at most. Lower --memory.\n"),
        (["c.txt", "--cores", "10000"], "each reserves 10000 cores, and there are "),
        (["c.txt", "--memory", "200"], "memory=200 is 200 bytes, but a call that does nothing"),
        (["c.txt", "--memory", "200", "--dry-run"], 'Did you mean "200 MiB"?\n'),
        (["c.txt", "--memory-factor", "2"], "--memory-factor needs --retries"),
        (["c.txt", "--wall-time-factor", "2"], "--wall-time-factor needs --retries"),
        (["--param", "a=1", "echo '{a'"], "belongs to no field such as {}, {0} or {name}. Write"),
        (["--param", "a=1", "echo '{a'"], "{{ for a brace.\n"),
        (["c.txt", "--jobs", "4"], "No such option: --jobs. Use --workers."),
        (["c.txt", "-j4"], "No such option: -j. Use --workers."),
        (
            ["--param", "x=1..3", "run", "--x", "{x}"],
            "No such option: --x. A command is one argument",
        ),
        (["--param=x=1..3", "--", "run", "--x"], "Got '--x' beside the first argument."),
        (["c.txt", "d.txt"], "Got 'd.txt' beside the first argument."),
        (["c.txt", "--timeout", "4"], "Use --wall-time."),
        (["c.txt", "--time", "4"], "Use --wall-time (of each command) or --walltime (of each job)"),
        (["c.txt", "--results", "x"], "Use --out."),
        (["c.txt", "--joblog=x"], "Use --out."),
        (["c.txt", "--halt", "now,fail=1"], "Use --fail-fast."),
        (["c.txt", "--memfree", "1G"], "Use --memory."),
        (["c.txt", "--mem", "1G"], "Use --memory."),
    ],
)
def test_bad_input_is_said_before_anything_starts(tmp_path, arguments, said):
    (tmp_path / "c.txt").write_text("touch ran")
    (tmp_path / "bad.txt").write_bytes(b"touch ran\n\0")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    run = batch(*arguments, cwd=tmp_path)
    assert "Traceback" not in run.stderr and not re.search(r"[^.]\.\.$", run.stderr)
    assert run.returncode == 2 and said in run.stderr and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_commands_and_the_rest_runs_later(file, tmp_path, number, code):
    out, go = tmp_path / "out", tmp_path / "go"
    waits = f"echo >> {tmp_path}/begun; until test -e {go}; do sleep 0.05; done; echo done"
    commands = file(f"echo >> {tmp_path}/first", *[f"{waits} {n}" for n in range(3)])
    process = subprocess.Popen([*COMMAND, commands, "--out", out, "--workers", "2"])
    until(lambda: out.is_dir() and (out / "results.csv").exists() and len(rows_of(out)) == 1)
    until(lambda: (tmp_path / "begun").exists() and len((tmp_path / "begun").read_text()) == 2)
    pids = below(process.pid)
    process.send_signal(number)
    assert process.wait(60) == code
    all_gone(pids)
    go.touch()
    run = batch("--resume", out)
    assert run.returncode == 0 and len(rows_of(out)) == 4
    assert len((tmp_path / "first").read_text()) == 1  # it did not run twice
    assert (out / "output/4.out").read_text() == "done 2\n"


def test_a_second_resume_changes_nothing_while_the_first_runs(file, tmp_path):
    out, go = tmp_path / "out", tmp_path / "go"
    commands = file("true", f"until test -e {go}; do sleep 0.05; done")
    process = subprocess.Popen([*COMMAND, commands, "--out", out, "--workers", "1"])
    try:
        until(lambda: (out / "results.csv").exists() and len(rows_of(out)) == 1)
        until(lambda: (out / "output/2.out").exists())
        before = {name: (out / name).read_bytes() for name in ("results.csv", "batch.json")}
        run = batch("--resume", out, "--memory", "200MiB")
        assert run.returncode == 1 and "Another driver writes the journal" in run.stderr
        assert {name: (out / name).read_bytes() for name in before} == before
    finally:
        go.touch()
        assert process.wait(60) == 0
    assert [row["index"] for row in rows_of(out)] == ["1", "2"]


def test_results_that_are_emptied_meanwhile_have_no_hole(file, tmp_path):
    out, go = tmp_path / "out", tmp_path / "go"
    commands = file("true", f"until test -e {go}; do sleep 0.05; done")
    process = subprocess.Popen([*COMMAND, commands, "--out", out, "--workers", "1"])
    try:
        until(lambda: (out / "results.csv").exists() and len(rows_of(out)) == 1)
        os.truncate(out / "results.csv", 0)
    finally:
        go.touch()
        assert process.wait(60) == 0
    assert (out / "results.csv").read_bytes().startswith(b"2,")


@pytest.mark.parametrize(("rerun", "left"), [("none", [3]), ("failed", [2, 3]), ("all", [1, 2, 3])])
def test_a_dry_run_of_a_resumed_batch_prints_what_would_run(file, tmp_path, rerun, left):
    out, commands = tmp_path / "out", ["true", "exit 3", "exit 4"]
    batch(file(*commands[:2]), "--out", out)
    file(*commands)
    before = (out / "results.csv").read_bytes()
    run = batch("--resume", out, "--dry-run", "--rerun", rerun)
    assert run.stdout.splitlines() == [commands[n - 1] for n in left] and run.returncode == 0
    assert (out / "results.csv").read_bytes() == before


def test_after_ctrl_c_it_says_how_many_never_began(file, tmp_path):
    out = tmp_path / "out"
    commands = file("true", *[f"echo >> {tmp_path}/begun; sleep 600"] * 5)
    process = subprocess.Popen(
        [*COMMAND, commands, "--out", out, "--workers", "2"], stderr=subprocess.PIPE, text=True
    )
    until(lambda: (tmp_path / "begun").exists() and len((tmp_path / "begun").read_text()) == 2)
    until(lambda: len(rows_of(out)) == 1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "1 succeeded, 0 failed, 2 ended by this program, 3 never begun" in said


def test_a_killed_batch_is_resumed_and_what_has_ended_does_not_run_again(file, tmp_path):
    out = tmp_path / "out"
    commands = file(*[f"echo >> {tmp_path}/ran-{n}; sleep 0.1" for n in range(30)])
    process = subprocess.Popen([*COMMAND, commands, "--out", out, "--workers", "2"])
    until(lambda: (out / "results.csv").exists() and len(rows_of(out)) >= 5)
    pids = below(process.pid)
    process.kill()
    process.wait()
    all_gone(pids)
    told = {int(row["index"]) for row in rows_of(out)}
    run = batch("--resume", out, "--memory", "200MiB")
    assert run.returncode == 0
    assert sorted(int(row["index"]) for row in rows_of(out)) == list(range(1, 31))
    assert {n for n in range(30) if len((tmp_path / f"ran-{n}").read_text()) > 1}.isdisjoint(
        index - 1 for index in told
    )


def test_what_failed_runs_again_on_request(file, tmp_path):
    out = tmp_path / "out"
    commands = file(f"test -e {tmp_path}/fixed", f"echo >> {tmp_path}/good")
    assert batch(commands, "--out", out).returncode == 1
    (tmp_path / "fixed").touch()
    assert batch("--resume", out).returncode == 1
    assert batch("--resume", out, "--rerun", "failed").returncode == 0
    assert len((tmp_path / "good").read_text()) == 1
    assert {row["ending"] for row in rows_of(out)} == {"returned"}


def test_commands_of_a_pipe_are_resumed_without_it(tmp_path):
    out = tmp_path / "out"
    lines = f"echo >> {tmp_path}/ran\ntest -e {tmp_path}/fixed\n"
    assert batch("-", "--out", out, stdin=lines).returncode == 1
    (tmp_path / "fixed").touch()
    assert batch("--resume", out, "--rerun", "failed").returncode == 0
    assert len((tmp_path / "ran").read_text()) == 1


def test_a_batch_that_ended_before_its_pipe_says_so_when_it_is_resumed(tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*COMMAND, "-", "--out", str(out), "--workers", "1"], stdin=subprocess.PIPE, bufsize=0
    )
    with process:
        process.stdin.write(f"echo >> {tmp_path}/ran\ntrue\nrm ".encode())
        until(lambda: (out / "results.csv").exists() and len(rows_of(out)) == 2)
        process.kill()
    out = out.rename(tmp_path / "moved")
    run = batch("--resume", out)
    assert run.returncode == 1 and "Standard input had not ended" in run.stderr
    assert "2 succeeded, 0 failed" in run.stderr and len((tmp_path / "ran").read_text()) == 1


def test_fail_fast_is_for_what_fails_in_this_run(file, tmp_path):
    out = tmp_path / "out"
    commands = file("exit 3", *["true"] * 6)
    assert batch(commands, "--out", out, "--fail-fast", "--workers", "1").returncode == 1
    assert batch("--resume", out).returncode == 1
    assert len(rows_of(out)) == 7


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_runs_again_and_is_ended_runs_again(file, tmp_path, kill):
    """Its output is gone by then, and so the journal must not say that it has succeeded."""
    out, once = tmp_path / "out", tmp_path / "once"
    commands = file(f"test -e {once} && sleep 600; echo result")
    assert batch(commands, "--out", out).returncode == 0
    once.touch()
    process = subprocess.Popen([*COMMAND, "--resume", out, "--rerun", "all"])
    until(lambda: (out / "output/1.out").read_bytes() == b"")
    process.send_signal(kill)
    process.wait(60)
    once.unlink()
    assert batch("--resume", out, "--dry-run").stdout.count("\n") == 1
    assert batch("--resume", out).returncode == 0
    assert (out / "output/1.out").read_text() == "result\n"


def test_a_command_whose_output_another_has_replaced_runs_again(file, tmp_path):
    out = tmp_path / "out"
    for lines in (["echo one", "echo two"], ["echo ZZZ", "echo two"], ["echo one", "echo two"]):
        commands = file(*lines)
        run = batch(*(["--resume"] if out.exists() else [commands, "--out"]), out)
        assert run.returncode == 0
        said = [(out / f"output/{n}.out").read_text() for n in (1, 2)]
        assert [f"echo {text}".strip() for text in said] == lines


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_a_standard_stream_that_is_closed_is_said_or_does_not_matter(file, tmp_path, closed):
    path = file(f"echo >> {tmp_path}/ran")
    source = "-" if closed == "<&-" else path
    run = subprocess.run(
        f"{shlex.join(COMMAND)} {source} {closed}", shell=True, capture_output=True, text=True
    )
    assert run.returncode != 0 and not (tmp_path / "ran").exists()
    assert "Traceback" not in run.stderr
    assert "is closed" in run.stderr or closed == "2>&-"


def test_all_output_is_printed_or_it_is_an_error(file):
    """With PYTHONUNBUFFERED, Python's own standard output may write a part."""
    path = file("head -c 300000 /dev/zero")
    run = subprocess.run(
        f"ulimit -f 100; {shlex.join(COMMAND)} {path} > {path}.out",
        shell=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert run.returncode == 1 and "File too large" in run.stderr


def test_a_signal_that_the_shell_has_it_ignore_stays_ignored(file):
    path = file("sleep 1; echo done")
    process = subprocess.Popen(
        f"trap '' INT HUP; exec {shlex.join(COMMAND)} {path}",
        shell=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    until(lambda: below(process.pid))
    for number in (signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    assert process.communicate(timeout=60)[0] == "done\n" and process.returncode == 0


def test_a_terminal_that_is_closed_ends_all_commands(file, tmp_path):
    path = file(f"echo >> {tmp_path}/begun; sleep 600")
    process = subprocess.Popen([*COMMAND, path], env={**os.environ, "TMPDIR": str(tmp_path)})
    until(lambda: (tmp_path / "begun").exists())
    pids = below(process.pid)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 128 + signal.SIGHUP
    all_gone(pids)
    assert not [*tmp_path.glob("batch-*")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "batch.json is damaged"),
        ('{"version": 1, "options": []}', "batch.json is damaged"),
        ('{"version": 1, "options": {"file": "f"}}', "batch.json is damaged"),
        ('{"version": 2}', "it is of version 2, and this one is 1"),
        ("{", "has no batch that can be resumed"),
    ],
)
def test_a_damaged_file_of_options_is_one_sentence(tmp_path, text, said):
    (tmp_path / "batch.json").write_text(text)
    run = batch("--resume", tmp_path)
    assert run.returncode == 2 and said in run.stderr and "Traceback" not in run.stderr


def test_a_journal_that_cannot_be_locked_is_one_sentence(file, tmp_path):
    out = tmp_path / "out"
    batch(file("true"), "--out", out)
    (out / "journal.sqlite.lock").mkdir()
    run = batch("--resume", out)
    assert run.returncode == 1 and "Error: The batch cannot go on: Is a directory." in run.stderr
    assert "Traceback" not in run.stderr


def test_a_table_that_is_gone_is_one_sentence(tmp_path):
    (tmp_path / "t.csv").write_text("lr\n1\n")
    assert batch("--csv", "t.csv", "true {lr}", "--out", "o", cwd=tmp_path).returncode == 0
    (tmp_path / "t.csv").unlink()
    run = batch("--resume", "o", cwd=tmp_path)
    assert run.returncode == 2 and "t.csv cannot be read: No such file" in run.stderr


def test_commands_that_cannot_be_shown_are_one_sentence(file):
    run = subprocess.run(
        f"{shlex.join(COMMAND)} {file('true')} --dry-run > /dev/full",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr == "Error: The commands cannot be shown: No space left on device.\n"


def test_a_batch_that_is_resumed_and_ended_still_tells_of_what_had_ended(file, tmp_path):
    out = tmp_path / "out"
    commands = file(*[f"test -e {tmp_path}/again && sleep 600; exit 3"] * 3, *["true"] * 8)
    assert batch(commands, "--out", out, "--workers", "1").returncode == 1
    (tmp_path / "again").touch()
    process = subprocess.Popen(
        [*COMMAND, "--resume", out, "--rerun", "failed"], stderr=subprocess.PIPE, text=True
    )
    until(lambda: len(rows_of(out)) == 8)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert "batch: 8 succeeded, " in said and {*map(str, range(4, 12))} <= {
        row["index"] for row in rows_of(out)
    }


def test_with_fail_fast_no_command_begins_after_one_that_fails(file, tmp_path):
    path = file("false", *[f"echo >> {tmp_path}/ran"] * 3)
    run = batch(path, "--fail-fast", "--workers", "1")
    assert run.returncode == 1 and not (tmp_path / "ran").exists()
    assert "0 succeeded, 1 failed (1 exited), 3 never begun" in run.stderr


def test_a_file_without_commands_is_said(file):
    run = batch(file("# none"))
    assert (run.returncode, run.stdout) == (0, "")
    assert re.fullmatch(r"batch: \S+ has no commands\n", run.stderr)


def test_results_may_be_where_a_group_may_write(file, tmp_path):
    out = tmp_path / "out"
    run = subprocess.run(f"umask 002; {shlex.join(COMMAND)} {file('true')} --out {out}", shell=True)
    assert run.returncode == 0 and out.stat().st_mode & 0o022 == 0


def test_limits_that_are_suggested_are_above_those_of_tries_in_an_earlier_run(file, tmp_path):
    out = tmp_path / "out"
    retries = ("--memory", "100MiB", "--retries", "1", "--memory-factor", "2")
    first = batch(file(HOG), "--out", out, *retries)
    suggested = re.search(r"limits by what commands used: .*", first.stderr)
    assert suggested and suggested[0] in batch("--resume", out).stderr


def test_memory_does_not_grow_with_the_number_of_commands(file, tmp_path):
    out, size = tmp_path / "out", 10_000  # bytes of a command, which nothing keeps
    commands = file(*[f": {n} {'x' * size}" for n in range(3000)])
    process = subprocess.Popen(
        [*COMMAND, str(commands), "--out", str(out), "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    driver = psutil.Process(process.pid)
    resident = {}  # bytes, after so many thousand commands
    with process:
        until(lambda: (out / "results.csv").exists())
        while process.poll() is None:
            done = (out / "results.csv").stat().st_size // (1000 * size)
            resident.setdefault(done, driver.memory_info().rss)
            time.sleep(0.02)
    assert process.returncode == 0 and len(rows_of(out)) == 3000
    assert resident[2] - resident[1] < 1000 * size / 2


@pytest.mark.dask
def test_commands_run_on_dask(file):
    run = batch(
        file("echo a", "exit 4"), "--executor", "dask", "--workers", 1, "--memory", "200MiB"
    )
    assert run.stdout == "a\n" and run.returncode == 1


def test_the_live_view_is_on_standard_error_where_standard_output_goes_elsewhere(file, tmp_path):
    go = tmp_path / "go"
    path = file(f"until test -e {go}; do sleep 0.05; done; echo done")
    command = [*COMMAND, str(path), "--workers", "1"]
    program = f"""
        import subprocess, sys
        with open({str(tmp_path / "printed")!r}, "w") as file:
            sys.exit(subprocess.run({command!r}, stdout=file).returncode)
    """
    with Terminal(program, columns=100) as terminal:
        terminal.wait_until(lambda lines: any("until test" in line for line in lines))
        go.touch()
        assert terminal.wait() == 0
    assert (tmp_path / "printed").read_text() == "done\n"


HOW_TO = (ROOT / "docs/how-to/batch.md").read_text()
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_how_to_runs(tmp_path):
    """Its lines, but for the cluster, with a train.py that tells its arguments."""
    (tmp_path / "train.py").write_text("import sys; print(sys.argv[1:])")
    (tmp_path / "commands.txt").write_text("# two\necho 1\necho 2\n")
    lines = [line for block in BLOCK.findall(HOW_TO) for line in block.splitlines()]
    assert len(lines) == 6
    program = f"{sys.executable} -m dask_limits"
    run = [line.replace("dask-limits", program) for line in lines if "slurm" not in line]
    run = [line.replace("python train", f"{sys.executable} train") for line in run]
    for line in run:
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, (line, done.stderr)
    assert len(rows_of(tmp_path / "runs")) == 20
