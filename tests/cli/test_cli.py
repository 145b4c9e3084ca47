"""The command as people run it: bad input in this process, searches in one of their own."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import distributed
import joblib
import pandas as pd
import pytest
from click.testing import CliRunner
from pages import QUIET
from processes import all_gone, below, until

from dask_limits.cli import main

COMMAND = [sys.executable, "-m", "dask_limits", "search"]
EXECUTORS = ["processes", "dask"]
QUICK_FIRST = ["--seed", "59"]
"""With this seed the first trial takes no time, and others take long."""


def mixed_csv(tmp_path: Path) -> Path:
    """A file with numbers, text, truth values and gaps."""
    rows = 90
    table = pd.DataFrame(
        {
            "size": [None if n % 7 == 0 else n * 0.5 for n in range(rows)],
            "colour": [None if n % 5 == 0 else f"[red]{n % 3}" for n in range(rows)],
            "old": [n % 2 == 0 for n in range(rows)],
            "price": [n * 1.5 + n % 4 for n in range(rows)],
            "kind": [f"[bold]{'big' if n > 40 else 'small'}" for n in range(rows)],
        }
    )
    table.to_csv(tmp_path / "mixed.csv", index=False)
    return tmp_path / "mixed.csv"


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.csv", "--target", "y"], "There is no file nowhere.csv."),
        ([".", "--target", "y"], ". is a directory, not a CSV file."),
        (["t.csv", "--target", "Y"], "t.csv has no column 'Y' (did you mean 'y'?); its columns"),
        (["t.csv"], "Name the column of t.csv to predict with --target; its columns are 'x', 'y'."),
        (["t.csv", "--target", "y"], "t.csv has 2 usable rows"),
        (["--target", "y"], "--target needs DATA, the CSV file with that column."),
        (["--trial-memory", "0"], "--trial-memory '0' is not an amount of memory above zero"),
        (["--trial-memory", "200"], "--trial-memory=200 is 200 bytes, but a call that does"),
        (["--trial-memory", "3 parsec"], "--trial-memory '3 parsec' is not an amount of memory"),
        (["--trial-wall-time", "-1s"], "--trial-wall-time '-1s' is not a time above zero"),
        (["--trial-cpu-time", "0s"], "--trial-cpu-time '0s' is not a time above zero"),
        (["--timeout", "nan"], "--timeout 'nan' is not a time above zero"),
        (["--trials", "0"], "--trials '0' is not a whole number of 1 or more."),
        (["--workers", "two"], "--workers 'two' is not a whole number of 1 or more."),
        (["--executor", "slurm"], "--executor slurm needs --workers, the number of jobs."),
        (["--walltime", "1h"], "--walltime needs --executor slurm, not dask."),
        (["--worker-memory", "2GB"], "--worker-memory needs --executor slurm, not dask."),
        (["--worker-memory", "0"], "--worker-memory '0' is not an amount of memory above zero"),
        (
            ["--executor", "processes", "--scheduler-address", "tcp://127.0.0.1:1"],
            "--scheduler-address needs --executor dask, not processes.",
        ),
        (
            ["--scheduler-address", "tcp://127.0.0.1:1"],
            "No Dask scheduler answers at tcp://127.0.0.1:1: Connection refused.",
        ),
        (
            ["--scheduler-address", "somewhere"],
            "--scheduler-address 'somewhere' is not an address",
        ),
        (["--out", "t.csv"], "Results cannot be written to t.csv: File exists."),
        (["--out", "t.csv/results"], "Results cannot be written to t.csv/results: Not a direct"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("x,y\n1,2\n2,3\n")
    result = CliRunner().invoke(main, ["search", *arguments])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {sentence}")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "t.csv"]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("x,y\n" + "1,2,3\n2,3,4\n" * 9, "t.csv has rows with more fields than its header"),
        ("y,y\n" + "1,2\n2,3\n" * 9, "t.csv has more than one column 'y': "),
    ],
)
def test_a_file_that_can_be_read_in_two_ways_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(rows)
    result = CliRunner().invoke(main, ["search", "t.csv", "--target", "y"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {sentence}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--executor slurm needs SLURM's command sbatch, which is not on this machine."),
        (["--walltime", "1:2:3:4"], "These workers cannot run on SLURM: walltime='1:2:3:4'"),
        (["--interface", "none0"], "These workers cannot run on SLURM: 'none0' is not"),
    ],
)
def test_what_slurm_cannot_do_is_said_before_a_job_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    if arguments:
        Path("sbatch").write_text("#!/bin/sh\ntouch submitted\n")
        Path("sbatch").chmod(0o700)
    result = CliRunner().invoke(
        main, ["search", "--executor", "slurm", "--workers", "2", *arguments]
    )
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {sentence}")
    assert result.stderr.count("\n") == 1
    assert not Path("submitted").exists()
    assert not Path("results").exists()


@pytest.mark.parametrize("missing", ["sklearn", "pandas"])
def test_without_the_extra_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    result = CliRunner().invoke(main, ["search"])
    assert result.exit_code == 2
    assert "pip install 'dask-limits[search]'" in result.stderr


# -- searches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_search_survives_breaches_and_leaves_trials_and_the_best_model(
    tmp_path: Path, executor: str
) -> None:
    # Two of this seed's configurations can only breach, whatever the version of scikit-learn: all
    # products of up to 3 of 64 columns are 400 MiB or more for the rows of a fold, and a network of
    # 1024 by 1024 takes far more than 5 s: of CPU time, as a busy machine takes longer.
    limits = ["--trial-memory", "350MiB", "--trial-cpu-time", "5s", "--trial-wall-time", "none"]
    limits += ["--workers", "2"]
    drawn = ["--seed", "112287", "--trials", "4"]
    ended = subprocess.run(
        [*COMMAND, "--executor", executor, "--out", tmp_path, *drawn, *limits],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | QUIET,
    )
    assert ended.stderr == ""
    assert ended.returncode == 0
    rows = rows_of(tmp_path)
    assert sorted(int(row["number"]) for row in rows) == list(range(4))
    statuses = {row["family"]: row["status"] for row in rows}
    assert statuses["linear"] == statuses["neighbours"] == "ok"
    assert statuses["polynomial"] == "memory"
    assert statuses["network"] == "cpu time"
    for row in rows:
        assert json.loads(row["configuration"])
        assert float(row["wall_time_s"]) > 0
        assert int(row["peak_memory_bytes"]) > 2**20
        assert bool(row["score"]) == (row["status"] == "ok") == (not row["error"])
    assert "trials: 4 (" in ended.stdout
    assert "wall time: " in ended.stdout
    suggested = ended.stdout.partition("limits by what trials used: ")[2]
    assert suggested.startswith("--trial-memory 700MiB --trial-wall-time ")
    assert " --trial-cpu-time 10s\n" in suggested
    assert "1 of 4 calls went over their memory limit" in suggested
    from sklearn.datasets import load_digits

    features, target = load_digits(return_X_y=True, as_frame=True)
    model = joblib.load(tmp_path / "best_model.joblib")
    assert model.score(features, target) > 0.8


@pytest.mark.parametrize("executor", EXECUTORS)
def test_no_trial_is_charged_with_the_import_of_libraries(tmp_path: Path, executor: str) -> None:
    limits = ["--trial-memory", "90MiB", "--trial-cpu-time", "none", "--trial-wall-time", "none"]
    one = ["--workers", "1", "--trials", "1"]
    subprocess.run(
        [*COMMAND, *QUICK_FIRST, "--executor", executor, "--out", tmp_path, *one, *limits],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    (row,) = rows_of(tmp_path)
    assert row["status"] == "ok"


@pytest.mark.parametrize("target", ["kind", "price"])
def test_a_csv_with_gaps_and_brackets_is_learnt_from(tmp_path: Path, target: str) -> None:
    path = mixed_csv(tmp_path)
    ended = subprocess.run(
        [
            *COMMAND,
            path,
            "--target",
            target,
            "--executor",
            "processes",
            "--trials",
            "1",
            *QUICK_FIRST,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert ended.stderr == ""
    assert ended.returncode == 0
    table = pd.read_csv(path)
    model = joblib.load(tmp_path / "results" / "best_model.joblib")
    predicted = model.predict(table.drop(columns=target))
    assert predicted.dtype.kind == ("O" if target == "kind" else "f")


@pytest.mark.dask
def test_a_cluster_that_is_there_already_is_used_and_left_open(tmp_path: Path) -> None:
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0") as c,
        distributed.Client(c) as client,
    ):
        there = ["--executor", "dask", "--scheduler-address", c.scheduler_address]
        ended = subprocess.run(
            [
                *COMMAND,
                mixed_csv(tmp_path),
                "--target",
                "kind",
                "--trials",
                "1",
                *QUICK_FIRST,
                *there,
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert client.submit(pow, 2, 3).result() == 8
    assert ended.stderr == ""
    assert ended.returncode == 0
    assert len(rows_of(tmp_path / "results")) == 1


def test_a_limit_that_no_worker_can_grant_ends_it_in_one_sentence(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "--workers", "1", "--trial-memory", "900TiB", "--out", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr.startswith("Error: No worker can run trials: run_trial() reserves 900")
    assert ended.stderr.count("\n") == 1
    assert ended.returncode == 1


def test_a_full_disk_ends_it_with_what_there_is_and_one_sentence(tmp_path: Path) -> None:
    """From its first score on, no file of its may grow: the kernel says so as of a full disk."""
    search = [*COMMAND, mixed_csv(tmp_path), "--target", "kind", "--executor", "processes"]
    process = subprocess.Popen(
        [*search, *QUICK_FIRST, "--workers", "1", "--out", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while " ok " not in process.stdout.readline():
        assert process.poll() is None
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, 1))
    stdout, stderr = process.communicate()
    journal = tmp_path / "journal" / "run.sqlite"
    assert stderr.startswith(f"Error: The search cannot go on: The journal {journal} cannot be ")
    assert stderr.count("\n") == 1
    assert process.returncode == 1
    assert "score: balanced accuracy" in stdout
    assert "\ntrials: " in stdout


def test_a_disk_that_is_full_from_the_start_is_said_in_one_sentence(tmp_path: Path) -> None:
    ended = subprocess.run(
        ["prlimit", "--fsize=64", *COMMAND, "--executor", "processes", "--out", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert ended.stderr == f"Error: Results cannot be written to {tmp_path}: File too large.\n"
    assert ended.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_takes_nothing_is_said_in_one_sentence(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*COMMAND, "--executor", "processes", "--out", tmp_path],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.stderr == (
        "Error: The search cannot be shown: standard output fails with 'No space left on device'.\n"
    )
    assert ended.returncode == 1


def test_an_output_that_fails_midway_is_said_in_one_sentence(tmp_path: Path) -> None:
    """As on a full disk that output goes to: the trials are on another."""
    path = mixed_csv(tmp_path)
    output = tmp_path / "output"
    search = [*COMMAND, path, "--target", "kind", "--executor", "processes", "--workers", "1"]
    with output.open("w") as file:
        file.write("." * 20_000_000)  # the journal is smaller
        file.flush()
        ended = subprocess.run(
            ["prlimit", "--fsize=20000100", *search, "--out", tmp_path / "out"],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    assert ended.stderr == (
        "Error: The search cannot be shown: standard output fails with 'File too large'.\n"
    )
    assert ended.returncode == 1
    assert len(rows_of(tmp_path / "out")) >= 1


def test_earlier_results_are_kept(tmp_path: Path) -> None:
    (tmp_path / "trials.csv").write_text("earlier")
    (tmp_path / "best_model.joblib").write_text("earlier")
    (tmp_path / "trials.1.csv").write_text("earliest")
    small = [mixed_csv(tmp_path), "--target", "kind", "--trials", "1", "--executor", "processes"]
    search = [*COMMAND, *small, *QUICK_FIRST, "--out", tmp_path]
    subprocess.run(search, check=False, capture_output=True)
    assert len(rows_of(tmp_path)) == 1
    assert (tmp_path / "trials.2.csv").read_text() == "earlier"
    assert (tmp_path / "best_model.1.joblib").read_text() == "earlier"
    assert (tmp_path / "trials.1.csv").read_text() == "earliest"


# -- interrupts --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_interrupt_ends_it_at_once_with_what_it_has(
    tmp_path: Path, executor: str, how: str
) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--executor", executor, "--workers", "2", *QUICK_FIRST, "--out", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group, as a shell makes one
        env=os.environ | QUIET,
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("trial "):
        assert process.poll() is None
    started = below(process.pid)
    assert started
    if how == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all of them
    else:
        process.terminate()
    stdout, stderr = process.communicate()  # the search would take minutes
    assert process.returncode == 130
    assert stderr == ""
    assert "no model was fitted: interrupted" in stdout
    statuses = Counter(row["status"] for row in rows_of(tmp_path))
    assert statuses["cancelled"] >= 1
    assert f"trials: {statuses.total()} (" in stdout
    all_gone(started)


def test_an_interrupt_that_an_import_turns_into_another_error_is_an_interrupt(
    tmp_path: Path,
) -> None:
    """As of SciPy's modules in C++."""
    package = tmp_path / "path/sklearn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    raise ImportError('initialization failed') from None\n"
    )
    ended = subprocess.run(
        [*COMMAND, "--executor", "processes", "--out", tmp_path],
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (130, "")


@pytest.mark.parametrize("after_s", [0, 0.5, 1.3, 2.1])
def test_an_interrupt_while_it_starts_ends_it_as_well(tmp_path: Path, after_s: float) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--executor", "dask", "--workers", "2", "--out", tmp_path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # Python ends with 1 if it is interrupted before it runs anything. We import psutil.
    until(lambda: "psutil" in Path(f"/proc/{process.pid}/maps").read_text())
    time.sleep(after_s)
    started = below(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() in (130, -signal.SIGINT)  # the latter before it is past its imports
    all_gone(started)
