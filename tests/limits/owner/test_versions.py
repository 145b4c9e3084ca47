"""Calls run the code that their owner would run, however it got another version of a module."""

import importlib
import os
import subprocess
import sys
import textwrap
import threading
import time
import zipfile

import pytest
from on_guardian import call
from processes import until

from dask_limits.limits.owner import templates, versions
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import Preload

each = pytest.mark.parametrize("isolation", ["clean", "warm", "fresh"])
kept = pytest.mark.parametrize("isolation", ["clean", "warm"])


@pytest.fixture(autouse=True)
def each_call_looks_at_files(monkeypatch):
    """Else the next look is put off, by long on a busy machine."""
    monkeypatch.setattr(versions, "_REST", 0)


def write(path, number):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"NUMBER = {number}\ndef answer():\n    return {number}\n")
    importlib.invalidate_caches()


def ask(name, function="answer"):
    return getattr(importlib.import_module(name), function)()


@each
def test_a_module_that_the_owner_imports_after_calls_have(guardian, folder, isolation):
    write(folder / "late.py", 1)
    assert call(guardian, ask, "late", isolation=isolation) == 1
    write(folder / "late.py", 22)
    assert ask("late") == 22
    assert call(guardian, ask, "late", isolation=isolation) == 22


@each
def test_a_module_of_a_package_that_is_reloaded(guardian, folder, isolation):
    write(folder / "pack" / "__init__.py", 1)
    write(folder / "pack" / "part.py", 1)
    assert call(guardian, ask, "pack.part", isolation=isolation) == ask("pack.part")
    for number in (22, 333):
        write(folder / "pack" / "part.py", number)
        importlib.reload(sys.modules["pack.part"])
        assert call(guardian, ask, "pack.part", isolation=isolation) == number


@each
def test_a_module_of_a_namespace_package(guardian, folder, isolation):
    write(folder / "space" / "one.py", 1)
    assert call(guardian, ask, "space.one", isolation=isolation) == 1
    write(folder / "space" / "one.py", 22)
    write(folder / "space" / "two.py", 3)
    assert call(guardian, ask, "space.one", isolation=isolation) == 22
    assert call(guardian, ask, "space.two", isolation=isolation) == 3


@each
def test_a_reload_is_seen_also_while_no_files_are_looked_at(
    guardian, folder, isolation, monkeypatch
):
    write(folder / "reloaded.py", 1)
    module = importlib.import_module("reloaded")
    assert call(guardian, ask, "reloaded", isolation=isolation) == 1
    monkeypatch.setattr(versions, "_REST", 1e9)
    call(guardian, abs, -1, isolation=isolation)
    write(folder / "reloaded.py", 22)
    importlib.reload(module)
    assert call(guardian, ask, "reloaded", isolation=isolation) == 22


@each
def test_a_module_that_the_owner_has_forgotten_and_imported_again(guardian, folder, isolation):
    write(folder / "again.py", 1)
    assert call(guardian, ask, "again", isolation=isolation) == ask("again")
    write(folder / "again.py", 22)
    del sys.modules["again"]
    assert ask("again") == 22
    assert call(guardian, ask, "again", isolation=isolation) == 22


class OftenTooLate:
    """Takes back what finders know together with other threads, as these do."""

    def __init__(self):
        self.left = 3

    def find_spec(self, *_):
        return None

    def invalidate_caches(self):
        if self.left:
            self.left -= 1
            raise KeyError("a folder that another thread has forgotten")


def test_other_threads_may_forget_what_finders_know_at_the_same_time(
    guardian, folder, tmp_path, monkeypatch
):
    write(folder / "shared.py", 1)
    assert call(guardian, ask, "shared") == 1
    (tmp_path / "first").mkdir()
    write(tmp_path / "first" / "shared.py", 22)
    finder = OftenTooLate()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), *sys.path])
    assert call(guardian, ask, "shared") == 22
    assert not finder.left


@each
def test_a_module_that_is_executed_again_in_place(guardian, folder, isolation):
    """As tools do that replace functions one by one."""
    write(folder / "patched.py", 1)
    module = importlib.import_module("patched")
    assert call(guardian, ask, "patched", isolation=isolation) == 1
    write(folder / "patched.py", 22)
    exec(compile((folder / "patched.py").read_text(), module.__file__, "exec"), vars(module))
    assert module.answer() == 22
    assert call(guardian, ask, "patched", isolation=isolation) == 22


@each
def test_a_module_in_an_archive_that_is_replaced(guardian, folder, isolation, monkeypatch):
    archive = folder / "archive.zip"
    monkeypatch.syspath_prepend(str(archive))
    for number in (1, 22, 333):
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("zipped.py", f"def answer(): return {number}")
        assert call(guardian, ask, "zipped", isolation=isolation) == number


@each
def test_a_module_that_is_there_compiled_alone(guardian, folder, isolation):
    import py_compile

    for number in (1, 22, 333):
        write(folder / "source" / "compiled.py", number)
        py_compile.compile(str(folder / "source" / "compiled.py"), str(folder / "compiled.pyc"))
        assert call(guardian, ask, "compiled", isolation=isolation) == number


@each
def test_a_module_that_moves_to_another_folder(guardian, folder, isolation, monkeypatch):
    write(folder / "here" / "moved.py", 1)
    monkeypatch.syspath_prepend(str(folder / "here"))
    assert call(guardian, ask, "moved", isolation=isolation) == 1
    (folder / "here" / "moved.py").unlink()
    monkeypatch.syspath_prepend(str(folder / "there"))
    for number in (22, 333):
        write(folder / "there" / "moved.py", number)
        assert call(guardian, ask, "moved", isolation=isolation) == number


@each
def test_a_module_that_another_one_on_the_path_comes_before(
    guardian, folder, isolation, monkeypatch
):
    for n, name in enumerate(("old", "new")):
        write(folder / name / "shadowed.py", n)
    monkeypatch.syspath_prepend(str(folder / "old"))
    assert call(guardian, ask, "shadowed", isolation=isolation) == 0
    monkeypatch.syspath_prepend(str(folder / "new"))
    for number in (1, 22):
        write(folder / "new" / "shadowed.py", number)
        assert call(guardian, ask, "shadowed", isolation=isolation) == number


@each
def test_a_namespace_package_that_another_one_on_the_path_comes_before(
    guardian, folder, isolation, monkeypatch
):
    for n, name in enumerate(("old", "new")):
        (folder / name).mkdir()
        write(folder / name / "shared" / "module.py", n)
    monkeypatch.syspath_prepend(str(folder / "old"))
    assert call(guardian, ask, "shared.module", isolation=isolation) == 0
    monkeypatch.syspath_prepend(str(folder / "new"))
    assert call(guardian, ask, "shared.module", isolation=isolation) == 1
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(folder / "new")])
    assert call(guardian, ask, "shared.module", isolation=isolation) == 0


@each
@pytest.mark.parametrize("when", ["learned", "preloaded", "not learned", "while a call runs"])
def test_a_module_of_the_user_s_that_comes_before_an_installed_one(
    folder, isolation, when, monkeypatch
):
    write(folder / "site-packages" / "needed.py", 1)
    (folder / "site-packages" / "needing.py").write_text("from needed import answer\n")
    monkeypatch.syspath_prepend(str(folder / "site-packages"))
    monkeypatch.setattr(templates, "_REST", 0)

    def run():
        if when == "not learned":
            os.environ["CHANGED"] = "1"
        is_ahead, found = "needed" in sys.modules, ask("needing")
        if when == "while a call runs" and not (folder / "go_on").exists():
            (folder / "begun").touch()
            until((folder / "go_on").exists)
        return is_ahead, found

    preload = Preload.of(["needing"] if when == "preloaded" else [])
    with Guardian(preload=preload) as guardian:
        before = threading.Thread(
            target=call, args=(guardian, run), kwargs={"isolation": isolation}
        )
        before.start()
        if when == "while a call runs":
            until((folder / "begun").exists)
        else:
            before.join()
        if when == "learned":
            until(lambda: call(guardian, run) == (True, 1))
        monkeypatch.syspath_prepend(str(folder / "mine"))
        write(folder / "mine" / "needed.py", 22)
        (folder / "go_on").touch()
        before.join()
        for _ in range(3):
            assert call(guardian, run, isolation=isolation)[1] == 22
        write(folder / "mine" / "needed.py", 333)
        assert call(guardian, run, isolation=isolation)[1] == 333


@each
def test_a_module_of_the_directory_that_the_owner_goes_to(folder, isolation):
    for n, name in enumerate(("first", "second")):
        write(folder / name / "local.py", n)
    program = f"""
        import os
        from dask_limits.limits import limit
        def ask():
            import local
            return local.answer()
        call = limit(ask, wall_time=60, isolation={isolation!r})
        assert call() == 0
        os.chdir("../second")
        assert call() == 1
        assert ask() == 1
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    subprocess.run(command, check=True, timeout=100, cwd=folder / "first")


@each
def test_a_module_that_is_deleted(guardian, folder, isolation):
    write(folder / "gone.py", 1)
    assert call(guardian, ask, "gone", isolation=isolation) == 1
    (folder / "gone.py").unlink()
    with pytest.raises(ModuleNotFoundError):
        call(guardian, ask, "gone", isolation=isolation)
    write(folder / "gone.py", 22)
    assert call(guardian, ask, "gone", isolation=isolation) == 22


@each
def test_a_module_that_is_replaced_by_one_of_the_same_time(guardian, folder, isolation):
    """As `rsync -a` and `cp -p` do."""
    write(folder / "timed.py", 1)
    assert call(guardian, ask, "timed", isolation=isolation) == 1
    before = (folder / "timed.py").stat()
    write(folder / "timed.py", 2)
    os.utime(folder / "timed.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert call(guardian, ask, "timed", isolation=isolation) == 2


@kept
def test_a_module_that_is_edited_while_a_call_runs(guardian, folder, isolation):
    write(folder / "during.py", 1)

    def run():
        found = ask("during")
        (folder / "begun").touch()
        until((folder / "go_on").exists)
        return found

    found = []
    thread = threading.Thread(target=lambda: found.append(call(guardian, run, isolation=isolation)))
    thread.start()
    until((folder / "begun").exists)
    write(folder / "during.py", 22)
    (folder / "go_on").touch()
    thread.join()
    assert found == [1]
    assert call(guardian, run, isolation=isolation) == 22


@kept
def test_a_module_that_is_reloaded_while_a_call_runs(guardian, folder, isolation):
    write(folder / "meanwhile.py", 1)
    module = importlib.import_module("meanwhile")

    def run():
        found = ask("meanwhile")
        (folder / "begun").touch()
        until((folder / "go_on").exists)
        return found

    thread = threading.Thread(target=call, args=(guardian, run), kwargs={"isolation": isolation})
    thread.start()
    until((folder / "begun").exists)
    write(folder / "meanwhile.py", 22)
    importlib.reload(module)
    (folder / "go_on").touch()
    thread.join()
    assert call(guardian, run, isolation=isolation) == 22


@each
@pytest.mark.parametrize("how", ["preload", "initializer"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_module_that_was_imported_ahead(folder, isolation, how, when):
    write(folder / "ahead.py", 1)
    module = importlib.import_module("ahead")
    preload = Preload.of(["ahead"]) if how == "preload" else Preload.of([], ask, ["ahead"])
    with Guardian(preload=preload) as guardian:
        if when == "after":
            assert call(guardian, ask, "ahead", isolation=isolation) == 1
        else:
            assert call(guardian, abs, -1, isolation=isolation) == 1
        write(folder / "ahead.py", 22)
        importlib.reload(module)
        assert call(guardian, ask, "ahead", isolation=isolation) == 22


@each
@pytest.mark.parametrize("entry", ["", ".", "lib"])
def test_a_module_that_was_imported_from_a_directory_that_the_owner_has_left(
    folder, isolation, entry
):
    for name in ("first", "second"):
        (folder / name / "lib").mkdir(parents=True)
    (folder / "first" / entry / "relative.py").write_text("def answer(): return 1")
    program = f"""
        import os, sys
        sys.path.insert(0, {entry!r})
        from relative import answer
        from dask_limits.limits import limit
        os.chdir("../second")
        options = dict(wall_time=60, isolation={isolation!r})
        assert limit(answer, **options)() == 1
        assert limit(os.getcwd, **options)() == {str(folder / "second")!r}
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    subprocess.run(command, check=True, timeout=100, cwd=folder / "first")


def test_a_file_of_the_future_costs_one_new_process_and_no_more(guardian, folder):
    write(folder / "future.py", 1)
    os.utime(folder / "future.py", (time.time() + 10_000,) * 2)

    def look():
        return ask("future"), os.getpid()

    call(guardian, look, isolation="warm")
    assert len({call(guardian, look, isolation="warm")[1] for _ in range(5)}) <= 2
    before = guardian._connection._templates.versions[0]
    for _ in range(5):
        call(guardian, look, isolation="warm")
    assert guardian._connection._templates.versions[0] == before


def test_a_module_that_nobody_has_changed_makes_nothing_new(guardian, folder, monkeypatch):
    write(folder / "same.py", 1)
    importlib.import_module("same")
    time.sleep(0.02)
    for _ in range(10):
        assert call(guardian, ask, "same") == 1
    monkeypatch.syspath_prepend(str(folder / "empty"))
    for _ in range(10):
        call(guardian, ask, "same")
    assert guardian._connection._templates.epoch == 0
    assert guardian._connection._templates.versions[0] == 0


@each
def test_a_module_that_is_edited_and_that_the_owner_goes_on_with(guardian, folder, isolation):
    write(folder / "edited.py", 1)
    assert ask("edited") == 1
    for number in (1, 22, 333):
        write(folder / "edited.py", number)
        assert call(guardian, ask, "edited", isolation=isolation) == number
    assert ask("edited") == 1


def test_a_warm_process_stays_when_what_it_has_not_imported_changes(guardian, folder):
    write(folder / "model.py", 1)

    def model():
        ask("model")
        return os.getpid()

    def warm():
        return call(guardian, model, isolation="warm")

    until(lambda: warm() == warm())  # it was written only just
    pid = warm()
    for n in range(5):
        write(folder / f"written{n}.py", n)
        assert call(guardian, ask, f"written{n}") == n
        assert warm() == pid
        write(folder / f"written{n}.py", n + 100)
        until(lambda n=n: call(guardian, ask, f"written{n}") == n + 100)
        assert warm() == pid
    write(folder / "model.py", 22)
    until(lambda: warm() != pid)


def test_modules_that_load_themselves_when_they_are_used_do_not_because_of_us(guardian, folder):
    (folder / "lazy.py").write_text("import os\nos.environ['LOADED'] = '1'\n")

    def load_lazily():
        import importlib.util

        spec = importlib.util.find_spec("lazy")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        module = importlib.util.module_from_spec(spec)
        sys.modules["lazy"] = module
        spec.loader.exec_module(module)

    def is_loaded():
        return os.environ.get("LOADED")

    def run():
        load_lazily()

    call(guardian, run, isolation="warm")
    assert call(guardian, is_loaded, isolation="warm") is None


def test_odd_modules_harm_no_call(guardian):
    source = textwrap.dedent("""
        import sys, types
        class Odd:
            def __getattr__(self, name):
                raise RuntimeError(name)
        class Spec:
            name = loader = origin = 3
        sys.modules["odd"] = Odd()
        sys.modules["odder"] = types.ModuleType("odder")
        sys.modules["odder"].__spec__ = Spec()
        sys.modules["none"] = None
    """)
    assert call(guardian, exec, source, {}) is None
    assert call(guardian, exec, source, {}) is None
