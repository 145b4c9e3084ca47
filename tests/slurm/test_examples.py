"""Every example of a page that needs a SLURM runs as it stands."""

from pathlib import Path

import pytest
from pages import examples, run_as_pasted

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.mark.parametrize("code", examples(on_slurm=True))
def test_an_example_runs_as_pasted(code: str, tmp_path: Path) -> None:
    run_as_pasted(code, tmp_path)
