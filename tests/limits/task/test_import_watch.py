"""Which packages a template must not import, and how it imports the others."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import json, os
from dask_limits.limits.task.import_watch import NOTHING_EXCLUDED
from dask_limits.limits.task.preparation import Preparation

# As templates do, one process after the other: each imports modules, and says what to exclude.
excluded = NOTHING_EXCLUDED
while True:
    read, write = os.pipe()
    if os.fork() == 0:
        preparation = Preparation(preload=PRELOAD, learned=LEARNED)
        found = preparation.in_template(excluded)
        os.write(write, (excluded | found).packed())
        os._exit(0)
    os.close(write)
    before, excluded = excluded, type(excluded).unpacked(os.read(read, 10_000))
    os.close(read)
    os.wait()
    if excluded == before:
        break
print(json.dumps([sorted(part) for part in excluded]))
"""
OPENS = "import os; file = os.open('/dev/null', os.O_RDONLY)"
CHANGES = "import sys; sys.setrecursionlimit(1234)"


@pytest.fixture
def excluded(tmp_path):
    """Which packages are late, and which are left out, of modules with these texts."""

    def excluded(modules, *, preload=(), learned=()):
        installed = tmp_path / "site-packages"
        installed.mkdir(exist_ok=True)
        for name, text in modules.items():
            folder = tmp_path if name.startswith("users") else installed
            file = folder / f"{name.replace('.', '/')}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(textwrap.dedent(text))
        program = f"PRELOAD, LEARNED = {tuple(preload)}, {tuple(learned)}\n{PROGRAM}"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, installed, *sys.path)))
        }
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        late, left_out = json.loads(done.stdout)
        return late, left_out

    return excluded


def test_what_needs_modules_of_the_users_is_not_imported_ahead_unless_asked_for(excluded):
    modules = {"users_own": "", "needing": "import users_own", "other": "import wave"}
    assert excluded(modules, learned=["needing", "other"]) == ([], ["needing"])
    assert excluded(modules, preload=["needing", "other"]) == ([], [])


def test_a_package_that_leaves_something_is_excluded_with_those_that_need_it(excluded):
    modules = {
        "opening": "import wave; " + OPENS,
        "needing": "import fractions, opening, colorsys",
        "also": "import fractions, opening",
        "other": "import fractions, wave",
    }
    names = ["other", "needing", "also", "opening"]
    assert excluded(modules, preload=names) == (["also", "needing", "opening"], [])
    assert excluded(modules, learned=names) == (["also", "needing", "opening"], [])


def test_what_changes_the_process_is_left_out_only_if_nobody_has_asked_for_it(excluded):
    modules = {"raising": CHANGES, "needing": "import raising", "other": "import wave"}
    names = ["raising", "needing", "other"]
    assert excluded(modules, learned=names) == ([], ["needing", "raising"])
    assert excluded(modules, preload=names) == ([], [])
    assert excluded(modules, preload=["needing"], learned=["raising"]) == ([], [])


@pytest.mark.parametrize(
    "text",
    [
        "import socket; socket.getaddrinfo = len",
        "import subprocess; subprocess.Popen = type('Other', (subprocess.Popen,), {})",
        "import hashlib; hashlib.md5 = len",
        "import concurrent.futures.thread as one; one.ThreadPoolExecutor = len",
        "import os.path; del os.path.commonpath",
        "import sys, types; sys.modules['json'] = types.ModuleType('json')",
        "import earlier; earlier.answer = len",
        "import logging; logging.basicConfig()",
        "import logging; logging.disable(50)",
        "import logging; logging.setLoggerClass(type('Other', (logging.Logger,), {}))",
        "import multiprocessing; multiprocessing.set_start_method('spawn')",
        "import threading; threading.excepthook = print",
        "import threading; threading.stack_size(2**20)",
        "import faulthandler; faulthandler.enable()",
        "import csv; csv.field_size_limit(7)",
        "import warnings; warnings.showwarning = print",
    ],
)
def test_a_package_that_changes_what_is_no_part_of_it_is_left_out(excluded, text):
    modules = {"earlier": "def answer(): return 1", "changing": text}
    assert excluded(modules, learned=["earlier", "changing"]) == ([], ["changing"])


@pytest.mark.parametrize(
    "text",
    [
        "import mimetypes; mimetypes.guess_type('a.png')",
        "import tempfile; tempfile.gettempdir()",
        "import csv, multiprocessing.pool, concurrent.futures as it; it.ProcessPoolExecutor",
        "import earlier; earlier.number = 2; earlier.new = len",
        "import logging; logging.getLogger(__name__).addHandler(logging.StreamHandler())",
        "import earlier.part; earlier.answer()",
    ],
)
def test_a_package_that_uses_others_is_not(excluded, text):
    modules = {
        "earlier.__init__": "number = 1\ndef answer(): return 1",
        "earlier.part": "import earlier; earlier.answer = lambda: 2",
        "using": text,
    }
    assert excluded(modules, learned=["earlier", "using"]) == ([], [])


def test_what_is_late_needs_nothing_that_is_left_out(excluded):
    modules = {"raising": CHANGES, "opening": "import raising; " + OPENS}
    _, left_out = excluded(modules, learned=["raising", "opening"])
    assert left_out == ["opening", "raising"]


def test_what_a_package_has_tidied_up_when_it_is_imported_does_not_count(excluded):
    modules = {
        "tidy": f"""
        {OPENS}
        import subprocess
        program = subprocess.Popen(["sleep", "100"])
        before = __import__("sys").getrecursionlimit()
        __import__("sys").setrecursionlimit(1234)
        import wave, fractions, colorsys
        os.close(file)
        program.kill()
        program.wait()
        __import__("sys").setrecursionlimit(before)
        """
    }
    assert excluded(modules, learned=["tidy"]) == ([], [])


def test_a_package_can_ask_whether_one_that_is_excluded_is_there(excluded):
    modules = {
        "opening": OPENS,
        "asking": "import importlib.util; assert importlib.util.find_spec('opening')",
    }
    assert excluded(modules, learned=["opening", "asking"]) == (["opening"], [])


def test_modules_have_the_loaders_that_they_would_have(excluded):
    modules = {
        "looking": """
        import json.tool, _json, wave
        for module in (json, json.tool, _json, wave, __import__(__name__)):
            for loader in (module.__loader__, module.__spec__.loader):
                name = type(loader).__name__
                assert name in ("SourceFileLoader", "ExtensionFileLoader", "type"), name
        """
    }
    assert excluded(modules, preload=["looking"]) == ([], [])
