"""Answers what trials ask, in the driver, with Optuna's own trial.

A question comes from a call, so it is not trusted further than the trial goes: it is JSON, and can
only name what is listed here.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

TRIAL_VALUES: Final = {
    "params",
    "distributions",
    "user_attrs",
    "system_attrs",
    "constraints",
    "relative_params",
}
TRIAL_METHODS: Final = {
    "suggest_float",
    "suggest_int",
    "report",
    "should_prune",
    "set_user_attr",
    "set_system_attr",
    "set_constraint",
}
STUDY_VALUES: Final = {
    "best_params",
    "best_trial",
    "best_trials",
    "best_value",
    "metric_names",
    "trials",
    "user_attrs",
}
STUDY_METHODS: Final = {"set_user_attr", "stop"}


class Question(NamedTuple):
    """A question of a call.

    Attributes:
        trial: The key of the trial.
        attempt: Which attempt of its call asks.
        ask: What is asked: a method or an attribute.
        args: The arguments of a method.
    """

    trial: str
    attempt: str
    ask: str
    args: dict[str, Any]

    @classmethod
    def read(cls, text: bytes) -> Question:
        """Raises an exception of some kind for what is none."""
        match json.loads(text):
            case {"trial": str(trial), "attempt": str(attempt), "ask": str(ask), **rest}:
                args = rest.get("args", {})
                if isinstance(args, dict):
                    return cls(trial, attempt, ask, args)
        raise ValueError("This is no question of a trial")


class Answers:
    """Answers the questions of one trial, in the thread that runs it.

    Of several attempts, only the last one is answered. It finds the parameters of the earlier ones,
    and its reports take the places of theirs.
    """

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial
        self._attempts: list[str] = []
        asked: dict[str, Callable[..., Any]] = {
            "begin": self._begin,
            "suggest_categorical": self._suggest_categorical,
            "study.get_trials": self._get_trials,
        }
        of: tuple[tuple[str, Any, set[str], set[str]], ...] = (
            ("", trial, TRIAL_VALUES, TRIAL_METHODS),
            ("study.", trial.study, STUDY_VALUES, STUDY_METHODS),
        )
        for prefix, owner, values, methods in of:
            asked |= {prefix + name: _reader(owner, name) for name in values}
            asked |= {prefix + name: _caller(owner, name) for name in methods}
        self._asked = asked

    def to(self, question: Question) -> bytes:
        """The answer to a question: a pickle."""
        try:
            self._check_attempt(question.attempt)
            if question.ask not in self._asked:
                raise AttributeError(f"A trial cannot ask for {question.ask!r}")
            return _pickled(True, self._asked[question.ask](**question.args))
        except Exception as error:
            return refusal(error)

    def _check_attempt(self, attempt: str) -> None:
        if attempt not in self._attempts:
            if self._attempts:
                # Otherwise a pruner would decide by the steps of an attempt that came further, and
                # reports of steps that it had reported would be ignored.
                self._trial._cached_frozen_trial.intermediate_values = {}
            self._attempts.append(attempt)
        if attempt != self._attempts[-1]:
            raise RuntimeError(
                f"Trial {self._trial.number} runs elsewhere: the worker of this attempt was lost"
            )

    def _begin(self) -> dict[str, Any]:
        """What a trial need not ask for, as it does not change."""
        return {
            "_trial_id": self._trial._trial_id,
            "number": self._trial.number,
            "datetime_start": self._trial.datetime_start,
            "study_name": self._trial.study.study_name,
            "directions": self._trial.study.directions,
        }

    def _suggest_categorical(self, name: str, choices: list[Any]) -> int:
        """The place of the choice among them: its caller has the very object."""
        its = [_choice(one) for one in choices]
        value = self._trial.suggest_categorical(name, its)
        return int(CategoricalDistribution(its).to_internal_repr(value))

    def _get_trials(self, states: list[int] | None) -> list[optuna.trial.FrozenTrial]:
        wanted = None if states is None else tuple(TrialState(state) for state in states)
        return self._trial.study.get_trials(deepcopy=False, states=wanted)


def _reader(owner: object, name: str) -> Callable[[], Any]:
    return lambda: getattr(owner, name)


def _caller(owner: object, name: str) -> Callable[..., Any]:
    return lambda **args: getattr(owner, name)(**args)


def _choice(sent: Any) -> Any:
    """A choice as it was before JSON, which has no tuples."""
    if isinstance(sent, Mapping):
        return tuple(_choice(one) for one in sent["tuple"])
    return [_choice(one) for one in sent] if isinstance(sent, list) else sent


def refusal(error: Exception) -> bytes:
    """An answer that raises this in the call."""
    try:
        answer = _pickled(False, error.with_traceback(None))
        pickle.loads(answer)  # many exceptions can be pickled, but not unpickled
    except Exception:
        return _pickled(False, RuntimeError(f"{type(error).__name__}: {error}"))
    return answer


def _pickled(is_value: bool, value: object) -> bytes:
    return pickle.dumps((is_value, value), pickle.HIGHEST_PROTOCOL)
