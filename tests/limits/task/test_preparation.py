"""What a template imports, and what each task process must import by itself."""

import importlib
import itertools
import os
import subprocess
import sys
import time

import pytest
from on_guardian import LONG_S, call
from processes import until

from dask_limits.limits import Limits
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import Preload

PROGRAM = """
import sys
from dask_limits.limits.task.import_watch import Excluded
from dask_limits.limits.task.preparation import Preparation
late = frozenset(sys.argv[1].split())
found = Preparation(preload=tuple(sys.argv[2:])).in_template(Excluded(late))
print(*found.late)
"""
FITS = """
import numpy
from sklearn.cluster import KMeans
model = KMeans(3, n_init=1).fit(numpy.random.rand(5000, 8))
def answer(): return len(model.predict(numpy.random.rand(5000, 8)))
"""


@pytest.fixture
def late(tmp_path):
    """Which packages would have to be late, where some are already."""

    def late(*modules, already=""):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)]),
            "OMP_NUM_THREADS": "2",
            "OPENBLAS_NUM_THREADS": "2",
        }
        command = [sys.executable, "-c", PROGRAM, already, *modules]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=100, check=True
        )
        return set(done.stdout.split())

    return late


@pytest.mark.parametrize("module", ["numpy", "sklearn.ensemble", "pandas", "pyarrow.parquet"])
def test_libraries_whose_threads_are_made_for_forks_are_imported_in_the_template(late, module):
    pytest.importorskip(module.partition(".")[0])
    assert late(module) == set()


def test_a_module_that_starts_a_thread_is_not(late, tmp_path):
    (tmp_path / "begins.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    (tmp_path / "above.py").write_text("import begins, json, wave")
    assert late("json", "begins") == {"begins"}
    assert late("above", "numpy") == {"above", "begins"}
    assert late("above", "numpy", already="begins") == {"above"}


def test_a_module_that_uses_a_library_while_it_is_imported_is_late_and_not_the_library(
    late, tmp_path
):
    (tmp_path / "fits.py").write_text(FITS)
    assert late("sklearn.cluster", "fits", "numpy") == {"fits"}
    assert late("sklearn.cluster", "fits", "numpy", already="fits") == set()


def test_calls_can_use_what_a_module_has_computed_with_threads(tmp_path, monkeypatch):
    (tmp_path / "fits.py").write_text(FITS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    def use():
        import fits

        return fits.answer()

    with Guardian(preload=Preload.of(["fits"])) as guardian:
        for _ in range(4):
            assert guardian.run(use, (), {}, Limits(wall_time=60)).result() == 5000


PRINTS = """
import os
print("imported", flush=True)
output = os.dup(1)
"""


@pytest.mark.usefixtures("no_rest")
@pytest.mark.parametrize("how", ["learned", "preload", "initializer"])
def test_modules_print_where_the_owner_does_if_each_process_imports_them(module, capfd, how):
    name = module("printing", PRINTS, installed=True)

    def use(number):
        was_there = name in sys.modules
        os.write(importlib.import_module(name).output, f"used {number}\n".encode())
        time.sleep(LONG_S)  # so that each has a process of its own
        return was_there

    def initialize():
        print("initialized", flush=True)

    preload = {"preload": ([name],), "initializer": ([], initialize)}.get(how, ())
    with Guardian(preload=Preload.of(*preload)) as guardian:
        assert call(guardian, use, 1) == (how == "preload")
        numbers = itertools.count(2)
        until(lambda: call(guardian, use, next(numbers)))
    lines = capfd.readouterr().out.split("\n")
    assert {"imported", *(f"used {n}" for n in range(1, next(numbers)))} < {*lines}
    assert ("initialized" in lines) == (how == "initializer")
