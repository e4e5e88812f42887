"""Index files as spreadsheets and other tools rewrite them: both readers give the same rows, or the same error."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import command
from hypothesis import given, settings
from hypothesis import strategies as st

from mimiciv_dataset import data_index_gen, index_tables, validate_index
from mimiciv_dataset.cells import whole_number
from mimiciv_dataset.index_files import INDEX_COLUMNS, SAMPLE_COLUMNS, parse_target, sample_id
from mimiciv_dataset.index_frames import scan
from mimiciv_dataset.index_rows import normalise_row, read_rows
from mimiciv_dataset.mimiciv import MIMICIV
from pipeline.errors import UserError

Cells = dict[str, str]
SECRET = "Zebrawood"  # stands for a patient's value, which no message may quote

GOOD = {"subject_id": "90000001", "hadm_id": "20000005", "task": "omr", "event": "omr", "context_begin": "3",
        "context_end": "1234", "target": '["BMI, \\"kg\\""]', "target_weight": "0.5", "admissions_id": "2",
        "last_discharge_id": "", "audit": ""}  # fmt: skip


def to_csv(rows: Sequence[Cells], columns: Sequence[str] = INDEX_COLUMNS, **dialect: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", **dialect)
    writer.writerows([columns, *([row[name] for name in columns] for row in rows)])
    return text.getvalue()


def both(path: Path) -> list[dict[str, Any]]:
    """The rows of `read_rows`, which those of `scan` must equal."""
    rows = list(read_rows(path))
    for row, of_scan in zip(rows, scan(path).collect().to_dicts(), strict=True):
        names = {"period_begin": "context_begin", "period_end": "context_end"}
        for name, value in row.items():
            other = of_scan[names.get(name, name)]
            if name == "target":
                assert value == parse_target(other)
            elif name == "target_weight":
                assert (value is None and other is None) or float(value) == other
            else:
                assert value == other
    return rows


# --- what is read


@st.composite
def index_rows(draw: st.DrawFn) -> list[Cells]:
    def row() -> Cells:
        begin = draw(st.integers(1, 5_000))
        names = st.lists(st.text("aé\",[]\\ '\n5", max_size=6), max_size=3)
        target = json.dumps(draw(names), ensure_ascii=draw(st.booleans()))
        numbers = [draw(st.none() | st.integers(1, 2_000_000)) for _ in range(3)]
        hadm_id, admissions_id, discharge_id = ("" if number is None else str(number) for number in numbers)
        end = begin + draw(st.integers(1, 2_000))
        return {"subject_id": str(draw(st.integers(1, 99_999_999))), "hadm_id": hadm_id, "task": "omr", "event": "omr",
                "context_begin": str(begin), "context_end": str(end), "target": target,
                "target_weight": "0.25", "admissions_id": admissions_id, "last_discharge_id": discharge_id,
                "audit": draw(st.sampled_from(["", "target_in_context"]))}  # fmt: skip

    return [row() for _ in range(draw(st.integers(1, 5)))]


NUMBERS: list[Callable[[str], str]] = [
    lambda text: text,
    lambda text: f"{text}.0",
    lambda text: f" {text} ",
    lambda text: f"{int(text):,}",
    lambda text: f"{int(text):,}".replace(",", "\u202f"),
    lambda text: f"{int(text):,}.00",
    lambda text: f"{text[0]}.{text[1:] or '0'}E+{len(text) - 1:02}",
    lambda text: f"00{text}",
]
MISSING = ["", "nan", "NaN", "None", "null", " ", "NULL", "#N/A"]
ID_COLUMNS = ("subject_id", "hadm_id", "context_begin", "context_end", "admissions_id", "last_discharge_id")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_both_readers_read_what_a_spreadsheet_saves(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rows = data.draw(index_rows())
    expected = [normalise_row(row) for row in rows]
    cells = [dict(row) for row in rows]
    for row in cells:
        for name in ID_COLUMNS:
            rewrite = data.draw(st.sampled_from(NUMBERS))
            row[name] = rewrite(row[name]) if row[name] else data.draw(st.sampled_from(MISSING))
        row["task"] = data.draw(st.sampled_from(["omr", " omr ", "omr "]))
    table = [[row[name] for name in INDEX_COLUMNS] for row in cells]
    header = [data.draw(st.sampled_from([name, name.upper(), f" {name} ", name.replace("_", " ")])) for name in INDEX_COLUMNS]
    for _ in range(data.draw(st.integers(0, 2))):
        table.insert(data.draw(st.integers(0, len(table))), [data.draw(st.sampled_from(["", " "]))] * len(header))
    unnamed = [""] * data.draw(st.integers(0, 3))
    text = io.StringIO()
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    csv.writer(text, lineterminator=end, quoting=quoting).writerows([[*row, *unnamed] for row in (header, *table)])
    blank_lines = data.draw(st.sampled_from(["", end, end * 3]))
    mark = data.draw(st.sampled_from(["", "\ufeff"]))
    path = tmp_path_factory.mktemp("index") / "omr.csv"
    path.write_bytes((mark + text.getvalue() + blank_lines).encode())
    for row in expected:
        row["last_discharge_id"] = row["last_discharge_id"] or None
    got = both(path)
    assert [{**row, "audit": row["audit"] or ""} for row in got] == expected


def test_rows_are_the_same_in_blocks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**GOOD, "context_begin": str(i + 1), "target": json.dumps([f'a\n"{i}"\n,'] * (i % 3))} for i in range(100)]
    path = tmp_path / "omr.csv"
    path.write_text(to_csv(rows))
    whole = both(path)
    assert len(whole) == 100
    for size in (500, 1_000, 10_000):
        monkeypatch.setattr(index_tables, "BLOCK_BYTES", size)
        assert both(path) == whole


@pytest.mark.parametrize(
    "text", ['["a"', "['a']", "[“a”]", "a", '["a" "b"]', "[1]", '{"a": 1}', "[null]", '["a\\x"]', '"a\\"']
)
def test_a_target_is_refused_exactly_where_json_refuses_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError):
        parse_target(text)
    path = tmp_path / "omr.csv"
    path.write_text(to_csv([GOOD, {**GOOD, "target": text}]))
    for read in (read_rows, lambda path: scan(path).collect()):
        with pytest.raises(UserError, match=r"omr\.csv, row 3, column target: expected a JSON string or list of strings"):
            read(path)


# --- what is refused: by the dataset, the samplers and validate_index.py alike


REFUSED = [
    ("subject_id", "2/1/2150", "a date or time"),
    ("subject_id", "", "an empty cell"),
    ("subject_id", "9.0E+07", "a rounded number with an exponent"),
    ("hadm_id", SECRET, "another text"),
    ("hadm_id", "-5", "a negative number"),
    ("context_begin", "Jan-12", "a date or time"),
    ("context_begin", "2150-01-01 00:00:00", "a date or time"),
    ("context_begin", "01.02.2150", "a date or time"),
    ("context_begin", "0", "a number below 1"),
    ("context_begin", "-3", "a negative number"),
    ("context_begin", "2.5", "a number with decimals"),
    ("context_begin", "", "an empty cell"),
    ("context_end", "3", "another"),
    ("context_end", "2", "another"),
    ("context_end", "99999999999", "a number above 2147483647"),
    ("admissions_id", "0", "a number below 1"),
    ("last_discharge_id", "12:30", "a date or time"),
    ("task", "", "an empty cell"),
    ("target", f"[{SECRET}]", "something else"),
    ("target_weight", SECRET, "something else"),
]  # fmt: skip


@pytest.mark.parametrize("column, cell, got", REFUSED)
def test_a_bad_cell_is_refused_everywhere(small_root: Path, tmp_path: Path, column: str, cell: str, got: str) -> None:
    path = tmp_path / "omr.csv"
    # a blank line and an empty row, which a spreadsheet shows as rows 3 and 4
    lines = to_csv([GOOD, {**GOOD, column: cell}]).splitlines()
    path.write_text("\n".join([*lines[:2], "", "," * (len(INDEX_COLUMNS) - 1), *lines[2:], ""]))
    (tmp_path / "test.csv").write_text("subject_id\n90000001\n")
    (tmp_path / "config.json").write_text('{"omr": 1}')
    draw = ["--data_index_dir", path, "--subject_id_path", tmp_path / "test.csv", "--data_config", tmp_path / "config.json"]
    for run in (
        lambda: MIMICIV(small_root, path, lazzy_mode=True),
        lambda: scan(path).collect(),
        lambda: validate_index.main(["--root_dir", str(small_root), str(path)]),
        lambda: data_index_gen.main([*map(str, draw), "--output_path", str(tmp_path / "set.csv")]),
    ):
        with pytest.raises(UserError) as error:
            run()
        message = str(error.value)
        assert message.startswith(f"{path}, row 5, column {column}: expected ") and f", got {got}. " in message
        assert SECRET not in message and "90000001" not in message and "\n" not in message
    line = tmp_path / "omr.jsonl"
    line.write_text("\n" + json.dumps({**GOOD, column: cell}) + "\n")
    if column not in ("task", "target_weight"):
        with pytest.raises(UserError, match=r"omr\.jsonl, line 2: ") as error:
            list(read_rows(line))
        assert SECRET not in str(error.value)


def test_no_message_quotes_a_cell(tmp_path: Path) -> None:
    """A secret in any column of a file that is broken in any way: an error without it, or none."""
    path = tmp_path / "omr.csv"
    for column in INDEX_COLUMNS:
        text = to_csv([GOOD, {**GOOD, column: SECRET}])
        broken = {
            "as it is": text,
            "short row": text + f"{SECRET},1\n",
            "long row": text.rstrip("\n") + f",{SECRET}\n",
            "no header": text.partition("\n")[2].partition("\n")[2],
            "open quotation mark": text + f'"{SECRET}',
            "semicolons": to_csv([{**GOOD, column: SECRET}], delimiter=";"),
            "semicolons, no header": to_csv([{**GOOD, column: SECRET}], delimiter=";").partition("\n")[2],
            "not UTF-8": text.replace(SECRET, SECRET + "\udcff"),
        }
        for fault, content in broken.items():
            path.write_bytes(content.encode("utf-8", "surrogateescape"))
            for read in (lambda: list(read_rows(path)), lambda: scan(path).collect()):
                try:
                    read()
                except UserError as error:
                    assert SECRET not in str(error) and "\n" not in str(error)
                else:
                    assert (fault, column in ("event", "audit", "task")) == ("as it is", True)


@pytest.mark.parametrize(
    "text, message",
    [
        (to_csv([GOOD], delimiter=";"), "got columns separated by semicolons. Save it with commas."),
        (to_csv([GOOD], delimiter="\t"), "got columns separated by tabs. Save it with commas."),
        ("\n" + to_csv([GOOD]), "expected the header in row 1, got empty rows above it. Remove them."),
        (to_csv([GOOD]).replace("audit", "Event"), "expected every column once, got event repeatedly."),
        (to_csv([GOOD]) + "1,2,omr\n", "row 3: expected 11 fields, as in the header, got another number."),
        (to_csv([GOOD]) + '"1', "expected closed quotation marks, got an open one at the end."),
        (to_csv([GOOD]).partition("\n")[2], "expected columns subject_id, hadm_id, task, …, got a first row without them."),
        ("", "got an empty file."),
    ],
)  # fmt: skip
def test_a_malformed_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "omr.csv"
    path.write_text(text)
    for read in (read_rows, lambda path: scan(path).collect()):
        with pytest.raises(UserError) as error:
            read(path)
        assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)
    path.write_bytes(to_csv([GOOD]).encode("utf-16"))
    with pytest.raises(UserError, match="expected a CSV in UTF-8"):
        read_rows(path)


def test_a_row_without_identity_is_an_error() -> None:
    with pytest.raises(UserError, match="expected a row with subject_id and window, or with input, got neither"):
        sample_id({"task": "omr"})


def test_an_unknown_task_is_one_short_line(small_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "omr.csv"
    path.write_text(to_csv([{**GOOD, "task": SECRET}]))
    with pytest.raises(UserError) as error:
        MIMICIV(small_root, path, lazzy_mode=True)[0]
    assert str(error.value).startswith(f"{path}, row 2: expected a task of `task_sample_info_gen.py --list_tasks`")
    assert len(str(error.value)) < 250 + len(str(path)) and SECRET not in str(error.value)


@given(st.integers(1, 10**15), st.sampled_from(NUMBERS))
def test_whole_numbers(number: int, rewrite: Callable[[str], str]) -> None:
    assert whole_number(rewrite(str(number))) == number


# --- commands


def test_audit_tables_are_no_index_files(small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = (small_root / "task_index/all/emar.csv").read_text()
    bench, audit = tmp_path / "bench.csv", tmp_path / "bench.audit.csv"
    bench.write_text(index)
    audit.write_text("task,rows\nemar,5\n")
    for given_paths in ((audit, bench), (tmp_path,)):
        assert validate_index.main(["--root_dir", str(small_root), *map(str, given_paths)]) == 0
        output = capsys.readouterr().out
        assert "of 1 files" in output and ("bench.audit.csv is the audit table" in output) == (audit in given_paths)
    with pytest.raises(UserError, match=r"bench\.audit\.csv: expected index files, got audit tables"):
        validate_index.main([str(audit)])


@pytest.mark.parametrize("part_bytes", [1, validate_index.PART_BYTES])
def test_validation_counts_repeated_samples(
    small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate_index, "PART_BYTES", part_bytes)  # 1: a part for each row
    header, *rows = (small_root / "task_index/all/emar.csv").read_text().splitlines()
    path = tmp_path / "emar.csv"
    path.write_text("\n".join([header, *rows, *rows[:3]]) + "\n")
    assert validate_index.main(["--root_dir", str(small_root), str(path)]) == 0
    assert f"warning: {path}: 3 rows repeat the task, patient and window of another row." in capsys.readouterr().out
    path.write_text("\n".join([header, *rows, rows[2].replace(",emar,emar,", ",emar,omr,")]) + "\n")
    assert validate_index.main(["--root_dir", str(small_root), str(path)]) == 1
    assert f"{path}, row {len(rows) + 2}: different event: got emar at" in capsys.readouterr().out


def test_validation_compares_provenance(small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shutil.copytree(small_root, tmp_path / "root", ignore=shutil.ignore_patterns("mimiciv", "buckets*"))
    index = root / "task_index/all"
    released = shutil.copy(index / "emar.csv", tmp_path / "released.csv")

    def validate(path: Path, *flags: str) -> int:
        return validate_index.main(["--root_dir", str(root), str(path), *flags])

    assert validate(index) == validate(index / "emar.csv") == 0 and "origin is unknown" not in capsys.readouterr().out
    (tmp_path / "maps/hosp").mkdir(parents=True)
    (tmp_path / "maps/hosp/d_labitems.csv").write_text("itemid,label\n50912,Creatinine\n")
    with pytest.raises(
        UserError, match=r"expected to be made from .*maps \(index_mapping\), got one made from another version"
    ):
        validate(index, "--index_mapping", str(tmp_path / "maps"))
    shutil.copytree(tmp_path / "maps", root / "index_mapping", dirs_exist_ok=True)
    for path in (index, index / "emar.csv"):
        with pytest.raises(UserError, match=rf"{index}: expected to be made from .*index_mapping .*Run .*--overwrite\.$"):
            validate(path)
    assert validate(released) == 0 and "released.csv: its origin is unknown" in capsys.readouterr().out
    (index / "provenance.json").write_text('{"complete": tr')
    with pytest.raises(UserError, match=r"provenance\.json: expected JSON, got a syntax error"):
        validate(index)


def test_validation_reads_a_released_jsonl(small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "released.jsonl"
    row = read_rows(small_root / "task_index/all/emar.csv")[0]
    info = {**row, "subject_id": float(row["subject_id"]), "period_begin": f"{row['period_begin']}.0"}
    lines = [{"input": "x", "output": "y", "task_info": info}, {"input": "x", "task_info": {"task": "emar", "subject_id": 2}}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert validate_index.main(["--root_dir", str(small_root), str(path)]) == 1
    output = capsys.readouterr().out
    assert "2 rows of 1 files, 1 agree, 1 do not" in output and f"{path}, line 2: no window" in output
    path.write_text(json.dumps({"input": "x", "task_info": {**info, "period_end": "2/1/2150"}}))
    with pytest.raises(UserError, match=r"released\.jsonl, line 1: period_end: expected a whole number, got a date or time"):
        validate_index.main(["--root_dir", str(small_root), str(path)])


def test_a_sampled_set_that_went_through_a_spreadsheet(small_root: Path, tmp_path: Path) -> None:
    """End to end: drawn from a rewritten index with a rewritten list of patients, the set is the same to the byte."""
    index = small_root / "task_index/all/emar.csv"
    rewritten, patients = tmp_path / "spreadsheet" / "emar.csv", tmp_path / "patients.csv"
    rewritten.parent.mkdir()
    with index.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row |= {name: f"{int(row[name]):,}.00" for name in ("subject_id", "context_end") if row[name]}
    rewritten.write_bytes(("\ufeff" + to_csv(rows).replace("\n", ",,\r\n") + ",,,,,,,,,,,,\r\n").encode())
    subjects = sorted({row["subject_id"] for row in rows})
    patients.write_text("Subject ID,,\n" + "".join(f'"{subject}",,\n' for subject in subjects) + ",,\n")
    (tmp_path / "config.json").write_text('{"emar": 10}')
    for name, source in (("first", index), ("second", rewritten)):
        draw = ["--data_index_dir", source, "--subject_id_path", patients, "--data_config", tmp_path / "config.json"]
        command("mimiciv_dataset/data_index_gen.py", *draw, "--min_window", 0, "--output_path", tmp_path / f"{name}.csv")
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()
    assert read_rows(tmp_path / "first.csv").columns == list(SAMPLE_COLUMNS)
