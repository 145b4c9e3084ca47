"""The notebook that needs a SLURM runs on a real one."""

from __future__ import annotations

from pathlib import Path

from notebook_runs import FOLDER, check, executed, kinds, notebook
from real_slurm import Slurm

PATH = FOLDER / "04_slurm.ipynb"


def test_the_notebook_runs_and_leaves_neither_job_nor_process(slurm: Slurm, tmp_path: Path) -> None:
    ran = executed(PATH, tmp_path)
    check(ran)
    assert kinds(ran) == kinds(notebook(PATH)), "run `make notebooks`"
    assert not slurm.jobs()
