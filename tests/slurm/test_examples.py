"""Every example of a page that needs a SLURM runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, Example, examples, run_as_pasted
from processes import until
from real_slurm import Slurm

pytestmark = pytest.mark.usefixtures("slurm")
IN_A_JOB = (ROOT / "docs" / "how-to" / "slurm-job.md").read_text()
SCRIPTS = re.findall(r"^```bash\n(#!.*?)^```", IN_A_JOB, re.MULTILINE | re.DOTALL)
PROGRAMS = re.findall(r"^```python\n(.*?)^```", IN_A_JOB, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", examples(on_slurm=True))
def test_an_example_runs_as_pasted(example: Example, tmp_path: Path) -> None:
    run_as_pasted(example.code, tmp_path)


@pytest.mark.parametrize(
    ("script", "program", "printed"),
    [*zip(SCRIPTS, PROGRAMS, ["6291456", "[1, 2, 3]"], strict=True)],
    ids=["on one node", "across nodes"],
)
def test_a_job_script_runs_its_program(
    script: str, program: str, printed: str, tmp_path: Path
) -> None:
    (tmp_path / "job.sh").write_text(script)
    (tmp_path / re.search(r"python (\w+\.py)", script)[1]).write_text(program)  # type: ignore[index]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["sbatch", "--wait", "--output=log", "job.sh"]
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PATH": path}, check=False)
    log = (tmp_path / "log").read_text()
    assert ended.returncode == 0, log
    assert printed in log.splitlines(), log


def test_the_lines_about_a_driver_in_a_job_run_as_pasted(slurm: Slurm, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "driver-in-a-job.md").read_text()
    program = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    lines = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "steps.py").write_text(program)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = {"shell": True, "cwd": tmp_path, "env": environment, "text": True}
    said = subprocess.check_output(lines[0], **run)  # type: ignore[call-overload]
    (show, stop) = lines[1].splitlines()
    assert f"to stop it:   {stop}" in said
    assert f"its state:    {show}" in said
    until(lambda: not slurm.jobs(), 60)
    log = next((tmp_path / "logs").iterdir()).read_text()
    assert "\n10\n" in log
    assert subprocess.check_output(show, **run).count("\n") == 1  # type: ignore[call-overload]
    subprocess.check_call(stop, **run)  # type: ignore[call-overload]
