from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final, Unpack

from dask_limits.executors.channels import open_channel, places
from dask_limits.executors.factories import ExecutorFactory
from dask_limits.executors.where import factory_for
from dask_limits.limits import LimitedCall, Limits, LimitsArguments
from dask_limits.limits.owner.preload import NOTHING, Preload
from dask_limits.optuna.arguments import OnBreach, caught_kinds, on_breach_value
from dask_limits.units import Duration, parse_delay, whole_number

if TYPE_CHECKING:
    import optuna

_ALL: Final = "as many as can run where trials run: where=8 is for 8 processes of this machine"


def optimize(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], float | Sequence[float]],
    n_trials: int | None = None,
    timeout: Duration | None = None,
    where: object = None,
    *,
    n_jobs: int | None = None,
    gc_after_trial: bool = False,
    catch: type[Exception] | Iterable[type[Exception]] = (),
    callbacks: Iterable[Callable[[optuna.Study, optuna.trial.FrozenTrial], object]] | None = None,
    on_breach: OnBreach = "fail",
    show_progress_bar: bool = False,
    options: Mapping[str, Any] | None = None,
    **limits: Unpack[LimitsArguments],
) -> None:
    """Do what `study.optimize` does, with each trial a call under limits: see docs/optuna.md.

    Args:
        study: The study, with any storage.
        objective: The objective, as it is for Optuna.
        n_trials: How many trials there are to be; None for no limit.
        timeout: After how long no more trials begin: seconds, `(5, "m")`, `"1h 30m"`.
        where: Where trials run, as for [LimitedExecutor][dask_limits.LimitedExecutor], or one.
        n_jobs: How many trials to have at a time; None or -1 for as many as can run there.
        gc_after_trial: Whether to collect garbage in this program after each trial, as in Optuna.
            What a trial itself has taken is gone with its process.
        catch: After which exceptions of the objective the study goes on.
        callbacks: What to call in this program, one at a time, with the study and each trial.
        on_breach: What becomes of a trial that goes over a limit or crashes: "fail"; "prune", with
            the last value that it has reported; or its value, one for each direction.
        show_progress_bar: Whether to show Optuna's.
        options: What else there is to say of `where`: see `LimitedExecutor`.
        **limits: `memory`, `wall_time`, ... of each trial: see [Limits][dask_limits.Limits].

    Raises:
        ImportError: if Optuna is not installed.
        ValueError: for an invalid argument, TypeError for one of a wrong type.
        Exception: what the objective or a callback has raised; what keeps calls from running.

    Example:
        >>> import optuna
        >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
        >>> study = optuna.create_study()
        >>> optimize(study, lambda trial: trial.suggest_float("x", 1, 2) ** 2, 3, memory="1 GiB")
        >>> [(trial.state.name, *trial.user_attrs) for trial in study.trials[:1]]
        [('COMPLETE', 'dask_limits:usage')]
    """
    _check_study(study)
    call = _limited(objective, Limits(**limits))
    endings = caught_kinds(catch), on_breach_value(on_breach, len(study.directions))
    arguments = {
        "n_trials": _count(n_trials, "n_trials", 0, "no limit"),
        "timeout": None if timeout is None else parse_delay(timeout),
        "n_jobs": _count(None if n_jobs == -1 else n_jobs, "n_jobs", 1, _ALL),
        "gc_after_trial": gc_after_trial,
        "callbacks": list(callbacks or ()),
        "show_progress_bar": show_progress_bar,
    }
    _optimize_on(_factory_for(where, options or {}), study, call, endings, arguments)


def _optimize_on(
    factory: ExecutorFactory,
    study: optuna.Study,
    call: LimitedCall[..., Any],
    endings: Any,
    arguments: dict[str, Any],
) -> None:
    """Run the trials on a new executor, or on the one of the user."""
    from dask_limits.optuna.running import RunningTrials

    executor = factory.make()
    try:
        arguments["n_jobs"] = arguments["n_jobs"] or places(executor)
        trials = RunningTrials(study, call, executor, *endings)
        channel = open_channel(executor, trials.hear)
        try:
            trials.run(channel.address, arguments)
        finally:
            channel.close()
    finally:
        if factory.owned:
            executor.shutdown(cancel_futures=True)


def _check_study(study: object) -> None:
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            'dask_limits.optuna.optimize() needs Optuna: pip install "dask-limits[optuna]"'
        ) from error
    if not isinstance(study, optuna.Study):
        raise TypeError(f"study={study!r} is of type {type(study).__name__}, not an optuna.Study")


def _limited(objective: Callable[..., Any], limits: Limits) -> LimitedCall[..., Any]:
    if isinstance(objective, LimitedCall):
        return LimitedCall(objective.fn, objective.limits.with_defaults(limits))
    return LimitedCall(objective, limits)


def _count(value: int | None, name: str, least: int, none: str) -> int | None:
    return None if value is None else whole_number(value, name, least=least, none=none)


def _factory_for(where: object, options: Mapping[str, Any]) -> ExecutorFactory:
    """What makes the executor; processes that are its own import Optuna before the first trial."""
    is_new = where is None or isinstance(where, Integral)
    is_new = is_new or (isinstance(where, str) and ":" not in where)
    return factory_for(where, Preload.of(["optuna"], None, ()) if is_new else NOTHING, options)
