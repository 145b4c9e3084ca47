"""The public attributes of the classes that users hold: what is renamed here breaks programs."""

from __future__ import annotations

import pytest

from dask_limits import (
    Event,
    ExitState,
    Journal,
    Limiter,
    Plugin,
    PynisherPlugin,
    Report,
    Requeue,
    Retry,
    Scheduler,
    Task,
)
from dask_limits.executors import Future
from dask_limits.report.suggestions import Suggestion

HAS_EVENTS = "add_event emit emitter event_counts on"
PLUGIN = "attach_task copy events has_place name next_attempt post_done pre_submit task"
NAMES = {
    Scheduler: f"""
        {HAS_EVENTS} async_run call_later check_limits client dashboard_link dashboard_tunnel empty
        executor in_run map queue report run running
        stop submit task tasks
        with_dask with_htcondor with_jobqueue with_loky with_lsf with_moab with_oar with_pbs
        with_processes with_sequential with_sge with_slurm with_threads
        EMPTY FINISHED FINISHING FUTURE_CANCELLED FUTURE_DONE FUTURE_EXCEPTION FUTURE_PROGRESS
        FUTURE_RERUN FUTURE_RESULT FUTURE_SUBMITTED STARTED STOP TIMEOUT WAITING_FOR_WORKERS
        WORKER_ADDED WORKER_REMOVED
        on_empty on_finished on_finishing on_future_cancelled on_future_done on_future_exception
        on_future_progress on_future_rerun on_future_result on_future_submitted on_start on_stop
        on_timeout on_waiting_for_workers on_worker_added on_worker_removed
    """,
    Task: f"""
        {HAS_EVENTS} attach_plugin function futures n_held n_running n_submitted name plugins
        running scheduler start_held submit unique_ref
        CANCELLED DONE EXCEPTION PROGRESS RERUN RESULT RETRY SUBMITTED
        on_cancelled on_done on_exception on_progress on_rerun on_result on_submitted
    """,
    Plugin: PLUGIN,
    Limiter: f"""
        {PLUGIN} max_calls max_concurrent n_calls not_while_running when_full
        CALL_LIMIT_REACHED CONCURRENT_LIMIT_REACHED DISABLED_DUE_TO_RUNNING_TASK
    """,
    PynisherPlugin: f"""
        {PLUGIN} context cpu_time_limit cputime_limit limits memory_limit process_limit supports
        wall_time_limit walltime_limit
        CPU_TIME_LIMIT_REACHED MEMORY_LIMIT_REACHED PROCESS_LIMIT_REACHED TIMEOUT
        WALL_TIME_LIMIT_REACHED
        CpuTimeoutException MemoryLimitException ProcessLimitException PynisherException
        TimeoutException WallTimeoutException
    """,
    Retry: f"""
        {PLUGIN} cpu_time_factor delay max_retries memory_factor on wall_time_factor RETRY USUAL
    """,
    Requeue: "append requeue",
    Journal: "changed of path report rerun",
    Event: "arguments name",
    ExitState: "CANCELLED Code EXCEPTION EXHAUSTED STOPPED TIMEOUT code exception",
    Future: """
        add_done_callback attempts cancel cancelled done earlier exception from_journal job key
        mark_started
        note_progress ran_again result running set_exception set_result
        set_running_or_notify_cancel settle started_at submitted_at take_progress task_key
        attempt_of usage when_progress when_settled worker
    """,
    Report: "n_older plot suggest_limits to_csv to_pandas to_parquet",
    Suggestion: "beside beside_before cells limits line n_calls notes options passed task",
}
SCHEDULER = Scheduler.with_sequential()
MADE = {
    Scheduler: SCHEDULER,
    Task: SCHEDULER.task(abs),
    Plugin: Plugin(),
    Limiter: Limiter(),
    PynisherPlugin: PynisherPlugin(),
    Retry: Retry(max_retries=1),
    Requeue: Requeue(),
    Event: Event("x"),
    ExitState: ExitState(ExitState.STOPPED),
    Future: Future(),
    Report: SCHEDULER.report(),
    Journal: Journal("run.sqlite"),
    Suggestion: Suggestion("fit", {}, 1, 1.0),
}
for plugin in (Plugin, Limiter, PynisherPlugin, Retry):
    SCHEDULER.task(abs, plugins=MADE[plugin])


@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.__name__)
def test_a_class_has_these_public_names_and_no_others(kind):
    theirs = {*dir(str)} if kind is Event else set()
    names = {name for name in dir(MADE[kind]) if not name.startswith("_")} - theirs
    assert names == set(NAMES[kind].split())
