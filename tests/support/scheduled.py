"""What tests of schedulers share."""

from __future__ import annotations


def fail(text: str = "failed"):
    raise ValueError(text)


def on_start(scheduler, *call, times=1, **kwargs):
    scheduler.on_start(lambda: scheduler.submit(*call, **kwargs) and None, repeat=times)


def plugin_events(task):
    """Events of a plugin as they come, with their arguments."""
    seen = []
    for event in task.emitter.events:
        if not event.startswith("on-"):
            task.on(event)(lambda *args, name=event.name: seen.append((name, *args)))
    return seen
