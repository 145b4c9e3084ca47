from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import distributed
import pytest
from rich.console import Console

import dask_limits
from dask_limits.check.machine import Machine, find_names
from dask_limits.check.report import show
from dask_limits.check.trials import Finding, find_all
from dask_limits.dask.compat.undocumented_name import _find

PROGRAM = [sys.executable, "-m", "dask_limits", "check"]
TIMED = {"wall_time", "cpu_time", "memory"}  # a busy machine may be late


def run(*arguments, open_files=None):
    limit_files = None
    if open_files is not None:

        def limit_files():
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

    return subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=250,
        preexec_fn=limit_files,
        check=False,
    )


def test_what_is_promised_holds_on_this_machine_and_the_exit_code_says_so():
    done = run("--json")
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["holds"] else 1)
    (machine,) = found["machines"]
    assert machine["where"] == "here"
    assert {"python", "cgroup", "slurm", "dask-limits", "pynisher"} <= machine["facts"].keys()
    assert {"cgroup v2 of one's own", "landlock", "PID namespaces", "ptrace"} <= machine[
        "facts"
    ].keys()
    findings = {finding["name"]: finding for finding in machine["findings"]}
    assert findings.keys() > TIMED | {
        "names of Dask",
        "num_processes",
        "isolation fresh",
        "subreaper",
    }
    assert all(findings[name]["value"] > 0 for name in TIMED)
    assert [f for f in findings.values() if not f["holds"] and f["name"] not in TIMED] == []


@pytest.fixture
def nothing_is_remembered():
    _find.cache_clear()
    yield
    _find.cache_clear()


@pytest.mark.usefixtures("nothing_is_remembered")
def test_one_line_says_that_all_undocumented_names_of_dask_are_there():
    (finding,) = find_names()
    assert finding.holds
    n = len(dask_limits.dask_names())
    assert finding.measured.startswith(f"{n} of {n} (dask 20")
    assert "dask-jobqueue 0.9" in finding.measured


@pytest.mark.usefixtures("nothing_is_remembered")
def test_a_name_of_dask_that_is_missing_is_shown_with_what_happens_without_it(monkeypatch):
    monkeypatch.delattr(distributed.worker, "_run_task")
    all_of_them, missing = find_names()
    n = len(dask_limits.dask_names())
    assert not all_of_them.holds
    assert all_of_them.measured.startswith(f"{n - 1} of {n} ")
    assert not missing.holds
    assert missing.name == "distributed.worker:_run_task"
    assert missing.measured == "missing: A task with isolation='thread' raises ImportError."


def test_what_does_not_hold_is_named_and_the_exit_code_is_1():
    done = run(open_files=20)
    assert done.returncode == 1
    assert "Failed: " in done.stdout
    assert "isolation fresh" in done.stdout


@pytest.mark.dask
def test_every_worker_of_a_cluster_is_checked():
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        done = run("--json", "--scheduler-address", cluster.scheduler_address)
        workers = {worker.worker_address for worker in cluster.workers.values()}
    machines = json.loads(done.stdout)["machines"]
    assert {machine["where"] for machine in machines} == workers
    for machine in machines:
        broken = [f for f in machine["findings"] if not f["holds"] and f["name"] not in TIMED]
        assert broken == []


@pytest.mark.dask
def test_a_cluster_without_workers_does_not_hold_what_is_promised():
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, dashboard_address=":0") as cluster:
        done = run("--scheduler-address", cluster.scheduler_address)
    assert done.returncode == 1
    assert "no workers" in done.stdout


def test_an_address_that_is_none_is_told_as_such():
    done = run("--scheduler-address", "nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr


WITHOUT_TRIALS = [
    sys.executable,
    "-c",
    "from dask_limits.check import trials; trials._TRIALS.clear()\n"
    "from dask_limits.cli import main; main()",
    "check",
]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_exit_code_is_of_what_was_found_though_nobody_reads_on(options):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*WITHOUT_TRIALS, *options],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=200,  # importing this took 40 s on a busy machine
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_output_that_takes_nothing_is_said_in_one_sentence(options):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*WITHOUT_TRIALS, *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=200,  # importing this took 40 s on a busy machine
            check=False,
        )
    assert done.stderr == (
        "Error: The result cannot be shown: standard output fails with 'No space left on device'.\n"
    )
    assert done.returncode == 1


def test_a_long_word_is_shown_in_full_however_narrow_the_window_is():
    path = "/" + "/".join(map(str, range(40)))
    finding = Finding("first", "works", f"Permission denied: {path!r}", holds=False)
    console = Console(width=60, file=io.StringIO(), legacy_windows=False)
    show([Machine("here", {}, [finding])], console)
    printed = console.file.getvalue()
    assert "…" not in printed
    assert path in "".join("".join(line.split()) for line in printed.splitlines())


def test_a_terminal_without_unicode_is_told_in_words():
    found = [Finding("first", "works", "no", holds=False), Finding("second", "works", "yes", True)]
    output = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    show([Machine("here", {}, found)], Console(width=60, file=output))
    output.flush()
    printed = output.buffer.getvalue().decode("latin-1")
    lines = [line.split() for line in printed.splitlines()]
    assert ["failed", "first", "works", "no"] in lines
    assert ["ok", "second", "works", "yes"] in lines


@pytest.mark.dask
def test_the_address_of_a_worker_is_not_that_of_a_scheduler():
    from distributed import LocalCluster

    options = {"n_workers": 1, "processes": False, "protocol": "tcp", "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster:
        done = run("--scheduler-address", cluster.workers[0].address)
    assert done.returncode == 2
    assert "no Dask scheduler" in done.stderr


def test_one_trial_that_fails_does_not_keep_the_others_from_being_made(monkeypatch):
    def broken():
        raise OSError("no room")

    monkeypatch.setattr("dask_limits.check.trials._TRIALS", {"first": broken, "second": broken})
    told = []
    findings = find_all(told.append)
    assert told == ["first", "second"]
    assert [f.measured for f in findings] == ["OSError: no room"] * 2
    assert not any(finding.holds for finding in findings)
