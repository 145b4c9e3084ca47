"""The notebooks run, and their saved copies are as `make notebooks` saves them.

The one that needs a SLURM runs in tests/slurm/.
"""

from __future__ import annotations

import copy
import re
import sysconfig
from pathlib import Path

import nbformat
import pytest
from notebook_runs import FOLDER, check, code_cells, executed, kinds, notebook

from notebooks.make import make_stable, without_noise

SAVED = sorted(FOLDER.glob("*.ipynb"))
ON_DASK = {"03_automl_search_on_dask", "05_any_dask_graph"}
ON_SLURM = {"04_slurm"}
LINK = re.compile(r"\]\(([^):#]+)")
HERE = [
    pytest.param(path, marks=[pytest.mark.dask] if path.stem in ON_DASK else [], id=path.stem)
    for path in SAVED
    if path.stem not in ON_SLURM
]


@pytest.mark.parametrize("path", HERE)
def test_a_notebook_runs_and_leaves_nothing(path: Path, tmp_path: Path) -> None:
    ran = executed(path, tmp_path)
    check(ran)
    assert kinds(ran) == kinds(notebook(path)), "run `make notebooks`"


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_a_saved_notebook_has_the_outputs_of_one_run_and_nothing_of_its_machine(path: Path) -> None:
    saved = notebook(path)
    check(saved)
    cells = code_cells(saved)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert any(cell.outputs for cell in cells)


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_a_saved_notebook_is_in_its_stable_form(path: Path) -> None:
    saved = notebook(path)
    stable = copy.deepcopy(saved)
    make_stable(stable)
    assert stable == saved
    assert path.read_text() == nbformat.writes(stable) + "\n"


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_a_notebook_begins_with_its_title_and_its_links_lead_somewhere(path: Path) -> None:
    prose = [cell.source for cell in notebook(path).cells if cell.cell_type == "markdown"]
    assert prose[0].startswith("# ")
    links = [link for text in prose for link in LINK.findall(text)]
    assert links
    assert not [link for link in links if not (FOLDER / link).exists()]


def test_places_are_without_the_folders_of_the_machine() -> None:
    cell, library = "/tmp/ipykernel_123/456.py", f"{sysconfig.get_path('stdlib')}/subprocess.py"
    assert without_noise(f"<td>{cell}:4 in fit</td>") == "<td>456.py:4 in fit</td>"
    assert without_noise(f'File "{library}", line 9') == 'File "subprocess.py", line 9'
    assert without_noise("Current thread 0x00007ffb99de1b80") == "Current thread 0x..."
