"""Runs the trials of a study, in the threads that Optuna has for them."""

from __future__ import annotations

import contextlib
import contextvars
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import asdict
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

import optuna

from dask_limits.channels.channel import Answer
from dask_limits.channels.local_socket import Address
from dask_limits.exceptions import (
    Breach,
    CrashError,
    ExitError,
    GuardianLostError,
    WorkerLostError,
)
from dask_limits.limits import LimitedCall
from dask_limits.optuna.attempt import Attempt
from dask_limits.optuna.in_turn import asked_in_turn
from dask_limits.optuna.limited_objective import LimitedObjective
from dask_limits.optuna.questions import Answers, Question, refusal

USAGE: Final = "dask_limits:usage"
CAUSE: Final = "dask_limits:cause"
"""The user attributes of trials: what a call has used, and why it was ended."""
_CAUSE_LENGTH: Final = 1000  # characters
_ENDED: Final = (Breach, CrashError, ExitError)
"""What `on_breach` is about."""
_FAILED: Final = (*_ENDED, GuardianLostError, WorkerLostError)
"""After these, too, a study goes on."""
_MOST_ATTEMPTS: Final = 3
"""How often a call runs at most whose guardian is killed."""

Inbox = SimpleQueue[Any]
"""What the thread of a trial has to do: answer questions, or end when the call is done, or now."""


class RunningTrials:
    """Runs trials as limited calls, and answers what they ask.

    `study.optimize` does all that is Optuna's, with an objective that waits for a call: it asks the
    sampler, tells the storage, catches, calls back and stops. So there is a thread of Optuna for
    each trial that runs. It answers the questions of its trial too, as samplers and storages expect
    a trial to stay in its thread.
    """

    def __init__(
        self,
        study: optuna.Study,
        call: LimitedCall[..., Any],
        executor: Executor,
        caught: tuple[type[Exception], ...],
        on_breach: str | tuple[float, ...],
    ) -> None:
        self._study = study
        self._call = LimitedCall(LimitedObjective(call.fn), call.limits)
        self._executor = executor
        self._caught = (*caught, *_FAILED)
        self._on_breach = on_breach
        self._inboxes: dict[str, Inbox] = {}  # by the keys of trials
        self._is_ending = False
        self._is_done = threading.Event()
        self._error: BaseException | None = None
        self._calling_back = threading.RLock()
        # With annotations of Dask, for instance, which threads of Optuna do not have.
        self._context = contextvars.copy_context()

    def run(self, address: Address, arguments: dict[str, Any]) -> None:
        """Run trials until the study has enough. Ctrl-C ends those that run."""
        self._address = address
        arguments["callbacks"] = [self._guarded(one) for one in arguments["callbacks"]]
        # Not in this thread: Ctrl-C would end no call while Optuna waits for its other threads.
        thread = threading.Thread(
            target=self._optimize, args=[arguments], name="dask-limits-optuna", daemon=True
        )
        thread.start()
        try:
            self._is_done.wait()  # before Python 3.13, Ctrl-C in a join() breaks the next one
        except BaseException:
            self._is_ending = True
            for inbox in list(self._inboxes.values()):
                inbox.put(None)
            self._is_done.wait()
            thread.join()
            raise
        thread.join()
        if self._error is not None:
            raise self._error

    def _optimize(self, arguments: dict[str, Any]) -> None:
        try:
            with asked_in_turn(self._study):
                self._study.optimize(self._run_trial, catch=self._caught, **arguments)
        except BaseException as error:
            self._error = self._error or error
        finally:
            self._is_done.set()

    def hear(self, text: bytes, answer: Answer) -> None:
        """Take a question of a call, and leave it to the thread of its trial."""
        try:
            question = Question.read(text)
            inbox = self._inboxes[question.trial]
        except (ValueError, KeyError, RecursionError):
            _refuse(answer)
        else:
            inbox.put((question, answer))

    def _guarded(self, callback: Callable[..., object]) -> Callable[..., None]:
        """A callback that runs alone, and whose exception is noted."""

        def call_back(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
            with self._calling_back, self._noting_errors():
                if self._is_ending:
                    raise KeyboardInterrupt
                callback(study, trial)

        return call_back

    @contextlib.contextmanager
    def _noting_errors(self, caught: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Begin no more trials after an exception that is not caught, and raise it at the end.

        Optuna loses those of its last threads.
        """
        try:
            yield
        except BaseException as error:
            if not isinstance(error, (optuna.TrialPruned, *caught)):
                self._error = self._error or error
                self._study.stop()
            raise

    # -- one trial, in a thread of Optuna ----------------------------------------------------

    def _run_trial(self, trial: optuna.Trial) -> Any:
        """The objective that Optuna calls."""
        with self._noting_errors(self._caught):
            future = self._run_call(trial)
            if (usage := getattr(future, "usage", None)) is not None:
                known = {name: value for name, value in asdict(usage).items() if value is not None}
                trial.set_user_attr(USAGE, known)
            error = future.exception()
            if error is None:
                return future.result()
            if not isinstance(error, _FAILED):
                raise error
            cause = f"{type(error).__name__}: {error}"[:_CAUSE_LENGTH]
            trial.set_user_attr(CAUSE, cause)
            if self._on_breach == "fail" or not isinstance(error, _ENDED):
                raise error
            if self._on_breach == "prune":
                raise optuna.TrialPruned(cause) from error
            return self._on_breach

    def _run_call(self, trial: optuna.Trial) -> Future[Any]:
        """Run the call of a trial to its end; again if its guardian is killed."""
        answers, key = Answers(trial), secrets.token_hex(16)
        inbox = self._inboxes[key] = SimpleQueue()
        submit = partial(self._executor.submit, self._call, self._address, key)
        try:
            for _ in range(_MOST_ATTEMPTS):
                future = self._attend(partial(self._context.copy().run, submit), inbox, answers)
                if not isinstance(future.exception(), GuardianLostError):
                    break
            return future
        finally:
            del self._inboxes[key]
            while not inbox.empty():
                match inbox.get():
                    case _, answer:  # of a process that the call has left
                        _refuse(answer)

    def _attend(
        self, submit: Callable[[], Future[Any]], inbox: Inbox, answers: Answers
    ) -> Future[Any]:
        """Submit a call, and answer its questions until it is done."""
        if self._is_ending:
            raise KeyboardInterrupt
        attempt = Attempt(submit, inbox.put)
        while not isinstance(message := inbox.get(), Future):
            if message is None:
                attempt.cancel()
                raise KeyboardInterrupt
            question, answer = message
            answer(answers.to(question))
        return message


def _refuse(answer: Answer) -> None:
    answer(refusal(RuntimeError("There is no such trial, or it has ended")))
