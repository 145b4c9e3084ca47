"""Each error and warning of the package is on the page of troubleshooting, by its words."""

from __future__ import annotations

import ast

from messages import PACKAGE, Message, messages, normal
from pages import ROOT

PAGE = normal((ROOT / "docs" / "troubleshooting.md").read_text())
NOT_THERE = {
    "limits/ipc/payload.py": "what no process of ours sends: the call ends with a CrashError",
    "limits/linux/prctl.py": "a part of what could not be started: the errno says it",
    "limits/linux/sealed.py": "what no process of ours sends",
    "limits/owner/lease.py": "the same",
    "limits/owner/received.py": "the same",
    "limits/owner/shared_account.py": "caught: the program has an account of its own then",
    "limits/task/imports.py": "what no process of ours sends",
    "optuna/questions.py": "questions that no trial of ours asks",
}
"""Files whose messages no user sees, and why."""
ALL = messages()


def is_on_the_page(message: Message) -> bool:
    return message.words in PAGE


def test_each_message_is_found_on_the_page_by_its_words() -> None:
    missing = [one for one in ALL if one.file not in NOT_THERE and not is_on_the_page(one)]
    assert not missing, "\n".join(f"{one.file}:{one.line}: {one.words!r}" for one in missing)


def test_the_exceptions_to_this_are_needed() -> None:
    missing = {one.file for one in ALL if not is_on_the_page(one)}
    assert NOT_THERE.keys() <= missing


def test_messages_are_collected_from_where_they_are_made() -> None:
    words = {one.words for one in ALL}
    assert "went over its" in words  # a class of a table, called
    assert "The scheduler is already running" in words  # raised
    assert "The limits of a Dask graph are lost" in words  # a warning
    assert "Could not update the cluster's jobs" in words  # of a logger
    raising = sum(
        isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
    )
    assert len(ALL) > raising / 2  # several of them share their words
