"""A program on a real pseudo-terminal, and what is on its screen."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import textwrap
import time

import pyte


class Terminal:
    """Runs a program; a context manager that ends it."""

    def __init__(self, program, columns=80, lines=24, **environment):
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._ours, theirs = os.openpty()
        self._set_size(columns, lines)
        unset = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
        kept = {name: value for name, value in os.environ.items() if name not in unset}
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),  # for Ctrl-C
            env=kept | {"TERM": "xterm-256color"} | environment,
        )
        os.close(theirs)

    def _set_size(self, columns, lines):
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns, lines):
        self.screen.resize(lines, columns)
        self._set_size(columns, lines)

    def type(self, text):
        os.write(self._ours, text.encode())

    @property
    def lines(self):
        """The lines of the screen that are not empty."""
        return [line.rstrip() for line in self.screen.display if line.strip()]

    @property
    def text(self):
        return "\n".join(self.lines)

    def wait_until(self, condition, timeout_s=90):
        """Wait until something is true of the lines on the screen, and return these."""
        deadline = time.monotonic() + timeout_s
        while not condition(self.lines):
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"not on the screen:\n{self.text}"
            assert self._read(left_s) or condition(self.lines), f"ended before:\n{self.text}"
        return self.lines

    def wait(self, timeout_s=90):
        """Wait for the end of the program; return its exit code."""
        deadline = time.monotonic() + timeout_s
        while self._read(deadline - time.monotonic()):
            assert time.monotonic() < deadline, f"goes on:\n{self.text}"
        return self.process.wait(timeout=max(deadline - time.monotonic(), 1))

    def _read(self, timeout_s):
        """Read what there is, or wait for it; False at the end."""
        if select.select([self._ours], [], [], max(timeout_s, 0))[0]:
            try:
                self._stream.feed(os.read(self._ours, 65536))
            except OSError:  # nobody has the other end any more
                return False
        return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
