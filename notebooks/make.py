"""Run the notebooks of this folder, each in a fresh kernel, and save them with what they print.

`make notebooks` runs all, with a SLURM for the one that needs it. By itself:

    python notebooks/make.py 01 05                   # those whose names begin so
    python notebooks/make.py 01 --into /tmp/outputs  # and leave the saved ones as they are
"""

from __future__ import annotations

import argparse
import os
import re
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

HERE = Path(__file__).parent
TIMEOUT_S = 240
"""Of a cell, on a machine that has much else to do. Elsewhere a whole notebook takes a minute."""
FOLDERS = re.compile(
    r"[^\s\"'<>]*/ipykernel_\d+/"  # where a kernel says that the code of cells is
    + "".join(f"|{re.escape(sysconfig.get_path(name))}/" for name in ("purelib", "stdlib"))
)
"""Those of this machine that the place where a call was ended can have."""
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")


def run(notebook: Any) -> None:
    """Execute it in a fresh kernel, whose files are all in one folder, and put its outputs in.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell raises.
        nbclient.exceptions.CellTimeoutError: if one takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        places = {name: f"{folder}/{name}" for name in ("work", "tmp", "ipython")}
        for place in places.values():
            Path(place).mkdir()
        environment = os.environ | {
            "IPYTHONDIR": places["ipython"],
            "TMPDIR": places["tmp"],
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no warning of a debugger that nobody uses
            "PYTHONWARNINGS": "ignore:Port 8787 is already in use,ignore:IProgress not found,"
            "ignore:Creating scratch directories is taking",  # on a busy machine
        }
        environment.pop("MPLBACKEND", None)  # the kernel sets the one that shows plots in cells
        sockets = {"transport": "ipc", "connection_file": f"{folder}/kernel"}  # no open ports
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT_S,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": places["work"]}},
            config=Config(KernelManager=sockets),
        )
        client.execute(env=environment)
        files = (path for path in Path(places["tmp"]).rglob("*") if path.is_file())
        if left := [path.name for path in files if not path.name.endswith("lock")]:  # of Dask
            raise RuntimeError(f"it has left temporary files: {', '.join(left)}")


def make_stable(notebook: Any) -> None:
    """Take out what would differ each time, and says nothing."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = {}
            if "text" in output:
                output.text = without_noise(output.text)
            for kind, content in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output.data[kind] = without_noise(content)


def without_noise(text: str) -> str:
    """It without the folders of this machine, and without addresses in memory."""
    return ADDRESS.sub("0x...", FOLDERS.sub("", text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=[""], help="how their names begin")
    parser.add_argument("--into", type=Path, default=HERE, help="the folder to save them in")
    options = parser.parse_args()
    for path in sorted(HERE.glob("*.ipynb")):
        if path.name.startswith(tuple(options.names)):
            began = time.monotonic()
            notebook = nbformat.read(path, as_version=4)
            run(notebook)
            make_stable(notebook)
            nbformat.write(notebook, options.into / path.name)
            print(f"{path.name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
