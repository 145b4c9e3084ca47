from __future__ import annotations

import io
import sys
import time
import types

import pytest
from html_pages import Page
from scheduled import on_start

from dask_limits import ExitState, Scheduler
from dask_limits.display.live import has_kernel

Code = ExitState.Code


@pytest.fixture
def threads():
    return Scheduler.with_threads(2)


def test_it_renders_whatever_callables_it_is_given(threads):
    from rich.console import Console

    class Odd:
        __name__ = 3
        __signature__ = "nonsense"

        def __call__(self, *_): ...

    threads.on_start(Odd())
    threads.on_timeout(min)
    task = threads.task(lambda x, *, y=1: x)
    task.on_result(Odd())
    threads.task(abs, plugins=[])
    named = threads.task(Odd())
    threads.run()
    text = io.StringIO()
    Console(file=text, width=80).print(threads)
    for part in ("Executor Queue: (0)", "@on_start 1", "Task <lambda>(x, *, y=1)", "Odd"):
        assert part in text.getvalue()
    assert named.unique_ref in text.getvalue()
    assert "Executor Queue" in threads._repr_mimebundle_()["text/plain"]
    page = Page(threads._repr_html_())
    assert named.unique_ref in page.text and "<lambda>(x, *, y=1)" in page.text
    assert repr(threads) == "Scheduler(2 threads, 0 not done)"


def test_names_are_not_read_as_markup(threads):
    from rich.console import Console

    def plain(): ...

    plain.__name__ = "[/bold]odd[red]"
    threads.on_start(plain)
    text = io.StringIO()
    Console(file=text, width=80).print(threads)
    assert "[/bold]odd[red]()" in text.getvalue()


def test_a_live_display_ends_with_what_came_of_it(threads, capsys):
    on_start(threads, time.sleep, 0.2)
    assert threads.run(display=True).code == Code.EXHAUSTED
    assert "1 returned" in capsys.readouterr().out


def test_a_module_by_the_name_of_ipython_is_no_kernel(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    assert not has_kernel()
