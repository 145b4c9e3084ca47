"""What calls import is imported ahead for later ones, but not if their own changes come before."""

import os
import sys
import time
from importlib import import_module

import pytest
from on_guardian import LONG_S, call
from processes import until

from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import Preload

pytestmark = pytest.mark.usefixtures("no_rest")

READER = """
import os, sys
seen = os.environ.get("BACKEND", ""), sys.path[0], os.getcwd(), type(sys.meta_path[0]).__name__
"""


class Hook:
    """An import hook that finds nothing."""

    def find_spec(self, *_):
        pass


def test_what_a_preloaded_module_sets_of_a_library_is_seen_by_what_calls_import(module):
    module("options", "initialize = True", installed=True)
    reader = module("reader", "import options; seen = options.initialize", installed=True)
    settings = module("settings", "import options; options.initialize = False")

    def use():
        had = reader in sys.modules
        seen = import_module(reader).seen
        time.sleep(LONG_S)
        return had, seen

    with Guardian(preload=Preload.of([settings])) as guardian:
        assert call(guardian, use) == (False, False)
        until(lambda: call(guardian, use) == (True, False))


def import_all(names):
    """Import modules. Returns which of them the process had."""
    had = [name for name in names if name in sys.modules]
    for name in names:
        import_module(name)
    time.sleep(LONG_S)
    return had


@pytest.mark.parametrize(
    ("change", "place", "expected"),
    [
        (lambda: os.environ.update(BACKEND="jax"), 0, "jax"),
        (lambda: sys.path.insert(0, "/no/such/folder"), 1, "/no/such/folder"),
        (lambda: os.chdir("/"), 2, "/"),
        (lambda: sys.meta_path.insert(0, Hook()), 3, "Hook"),
        (lambda: import_module("chooses"), 0, "torch"),
    ],
    ids=["a variable", "the path", "the directory", "an import hook", "a module of the user's"],
)
def test_what_a_call_imports_after_changes_of_its_own_sees_them(
    guardian, module, change, place, expected
):
    module("beforehand", "", installed=True)
    module("reading", READER, installed=True)
    module("chooses", "import os; os.environ['BACKEND'] = 'torch'; import reading")

    def run():
        had = import_all(["beforehand"])
        change()
        return bool(had), import_module("reading").seen[place]

    ended = []
    until(lambda: ended.append(call(guardian, run)) or ended[-1][0])
    assert {seen for _, seen in ended} == {expected}


@pytest.mark.parametrize(
    "text",
    [
        "os.environ['OWN'] = '1'; import part",
        "import part; os.environ['OWN'] = '1'",
        "import part; sys.meta_path.insert(0, Hook())",
    ],
    ids=["at its start", "at its end", "a hook"],
)
def test_what_an_installed_module_changes_itself_is_no_change_of_the_call(guardian, module, text):
    module("part", "", installed=True)
    module("another", "", installed=True)
    hook = "import os, sys\nclass Hook:\n    def find_spec(self, *_): pass\n"
    names = [module("own", hook + text, installed=True), "part", "another"]
    until(lambda: call(guardian, import_all, names) == names)


def test_scikit_learn_and_pandas_are_imported_ahead(guardian, monkeypatch):
    monkeypatch.setattr("dask_limits.limits.owner.templates._LEARNED_PATIENCE_S", 250)
    names = ["sklearn.ensemble", "pandas", "pyarrow.parquet"]
    for name in names:
        pytest.importorskip(name)
    until(lambda: call(guardian, import_all, names) == names, 250)  # 4 s of CPU time, twice or more


def test_changes_of_one_call_do_not_count_for_the_next(guardian, module):
    names = [module("plain", "", installed=True)]

    def look_for_nothing():
        os.environ["BACKEND"] = "jax"
        try:
            import no_such_module  # noqa: F401
        except ImportError:
            return os.getpid()

    def run():
        import_all(names)
        return os.getpid()

    assert call(guardian, look_for_nothing, isolation="warm") == call(
        guardian, run, isolation="warm"
    )
    until(lambda: call(guardian, import_all, names) == names)
