"""The trial that an objective gets in its call, which may run anywhere: it asks the driver."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Final, NoReturn

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dask_limits.channels.asking import Asker
from dask_limits.optuna.questions import STUDY_VALUES


class LimitedTrial(optuna.Trial):
    """A trial of Optuna in a call: what it suggests and says is that of the trial in the driver."""

    def __init__(self, asker: Asker, facts: Mapping[str, Any] | None = None) -> None:
        self._ask = asker.ask
        self._asker = asker
        self._facts = asker.ask(ask="begin") if facts is None else facts
        self._trial_id = self._facts["_trial_id"]
        self.study: Any = LimitedStudy(asker, self._facts)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._asker, self._facts)

    def __getattr__(self, name: str) -> NoReturn:
        raise _missing(self, name, {*vars(LimitedTrial), "study"})

    # -- what it suggests ------------------------------------------------------------------

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """See `optuna.Trial`."""
        args = {"name": name, "low": low, "high": high, "step": step, "log": log}
        value: float = self._ask(ask="suggest_float", args=args)
        return value

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """See `optuna.Trial`."""
        args = {"name": name, "low": low, "high": high, "step": step, "log": log}
        value: int = self._ask(ask="suggest_int", args=args)
        return value

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """See `optuna.Trial`."""
        choices = tuple(choices)
        args = {"name": name, "choices": [_choice(name, one) for one in choices]}
        return choices[self._ask(ask="suggest_categorical", args=args)]

    # -- what it says ----------------------------------------------------------------------

    def report(self, value: float, step: int) -> None:
        """See `optuna.Trial`."""
        args = {"value": _number(float, "value", value), "step": _number(int, "step", step)}
        self._ask(ask="report", args=args)

    def should_prune(self) -> bool:
        """See `optuna.Trial`."""
        return bool(self._ask(ask="should_prune"))

    def set_user_attr(self, key: str, value: Any) -> None:
        """See `optuna.Trial`."""
        self._ask(ask="set_user_attr", args={"key": key, "value": value})

    def set_system_attr(self, key: str, value: Any) -> None:
        """See `optuna.Trial`, before version 5."""
        self._ask(ask="set_system_attr", args={"key": key, "value": value})

    def set_constraint(self, key: str, value: float) -> None:
        """See `optuna.Trial`, from version 5 on."""
        args = {"key": key, "value": _number(float, "value", value)}
        self._ask(ask="set_constraint", args=args)

    # -- what it has -----------------------------------------------------------------------

    @property
    def number(self) -> int:
        """See `optuna.Trial`."""
        return int(self._facts["number"])

    @property
    def datetime_start(self) -> datetime.datetime | None:
        """See `optuna.Trial`."""
        start: datetime.datetime | None = self._facts["datetime_start"]
        return start

    @property
    def params(self) -> dict[str, Any]:
        """See `optuna.Trial`."""
        return dict(self._ask(ask="params"))

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """See `optuna.Trial`."""
        return dict(self._ask(ask="distributions"))

    @property
    def user_attrs(self) -> dict[str, Any]:
        """See `optuna.Trial`."""
        return dict(self._ask(ask="user_attrs"))

    @property
    def system_attrs(self) -> dict[str, Any]:
        """See `optuna.Trial`, before version 5."""
        return dict(self._ask(ask="system_attrs"))

    @property
    def constraints(self) -> dict[str, float]:
        """See `optuna.Trial`, from version 5 on."""
        return dict(self._ask(ask="constraints"))

    @property
    def relative_params(self) -> dict[str, Any]:
        """See `optuna.Trial`."""
        return dict(self._ask(ask="relative_params"))


class LimitedStudy:
    """What an objective may ask of its study."""

    def __init__(self, asker: Asker, facts: Mapping[str, Any]) -> None:
        self._asker = asker
        self.study_name: str = facts["study_name"]
        self.directions: list[StudyDirection] = facts["directions"]

    @property
    def direction(self) -> StudyDirection:
        """See `optuna.Study`."""
        if len(self.directions) > 1:
            raise RuntimeError("This study has several directions: use study.directions")
        return self.directions[0]

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See `optuna.Study`. They are copies in any case."""
        wanted = None if states is None else [int(state) for state in TrialState if state in states]
        found: list[FrozenTrial] = self._asker.ask(ask="study.get_trials", args={"states": wanted})
        return found

    def set_user_attr(self, key: str, value: Any) -> None:
        """See `optuna.Study`."""
        self._asker.ask(ask="study.set_user_attr", args={"key": key, "value": value})

    def stop(self) -> None:
        """See `optuna.Study`."""
        self._asker.ask(ask="study.stop")

    def __getattr__(self, name: str) -> Any:
        if name in STUDY_VALUES:
            return self._asker.ask(ask=f"study.{name}")
        raise _missing(self, name, {*vars(LimitedStudy), *vars(self)} | STUDY_VALUES)


_PLAIN: Final = (bool, int, float, str, type(None))


def _choice(name: str, choice: Any) -> Any:
    """A choice as JSON has it: a tuple as an object."""
    if isinstance(choice, _PLAIN):
        return choice
    if isinstance(choice, list):
        return [_choice(name, one) for one in choice]
    if isinstance(choice, tuple):
        return {"tuple": [_choice(name, one) for one in choice]}
    if hasattr(choice, "item") and not isinstance(choice, type):  # a number of NumPy
        return _choice(name, choice.item())
    raise TypeError(
        f"The choice {choice!r} of {name!r} is of type {type(choice).__name__}. Use None, bool,"
        " int, float, str, or tuples of them, for example the keys of a dict of such objects."
    )


def _number(kind: Callable[[Any], Any], name: str, value: Any) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        wanted = "a float" if kind is float else "an int"
        raise TypeError(
            f"The `{name}` argument is of type '{type(value)}' but supposed to be {wanted}."
        ) from None


def _missing(owner: object, name: str, known: set[str]) -> AttributeError:
    kind = "study" if isinstance(owner, LimitedStudy) else "trial"
    return AttributeError(
        f"The {kind} of a limited objective has no {name!r}, as its storage is in another process."
        f" It has {', '.join(sorted(one for one in known - {name} if one[0] != '_'))}."
    )
