"""How a run can end, and what exceptions do to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Final, Literal, get_args

from dask_limits.display.live import Display
from dask_limits.exceptions import Breach
from dask_limits.executors import Future
from dask_limits.instead import refuse
from dask_limits.journal.journal import Journal
from dask_limits.units import Duration, parse_seconds

Action = Literal["raise", "end", "continue"]
"""What an exception does to a run: the run raises it, ends without raising it, or goes on."""

Wait = bool | Literal["running"]
"""Whether the end of a run waits for the calls: for all, for none, or for those that run."""

OnException = Action | Mapping[type[BaseException], Action]
"""An action for every exception, or one for each type. The first type that matches counts."""

_ACTIONS: Final = get_args(Action)
_ARGUMENTS: Final = (
    "timeout",
    "end_on_empty",
    "wait",
    "on_exception",
    "on_cancelled",
    "display",
    "journal",
)
_NOT_OF_RUN: Final = {
    "cancel_futures": 'wait="running" waits for the calls that run, and cancels the others',
    "raises": 'on_exception="end" or "continue" raises nothing',
    "asyncio_debug_mode": "asyncio.run(scheduler.async_run(), debug=True) is the same",
}
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

    def _repr_html_(self) -> str:
        from dask_limits.html.calls import exit_view  # for notebooks alone

        return exit_view(self.code.value, _WHY[self.code], self.exception)


_WHY: Final = {
    ExitState.EXHAUSTED: "Nothing was left to do.",
    ExitState.STOPPED: "stop() was called.",
    ExitState.TIMEOUT: "Its time was up.",
    ExitState.EXCEPTION: 'A call or a callback raised, and on_exception was "end".',
    ExitState.CANCELLED: 'A call was cancelled, and on_cancelled was "end".',
}


@dataclass
class RunOptions:
    """The arguments of `Scheduler.run`, checked."""

    timeout: InitVar[Duration | None]
    end_on_empty: bool
    wait: Wait
    on_exception: OnException
    on_cancelled: Action
    journal: Journal | None = None
    timeout_s: float | None = field(init=False)

    def __post_init__(self, timeout: Duration | None) -> None:
        self.timeout_s = None if timeout is None else parse_seconds(timeout, "timeout")
        if self.wait not in (True, False, "running"):
            raise ValueError(
                f"wait={self.wait!r} must be True, to wait for all calls, 'running', to wait for"
                " those that run, or False"
            )
        if not isinstance(self.end_on_empty, bool):
            raise TypeError(
                f"end_on_empty={self.end_on_empty!r} is of type {type(self.end_on_empty).__name__}."
                " Use True or False."
            )
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

    def waits_for(self, future: Future[Any]) -> bool:
        """Whether a call is waited for when the run ends."""
        return bool(self.wait) and (self.wait != "running" or future.running())

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


def check_arguments(display: object, unknown: Mapping[str, object]) -> None:
    """Check arguments of a run that `RunOptions` does not have."""
    refuse("run()", unknown, _ARGUMENTS, _NOT_OF_RUN)
    if not isinstance(display, bool | Display | None):
        raise TypeError(
            f"display={display!r} is of type {type(display).__name__}. Use True, False or"
            " Display(total=...)."
        )


def _check_action(name: str, action: object) -> None:
    if action not in _ACTIONS:
        also = " or a mapping of exception types to these" if name == "on_exception" else ""
        raise ValueError(f"{name}={action!r} must be one of {', '.join(map(repr, _ACTIONS))}{also}")
