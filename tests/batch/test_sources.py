"""Which commands a batch has, and what is said of those that there cannot be."""

from __future__ import annotations

import io
import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_limits.batch.sources import Lines, Source, SourceError, parse_parameter


def lines_of(data: bytes) -> list[tuple[int, str]]:
    return [(item.index, item.line) for item in Lines(io.BytesIO(data), "f")]


def source(tmp_path: Path, text: str, *params: str, table: str | None = None) -> Source:
    path = None
    if table is not None:
        path = tmp_path / "t.csv"
        path.write_text(table)
    return Source(text, params, path, tmp_path)


def test_blank_lines_and_comments_are_passed_over():
    data = b"# all\n\nls -l \r\n  \t\n  # no\necho '# yes' # and\r\n{x} \xff last"
    expected = ["ls -l", "echo '# yes' # and", "{x} \udcff last"]
    assert lines_of(data) == list(enumerate(expected, 1))


def test_a_byte_order_mark_is_no_part_of_a_command():
    assert lines_of(b"\xef\xbb\xbfecho 1\n\xef\xbb\xbfecho 2\n") == [
        (1, "echo 1"),
        (2, "\ufeffecho 2"),
    ]
    assert lines_of(b"\xef\xbb\xbf# all\necho") == [(1, "echo")]


def test_of_a_copy_that_was_cut_off_only_whole_lines_count(tmp_path):
    copy = tmp_path / "commands.unfinished"
    copy.write_bytes(b"echo 1\nrm -r /x\nrm -r /")
    cut = Source("-", [], None, tmp_path, copy)
    assert [item.line for item in cut.items()] == ["echo 1", "rm -r /x"]
    assert cut.count == 2 and cut.is_piped and not cut.waits


def test_a_file_that_is_changed_meanwhile_has_the_commands_of_the_start(tmp_path):
    (tmp_path / "f").write_text("echo 1\necho 2\n")
    (tmp_path / "t.csv").write_text("a\n1\n2\n")
    made = Source("f", [], None, tmp_path), Source("echo {a}", [], tmp_path / "t.csv", tmp_path)
    for items in [one.items() for one in made]:
        next(items)
    for name in ("f", "t.csv"):
        (tmp_path / name).write_text("x\nrm -r /tmp\n")
    for one in made:
        for _ in range(2):
            assert [item.line for item in one.items()] == ["echo 1", "echo 2"]


def test_a_table_may_come_from_a_pipe(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, b"lr\n0.1\n")
    os.close(writing)
    try:
        made = Source("echo {lr}", [], Path(f"/dev/fd/{reading}"), tmp_path)
    finally:
        os.close(reading)
    assert made.count == 1 and [item.line for item in made.items()] == ["echo 0.1"]


def test_a_bad_line_says_its_number_and_those_before_it_count():
    items = iter(Lines(io.BytesIO(b"# one\necho\na\0b\n"), "f"))
    assert next(items).line == "echo"
    with pytest.raises(SourceError, match="f, line 3 has a NUL character"):
        next(items)
    with pytest.raises(SourceError, match=r"f, line 1 has 131,072 bytes, and Linux takes 131,071"):
        lines_of(b"x" * 131072)


def test_each_combination_runs_in_the_order_of_the_parameters(tmp_path):
    made = source(tmp_path, "run {b}-{a}", "a=1..2", "b=x,y z")
    assert made.count == 4 and not made.waits
    assert [item.line for item in made.items()] == [
        *("run x-1", "run 'y z'-1", "run x-2", "run 'y z'-2"),
    ]
    assert [item.parameters for item in made.items()][1] == {"a": "1", "b": "y z"}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1,2", ["1", "2"]),
        ("a=", [""]),
        ("a=3..1", ["3", "2", "1"]),
        ("a=-2..2..2", ["-2", "0", "2"]),
        ("a=0.1,1..2,x=y", ["0.1", "1", "2", "x=y"]),
    ],
)
def test_values_are_lists_and_ranges(text, values):
    name, found = parse_parameter(text)
    assert (name, list(found)) == ("a", values)


@given(st.lists(st.text("ab\"'$ ;", min_size=1), min_size=1))
def test_a_value_is_one_word(values):
    made = Source("run {x}", [f"x={','.join(values)}"], None, Path("/"))
    assert [shlex.split(item.line) for item in made.items()] == [["run", v] for v in values]


def test_each_row_of_a_table_runs(tmp_path):
    made = source(tmp_path, "run {a}", table='a,b\n"1,5",x\n\n"two\nlines",y\n')
    assert made.count == 2
    assert [item.line for item in made.items()] == [
        "run 1,5".replace("1,5", "'1,5'"),
        "run 'two\nlines'",
    ]
    assert next(made.items()).parameters == {"a": "1,5", "b": "x"}


@pytest.mark.parametrize(
    ("text", "params", "table", "said"),
    [
        ("run {a}", ["b=1"], None, r"\{a\} must be both in the template and a --param"),
        ("run {a}", ["a=1", "a=2"], None, "names a parameter twice"),
        ("run {}", ["a=1"], None, "fields are names of parameters"),
        ("run '{a}'", ["a=1"], None, "inside of single quotes"),
        ("run {a}", ["a"], None, "not of the form"),
        ("run {a}", ["1a=1"], None, "not of the form"),
        ("run {a}", ["a=1..2..0"], None, "a step of 0"),
        ("run {a}", ["a=0.1..0.5"], None, "a range is of whole numbers, such as 1..10"),
        ("run {a}", ["a=1..2..0.5"], None, "Write the values with commas, as in lr=0.1,0.2"),
        ("run {c}", [], "a,b\n1,2\n", "t.csv has no column c; it has a, b"),
        ("run {a}", [], "a,b\n1,2\n3\n", "t.csv, line 3, has 1 values for 2 columns"),
        ("run {a}", [], "a,a\n", "two columns of one name"),
        ("run {a}", [], "a\n\0\n", "NUL"),
        ("no such file", [], None, "There is no file no such file, or is it a template"),
        (".", [], None, "is a directory"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(tmp_path, text, params, table, said):
    with pytest.raises(SourceError, match=said):
        source(tmp_path, text, *params, table=table)
