"""Runs a command as a child of this process, which limits it with all that it starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from dask_limits.commands.result import CommandResult

_KEPT: Final = 64 * 1024
"""Bytes of the end of each stream that are kept as text."""
_SHOWN_LINES: Final = 10
_SHOWN: Final = 2000
"""Characters of standard error, and of the command line, in a message."""
_SHELL: Final = "/bin/sh"
_OF_SHELLS: Final = 128
"""A shell whose command was ended by a signal exits with this plus its number."""
_SIGNALS: Final = {
    signal.SIGINT,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGKILL,
    signal.SIGSEGV,
    signal.SIGTERM,
    signal.SIGXCPU,
    signal.SIGXFSZ,
    signal.SIGSYS,
}
"""Those that mean a crash in the exit code of a shell. `git` exits with 129 by itself, which would
be SIGHUP, and a pipe that is read in part means SIGPIPE, 141."""
_WHY: Final = {
    126: " (it was found, but cannot be run: is it a program, with permission to run it?)",
    127: " (the shell has not found the program, or the program a library)",
}
_RAISING: Final = (signal.SIGINT, signal.SIGTERM)
_GRACE_S: Final = 1.0
"""Seconds between SIGTERM and SIGKILL, where no guardian ends the command."""


class Program(NamedTuple):
    """What to run: a line for the shell, or a program and its arguments."""

    words: str | list[str]
    cwd: str | None
    env: dict[str, str]
    stdin: str | bytes | None
    output: tuple[Path, Path] | None

    @property
    def argv(self) -> list[str]:
        """The program and its arguments."""
        return [_SHELL, "-c", self.words] if isinstance(self.words, str) else self.words

    @property
    def for_shell(self) -> bool:
        """Whether the exit code is that of a shell."""
        return len(self.argv) == 3 and self.argv[:2] == [_SHELL, "-c"]

    @property
    def line(self) -> str:
        """The command line as text, for messages."""
        import shlex  # few calls fail

        return self.argv[2] if self.for_shell else shlex.join(self.argv)


def run(program: Program) -> CommandResult:
    """Run a command until it ends.

    Raises:
        CommandExitError: if its exit code is not 0.
        CommandCrashError: if a signal has ended it.
        OSError: if it cannot be started, or a file cannot be opened.
    """
    with contextlib.ExitStack() as files:
        stdin = files.enter_context(_input(program.stdin))
        out, err = (files.enter_context(file) for file in _outputs(program.output))
        code = _run(program, stdin, out, err)
        stdout, stderr = _end_of(out), _end_of(err)
    if code:
        raise _error(program, code, stdout, stderr)
    return CommandResult(0, stdout, stderr, program.output)


def _run(program: Program, stdin: Any, out: IO[bytes], err: IO[bytes]) -> int:
    process = None
    try:
        with _signals_wait():  # else one that comes now could leave a command that nobody ends
            process = subprocess.Popen(
                program.argv,
                cwd=program.cwd,
                env=os.environ | program.env if program.env else None,
                stdin=stdin,
                stdout=out,
                stderr=err,
            )
        return process.wait()
    except BaseException:
        if process is not None:
            _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    # A warning that its time is over, or Ctrl-C: it ends before this process.
    process.terminate()
    try:
        process.wait(_GRACE_S)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Have the signals that may raise an exception in this thread do so at the end of this."""
    came: list[int] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in _RAISING}
    waiting = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in waiting:  # those that are ignored, or end this process, stay so in the command
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in waiting.items():
            signal.signal(number, handler)
        for number in came:
            waiting[number](number, None)


@contextlib.contextmanager
def _input(stdin: str | bytes | None) -> Iterator[Any]:
    if stdin is None:
        yield subprocess.DEVNULL
    elif isinstance(stdin, str):
        try:
            named = Path(stdin).open("rb")  # noqa: SIM115
        except FileNotFoundError as error:
            what = "No such file for `stdin`, which names one; pass text itself as bytes"
            raise FileNotFoundError(error.errno, what, stdin) from None
        with named:
            yield named
    else:
        with tempfile.TemporaryFile() as file:  # buffered: one write() of the system may be short
            file.write(stdin)
            file.seek(0)
            yield file


def _outputs(names: tuple[Path, Path] | None) -> Iterator[IO[bytes]]:
    for n in range(2):
        if names is None:
            yield tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # its caller closes it
        else:
            names[n].parent.mkdir(parents=True, exist_ok=True)
            yield names[n].open("w+b", buffering=0)


def _end_of(file: IO[bytes]) -> str:
    """The end of what was written to a file, as text."""
    size = os.fstat(file.fileno()).st_size
    start = max(size - _KEPT, 0)
    text = os.pread(file.fileno(), _KEPT, start).decode(errors="replace") if size else ""
    return f"[... {start} bytes left out ...]\n{text}" if start else text


def _error(program: Program, code: int, stdout: str, stderr: str) -> Exception:
    from dask_limits.exceptions import CommandCrashError, CommandExitError  # imports pynisher

    line = program.line
    what = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
    end = "\n".join(stderr.rstrip().splitlines()[-_SHOWN_LINES:])[-_SHOWN:]
    said = f"\n{end}" if end else ""
    attributes = {"command": line, "stdout": stdout, "stderr": stderr}
    number = -code if code < 0 else code - _OF_SHELLS if program.for_shell else 0
    if code < 0 or number in _SIGNALS:
        name = _name_of(number)
        shell = f", as the shell says by exit code {code}" if code > 0 else ""
        return CommandCrashError(
            f"{what}: ended by signal {number} ({name}){shell}{said}", signal=number, **attributes
        )
    why = _WHY.get(code, "")
    return CommandExitError(f"{what}: exit code {code}{why}{said}", exit_code=code, **attributes)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have numbers alone
        return f"SIGRTMIN{number - signal.SIGRTMIN:+}"
