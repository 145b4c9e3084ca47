"""Runs of a scheduler in cells of a real kernel, with ipywidgets and without."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import nbformat
import pytest
from html_pages import Page
from kernels import kernel
from nbconvert.exporters import HTMLExporter, MarkdownExporter

SETUP = """
import asyncio, time
from dask_limits import PynisherPlugin, Scheduler
scheduler = Scheduler.with_processes(2)
task = scheduler.task(time.sleep, plugins=PynisherPlugin(wall_time=600))
@task.on_result
def tell(future, result):
    print("ended")
def begin(*naps):
    scheduler.on_start(lambda: print("started"), max_calls=1)
    scheduler.on_start(lambda: scheduler.map(task, list(naps)), max_calls=1)
"""
IN_BACKGROUND = "run = asyncio.create_task(scheduler.async_run(wait=False)); None"
NO_WIDGETS = "import sys; sys.modules['ipywidgets'] = None"
WARNS = "import warnings; warnings.simplefilter('always')"


@pytest.fixture(scope="module", params=["ipywidgets", "no ipywidgets"])
def jupyter(request, tmp_path_factory):
    with kernel(tmp_path_factory.mktemp("kernel")) as its:
        its.has_widgets = request.param == "ipywidgets"
        its.run(WARNS if its.has_widgets else f"{WARNS}; {NO_WIDGETS}")
        assert its.run(SETUP).error == ""
        yield its


def page_of(cell):
    return Page(cell.text("text/html"))


def shows(cell, text):
    return lambda: text in page_of(cell).text


def test_a_run_is_shown_in_place_while_it_goes_on_and_prints_land_in_its_cell(jupyter):
    cell = jupyter.start("begin(0.1, 1.5); scheduler.run()")
    jupyter.until(shows(cell, "sleep(1.5)"))
    assert "of 10 min" in page_of(cell).text  # its wall time, beside the limit
    jupyter.until(lambda: cell.is_done)
    assert cell.error == "" and cell.updates >= 2
    assert cell.text("stdout") == "started\nended\nended\n"
    assert "stderr" not in {kind for output in cell.outputs for kind in output}
    last = page_of(cell)
    assert "exhausted" in last.text and "2 returned" in last.text
    assert last.is_whole and "script" not in last.tags
    pages = [output["text/html"] for output in cell.outputs if "text/html" in output]
    assert ["End of the run" in page for page in pages] == [False, True]  # the view, and the state
    assert re.search(r"run on 2 processes \(exhausted.*2 returned", cell.text("text/plain"))


def test_a_run_that_is_not_to_be_displayed_shows_nothing(jupyter):
    cell = jupyter.run("begin(0.1); scheduler.run(display=False);")
    assert cell.text("text/html") == ""


def test_an_interrupt_of_the_kernel_ends_a_run_and_its_calls(jupyter):
    cell = jupyter.start("begin(600, 600); scheduler.run()")
    jupyter.until(shows(cell, "2 running"))
    jupyter.interrupt()
    jupyter.until(lambda: cell.is_done)
    assert cell.error == "KeyboardInterrupt"
    assert "interrupted" in page_of(cell).text and "2 cancelled" in page_of(cell).text
    assert "0 not done" in jupyter.run("print(scheduler)").text("stdout")


def test_an_interrupt_of_the_kernel_ends_a_run_that_is_awaited(jupyter):
    cell = jupyter.start("begin(600, 600); await scheduler.async_run(display=False)")
    jupyter.until(lambda: "started" in cell.text("stdout"))
    jupyter.interrupt()
    jupyter.until(lambda: cell.is_done)
    assert cell.error == "CancelledError"
    assert "0 not done" in jupyter.run("print(scheduler)").text("stdout")


def test_a_run_in_the_background_is_stopped_from_another_cell(jupyter):
    cell = jupyter.run(f"begin(0.5, 600); {IN_BACKGROUND}")
    jupyter.until(shows(cell, "1 returned"))
    assert "1 not done" in jupyter.run("print(scheduler)").text("stdout")
    jupyter.run("scheduler.stop()")
    jupyter.until(shows(cell, "stopped"))
    assert "1 cancelled" in page_of(cell).text
    assert "STOPPED" in jupyter.run("(await run).code").text("text/plain")


def test_a_button_stops_a_run_in_the_background_and_then_its_calls(jupyter):
    cell = jupyter.run(f"begin(600); {IN_BACKGROUND.replace('False', 'True')}")
    jupyter.until(shows(cell, "1 running"))
    if jupyter.has_widgets:
        jupyter.until(lambda: [*jupyter.buttons.values()] == ["Stop"])
        jupyter.click()
        jupyter.until(shows(cell, "ending"))
        assert [*jupyter.buttons.values()] == ["End running calls"]
        jupyter.click()
    else:
        assert not jupyter.buttons
        jupyter.run("run.cancel()")
    jupyter.until(shows(cell, "1 cancelled"))
    jupyter.until(lambda: not jupyter.buttons)
    assert jupyter.run("run.cancelled()").text("text/plain") == "True"
    assert "Button" not in cell.text("text/plain")
    assert cell.text("stderr") == ""


def test_a_saved_notebook_keeps_the_last_state_on_any_page(jupyter):
    cell = jupyter.run("begin(0.1); scheduler.run()")
    outputs = [
        nbformat.v4.new_output("display_data", data=output)
        for output in cell.outputs
        if "text/html" in output
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=outputs)])
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert "1 returned" in Page(page).text
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    assert "1 returned" in text


def test_ipython_on_a_terminal_is_no_notebook(tmp_path):
    code = (
        "from dask_limits import Scheduler; s = Scheduler.with_threads(1);"
        " s.on_start(lambda: s.submit(abs, -3) and None); print(s.run().code.value)"
    )
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--quick", "--no-banner", "-c", code],
        env={**os.environ, "IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "exhausted\n"


def test_a_place_in_a_cell_has_its_number(jupyter):
    jupyter.run("def fail(n):\n    raise ValueError(n)\n\ndef wait(n):\n    time.sleep(60)")
    defined = jupyter.run("print(len(In) - 1)").text("stdout").strip()
    cell = jupyter.run(
        "from dask_limits import LimitedExecutor, limit\n"
        "with LimitedExecutor(1, wall_time=60) as executor:\n"
        "    executor.submit(fail, 1).exception()\n"
        "    executor.submit(limit(wait, wall_time=2), 2).exception()\n"
        "print(*(row.where for row in executor.report()), sep='\\n')"
    )
    number = int(defined) - 1
    places = [f"Cell In[{number}]:2 in fail", f"Cell In[{number}]:5 in wait"]
    assert cell.text("stdout").splitlines() == places
