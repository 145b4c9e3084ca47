"""A real kernel, which runs cells as Jupyter has it do, and what these show."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

from processes import until

_TIMEOUT_S = 120


class Cell:
    """A cell that was sent to a kernel.

    Attributes:
        outputs: What it shows, in order: `{"text/html": ...}`, or of a stream `{"stdout": ...}`.
        updates: How often something of it was replaced by something else.
        error: The name of the exception that ended it; empty if none did.
        is_done: Whether the kernel has run it.
    """

    def __init__(self) -> None:
        self.outputs: list[dict[str, str]] = []
        self.updates = 0
        self.error = ""
        self.is_done = False

    def text(self, kind: str) -> str:
        """All that it shows of one kind."""
        return "".join(output.get(kind, "") for output in self.outputs)


class Kernel:
    """A kernel. Its messages are read in `until` alone."""

    def __init__(self, manager: Any, client: Any) -> None:
        self._manager = manager
        self._client = client
        self._cells: dict[str, Cell] = {}
        self._displays: dict[str, tuple[Cell, int]] = {}
        self.buttons: dict[str, str] = {}  # of ipywidgets, by their ids, what they say

    def start(self, code: str) -> Cell:
        """Send a cell."""
        cell = self._cells[self._client.execute(code)] = Cell()
        return cell

    def run(self, code: str) -> Cell:
        """Run a cell."""
        cell = self.start(code)
        self.until(lambda: cell.is_done)
        return cell

    def until(self, condition: Callable[[], object]) -> None:
        """Read what the kernel says until something is so."""
        ends = time.monotonic() + _TIMEOUT_S
        while not condition():
            assert time.monotonic() < ends, [vars(cell) for cell in self._cells.values()]
            try:
                self._take(self._client.get_iopub_msg(timeout=0.1))
            except Empty:
                pass

    def interrupt(self) -> None:
        """Do what the button of Jupyter does."""
        self._manager.interrupt_kernel()

    def click(self) -> None:
        """Click at the only button, as the browser tells of it."""
        [comm] = self.buttons
        data = {"method": "custom", "content": {"event": "click"}}
        content = {"comm_id": comm, "data": data}
        self._client.shell_channel.send(self._client.session.msg("comm_msg", content))

    def _take(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        self._take_button(kind, content)
        if kind == "update_display_data":
            cell, n = self._displays[content["transient"]["display_id"]]
            cell.outputs[n] = content["data"]
            cell.updates += 1
        if (cell := self._cells.get(message["parent_header"].get("msg_id"))) is None:
            return
        if kind in ("display_data", "execute_result"):
            if display := content.get("transient", {}).get("display_id"):
                self._displays[display] = cell, len(cell.outputs)
            cell.outputs.append(content["data"])
        elif kind == "stream":
            cell.outputs.append({content["name"]: content["text"]})
        elif kind == "error":
            cell.error = content["ename"]
        elif kind == "status" and content["execution_state"] == "idle":
            cell.is_done = True

    def _take_button(self, kind: str, content: dict[str, Any]) -> None:
        comm = content.get("comm_id", "")
        state = content.get("data", {}).get("state", {})
        if state.get("_model_name") == "ButtonModel" or comm in self.buttons:
            self.buttons[comm] = state.get("description", self.buttons.get(comm, ""))
        if kind == "comm_close":
            self.buttons.pop(comm, None)


@contextmanager
def kernel(folder: Path) -> Iterator[Kernel]:
    """Start a kernel that has its files in this folder. It listens to nobody but this user."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(transport="ipc", connection_file=str(folder / "kernel.json"))
    paths = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    errors = folder / "stderr"
    with errors.open("w") as stderr:
        manager.start_kernel(
            env={**os.environ, "IPYTHONDIR": str(folder), "PYTHONPATH": paths},
            cwd=str(folder),
            stderr=stderr,
        )
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=_TIMEOUT_S)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)
    assert errors.read_text() == "", sys.executable
    until(lambda: not list(folder.glob("kernel-ipc*")), 5)
