from __future__ import annotations

import time

import pytest
from scheduled import plugin_events

from dask_limits import (
    Limiter,
    Plugin,
    PynisherPlugin,
)


def test_a_plugin_written_as_the_guide_does_it_can_add_its_events_itself(scheduler):
    from dask_limits import Event

    class Loud(Plugin):
        SHOUT = Event("shout")

        def __init__(self):
            super().__init__()

        def attach_task(self, task):
            self.task = task
            task.emitter.add_event(self.SHOUT)
            task.on_exception(self._shout, hidden=True)

        def _shout(self, _, exception):
            self.task.emitter.emit(self.SHOUT, exception)

    task = scheduler.task(lambda: 1 // 0, plugins=[Loud()])
    seen = plugin_events(task)
    scheduler.on_start(lambda: task.submit() and None)
    scheduler.run(on_exception="continue")
    [(name, exception)] = seen
    assert name == "shout"
    assert isinstance(exception, ZeroDivisionError)


def test_plugins_render_themselves(scheduler):
    import io

    from rich.console import Console

    other = scheduler.task(abs)
    limiter = Limiter(max_calls=3, max_concurrent=2, not_while_running=other, when_full="wait")
    limits = PynisherPlugin(memory_limit=(2, "gb"), walltime_limit="5m", process_limit=3)
    text = io.StringIO()
    console = Console(file=text, width=80)
    console.print(limiter)
    scheduler.task(abs, plugins=[limiter, limits, Plugin()])
    console.print(scheduler)
    for part in ("Calls 0/3", "Concurrent 0/2", "Held 0", other.unique_ref, "2.0 GiB", "300 s"):
        assert part in text.getvalue()


def test_a_plugin_whose_place_cannot_be_told_fails_as_a_callback_does(scheduler):
    class Broken(Plugin):
        def __init__(self):
            self.asked = 0

        def has_place(self):
            self.asked += 1
            if self.asked > 2:
                raise RuntimeError("no telling")
            return self.asked < 2

    task = scheduler.task(time.sleep, plugins=Broken())
    scheduler.on_start(lambda: [task.submit(0.05) for _ in range(2)] and None)
    state = scheduler.run(on_exception="end")
    assert str(state.exception) == "no telling"
    counts = scheduler.event_counts
    assert counts["on_future_done"] + counts["on_future_cancelled"] == 2


def test_a_plugin_class_in_place_of_a_plugin_is_refused(scheduler):
    with pytest.raises(TypeError, match=r"Limiter is a class: pass an instance, Limiter\(...\)"):
        scheduler.task(abs, plugins=Limiter)
    with pytest.raises(TypeError, match=r"Limiter is a class: pass an instance, Limiter\(...\)"):
        scheduler.task(abs).attach_plugin(Limiter)


def test_what_only_looks_like_a_plugin_is_refused_before_any_is_attached(scheduler):
    class Similar:
        pre_submit, attach_task, events = Plugin.pre_submit, Plugin.attach_task, Plugin.events

    limiter = Limiter(max_calls=1)
    derive = r"is of type Similar\. Derive plugins of your own from dask_limits\.Plugin"
    with pytest.raises(TypeError, match=derive):
        scheduler.task(abs, plugins=[limiter, Similar()])
    task = scheduler.task(abs, plugins=limiter)
    with pytest.raises(TypeError, match=derive):
        task.attach_plugin(Similar())
