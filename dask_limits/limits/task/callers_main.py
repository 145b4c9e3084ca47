from __future__ import annotations

import os
import sys
import types
from typing import Any, Final, Self

from dask_limits.limits.ipc import by_value, pickling
from dask_limits.limits.ipc.reducers import MAIN

_LOADER: Final = """\
from dask_limits.limits.ipc import by_value
globals().update(by_value.names_in({pickled!r}))
"""


class CallersMain:
    """The module `__main__` while a call runs: it has what the call brings of its caller's script.

    So the call can use `pickle` and `multiprocessing` as the script can: they look there for
    functions and classes, by their names. Nothing of it is there any more when the call has ended.

    Processes that multiprocessing spawns run the file of this module under the name `__mp_main__`.
    Here, this is not the script, which may do all its work again, but a file in memory that loads
    what the call has brought. It is only made when multiprocessing asks for it.

    Source: https://docs.python.org/3/library/multiprocessing.html#the-spawn-and-forkserver-start-methods
    """

    def __enter__(self) -> Self:
        self._before = [sys.modules.get(name) for name in MAIN]
        self._fd: int | None = None
        module = types.ModuleType(MAIN[0])
        self.names = vars(module)
        self.names["__getattr__"] = self._missing
        for name in MAIN:
            sys.modules[name] = module
        return self

    def __exit__(self, *_: object) -> None:
        for name, module in zip(MAIN, self._before, strict=True):
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
        by_value.forget_classes()
        self.names.clear()  # otherwise it would live until the next collection of garbage
        if self._fd is not None:
            os.close(self._fd)

    def _missing(self, name: str) -> Any:
        if name == "__file__":
            try:
                return self._file()
            except Exception:
                pass  # what the call has put there cannot be pickled
        raise AttributeError(f"module {MAIN[0]!r} has no attribute {name!r}")

    def _file(self) -> str:
        brought = {name: value for name, value in self.names.items() if name[:2] != "__"}
        loader = _LOADER.format(pickled=pickling.dumps(brought)).encode()
        self._fd = os.memfd_create("dask-limits-main", os.MFD_CLOEXEC)
        with open(self._fd, "wb", closefd=False) as file:
            file.write(loader)
        path = self.names["__file__"] = f"/proc/{os.getpid()}/fd/{self._fd}"
        return path
