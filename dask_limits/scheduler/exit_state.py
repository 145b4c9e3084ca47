"""How a run can end, and what exceptions do to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from enum import StrEnum
from typing import ClassVar, Final, Literal, get_args

from dask_limits.exceptions import Breach
from dask_limits.units import Duration, parse_seconds

Action = Literal["raise", "end", "continue"]
"""What an exception does to a run: the run raises it, ends without raising it, or goes on."""

OnException = Action | Mapping[type[BaseException], Action]
"""An action for every exception, or one for each type. The first type that matches counts."""

_ACTIONS: Final = get_args(Action)
_ADVICE: Final = (
    'This has ended the run. With run(on_exception="continue") the others would go on, and with'
    ' on_exception={Breach: "continue", Exception: "raise"} other exceptions would still end it.'
)


@dataclass(frozen=True)
class ExitState:
    """Why a run ended.

    Attributes:
        code: The reason. It is equal to its name in lower case.
        exception: The exception that ended the run, or that was passed to `stop()`; otherwise
            None.

    Example:
        >>> from dask_limits import Scheduler
        >>> state = Scheduler.with_threads(1).run()
        >>> state.code == ExitState.Code.EXHAUSTED == "exhausted"
        True
    """

    class Code(StrEnum):
        """Reasons for a run to end."""

        EXHAUSTED = "exhausted"  # nothing was left to do
        STOPPED = "stopped"  # stop() was called
        TIMEOUT = "timeout"
        EXCEPTION = "exception"  # a call or a callback raised, and on_exception is "end"
        CANCELLED = "cancelled"  # a call was cancelled, and on_cancelled is "end"

    code: Code
    exception: BaseException | None = None

    EXHAUSTED: ClassVar = Code.EXHAUSTED
    STOPPED: ClassVar = Code.STOPPED
    TIMEOUT: ClassVar = Code.TIMEOUT
    EXCEPTION: ClassVar = Code.EXCEPTION
    CANCELLED: ClassVar = Code.CANCELLED


@dataclass
class RunOptions:
    """The arguments of `Scheduler.run`, checked."""

    timeout: InitVar[Duration | None]
    end_on_empty: bool
    wait: bool
    on_exception: OnException
    on_cancelled: Action
    timeout_s: float | None = field(init=False)

    def __post_init__(self, timeout: Duration | None) -> None:
        self.timeout_s = None if timeout is None else parse_seconds(timeout, "timeout")
        _check_action("on_cancelled", self.on_cancelled)
        if not isinstance(self.on_exception, Mapping):
            _check_action("on_exception", self.on_exception)
            return
        for kind, action in self.on_exception.items():
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(
                    f"Invalid key {kind!r} in on_exception: it is not a type of exception."
                    " Use a class, such as ValueError."
                )
            if issubclass(kind, KeyboardInterrupt) or issubclass(KeyboardInterrupt, kind):
                raise ValueError(
                    f"Invalid key {kind.__name__} in on_exception: Ctrl-C always ends a run."
                    " Use Exception for all other exceptions."
                )
            _check_action(f"on_exception[{kind.__name__}]", action)

    def action_for(self, error: BaseException) -> Action:
        """The action for an exception. A type that the mapping does not name is raised."""
        if not isinstance(self.on_exception, Mapping):
            return self.on_exception
        for kind, action in self.on_exception.items():
            if isinstance(error, kind):
                return action
        return "raise"

    def with_advice(self, error: BaseException) -> BaseException:
        """The exception that a run raises; if it is a breach, it says how to go on after one."""
        if isinstance(error, Breach) and _ADVICE not in getattr(error, "__notes__", ()):
            error.add_note(_ADVICE)
        return error


def _check_action(name: str, action: object) -> None:
    if action not in _ACTIONS:
        also = " or a mapping of exception types to these" if name == "on_exception" else ""
        raise ValueError(f"{name}={action!r} must be one of {', '.join(map(repr, _ACTIONS))}{also}")
