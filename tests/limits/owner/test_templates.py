"""From where the processes of calls come: clean ones, from templates that have the imports."""

import contextlib
import decimal
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module, reload

import psutil
import pytest
from on_guardian import LONG_S, call
from our_processes import task_processes, templates
from process_view import differences, view_of_any
from processes import alive, all_gone, until

from dask_limits import exceptions
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.idle import _MOST_FUNCTIONS
from dask_limits.limits.owner.preload import Preload
from dask_limits.limits.owner.templates import Templates

noted = []


def note(seconds):
    """How many earlier calls have noted themselves in this process; and note this one."""
    noted.append(seconds)
    time.sleep(seconds)
    return len(noted) - 1, os.getpid()


def is_imported(name):
    return name in sys.modules


def is_imported_for_long(name):
    time.sleep(LONG_S)  # so that each call has a process of its own
    return is_imported(name)


def import_and_answer(name):
    return import_module(name).answer()


def test_a_long_call_has_a_process_in_which_no_call_has_run(guardian):
    ended = [call(guardian, note, LONG_S) for _ in range(3)]
    assert [seen for seen, _ in ended] == [0, 0, 0]
    assert len({pid for _, pid in ended}) == 3


def test_short_calls_of_one_function_share_a_process_and_those_of_another_do_not(guardian):
    call(guardian, note, 0)
    until(lambda: call(guardian, note, 0)[0] >= 3)  # a busy machine may take one away
    assert call(guardian, os.getpid) not in {call(guardian, note, 0)[1]}


def test_short_calls_that_follow_long_ones_share_a_process(guardian):
    for _ in range(3):
        call(guardian, note, LONG_S)
    until(lambda: call(guardian, note, 0)[0] >= 3)  # a busy machine may take one away


def test_long_calls_share_a_process_for_which_importing_their_module_takes_longer(guardian, module):
    text = f"""
        import os, time
        time.sleep(0.5)
        def answer():
            time.sleep({LONG_S})
            return os.getpid()
    """
    fn = import_module(module("slow", text)).answer
    pids = {call(guardian, fn)}
    with ThreadPoolExecutor(2) as two:
        for _ in range(3):
            pids |= {*two.map(lambda _: call(guardian, fn), range(2))}
    assert len(pids) == 2


def test_warm_calls_share_a_process_however_long_they_take(guardian):
    ended = [call(guardian, note, LONG_S, isolation="warm") for _ in range(3)]
    assert [seen for seen, _ in ended] == [0, 1, 2]


@pytest.mark.usefixtures("no_rest")
def test_later_processes_have_what_a_first_call_has_imported(guardian, module):
    name = module("learned", "def answer(): return 1", installed=True)
    assert not call(guardian, is_imported, name)
    assert call(guardian, import_and_answer, name) == 1

    until(lambda: call(guardian, is_imported_for_long, name))


@pytest.mark.usefixtures("no_rest")
def test_a_learned_module_that_ends_the_template_ends_no_learning(guardian, module):
    text = """
        import os
        def answer(): return 1
        if open("/proc/self/comm").read() == "limits-template\\n":
            os._exit(3)
    """
    ending, good = (
        module("ending", text, installed=True),
        module("good", "def answer(): return 2", installed=True),
    )
    assert call(guardian, import_and_answer, ending) == 1

    def again(n, m):
        time.sleep(LONG_S)  # so that each has a process of its own
        was_there = is_imported(n)
        return import_and_answer(n), was_there, import_and_answer(m)

    until(lambda: call(guardian, again, good, ending) == (2, True, 1))


@pytest.mark.usefixtures("no_rest")
def test_modules_are_not_learned_without_what_the_initializer_has_set(module):
    name = module(
        "depending", "import os; BACKEND = os.environ.get('A_BACKEND', '')", installed=True
    )

    def choose():
        os.environ["A_BACKEND"] = "set"

    def use():
        backend = import_module(name).BACKEND
        time.sleep(LONG_S)
        return backend

    with Guardian(preload=Preload.of((), choose)) as guardian:
        assert [call(guardian, use) for _ in range(8)] == ["set"] * 8


@pytest.mark.usefixtures("no_rest")
def test_no_call_is_lost_while_one_template_takes_the_place_of_another(guardian, module):
    def use(name):
        answer = import_and_answer(name)
        time.sleep(0.15)  # meanwhile, a template with the last module gets ready
        return answer

    names = [module(f"part_{n}", "def answer(): return 1", installed=True) for n in range(40)]
    assert [call(guardian, use, name) for name in names] == [1] * 40


def test_calls_run_the_code_that_their_caller_would_run_after_a_reload(guardian, module):
    name = module("edited", "def answer(): return 1")
    mine = import_module(name)
    for isolation in ("clean", "warm"):
        assert call(guardian, import_and_answer, name, isolation=isolation) == mine.answer()
    for n in range(2, 5):
        module(name, f"def answer(): return {n}")
        reload(mine)
        for isolation in ("clean", "warm"):
            assert call(guardian, import_and_answer, name, isolation=isolation) == n
        until(lambda: len(task_processes(guardian)) <= 4)


def test_a_guardian_preloads_modules_and_calls_the_initializer_in_each_process(module, tmp_path):
    name = module("wanted", "def answer(): return 1")
    begun = tmp_path / "begun"

    def initialize(text):
        with begun.open("a") as file:
            file.write(f"{os.getpid()} {text}\n")

    with Guardian(preload=Preload.of([name], initialize, ["x"])) as guardian:
        for _ in range(2):
            assert call(guardian, is_imported, name)
            _, pid = call(guardian, note, LONG_S)
            assert f"{pid} x" in begun.read_text().splitlines()


def test_a_template_that_was_ready_long_before_its_owner_looked_delays_no_other():
    made = Templates()
    made.look_for_changes()
    _, folders = made.versions
    made.learn({"wave": None}, 0, folders)
    wanted = made.to_prepare()
    made.asked(wanted)
    time.sleep(0.5)
    made.prepared(wanted.number, 0.001)
    assert made.number == wanted.number
    made.learn({"colorsys": None}, 0, folders)
    time.sleep(0.1)
    assert made.is_due


def test_the_first_templates_come_at_once_and_later_ones_cost_little():
    made = Templates()
    for n in range(8):
        made.learn({f"module_{n}": None}, 0, ([], ""))
        assert made.is_due == (n < 3)
        if made.is_due:
            made.asked(made.to_prepare())
            made.prepared(n + 1, 10)


def learn(guardian, name):
    """Have calls import a module until there is a template of what they have imported."""
    call(guardian, abs, -1)
    before = {process.pid for process in templates(guardian)}
    until(
        lambda: (
            call(guardian, import_and_answer, name) is not None
            and {process.pid for process in templates(guardian)} - before
        )
    )


def answer_late(name):
    time.sleep(LONG_S)  # so that each has a process of its own
    return os.getpid(), import_and_answer(name)


@pytest.mark.usefixtures("no_rest")
def test_what_a_module_of_the_users_makes_when_it_is_imported_is_each_call_s_own(guardian, module):
    name = module(
        "making",
        """
        import random, xmlrpc.client
        made = random.Random().random()
        def answer(): return made
        """,
    )
    learn(guardian, name)
    answers = {}

    def answer():
        pid, made = call(guardian, answer_late, name)
        return answers.setdefault(pid, made)

    until(lambda: answer() and len(answers) == 3)
    assert len(set(answers.values())) == 3


def test_short_calls_share_a_process_that_had_to_import_a_slow_module_of_the_users(
    guardian, module
):
    name = module(
        "large",
        """
        import os, time
        while time.process_time() < 1:  # far longer than 25 processes without it take
            pass
        def answer(): return os.getpid()
        """,
    )
    answer = import_module(name).answer
    pids = {call(guardian, answer) for _ in range(20)}
    assert len(pids) <= 3  # the first ones may have had to load what templates learn


@pytest.mark.usefixtures("no_rest")
def test_a_module_that_can_do_without_another_has_it_in_each_call(guardian, module):
    module(
        "heavy",
        """
        import threading
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        """,
        installed=True,
    )
    name = module(
        "able",
        """
        try:
            import heavy
            has = True
        except:
            has = False
        def answer(): return has
        """,
        installed=True,
    )
    learn(guardian, name)
    assert {call(guardian, answer_late, name)[1] for _ in range(4)} == {True}


def test_a_module_can_end_a_program_that_it_starts_while_it_is_preloaded(module):
    name = module(
        "starting",
        """
        import subprocess
        program = subprocess.Popen(["sleep", "600"])
        program.terminate()
        def answer(): return status
        status = program.wait()
        """,
    )
    with Guardian(preload=Preload.of([name])) as guardian:
        assert call(guardian, import_and_answer, name) == -signal.SIGTERM


@pytest.mark.parametrize("preload", [[], ["base64"]], ids=["nothing preloaded", "preloaded"])
@pytest.mark.usefixtures("no_rest")
def test_no_call_waits_for_what_another_has_imported(module, tmp_path, preload):
    begun, go = tmp_path / "begun", tmp_path / "go"
    name = module(
        "slow",
        f"""
        import os, pathlib, time
        if open("/proc/self/comm").read() == "limits-template\\n":
            pathlib.Path({str(begun)!r}).touch()
            while not os.path.exists({str(go)!r}):
                time.sleep(0.01)
        def answer(): return 1
        """,
        installed=True,
    )
    with Guardian(preload=Preload.of(preload)) as guardian:
        assert call(guardian, import_and_answer, name) == 1
        until(begun.exists)
        for _ in range(3):
            assert not call(guardian, is_imported_for_long, name)
        go.touch()
        until(lambda: call(guardian, is_imported_for_long, name))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise RuntimeError('no licence')", "no licence"),
        ("import no_such_module", "No module named"),
        ("import os; os._exit(3)", "ended with exit code 3"),
    ],
    ids=["raises", "is missing", "ends its process"],
)
def test_calls_are_refused_with_the_reason_if_a_module_cannot_be_preloaded(module, text, why):
    name = module("bad", text)
    with Guardian(preload=Preload.of([name])) as guardian:
        for _ in range(2):
            error = guardian.run(abs, (-1,), {}).exception
            assert isinstance(error, exceptions.CallError)
            assert "could not be started" in str(error)
            assert why in str(error)


def test_calls_are_refused_with_the_reason_if_the_initializer_fails():
    with Guardian(preload=Preload.of((), os.stat, ["/no/such/file"])) as guardian:
        error = guardian.run(abs, (-1,), {}).exception
        assert isinstance(error, exceptions.CallError)
        assert "No such file" in str(error)


THREADED = """
    import threading
    def work():
        while True:
            asked.wait()
            asked.clear()
            answered.set()
    asked, answered = threading.Event(), threading.Event()
    threading.Thread(target=work, daemon=True).start()
    def answer():
        asked.set()
        return answered.wait(10)
"""
"""Has a thread that works for it, which no fork has."""


def test_what_starts_threads_is_imported_in_each_process(module):
    names = [module("threaded", THREADED), module("above", "from threaded import answer")]
    for name in names:
        with Guardian(preload=Preload.of([name])) as guardian:
            assert call(guardian, is_imported, name)
            assert call(guardian, import_and_answer, name) is True


OWN = {
    "an open file": """
        import os, tempfile
        file = tempfile.TemporaryFile(buffering=0)
        file.write(b"abc")
        file.seek(0)
        def answer(): return file.read(1) == b"a"
        """,
    "a pipe": """
        import os
        read, write = os.pipe()
        def answer(): return os.write(write, b"ab"[:1]) and os.read(read, 9) == b"a"
        """,
    "sockets": """
        import socket
        ours, theirs = socket.socketpair()
        def answer():
            theirs.send(b"a")
            return ours.recv(9, socket.MSG_PEEK) == b"a"
        """,
    "a number that processes share": """
        import multiprocessing
        number = multiprocessing.Value("i", 0)
        def answer():
            with number:
                number.value += 1
                return number.value == 1
        """,
    "a lock that processes share": """
        import multiprocessing
        lock = multiprocessing.Lock()
        def answer(): return lock.acquire(timeout=1)
        """,
    "shared memory": """
        import mmap
        memory = mmap.mmap(-1, 4096)
        def answer():
            memory[0] += 1
            return memory[0] == 1
        """,
    "a program": """
        import subprocess
        program = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        def answer():
            program.stdin.close()
            return program.wait() == 0
        """,
    "a thread": THREADED,
    "a timer": """
        import signal
        signal.setitimer(signal.ITIMER_VIRTUAL, 1000)
        def answer(): return signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0
        """,
}
"""What a module may leave when it is imported, and whether a process has one of its own."""
DRAWS = {
    "of Python": "import random; made = random.Random(); draw = made.random",
    "of Python, in a function": "import random\ndef draw(it=random.Random()): return it.random()",
    "of NumPy": "import numpy; made = numpy.random.default_rng(); draw = made.random",
    "of NumPy, of old": "import numpy; draw = numpy.random.RandomState().random_sample",
    "spawned": "import numpy; made = numpy.random.SFC64(); "
    "draw = lambda: int(made.seed_seq.spawn(1)[0].generate_state(1)[0])",
}


@pytest.fixture(params=["preloaded", "learned"])
def imported_ahead(request, monkeypatch, module):
    """Writes a module, and has it imported ahead. Returns what calls it, in a process each."""
    monkeypatch.setattr("dask_limits.limits.owner.templates._REST", 0)
    with contextlib.ExitStack() as guardians:

        def import_ahead(text):
            is_learned = request.param == "learned"
            names = [module("leaving", text, installed=is_learned)]
            guardian = guardians.enter_context(
                Guardian(preload=Preload.of([] if is_learned else names), max_calls_per_process=1)
            )
            if is_learned:
                learn_all(guardian, module, names)
            return guardian

        yield import_ahead


def learn_all(guardian, module, names):
    """Have installed modules learned: until another one is, that leaves nothing."""
    beside = module("beside", "", installed=True)

    def use():
        for name in [beside, *names]:
            import_module(name)

    call(guardian, use)
    until(lambda: call(guardian, is_imported, beside))


@pytest.mark.parametrize("left", OWN)
def test_what_a_module_leaves_when_it_is_imported_is_each_process_s_own(imported_ahead, left):
    guardian = imported_ahead(OWN[left])
    assert [call(guardian, import_and_answer, "leaving") for _ in range(3)] == [True] * 3


@pytest.mark.parametrize("kind", DRAWS)
def test_generators_that_a_module_makes_draw_other_numbers_in_each_process(imported_ahead, kind):
    pytest.importorskip("numpy")
    guardian = imported_ahead(DRAWS[kind] + "\ndef answer(): return draw()")
    drawn = [call(guardian, import_and_answer, "leaving") for _ in range(3)]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("seed", ["7", "2**127 + 9"])
def test_generators_that_a_module_has_seeded_draw_the_same_numbers(imported_ahead, seed):
    numpy = pytest.importorskip("numpy")
    guardian = imported_ahead(
        f"""
        import numpy, random
        python, made = random.Random({seed}), numpy.random.default_rng({seed})
        def answer(): return python.random(), made.random()
        """
    )
    wanted = random.Random(eval(seed)).random(), numpy.random.default_rng(eval(seed)).random()
    assert {call(guardian, import_and_answer, "leaving") for _ in range(3)} == {wanted}


def test_a_module_that_seeds_the_global_generators_seeds_those_of_each_process(imported_ahead):
    numpy = pytest.importorskip("numpy")
    guardian = imported_ahead(
        """
        import numpy, random
        random.seed(7)
        numpy.random.seed(7)
        def answer(): return random.random(), numpy.random.random_sample()
        """
    )
    wanted = random.Random(7).random(), numpy.random.RandomState(7).random_sample()
    assert {call(guardian, import_and_answer, "leaving") for _ in range(3)} == {wanted}


CHANGES = {
    "recursion limit": "import sys; sys.setrecursionlimit(1234)",
    "socket timeout": "import socket; socket.setdefaulttimeout(3)",
    "handler": "import signal; signal.signal(signal.SIGUSR1, print)",
    "nice": "import os; os.nice(3)",
    "resource limit": "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "processors": "import os; os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])",
    "umask": "import os; os.umask(0o123)",
    "directory": "import os; os.chdir('/')",
    "decimals": "import decimal; decimal.getcontext().prec = 50",
    "context variable": "import contextvars; contextvars.ContextVar('x').set(1)",
    "locale": "import locale; locale.setlocale(locale.LC_ALL, 'C.UTF-8')",
    "hook": "import sys; sys.excepthook = print",
    "garbage": "import gc; gc.disable()",
    "standard input": "import os; os.close(0); os.open('/dev/zero', os.O_RDONLY)",
    "timer": "import signal; signal.setitimer(signal.ITIMER_PROF, 1000)",
    "slack": "import ctypes; ctypes.CDLL(None).prctl(29, 77777, 0, 0, 0)",
    "stacks": "import faulthandler; faulthandler.enable(1)",
}
"""What a module may change, when it is imported, of its process."""


@pytest.mark.parametrize("changed", CHANGES)
@pytest.mark.usefixtures("no_rest")
def test_what_a_learned_module_changes_is_not_so_for_functions_that_do_not_use_it(module, changed):
    name = module("changing_all", CHANGES[changed] + "\ndef answer(): return 1", installed=True)
    user = module("using", f"import {name}", installed=True)
    with Guardian(max_calls_per_process=1) as guardian:
        before = call(guardian, view_of_any)
        learn_all(guardian, module, [user])
        assert not differences(before, call(guardian, view_of_any))
        assert not call(guardian, is_imported, user)
        assert call(guardian, import_and_answer, name) == 1


def test_what_a_preloaded_module_changes_is_so_for_all_calls(module):
    name = module("changing_all", CHANGES["recursion limit"])
    with Guardian(preload=Preload.of([name])) as guardian:
        assert call(guardian, sys.getrecursionlimit) == 1234


@pytest.mark.usefixtures("no_rest")
@pytest.mark.parametrize("isolation", ["clean", "warm"])
def test_what_an_import_changes_for_decimals_holds_in_its_process(guardian, module, isolation):
    name = module("precise", "import decimal\ndecimal.getcontext().prec = 50", installed=True)

    def divide():
        import_module(name)
        return str(decimal.Decimal(1) / 3)

    answers = {call(guardian, divide, isolation=isolation) for _ in range(6)}
    assert {len(text) for text in answers} == {52}


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("numpy",), TypeError, "Use a list: preload=['numpy']"),
        (([3],), TypeError, "not the name of a module"),
        ((["a b"],), ValueError, "not the name of a module"),
        (([], 3), TypeError, "initializer=3 cannot be called"),
        (([], None, [1]), ValueError, "without an initializer"),
    ],
    ids=str,
)
def test_what_cannot_be_preloaded_is_refused(arguments, error, text):
    with pytest.raises(error) as caught:
        Preload.of(*arguments)
    assert text in str(caught.value)


def test_when_a_template_is_killed_the_next_call_works(guardian):
    for _ in range(5):
        assert call(guardian, abs, -1) == 1
        killed = templates(guardian)
        for process in killed:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has a successor
                process.kill()
        all_gone({process.pid for process in killed})  # and what it has forked is being killed
        until(lambda: guardian.run(abs, (-1,), {}).ok)


def test_a_call_whose_template_is_killed_ends(guardian, tmp_path):
    begun, ended = tmp_path / "begun", []

    def begin():
        begun.touch()
        time.sleep(60)

    thread = threading.Thread(target=lambda: ended.append(guardian.run(begin, (), {})))
    thread.start()
    until(begun.exists)
    below = [process.pid for process in task_processes(guardian)]
    os.kill(templates(guardian)[0].pid, signal.SIGKILL)
    thread.join()
    assert isinstance(ended[0].exception, exceptions.CrashError)
    until(lambda: not any(map(alive, below)))


def test_warm_processes_that_are_kept_stay_when_others_are_given_back(guardian):
    kept = len(os.sched_getaffinity(0))
    together = threading.Barrier(kept + 3)

    def one():
        together.wait()
        call(guardian, note, 0.5, isolation="warm")

    threads = [threading.Thread(target=one) for _ in range(kept + 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(task_processes(guardian)) <= kept + 1)  # and the spare
    pids = {process.pid for process in task_processes(guardian)}
    for _ in range(3):
        seen, pid = call(guardian, note, 0, isolation="warm")
        assert seen
        assert pid in pids


@pytest.mark.parametrize(("files", "threads"), [(40, 1), (60, 8)])
def test_functions_that_are_called_once_keep_no_files(files, threads):
    script = f"""
        import resource
        from concurrent.futures import ThreadPoolExecutor
        from dask_limits.limits import Limits
        from dask_limits.limits.owner.guardian import Guardian
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, hard))

        def call(n):
            fn = eval("lambda: " + str(n))
            fn.__qualname__ = f"number {{n}}"
            assert guardian.run(fn, (), {{}}, Limits()).result() == n

        with Guardian() as guardian, ThreadPoolExecutor({threads}) as pool:
            for _ in pool.map(call, range(60 * {threads})):
                pass
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=100)


@pytest.mark.parametrize("threads", [1, 4])
def test_no_call_is_refused_while_idle_processes_take_its_room(threads, run_for_everyone, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import os, resource
        from concurrent.futures import ThreadPoolExecutor
        from dask_limits.limits import Limits
        from dask_limits.limits.owner.guardian import Guardian

        os.setgid(54321)
        os.setuid(54321)
        resource.setrlimit(resource.RLIMIT_NPROC, (25, 25))

        def call(n):
            fn = eval("lambda: " + str(n))
            fn.__qualname__ = f"number {{n}}"
            assert guardian.run(fn, (), {{}}, Limits()).result() == n

        with Guardian() as guardian, ThreadPoolExecutor({threads}) as pool:
            for _ in pool.map(call, range(100)):
                pass
        """)
    )
    assert run_for_everyone(program) == ""


def test_functions_that_are_called_once_keep_few_processes(guardian):
    def one(n):
        fn = eval(f"lambda: {n}")
        fn.__qualname__ = f"number {n}"
        assert call(guardian, fn) == n

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(one, range(100)):
            pass
    assert len(guardian._connection._leases) <= _MOST_FUNCTIONS


def test_processes_that_are_idle_for_long_are_given_back(guardian):
    together = threading.Barrier(8)

    def one():
        together.wait()
        call(guardian, time.sleep, 0.01)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(task_processes(guardian)) <= 1)  # the spare
    assert call(guardian, abs, -1) == 1
