from __future__ import annotations

from terminals import Terminal

PROGRAM = """
import sys
from dask_limits.cli import main

if __name__ == "__main__":
    sys.argv[1:] = "search --executor processes --workers 2 --trials 2 --out {}".split()
    main()
"""


def test_a_search_shows_its_run_until_ctrl_c_ends_it(tmp_path):
    with Terminal(PROGRAM.format(tmp_path), 120, 40) as terminal:
        shown = terminal.wait_until(
            lambda lines: any(line.startswith("run_trial  <data>, <") for line in lines), 200
        )
        assert any(line.startswith("2 processes running, ") for line in shown)
        assert any("3 left" in line for line in shown)  # two trials, and the fit of the best one
        terminal.type("\x03")
        assert terminal.wait(200) == 130
        assert any(line.startswith("2 processes stopped, ") for line in terminal.lines)
        assert any(li.startswith("trials: 2 (") and "cancelled" in li for li in terminal.lines)
        assert "no model was fitted: interrupted" in terminal.lines
        assert not terminal.screen.cursor.hidden
