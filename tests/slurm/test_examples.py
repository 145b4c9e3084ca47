"""Every example of a page that needs a SLURM runs as it stands."""

from pathlib import Path

import pytest
from pages import Example, examples, run_as_pasted

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.mark.parametrize("example", examples(on_slurm=True))
def test_an_example_runs_as_pasted(example: Example, tmp_path: Path) -> None:
    run_as_pasted(example.code, tmp_path)
