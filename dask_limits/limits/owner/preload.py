from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple


class Preload(NamedTuple):
    """What the user wants task processes to have done before calls come. It can be pickled.

    Attributes:
        modules: The names of those to import.
        initializer: A function and its arguments, pickled; empty for none.
        initializer_name: What to call it.
    """

    modules: tuple[str, ...] = ()
    initializer: bytes = b""
    initializer_name: str = ""

    @classmethod
    def of(
        cls,
        preload: Iterable[str] = (),
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> Preload:
        """Check and pack the arguments of the public functions.

        Raises:
            TypeError: if one has the wrong type, if the initializer does not take these arguments,
                or if they cannot be pickled.
            ValueError: for a name that no module can have, or arguments without an initializer.
        """
        names = _items("preload", preload, "list", "[{!r}]")
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"preload has {name!r}, which is not the name of a module")
            if not all(part.isidentifier() for part in name.split(".")) or name == "__main__":
                raise ValueError(
                    f"preload has {name!r}, which is not the name of a module to import"
                )
        args = _items("initargs", initargs, "tuple", "({!r},)")
        if initializer is None:
            if args:
                raise ValueError("initargs has no effect without an initializer")
            return cls(names)
        packed, shown = _pack(initializer, args)
        return cls(names, packed, shown)

    def check_here(self) -> None:
        """Check that the modules are to be found by this process. This imports none of them.

        Raises:
            ModuleNotFoundError: if the package of one is not. What is in the package, only its
                import tells.
        """
        for name in self.modules:
            package = name.partition(".")[0]
            found: object = True
            with contextlib.suppress(ValueError):  # it is there, and does not say where from
                found = importlib.util.find_spec(package) or package in sys.modules
            if not found:
                raise ModuleNotFoundError(
                    f"preload has {name!r}, but there is no module named {package!r}", name=package
                )

    @property
    def shown(self) -> dict[str, Any]:
        """What to show people."""
        shown: dict[str, Any] = {"preload": list(self.modules)} if self.modules else {}
        return shown | ({"initializer": self.initializer_name} if self.initializer else {})


NOTHING: Final = Preload()


class NotPreparedError(Exception):
    """A task process could not be prepared as the user wants it.

    Attributes:
        why: The error, as text.
        traceback: Where it was raised, as text; empty if nothing was raised.
    """

    def __init__(self, report: str) -> None:
        super().__init__(report)
        self.why, _, self.traceback = report.partition("\0")


def _items(name: str, given: Any, kind: str, example: str) -> tuple[Any, ...]:
    """The items of an argument that is to have several, and is not one itself."""
    try:
        if not isinstance(given, str | bytes):
            return tuple(given)
    except TypeError:
        pass
    raise TypeError(f"{name}={given!r} is no {kind}. Use a {kind}: {name}={example.format(given)}")


def _pack(initializer: Any, args: tuple[Any, ...]) -> tuple[bytes, str]:
    """An initializer with its arguments, pickled, and its name."""
    from dask_limits.limits.in_place import name_of
    from dask_limits.limits.ipc import pickling
    from dask_limits.limits.tracebacks import say

    if not callable(initializer):
        raise TypeError(f"initializer={initializer!r} cannot be called")
    name = name_of(initializer)
    with contextlib.suppress(ValueError):  # of some functions in C nothing is known
        signature = inspect.signature(initializer)
        try:
            signature.bind(*args)
        except TypeError as error:
            raise TypeError(f"{name}() cannot be called with these initargs: {error}") from error
    try:
        return pickling.dumps((initializer, args)), name
    except Exception as error:
        raise TypeError(
            f"the initializer {name}() or one of its initargs cannot be pickled ({say(error)})"
        ) from error
