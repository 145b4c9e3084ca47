from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dask_limits.search.data import DataError, Dataset, bundled, load_csv

ROWS = 12


def csv(tmp_path: Path, **columns: list[object]) -> Path:
    """A file with these columns."""
    path = tmp_path / "data.csv"
    lines = [",".join(columns)]
    lines += [",".join(str(v) for v in row) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def load_target(tmp_path: Path, values: list[object]) -> Dataset:
    """What a file with this target, and one feature, comes out as."""
    return load_csv(csv(tmp_path, x=list(range(len(values))), y=values), "y")


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["hi", "lo"] * 6, {"hi", "lo"}),
        ([True, False] * 6, {True, False}),
        ([True, False, ""] * 6, {True, False}),
        ([0, 1, 2] * 4, {0, 1, 2}),
        ([0, 1, ""] * 6, {0, 1}),
    ],
    ids=["text", "truth values", "some missing", "whole numbers", "whole numbers, some missing"],
)
def test_few_different_values_are_classes(
    tmp_path: Path, values: list[object], labels: set[object]
) -> None:
    dataset = load_target(tmp_path, values)
    assert dataset.classification
    assert set(dataset.target) == labels


@pytest.mark.parametrize(
    "values", [[0.5, 1.5, 2.5] * 4, list(range(30))], ids=["fractions", "many whole numbers"]
)
def test_other_numbers_are_for_regression(tmp_path: Path, values: list[object]) -> None:
    assert not load_target(tmp_path, values).classification


@pytest.mark.parametrize(
    ("values", "dtype", "classification"),
    [
        ([2**63, 2**63 + 1] * 6, "uint64", True),
        ([2**53, 2**53 + 1] * 6, "int64", True),
        ([2**63 + n for n in range(30)], "uint64", False),
        ([f"{n}e15" for n in (1, 9)] * 6, "int64", True),
        ([f"{n}e15" for n in (1, 10)] * 6, "float64", False),
        ([f"{n}e19" for n in (1, 2, -3)] * 4, "float64", False),
        ([2**53, 2**54, ""] * 6, "float64", False),
    ],
)
def test_whole_numbers_however_large_stay_what_they_are(
    tmp_path: Path, values: list[object], dtype: str, classification: bool
) -> None:
    dataset = load_target(tmp_path, values)
    assert dataset.classification is classification
    assert dataset.target.dtype == dtype
    if dtype == "float64":
        assert list(dataset.target) == [float(str(value)) for value in values if value]
    else:
        assert list(dataset.target) == [int(float(v)) if "e" in str(v) else v for v in values]


def test_a_comma_at_the_end_of_each_row_shifts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    rows = [(n + 20, n % 2) for n in range(ROWS)]
    path.write_text("age,bought\n" + "".join(f"{age},{bought},\n" for age, bought in rows))
    dataset = load_csv(path, "bought")
    assert dataset.features.to_dict("list") == {"age": [age for age, _ in rows]}
    assert list(dataset.target) == [bought for _, bought in rows]


def test_columns_of_the_same_name_are_said(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(
        "NA,y,NA,b,b,b,,,a,a.1\n" + "1,2.5,3,4,5,6,7,8,9,0\n1,3.5,3,4,5,6,7,8,9,0\n" * 9
    )
    dataset = load_csv(path, "y")
    assert dataset.notes == ("columns with the same name were numbered: 'NA', 'b'",)


def test_a_pipe_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    text = "x,y\n" + "".join(f"{n},{n % 2}\n" for n in range(ROWS))
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(text,))
    writer.start()
    dataset = load_csv(tmp_path / "pipe", "y")
    writer.join()
    assert len(dataset.target) == ROWS


def test_rows_without_a_finite_target_are_left_out_and_said(tmp_path: Path) -> None:
    dataset = load_target(tmp_path, ["", "inf", *(n + 0.5 for n in range(ROWS))])
    assert len(dataset.features) == len(dataset.target) == ROWS
    assert dataset.notes == ("rows without a value of 'y' were left out: 2",)


def test_empty_columns_and_rare_classes_are_said(tmp_path: Path) -> None:
    path = csv(tmp_path, x=list(range(ROWS)), none=[""] * ROWS, y=["a"] * 10 + ["b"] * 2)
    dataset = load_csv(path, "y")
    assert list(dataset.features) == ["x"]
    assert dataset.notes == (
        "columns without any value were left out: 'none'",
        "classes with fewer rows than the 3 folds: 'b'",
    )


def test_the_bundled_data_is_described_in_a_line() -> None:
    assert bundled().describe() == (
        "digits (from scikit-learn): 1797 rows, 64 columns, classification into 10 classes"
    )


def test_a_misspelt_target_is_told_the_nearest_column(tmp_path: Path) -> None:
    path = csv(tmp_path, Age=list(range(ROWS)), income=list(range(ROWS)))
    with pytest.raises(DataError, match=r"no column 'age' \(did you mean 'Age'\?\).*'income'\."):
        load_csv(path, "age")
    with pytest.raises(DataError, match=r"--target; its columns are 'Age', 'income'\."):
        load_csv(path, None)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"x,y\n", "no rows"),
        (b"x,y\n" + b"1,\n" * 20, "has 0 usable rows"),
        (b"x,y\n1,2\n2,3\n", "has 2 usable rows"),
        (b"x,y\n" + b"1,2\n" * 20, "has the value 2 in all rows"),
        (b"y\n" + b"1\n2\n" * 20, "no column with values besides the target 'y'"),
        (b"x,y\n" + b",1\n,2\n" * 20, "no column with values besides the target 'y'"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe" * 20, "is not a CSV file in UTF-8"),
        (b"x,y\n1,2\n1,2,3,4\n", "is not a CSV file in UTF-8"),
        (b"x,y\n" + b"1,2,3\n2,3,4\n" * 20, "has rows with more fields than its header"),
        (b"x,y\n" + b"1,2,\n2,3,4\n" * 20, "has rows with more fields than its header"),
        (b"y,x,y\n" + b"1,2,3\n2,3,4\n" * 20, "has more than one column 'y'"),
    ],
)
def test_useless_files_are_refused_in_one_sentence(
    tmp_path: Path, content: bytes, why: str
) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=why) as refusal:
        load_csv(path, "y")
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["data.csv.gz", "data.csv.zip", "data.csv.xz", "data.csv.bz2"])
def test_a_broken_archive_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match="is not a CSV file in UTF-8"):
        load_csv(tmp_path / name, "y")


def test_a_directory_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a directory"):
        load_csv(tmp_path, "y")
    with pytest.raises(DataError, match="no file"):
        load_csv(tmp_path / "nowhere.csv", "y")
