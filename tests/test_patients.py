"""Lists of patients, as people export them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimiciv_dataset import task_sample_info_gen
from mimiciv_dataset.patients import read_subject_ids
from pipeline.errors import UserError

IDS = ["91000001", "91000002", "7"]


@pytest.mark.parametrize(
    "text",
    [
        "subject_id\n91000001\n91000002\n7\n",
        "\ufeffsubject_id\r\n91000001\r\n91000002\r\n7\r\n",
        "subject_id\n91000001.0\n91000002.00\n7.\n",
        "subject_id\n9.1000001e7\n9.1000002E+07\n7\n",
        'subject_id\n"91,000,001"\n91 000 002\n7\n',
        "subject_id\n  91000001\n91000002  \n007\n",
        "subject_id\n\n91000001\n   \n91000002\n\n7\n\n\n",
        "subject_id,,\n91000001,,\n,,\n91000002,,\n7,,\n",
        "gender,subject_id,note\nF,91000001,x\n,91000002,\nM,7\n",
        "Subject_ID\n91000001\n91000002\n7\n",
        " SUBJECT ID ,sex\n91000001,F\n91000002,F\n7,M\n",
        '"subject_id"\n"91000001"\n"91000002"\n"7"\n',
    ],
)
def test_spellings(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(text.encode())
    assert read_subject_ids(path) == IDS
    with gzip.open(tmp_path / "p.csv.gz", "wb") as file:
        file.write(text.encode())
    assert read_subject_ids(tmp_path / "p.csv.gz") == IDS
    assert capsys.readouterr().out == ""


def test_repeated_ids_are_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.csv"
    path.write_text("subject_id\n7\n7.0\n 7\n8\n")
    assert read_subject_ids(path) == ["7", "8"]
    assert capsys.readouterr().out == f"warning: {path}: 2 rows repeat a subject_id; each patient counts once.\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("subject_id\n7\n\nZebrawood\n", "row 4, column subject_id: expected a whole number, got another text."),
        ("subject_id\n7\n2150-01-02\n", "row 3, column subject_id: expected a whole number, got a date or time."),
        ("subject_id\n9.1E+07\n", "row 2, column subject_id: expected a whole number, got a rounded number with an exponent."),
        ("subject_id\n7.5\n", "row 2, column subject_id: expected a whole number, got a number with decimals."),
        ("subject_id\n-7\n", "row 2, column subject_id: expected a whole number, got a negative number."),
        ("subject_id,sex\n,Zebrawood\n", "row 2, column subject_id: expected a whole number, got an empty cell."),
        ('subject_id\n"7\n8\n', "row 2, column subject_id: expected a whole number, got another text."),
        ("91000001\n91000002\n", "expected column subject_id, got a first row without them. Add the header subject_id"),
        ("Zebrawood,7\n", "expected column subject_id, got a first row without them."),
        ("subject_id;sex\n7;F\n", "expected column subject_id, got columns separated by semicolons. Save it with commas."),
        ("subject_id,Subject_ID\n7,8\n", "expected every column once, got subject_id repeatedly."),
        ("subject_id\n", "expected patients, got none."),
        ("", "expected a CSV with a header, got an empty file."),
    ],
)
def test_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_subject_ids(path)
    where, _, rest = str(error.value).partition("p.csv")
    assert where == f"{tmp_path}/" and message in rest
    assert "Zebrawood" not in rest and "9100000" not in rest and "\n" not in rest


def test_no_text_file(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes("subject_id\n7\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"p\.csv: expected a CSV in UTF-8"):
        read_subject_ids(path)
    with pytest.raises(UserError, match="expected a CSV file, got a directory"):
        read_subject_ids(tmp_path)
    (tmp_path / "p.csv.gz").write_bytes(b"subject_id\n7\n")
    with pytest.raises(UserError, match=r"p\.csv\.gz, row 1: expected a CSV"):
        read_subject_ids(tmp_path / "p.csv.gz")


@given(st.lists(st.integers(0, 10**9), min_size=1, unique=True))
def test_any_list_is_read_back(tmp_path_factory: pytest.TempPathFactory, ids: list[int]) -> None:
    path = tmp_path_factory.mktemp("ids") / "p.csv"
    path.write_text("subject_id\n" + "".join(f"{number}\n" for number in ids))
    assert read_subject_ids(path) == list(map(str, ids))


def test_the_index_of_a_list_from_a_spreadsheet(small_root: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes("\ufeffSubject_ID,,\r\n102.0,,\r\n,,\r\n2,,\r\n".encode())
    flags = ["--root_dir", small_root, "--patient_id", tmp_path / "p.csv", "--output_path", tmp_path / "index"]
    task_sample_info_gen.main([*map(str, flags), "--task", "emar"])
    assert {line.partition(",")[0] for line in (tmp_path / "index/emar.csv").read_text().splitlines()[1:]} == {"2", "102"}


def test_a_list_that_is_given_has_to_exist(small_root: Path, tmp_path: Path) -> None:
    flags = ["--root_dir", str(small_root), "--output_path", str(tmp_path / "index"), "--task", "emar"]
    default = small_root / "patient_data/patients.csv"
    assert not default.exists()
    with pytest.raises(UserError, match=r"patients\.csv: expected a CSV with a column subject_id, got no such file"):
        task_sample_info_gen.main([*flags, "--patient_id", str(default)])
    assert not (tmp_path / "index").exists()
    task_sample_info_gen.main(flags)
