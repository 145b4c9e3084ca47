"""A program that runs calls before and after it has changed itself, in the ways of `changing`.

Its arguments are the name of a change, its numbers, and the options of the calls. For each it
prints what calls show and new children of this program do not; nothing if all is as it should be.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from changing import CHANGES
from process_view import view_of_any

from dask_limits.limits import limit
from dask_limits.limits.owner.guardian import default_guardian

CHILD = """if True:
    import ctypes, json, sys
    sys.path[:] = sys.argv[1:]
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: it may look at itself
    from process_view import view_of_any
    print(json.dumps(view_of_any()))
"""
IGNORED_BY_SHELLS = {
    number
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    if signal.getsignal(number) is signal.SIG_IGN
}
"""By those that run this in the background, or for longer than a terminal."""
INHERITED = ("files", "status", "kernel")
OWN = {
    "files environ": "as it was when its program began",
    "files sessionid": "of its session",
    "status SigBlk": "calls begin with no signal blocked",
    **dict.fromkeys(("kernel prctl 2", "kernel prctl 3", "kernel prctl 37"), "of the process"),
}
"""What calls do not inherit from their owner."""
HIDDEN = sum(1 << number - 1 for number in (32, 33, *IGNORED_BY_SHELLS))
"""The two signals that C libraries keep for themselves, and those that calls handle anyway."""
View = dict[str, str]


def in_a_child() -> View | None:
    """What a new child shows; None if there can be none."""
    try:
        ended = subprocess.run(
            [sys.executable, "-c", CHILD, *sys.path], stdout=subprocess.PIPE, timeout=60
        )
    except OSError:
        return None
    return None if ended.returncode else _without_hidden(json.loads(ended.stdout))


def in_a_call(options: dict[str, Any]) -> View | None:
    """What a call shows; None if it could not be started."""
    outcome = limit(view_of_any, wall_time=60, **options).run()
    if outcome.exception is not None and "could not be started" not in str(outcome.exception):
        raise outcome.exception
    return outcome.value and _without_hidden(outcome.value)


def _without_hidden(view: View) -> View:
    """Without signals that differ by how tests are run."""
    ignored = int(view["status SigIgn"].strip("'\\t"), 16)
    return view | {"status SigIgn": hex(ignored & ~HIDDEN)}


def differences(name: str, number: int, options: dict[str, Any]) -> Iterator[str]:
    """What a change makes different in children, and not in calls; or the other way round."""
    child, call = in_a_child(), in_a_call(options)
    assert child is not None
    assert call is not None
    try:
        CHANGES[name](number)
    except OSError:
        return  # it may not do that
    new_child, new_call = in_a_child(), in_a_call(options)
    if new_child is None or new_call is None:
        if new_child is not new_call:
            yield f"child: {new_child}, call: {new_call}"
        return
    for key in new_call:
        if not key.startswith(INHERITED) or key in OWN:
            continue
        as_child = child.get(key) == call[key]
        wanted = new_child.get(key) if as_child else call[key]
        if new_call[key] != wanted or (not as_child and new_child.get(key) != child.get(key)):
            changes = f"{child.get(key)} -> {new_child.get(key)}", f"{call[key]} -> {new_call[key]}"
            yield f"{key}: child {changes[0]}, call {changes[1]}"


def main(name: str, numbers: list[int], options: dict[str, Any]) -> None:
    for number in numbers:
        if (pid := os.fork()) == 0:
            for line in differences(name, number, options):
                print(name, number, line, flush=True)
            default_guardian().close()
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            print(name, number, "has failed", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(ast.literal_eval, sys.argv[2:4]))
