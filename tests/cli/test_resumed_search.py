"""`dask-limits search --resume`: a search that was killed goes on where it was."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

from processes import until

SEARCH = [sys.executable, "-m", "dask_limits", "search", "--executor", "processes", "--workers=2"]


def rows(out: Path) -> list[dict[str, str]]:
    file = out / "trials.csv"
    return list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []


def test_a_killed_search_goes_on_where_it_was(tmp_path):
    data = tmp_path / "data.csv"
    lines = [f"{n % 7},{n % 5},{'ab'[n % 2]}" for n in range(60)]
    data.write_text("\n".join(["x,y,target", *lines]))
    limits = ["--trial-memory=2GiB", "--trial-wall-time=none", "--trial-cpu-time=none"]
    command = [*SEARCH, str(data), "--target=target", "--trials=10", *limits, f"--out={tmp_path}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as first:
        until(lambda: len(rows(tmp_path)) >= 3, 200)
        first.send_signal(signal.SIGKILL)
    before = rows(tmp_path)
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    after = rows(tmp_path)
    assert sorted(int(row["number"]) for row in after) == [*range(10)]
    assert after[: len(before)] == before  # with the very times of the first search
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert rows(tmp_path) == after
    assert (tmp_path / "best_model.joblib").exists()
    anew = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (tmp_path / "journal.1").exists()
    assert [again.returncode, anew.returncode] == [0, 0]
    assert {tuple(row.values()) for row in rows(tmp_path)} != {tuple(r.values()) for r in after}
