"""Commands run under limits with all that they start, and end as typed values and errors."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes import alive, until, written_pid

from dask_limits import CommandResult, PynisherPlugin, Retry, Scheduler, command, limit
from dask_limits.commands.run import _KEPT
from dask_limits.exceptions import (
    CallError,
    CommandCrashError,
    CommandError,
    CommandExitError,
    CpuTimeBreach,
    CrashError,
    ExitError,
    MemoryBreach,
    WallTimeBreach,
)
from dask_limits.limits.endings import word_of
from dask_limits.limits.where import where_ended

FAR = {"wall_time": 120}


def error_of(template, *args, **limits):
    return limit(command(template), **FAR | limits).run(*args).exception


@pytest.fixture(params=["in a task process", "here"])
def call(request):
    """How a command is called: with limits, or without any."""
    return (lambda run: limit(run, **FAR)) if request.param == "in a task process" else lambda c: c


def test_what_a_command_says_is_its_value(call):
    assert call(command("echo out {}; echo err >&2"))("a b") == CommandResult(
        0, "out a b\n", "err\n"
    )
    assert call(command(["echo", "{x}"]))(x="$HOME").stdout == "$HOME\n"


def test_only_the_end_of_a_long_output_is_kept(call):
    result = call(command("yes | head -c {n}; printf end"))(n=_KEPT)
    assert result.stdout.startswith("[... 3 bytes left out ...]\n")
    assert len(result.stdout.partition("\n")[2]) == _KEPT and result.stdout.endswith("\nend")


def test_what_is_no_text_is_replaced(call):
    assert call(command("printf 'a\\377b'"))().stdout == "a\ufffdb"


def test_folder_environment_and_standard_input_are_templates(call, tmp_path):
    (tmp_path / "in-7").write_text("from a file")
    run = command(
        'pwd; cat; echo " $MODE $KEPT"',
        cwd=f"{tmp_path}",
        env={"MODE": "mode {n}"},
        stdin=tmp_path / "in-{n}",
    )
    os.environ["KEPT"] = "kept"
    try:
        assert call(run)(n=7).stdout == f"{tmp_path}\nfrom a file mode 7 kept\n"
    finally:
        del os.environ["KEPT"]
    assert call(command("cat", stdin=b"\0x" * 100_000))().stdout.endswith("\0x\0x")
    assert call(command("wc -c", stdin=b"\0x" * 100_000))().stdout.strip() == "200000"
    with pytest.raises(FileNotFoundError, match=r"pass text itself as bytes: 'some text'"):
        command("cat", stdin="some text")()


def test_standard_input_that_does_not_fit_on_the_disk_is_an_error():
    """A write beyond a limit of file sizes is short, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            command("wc -c", stdin=bytes(3_000_000))()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_standard_input_is_empty_by_default(call):
    assert call(command("cat; echo end"))().stdout == "end\n"


def test_output_goes_to_files_as_it_is_written(call, tmp_path):
    run = command("echo {}; echo error >&2; yes | head -c 100000", output=tmp_path / "a/{}.out")
    result = call(run)(0.1)
    assert result.output == (tmp_path / "a/0.1.out", tmp_path / "a/0.1.err")
    assert result.output[0].stat().st_size == 100_004
    assert result.output[1].read_text() == result.stderr == "error\n"
    assert result.stdout.startswith("[... 34468 bytes left out ...]\n")
    call(command("echo", output=f"{tmp_path}/x.log"))()
    assert (tmp_path / "x.log").exists() and (tmp_path / "x.log.err").exists()


def test_both_go_to_a_device(call):
    result = call(command("echo out; echo err >&2", output="/dev/null"))()
    assert result == CommandResult(0, "", "", (Path("/dev/null"), Path("/dev/null")))
    assert not Path("/dev/null.err").exists()


@pytest.mark.parametrize(
    "name", ["/dev/stdout", "/dev//fd/1", "/proc/self/fd/{}", "/dev/{}", "{}/../dev/stderr"]
)
def test_what_this_process_has_open_is_no_output(name, tmp_path):
    """Opened again as a file, the log of this program would lose what it has."""
    value = {"/dev/{}": "stdout", "{}/../dev/stderr": tmp_path.parents[-2]}.get(name, 1)
    with pytest.raises(ValueError, match=r"is open in this process\. Leave output out"):
        command("echo", output=name)(*[value] * name.count("{}"))


@pytest.mark.parametrize("end", ["out", "err"])
def test_what_is_no_file_is_no_output(end, tmp_path):
    os.mkfifo(tmp_path / f"x.{end}")
    with pytest.raises(ValueError, match=rf"x\.{end} is neither a file nor a device"):
        command("echo", output=tmp_path / "x.out")()
    assert [*tmp_path.iterdir()] == [tmp_path / f"x.{end}"]


def test_what_a_command_wrote_before_a_breach_is_in_its_file(tmp_path):
    run = command("echo started; while :; do :; done", output=tmp_path / "x.out")
    with pytest.raises(CpuTimeBreach):  # which comes after that, however busy the machine is
        limit(run, cpu_time=0.5)()
    assert (tmp_path / "x.out").read_text() == "started\n"


@pytest.mark.parametrize(
    ("template", "code", "says"),
    [
        ("echo out; echo {} >&2; exit 3", 3, "exit code 3\nwhy"),
        ("no-such-program {}", 127, "the shell has not found the program"),
        ("/etc/passwd {}", 126, "it was found, but cannot be run"),
        ("exit 129 # git", 129, "exit code 129"),
        (["sh", "-c", "exit 137"], 137, "exit code 137"),
    ],
)
def test_another_exit_code_is_an_exit_error(template, code, says):
    args = ["why"] if "{}" in template else []
    error = error_of(template, *args)
    assert type(error) is CommandExitError and isinstance(error, ExitError | CommandError)
    assert error.exit_code == code and says in str(error)
    assert word_of(error) == "exited"
    assert error.usage.wall_time > 0 and error.limits.wall_time == 120 and error.call


def test_an_error_has_the_ends_of_the_output_and_can_be_pickled():
    error = pickle.loads(pickle.dumps(error_of("echo out {}; echo err >&2; exit 1", "a b")))
    assert (error.stdout, error.stderr, error.exit_code) == ("out a b\n", "err\n", 1)
    assert error.command == "echo out 'a b'; echo err >&2; exit 1"
    assert error.call == "echo"
    assert str(error) == f"{error.command}: exit code 1\nerr"


@pytest.mark.parametrize(
    ("template", "number"),
    [
        ("kill -SEGV $$; true", signal.SIGSEGV),
        ("sh -c 'kill -KILL $$'; exit $?", signal.SIGKILL),  # as the shell says it
        (["sh", "-c", "kill -TERM $$; true"], signal.SIGTERM),
        (f"kill -{signal.SIGRTMIN + 3} $$; true", signal.SIGRTMIN + 3),
    ],
)
def test_a_signal_is_a_crash(template, number):
    error = error_of(template)
    assert type(error) is CommandCrashError and isinstance(error, CrashError | CommandError)
    assert error.signal == number and getattr(number, "name", "(SIGRTMIN+3)") in str(error)
    assert word_of(error) == "crashed"


def test_an_error_without_limits_is_the_same(tmp_path):
    with pytest.raises(CommandExitError, match="exit code 4"):
        command("exit 4")()
    with pytest.raises(FileNotFoundError, match="no-such"):
        command(["no-such-program"])()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        command("ls", cwd=tmp_path / "nowhere")()


def test_limits_hold_for_what_a_command_starts(tmp_path):
    pid = tmp_path / "pid"
    inner = f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600"
    spins = f"until test -e {pid}; do sleep 0.05; done; while :; do :; done"
    line = f"(setsid sh -c '{inner}' &); {spins}"
    call = limit(command(line), cpu_time=1)
    with pytest.raises(CpuTimeBreach):
        call()
    until(lambda: not alive(written_pid(pid)))
    hog = (
        f"{sys.executable} -c 'import time; x = bytearray(300 << 20);"
        ' x[::4096] = b"1" * len(x[::4096]); time.sleep(600)\'; true'
    )
    error = error_of(hog, memory="100 MiB")
    assert type(error) is MemoryBreach and "python" in error.child.command


def test_a_command_is_warned_by_sigterm_where_there_is_a_grace_period(tmp_path):
    told = tmp_path / "told"
    run = command("told={}; trap 'echo told > \"$told\"; exit' TERM; while :; do :; done")
    with pytest.raises(CpuTimeBreach):
        limit(run, cpu_time=0.5, grace_period=60)(told)
    assert told.read_text() == "told\n"


def test_ctrl_c_ends_a_command_that_has_no_limits(tmp_path):
    pid = tmp_path / "pid"
    program = f"from dask_limits import command; command('echo $$ > {pid}; exec sleep 600')()"
    run = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    until(lambda: pid.exists() and pid.read_text())
    run.send_signal(signal.SIGINT)
    assert run.wait(60) != 0
    until(lambda: not alive(int(pid.read_text())))


STARTS_AS_CTRL_C_COMES = """
import pathlib, signal, subprocess, sys
from dask_limits import command

class Popen(subprocess.Popen):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        pathlib.Path(sys.argv[1]).write_text(str(self.pid))
        signal.raise_signal(signal.SIGINT)

subprocess.Popen = Popen
command("exec sleep 600")()
"""


def test_ctrl_c_ends_a_command_that_is_just_starting(tmp_path):
    pid = tmp_path / "pid"
    argv = [sys.executable, "-c", STARTS_AS_CTRL_C_COMES, pid]
    run = subprocess.run(argv, stderr=subprocess.PIPE, text=True, timeout=60)
    assert "KeyboardInterrupt" in run.stderr
    assert not alive(int(pid.read_text()))


def test_a_command_in_the_background_does_not_keep_its_call():
    assert limit(command("sleep 600 & echo done"), **FAR)().stdout == "done\n"


def test_a_command_is_a_task_of_a_scheduler(tmp_path):
    scheduler = Scheduler.with_processes(2)
    names = [tmp_path / "a b", tmp_path / "$(c)"]
    for name in names:
        name.write_text("x")
    task = scheduler.task(command("gzip -k {}"), plugins=PynisherPlugin(walltime_limit=60))
    scheduler.on_start(lambda: scheduler.map(task, names))
    scheduler.run()
    assert all(Path(f"{name}.gz").exists() for name in names)
    assert task.name == "gzip"


def test_a_crash_is_retried_and_an_exit_code_is_not_unless_asked(tmp_path):
    lines = {"kill": "kill -9 $$; true", "exit": "exit 1", "asked": "exit 1"}
    for name, how in lines.items():
        scheduler = Scheduler.with_processes(1)
        on = (*Retry.USUAL, CommandError) if name == "asked" else Retry.USUAL
        plugins = [PynisherPlugin(walltime_limit=60), Retry(max_retries=2, on=on)]
        task = scheduler.task(command(f"echo >> {tmp_path / name}; {how}"), plugins=plugins)
        scheduler.on_start(lambda task=task: bool(task.submit()))
        scheduler.run(on_exception="continue")
    tries = {name: len((tmp_path / name).read_text()) for name in lines}
    assert tries == {"kill": 3, "exit": 1, "asked": 3}


def test_commands_run_in_threads_at_one_time():
    run = command("echo {}")
    values = {}
    threads = [
        threading.Thread(target=lambda n=n: values.update({n: run(n).stdout})) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == {n: f"{n}\n" for n in range(8)}


@pytest.mark.dask
def test_a_command_runs_on_dask():
    scheduler = Scheduler.with_dask(n_workers=1, dashboard_address=":0")
    task = scheduler.task(command("exit {}"), plugins=PynisherPlugin(walltime_limit=60))
    errors = []
    task.on_exception(lambda future, error: errors.append(error))
    scheduler.on_start(lambda: task.submit(5))
    scheduler.run(on_exception="continue")
    (error,) = errors
    assert type(error) is CommandExitError and isinstance(error, CallError)
    assert error.exit_code == 5 and error.usage.wall_time > 0


def test_a_command_has_no_line_of_python_and_a_function_around_it_has_its_own():
    """The files that run commands are ours."""

    def train():  # by value: the import of this file could take the time
        command("sleep 600")()

    with pytest.raises(WallTimeBreach) as told:
        limit(command("sleep 600"), wall_time=1)()
    assert told.value.stacks == "" and ".py" not in str(told.value)
    with pytest.raises(WallTimeBreach) as told:
        limit(train, wall_time=3)()
    assert where_ended(told.value.stacks).endswith(" in train")
