"""Ids, codes and times that another tool has rewritten give the same trajectories and samples, or one clear error."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_mimic import TWO_PATIENTS, Tables, read_trajectories, write_mimic

from mimiciv_dataset import task_sample_info_gen
from mimiciv_dataset.csv_checks import QuoteCheck, check_quotes
from mimiciv_dataset.events import CHECKED_COLUMNS, COLUMN_KINDS, EVENTS, MISSING_TEXTS
from mimiciv_dataset.lookups import Lookups, ndc_key
from mimiciv_dataset.records import Event
from mimiciv_dataset.timeline import Timeline
from mimiciv_dataset.values import KINDS, canonical
from pipeline.errors import UserError
from pipeline.files import read_json
from preprocess import combination, merge_patient, rank
from preprocess.raw_tables import RawTable, column_names, find_tables, read_batches
from preprocess.raw_values import Counts, prepare

ID = {"subject_id": "90000001", "hadm_id": "91000001"}
ED, ICU = {"subject_id": "90000001", "stay_id": "92000001"}, {**ID, "stay_id": "93000001"}
TABLES: Tables = {
    "patients": [{"subject_id": "90000001", "gender": "F", "anchor_age": "61", "dod": "2150-01-09"},
                 {"subject_id": "90000002", "gender": "M", "anchor_age": "62", "dod": ""}],
    "edstays": [{**ED, "hadm_id": "91000001", "intime": "2150-01-01 02:00:00", "outtime": "2150-01-01 08:00:00"},
                {**ED, "stay_id": "92000002", "intime": "2150-03-01 02:00:00", "outtime": ""}],
    "triage": [{**ED, "temperature": "98.1"}],
    "pyxis": [{**ED, "charttime": "2150-01-01 03:00:00", "name": "Drug A"}],
    "medrecon": [{**ED, "charttime": "2150-01-01 03:00:00", "name": "Drug A", "ndc": "12143361000"}],
    "diagnosis": [{**ED, "icd_code": "0010", "icd_version": "9", "icd_title": "CHOLERA"}],
    "admissions": [{**ID, "admittime": "2150-01-01 06:00:00", "dischtime": "2150-01-05 12:00:00", "deathtime": "",
                    "admission_type": "URGENT", "hospital_expire_flag": "0"}],
    "transfers": [{**ID, "intime": "2150-01-01 06:00:00", "outtime": "2150-01-05 12:00:00", "careunit": "MICU"}],
    "services": [{**ID, "transfertime": "2150-01-01 06:00:00", "curr_service": "MED"}],
    "poe": [{**ID, "ordertime": "2150-01-01 07:00:00", "order_type": "Lab"}],
    "labevents": [{**ID, "charttime": "2150-01-01 09:00:00", "storetime": "2150-01-01 10:00:00", "itemid": "50912",
                   "valuenum": "7"},
                  {"subject_id": "90000002", "hadm_id": "", "charttime": "2150-02-01 09:00:00", "storetime": "",
                   "itemid": "50912", "valuenum": ""}],
    "microbiologyevents": [{**ID, "charttime": "", "chartdate": "2150-01-01", "test_name": "URINE"}],
    "pharmacy": [{**ID, "entertime": "2150-01-01 10:00:00", "medication": "Drug A"}],
    "prescriptions": [{**ID, "starttime": "2150-01-01 10:00:00", "drug": "Drug A", "ndc": "12143361000"},
                      {**ID, "starttime": "", "drug": "Drug B", "ndc": "0"}],
    "omr": [{"subject_id": "90000001", "chartdate": "2150-01-09", "seq_num": "1", "result_name": "BMI"}],
    "icustays": [{**ICU, "intime": "2150-01-01 11:00:00", "outtime": "2150-01-02 11:00:00", "los": "1"}],
    "chartevents": [{**ICU, "charttime": "2150-01-01 12:00:00", "itemid": "220045", "valuenum": "80"}],
    "procedureevents": [{**ICU, "starttime": "2150-01-01 12:00:00", "storetime": "2150-01-01 12:00:00.750",
                         "itemid": "225792"}],
    "radiology": [{**ID, "note_id": "90000001-RR-1", "note_seq": "1", "charttime": "2150-01-01 13:00:00", "text": "a"},
                  {**ID, "note_id": "90000001-RR-12", "note_seq": "12", "charttime": "2150-01-01 13:00:00", "text": "b"}],
    "diagnoses_icd": [{**ID, "seq_num": "1", "icd_code": "0010", "icd_version": "9"},
                      {**ID, "seq_num": "2", "icd_code": "I10", "icd_version": "10"}],
    "procedures_icd": [{**ID, "seq_num": "1", "chartdate": "2150-01-02", "icd_code": "0210093", "icd_version": "10"}],
}  # fmt: skip
DICTIONARIES = {
    "hosp/d_labitems": "itemid,label\n50912,Creatinine\n",
    "icu/d_items": "itemid,label\n220045,Heart Rate\n225792,Ventilation\n",
    "hosp/d_icd_diagnoses": "icd_code,icd_version,long_title\n0010,9,Cholera\nI10,10,Hypertension\n",
    "hosp/d_icd_procedures": "icd_code,icd_version,long_title\n0210093,10,Bypass\n",
    "hosp/d_atc_prescriptions": "ndc_code,atc_name\n12143361000,Statins\n",
    "note/radiology_detail": "note_id,field_name,field_value\n90000001-RR-1,exam_name,CHEST\n90000001-RR-12,exam_name,HEAD\n",
}


def write_dictionaries(folder: Path, dictionaries: dict[str, str] = DICTIONARIES) -> Path:
    for name, text in dictionaries.items():
        path = folder / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def build(root: Path) -> str:
    """Trajectories in the released layout from root/mimiciv, in this process; returns what was printed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
        for step in (merge_patient, rank):
            step.main(["--root_dir", str(root)])
        combination.main(["--root_dir", str(root), "--layout", "patient"])
    return output.getvalue()


def make(root: Path, tables: Tables = TABLES, edit: Callable[[Path], None] = lambda mimic: None) -> str:
    """Write tables and build their trajectories; returns what was printed."""
    write_dictionaries(write_mimic(root / "mimiciv", tables))
    edit(root / "mimiciv")
    return build(root)


def make_index(root: Path) -> dict[str, list[list[str]]]:
    """The rows of each task index of the trajectories in `root`."""
    write_dictionaries(root / "index_mapping")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        task_sample_info_gen.main(["--root_dir", str(root)])
    rows = {}
    for path in (root / "task_index/all").glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            rows[path.stem] = list(csv.reader(file))
    return rows


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trajectories of `TABLES` and their index."""
    root = tmp_path_factory.mktemp("original")
    printed = make(root)
    assert "rewrote" not in printed and "expected known" not in printed and "identical" not in printed
    rows = make_index(root)
    assert all(len(rows[name]) > 1 for name in ("labevents", "diagnoses_icd", "prescriptions_atc", "radiology", "diagnosis"))
    return root


def rewrite(kinds: tuple[str, ...], change: Callable[[str], str]) -> Tables:
    """`TABLES` with the values of all columns of some kinds changed, but for missing ones."""

    def changed(column: str, value: str) -> str:
        return change(value) if COLUMN_KINDS.get(column) in kinds and value else value

    return {name: [{c: changed(c, v) for c, v in row.items()} for row in rows] for name, rows in TABLES.items()}


def scientific(text: str) -> str:
    """As Java and Spark write a float."""
    return f"{text[0]}.{text[1:].rstrip('0') or '0'}E{len(text) - 1}" if len(text) > 7 else f"{text}.0"


NUMBERS = {
    "floats": lambda text: f"{text}.0",
    "floats without decimals": lambda text: f"{text}.",
    "blanks": lambda text: f" {text}\t",
    "signs and zeros": lambda text: f"+00{text}",
    "scientific": scientific,
    "all digits": lambda text: f"{text[0]}.{text[1:]}e+{len(text) - 1:02}",
}


@pytest.mark.parametrize("name", NUMBERS)
def test_rewritten_ids_give_the_same_trajectories(name: str, original: Path, tmp_path: Path) -> None:
    printed = make(tmp_path, rewrite(("number",), NUMBERS[name]))
    assert read_trajectories(tmp_path / "patients_ehr") == read_trajectories(original / "patients_ehr")
    (line,) = re.findall(r"warning: .*labevents\.csv: rewrote values .*", printed)
    assert all(count in line for count in ("subject_id (2)", "hadm_id (1)", "itemid (2)"))


TIMES = {
    "ISO": lambda text: text.replace(" ", "T"),
    "milliseconds": lambda text: f"{text}.000" if ":" in text and "." not in text else text,
    "without seconds": lambda text: re.sub(r"(\d\d:\d\d):00$", r"\1", text),
    "blanks": lambda text: f" {text} ",
}


@pytest.mark.parametrize("name", TIMES)
def test_rewritten_times_give_the_same_trajectories(name: str, original: Path, tmp_path: Path) -> None:
    make(tmp_path, rewrite(("time",), TIMES[name]))
    assert read_trajectories(tmp_path / "patients_ehr") == read_trajectories(original / "patients_ehr")


def test_a_file_that_is_a_header_only(tmp_path: Path) -> None:
    (tmp_path / "omr.csv").write_text(",".join(EVENTS["omr"].required_columns))
    assert list(read_batches(tmp_path / "omr.csv", ["subject_id"])) == []


@pytest.mark.parametrize("cut", [None, 40])
def test_gzipped_members_and_the_zeros_after_them(cut: int | None, tmp_path: Path) -> None:
    text = "".join(f"{number},{'x' * (number % 9)}\n" for number in range(2000)).encode()
    first, second = (gzip.compress(part) for part in (b"subject_id,text\n" + text[:7000], text[7000:]))
    for padding in (b"", bytes(4), bytes(5000)):
        (tmp_path / "omr.csv.gz").write_bytes(first + gzip.compress(b"") + second[:cut] + padding)
        batches = read_batches(tmp_path / "omr.csv.gz", ["text"])
        if cut:
            with pytest.raises(UserError, match=r"omr\.csv\.gz, after row .* Download the file again"):
                list(batches)
        else:
            sizes = [len(value or "") for batch in batches for value in batch["text"].to_pylist()]
            assert sizes == [number % 9 for number in range(2000)]


def test_rewritten_codes_give_the_same_trajectories(original: Path, tmp_path: Path) -> None:
    tables = rewrite(("icd", "text", "storetime"), lambda text: f" {text} ")
    tables["diagnoses_icd"][1]["icd_code"] = "i10"
    for table, row in (("medrecon", 0), ("prescriptions", 0)):
        tables[table][row]["ndc"] = "1.2143361E10" if row else "12143361000.0"
    tables["prescriptions"][1]["ndc"] = "0.0"
    make(tmp_path, tables)
    assert read_trajectories(tmp_path / "patients_ehr") == read_trajectories(original / "patients_ehr")
    assert make_index(tmp_path) == make_index_of(original)


def make_index_of(root: Path) -> dict[str, list[list[str]]]:
    rows = {}
    for path in (root / "task_index/all").glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            rows[path.stem] = list(csv.reader(file))
    return rows


@pytest.mark.parametrize("spelling", [r"\N", "NaT", "NA", "none", "<NA>", "-", " ", "NULL", "?"])
def test_spellings_of_missing_ids_and_times(spelling: str, original: Path, tmp_path: Path) -> None:
    """All missing ids, codes and times are spelled otherwise, but for those that cannot be missing."""
    tables = {
        name: [{c: spelling if c in COLUMN_KINDS and not v else v for c, v in row.items()} for row in rows]
        for name, rows in TABLES.items()
    }
    make(tmp_path, tables)
    assert read_trajectories(tmp_path / "patients_ehr") == read_trajectories(original / "patients_ehr")


BAD = {
    "number": ("x", "91000001.5", "-91000001", "9.1E+07", "9.100000e+07", "91,000,001", "1" * 19, "0x10",
               "\uff17", "1\u0663"),
    "time": ("01/05/2150 12:00", "2150-01-05 12:00:00+00:00", "2150-01-05T12:00:00Z", "2150-01-05 12:00:00 UTC",
             "0000-00-00 00:00:00", "2150-02-30", "2150-01-05 24:00:00", "2150-1-5", "21500105", "54927.5",
             "21.0-01-05 12:00:00", "21.0-01-05"),
    "storetime": ("01/05/2150 12:00", "2150-01-05 12:00:00+00:00", "2150-02-30"),
    "icd": ("250.0", "38.0"),
    "ndc": ("2.14336E+09",),
}  # fmt: skip


def read(folder: Path, table: str, column: str, value: str) -> Counts:
    """Read a table of one row with this value."""
    event = EVENTS[table]
    columns = list(dict.fromkeys(["subject_id", *(c for c in event.required_columns if c != "admission_info"), column]))
    path = folder / f"{table}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows([{"subject_id": "1"}, {"subject_id": "1", column: value}])
    raw, counts = RawTable(event, path, column_names(path)), Counts()
    prepare(raw, list(read_batches(path, raw.header)), 0, counts, {})
    return counts


@pytest.mark.parametrize("table", EVENTS)
def test_what_cannot_be_read_without_guessing_is_refused(table: str, tmp_path: Path) -> None:
    event = EVENTS[table]
    columns = [c for c in (*event.required_columns, "storetime", "seq_num") if c in COLUMN_KINDS]
    for column in columns:
        for value in BAD.get(COLUMN_KINDS[column], ()):
            with pytest.raises(
                UserError, match=rf"{table}\.csv, row 2, column {column}: expected .*, got another text"
            ) as error:
                read(tmp_path, table, column, value)
            assert "\n" not in str(error.value) and (len(value) < 6 or value not in str(error.value))


def test_columns_that_order_join_or_label_have_a_kind() -> None:
    for event in EVENTS.values():
        columns = {event.time, event.time_fallback, event.stay_time, *event.tie, "subject_id", "hadm_id"}
        columns |= {column for _, lookup in event.lookups for column in lookup.by}
        columns |= {event.stored.time, event.stored.time_fallback} if event.stored else set()
        assert {column for column in columns if column} <= set(COLUMN_KINDS), event.name
    assert set(CHECKED_COLUMNS) == set(KINDS)


digits = st.integers(0, 10**18 - 1).map(str)
moments = st.datetimes().filter(lambda time: time.year >= 1000)
TEXTS = {
    "number": digits,
    "time": moments.map(lambda time: f"{time:%Y-%m-%d %H:%M:%S}") | moments.map(lambda time: f"{time:%Y-%m-%d}"),
    "storetime": moments.map(lambda time: f"{time:%Y-%m-%d %H:%M:%S}.000"[: 23 if time.second % 2 else 19]),
    "icd": st.from_regex(r"[A-Z0-9]{3,7}", fullmatch=True).filter(lambda text: text.lower() not in ("nan", "null")),
    "ndc": st.from_regex(r"[0-9]{1,11}|[0-9]{5}-[0-9]{4}-[0-9]{2}", fullmatch=True),
    "text": st.from_regex(r"[0-9]{8}-(DS|RR)-[0-9]{1,3}", fullmatch=True),
}


@given(kind=st.sampled_from(sorted(TEXTS)), data=st.data())
def test_texts_in_the_form_of_mimic_are_kept(kind: str, data: st.DataObject) -> None:
    text = data.draw(TEXTS[kind])
    assert re.search(KINDS[kind].pattern, text)
    if kind != "storetime":
        assert canonical(kind, text) == text == canonical(kind, f" {text} ")


@given(kind=st.sampled_from(sorted(KINDS)), text=st.text("0123456789 .-+eET:/IVN", max_size=20) | digits)
def test_what_is_read_is_in_the_form_of_mimic(kind: str, text: str) -> None:
    """Reading is idempotent, and what it returns needs no further change."""
    try:
        value = canonical(kind, text)
    except ValueError as error:
        assert str(error) == "" or text not in str(error)
        return
    if value is not None:
        assert canonical(kind, value) == value
        assert kind in ("icd", "ndc", "text", "time", "storetime") or re.search(KINDS[kind].pattern, value)


@given(digits)
def test_numbers_survive_other_printers(text: str) -> None:
    value = str(int(text))
    assert canonical("number", scientific(value)) == value
    assert canonical("number", f"{value[0]}.{value[1:]}e+{len(value) - 1:02}") == value
    assert canonical("number", f"000{value}.00") == value
    for printed in (f"{int(value):.5e}", f"{int(value):g}"):  # exact, or refused
        with contextlib.suppress(ValueError):
            assert canonical("number", printed) == value


# --- the file


def with_lines(file: str, change: Callable[[int, str], str]) -> Callable[[Path], None]:
    """An edit of every line of a file, given its number."""

    def edit(mimic: Path) -> None:
        lines = (mimic / file).read_text().splitlines()
        (mimic / file).write_text("".join(f"{change(number, line)}\n" for number, line in enumerate(lines)))

    return edit


def with_bytes(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def edit(mimic: Path) -> None:
        (mimic / file).write_bytes(change((mimic / file).read_bytes()))

    return edit


def added_column(file: str, name: str, value: str = "SECRET") -> Callable[[Path], None]:
    return with_lines(file, lambda number, line: f"{line},{value if number else name}")


OMR = "hosp/omr.csv"
HARMLESS = {
    "row numbers in front": with_lines(OMR, lambda n, line: f",{line}" if n == 0 else f"{n - 1},{line}"),
    "row numbers read back": with_lines(OMR, lambda n, line: f"Unnamed: 0,,{line}" if n == 0 else f"0,{n - 1}.0,{line}"),
    "empty columns at the end": with_lines(OMR, lambda n, line: f"{line},,"),
    "blanks in the header": with_lines(OMR, lambda n, line: line.replace(",", " , ") if n == 0 else line),
    "byte-order mark": with_bytes(OMR, lambda data: b"\xef\xbb\xbf" + data),
    "Windows line ends": with_bytes(OMR, lambda data: data.replace(b"\n", b"\r\n")),
    "old line ends": with_bytes(OMR, lambda data: data.replace(b"\n", b"\r")),
    "no line end": with_bytes(OMR, lambda data: data.rstrip(b"\n")),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_spreadsheets_add_changes_nothing(name: str, original: Path, tmp_path: Path) -> None:
    printed = make(tmp_path, edit=HARMLESS[name])
    assert read_trajectories(tmp_path / "patients_ehr") == read_trajectories(original / "patients_ehr")
    assert ("dropped row numbers in column 1" in printed) == name.startswith("row numbers")


REFUSED = {
    "texts without a name": (added_column(OMR, "", "SECRET"), "row 1, column 6:"),
    "file_name": (added_column(OMR, "file_name"), "no column file_name"),
    "charttime": (added_column("ed/triage.csv", "charttime"), "no column charttime"),
    "same name after stripping": (added_column(OMR, " chartdate"), "chartdate twice"),
    "backslashes": (added_column("note/radiology.csv", "text2", r'"say \"hi\""'), "expected quotation marks"),
    "backslash and comma": (
        added_column("note/radiology.csv", "text2", r'"say \", hi"'),
        "fields in every row|quotation marks",
    ),
    "backslash alone": (added_column("note/radiology.csv", "text2", r'"\""'), "quotation marks"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_lost_or_shifted_is_refused(name: str, tmp_path: Path) -> None:
    edit, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as error:
        make(tmp_path, edit=edit)
    assert "SECRET" not in str(error.value) and "say" not in str(error.value)


NAMES = [
    "_time",
    "_row",
    "_bucket",
    "_subject",
    "_at",
    "item",
    "items",
    "event",
    "time",
    'a"b',
    "a,b",
    "a\nb",
    "a\\b",
    "é\u2028x",
]


def test_any_other_name_of_a_column_survives(tmp_path: Path) -> None:
    """Names that we use inside, or that need escapes in CSV or JSON, in the first place, too."""
    tables = {**TABLES, "omr": [{name: f"{i}\\" for i, name in enumerate(NAMES)} | TABLES["omr"][0]]}
    write_dictionaries(write_mimic(tmp_path / "mimiciv", tables))
    path = tmp_path / "mimiciv" / OMR
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header[::-1], *(row[::-1] for row in rows)])
    build(tmp_path)
    combination.main(["--root_dir", str(tmp_path), "--output_path", str(tmp_path / "shards")])
    (record,) = (e for e in read_trajectories(tmp_path / "patients_ehr")["90000001"] if e["file_name"] == "omr")
    from mimiciv_dataset.trajectory import Trajectories

    (event,) = (e for e in Trajectories(tmp_path / "shards").trajectory("90000001") if e.file_name == "omr")
    expected = {name: f"{i}\\" for i, name in enumerate(NAMES)} | TABLES["omr"][0]
    for item in (record["items"][0], event.records().dicts()[0]):
        assert {name: item[name] for name in expected} == expected


fields = st.text('a"\\,\n', max_size=5)


@given(st.lists(st.lists(fields, min_size=2, max_size=2), max_size=5), st.integers(1, 9))
def test_quotation_marks_as_csv_has_them_are_accepted(rows: list[list[str]], size: int) -> None:
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    data, check = file.getvalue().encode(), QuoteCheck()
    for start in range(0, len(data), size):
        check.feed(data[start : start + size])
    assert not check.feed(b"\n").finds_stray


def test_backslashes_in_a_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "d_labitems.csv"
    path.write_text('itemid,label\n1,"Glucose \\"fasting\\""\n')
    with pytest.raises(UserError, match=r"d_labitems\.csv: expected quotation marks"):
        check_quotes(path)


# --- tables that refer to each other


def test_unknown_ids_are_counted(tmp_path: Path) -> None:
    tables = {
        **TABLES,
        "chartevents": [{**TABLES["chartevents"][0], "stay_id": "5", "itemid": "1"}] * 3,
        "emar": [{**ID, "hadm_id": "9"}],
    }
    printed = make(tmp_path, tables)
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line and line.count(" ") > 5}
    assert lines["chartevents"] == ["3", "3", "0", "3", "3"]
    assert lines["emar"] == ["1", "1", "1", "–", "–"] and lines["labevents"] == ["2", "2", "0", "–", "0"]
    assert re.search(r"warning: .*chartevents.*stay_id, got 3 of 3 that icu/icustays does not have\. Check", printed)
    assert re.search(r"warning: .*chartevents.*itemid, got 3 of 3 that icu/d_items does not have", printed)
    assert re.search(r"warning: .*emar.*hadm_id, got 1 of 1 that hosp/admissions does not have", printed)
    assert "warning: chartevents: 2 of 3 rows are identical to an earlier row; kept" in printed


def test_real_and_synthetic_data_give_no_warning(test_data: Path, synthetic_root: Path, tmp_path: Path) -> None:
    for mimic in (test_data / "data/mimic-iv-demo", synthetic_root / "mimiciv"):
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
            flags = ["--root_dir", str(tmp_path / mimic.name)]
            merge_patient.main([*flags, "--mimic_dir", str(mimic)])
            rank.main(flags)
        assert "warning" not in output.getvalue()


def test_identical_rows_are_kept_and_counted(tmp_path: Path) -> None:
    tables = {**TABLES, "labevents": [*TABLES["labevents"], *TABLES["labevents"]]}
    assert "warning: labevents: 2 of 4 rows are identical to an earlier row; kept" in make(tmp_path, tables)
    labs = [e for e in read_trajectories(tmp_path / "patients_ehr")["90000001"] if e["file_name"] == "labevents"]
    assert [len(event["items"]) for event in labs] == [2]


def test_the_release_is_not_taken_from_the_name_of_a_project(tmp_path: Path) -> None:
    project = tmp_path / "mimic-iv-3.1-study"
    make(project)
    before = read_json(project / "patients/provenance.json")
    assert before["mimic_release"] == "unknown"
    project.rename(tmp_path / "elsewhere")
    assert "is up to date" in build(tmp_path / "elsewhere")
    after = read_json(tmp_path / "elsewhere/patients/provenance.json")
    assert after["digest"] == before["digest"] and after["mimic_release"] == before["mimic_release"]


# --- where the files are


def test_nested_downloads_are_named(tmp_path: Path) -> None:
    mimic = write_mimic(tmp_path / "root/files/mimiciv/3.1", TABLES)
    with pytest.raises(UserError, match=rf"Set --mimic_dir to {mimic}\."):
        find_tables(tmp_path / "root")
    note, ed = mimic / "mimic-iv-note-2.2/note", mimic / "ed/2.2/ed"
    note.parent.mkdir()
    (mimic / "note").rename(note)
    (mimic / "ed").rename(mimic / "ed-files")
    ed.parent.mkdir(parents=True)
    with pytest.raises(UserError, match=r"ed/edstays\.csv: expected this table.*remove the whole directory ed/"):
        find_tables(mimic)
    (mimic / "ed-files").rename(ed)
    with pytest.raises(
        UserError, match=r"ed/edstays\.csv: expected this table.* mv .*/ed .*/ed-download && ln -s .*/ed-download/2\.2/ed "
    ) as error:
        find_tables(mimic)
    move, link = re.search(r"(mv .*) && (ln -s .*)\.$", str(error.value)).groups()
    run_shell(move), run_shell(link)
    tables, (warning,) = find_tables(mimic)
    assert "these tasks will have no rows: radiology" in warning
    run_shell(re.search(r"ln -s .*$", warning).group())
    tables, warnings = find_tables(mimic)
    assert not warnings and {table.name for table in tables} == set(EVENTS)


def run_shell(line: str) -> None:
    import subprocess

    subprocess.run(line, shell=True, check=True)


def test_releases_that_are_too_old(tmp_path: Path) -> None:
    mimic = write_mimic(tmp_path / "mimiciv", TABLES)
    edstays = mimic / "ed/edstays.csv"
    text = edstays.read_text()
    edstays.write_text(text.replace("gender", "x").replace("race", "y"))
    with pytest.raises(UserError, match=r"edstays\.csv: expected the columns gender, race, .*MIMIC-IV-ED 2\.0 or later"):
        find_tables(mimic)
    edstays.write_text(text)
    (mimic / "hosp/patients.csv").rename(mimic / "patients.csv")
    with pytest.raises(UserError, match=r"patients\.csv: .*MIMIC-IV 2\.2 and later have it"):
        find_tables(mimic)
    (mimic / "core").mkdir()
    with pytest.raises(UserError, match=r"expected MIMIC-IV 2\.2 or later, got 1\.0"):
        find_tables(mimic)


# --- dictionaries


def test_a_dictionary_in_both_spellings_is_refused(tmp_path: Path) -> None:
    mimic = write_dictionaries(write_mimic(tmp_path / "mimiciv", TABLES))
    mapping = write_dictionaries(tmp_path / "index_mapping")
    for folder in (mimic, mapping):
        for name in DICTIONARIES:
            (folder / f"{name}.csv.gz").write_bytes(b"")
            with pytest.raises(UserError, match=rf"{name.split('/')[1]}\.csv: expected this file or .*\.csv\.gz, got both"):
                if folder == mapping:
                    Lookups(mapping).path(name.split("/")[1])
                else:
                    find_tables(mimic) if "atc" not in name else Lookups(mimic).path("d_atc_prescriptions")
            (folder / f"{name}.csv.gz").unlink()


def titles(tmp_path: Path, name: str, rows: str) -> tuple[Callable[..., object], list[str]]:
    """The names that a dictionary of these rows gives, by key, and the warnings about it."""
    header = {"d_labitems": "itemid,label", "d_atc_prescriptions": "ndc_code,atc_name"}.get(
        name, "icd_code,icd_version,long_title"
    )
    write_dictionaries(tmp_path, {f"hosp/{name}": f"{header}\n{rows}"})
    lookups = Lookups(tmp_path)
    return lookups.dictionary(name).get, lookups.warnings()


def test_lost_leading_zeros_are_matched_where_unique(tmp_path: Path) -> None:
    title, (contradiction, lost) = titles(
        tmp_path, "d_icd_diagnoses", "10,9,Cholera\n389,9,Sepsis\n389,9,Hearing loss\nI10,10,HTN\n"
    )
    assert title(("0010", "9")) == "Cholera" and title(("I10", "10")) == "HTN" and title(("0010", "10")) is None
    assert title(("0389", "9")) is None and title(("389", "9")) is None
    assert "got 1 with several names" in contradiction
    assert "2 codes of digits of which none begins with 0" in lost and "ambiguous (1)" in lost
    title, warnings = titles(tmp_path, "d_ccs_procedures", "210093,10,Bypass\n1,9,Therapy\n02HV33Z,10,Catheter\n")
    assert sum("d_ccs_procedures" in warning for warning in warnings) == 2, "one for each version"
    assert title(("0210093", "10")) == "Bypass" and title(("0001", "9")) == "Therapy"


def test_leading_zeros_that_are_there_are_not_guessed(tmp_path: Path) -> None:
    title, warnings = titles(tmp_path, "d_icd_diagnoses", "0010,9,Cholera\n389,9,Hearing loss\n")
    assert title(("0389", "9")) is None and title(("10", "9")) is None and warnings == []


def test_keys_of_dictionaries_in_other_forms(tmp_path: Path) -> None:
    title, warnings = titles(tmp_path, "d_icd_diagnoses", " 0010 ,9.0,Cholera\nK50.0,10,Crohn\ni10,10,HTN\n")
    assert title(("0010", "9")) == "Cholera" and title(("K500", "10")) == "Crohn" and title(("I10", "10")) == "HTN"
    assert not warnings
    title, warnings = titles(tmp_path, "d_labitems", "50912.0,Creatinine\n50912,Kreatinin\n")
    assert title("50912") == "Kreatinin" and "got 1 with several names, of which the last is used" in warnings[0]
    title, warnings = titles(tmp_path, "d_atc_prescriptions", "2143361.0,Glucagon\n1.2143361E10,Statins\n")
    assert title(ndc_key("00002143361")) == "Glucagon" and title(ndc_key("12143361000")) == "Statins"
    with pytest.raises(UserError, match=r"d_labitems\.csv, row 1, column itemid: expected a whole number, got another text"):
        titles(tmp_path, "d_labitems", "9.1E+07,Creatinine\n")


# --- released trajectories, which were not made from checked values


def trajectory(**values: str) -> Timeline:
    import json

    items = json.dumps([values])
    return Timeline([Event("patients", None, None, None, items), Event("admissions", "2150-01-01T00:00", None, "1", items)])


def test_values_of_other_builds() -> None:
    t = trajectory(dischtime="2150-01-02T00:00:00.000", dod="NaT", hospital_expire_flag="1.0")
    assert t.time(1, "dischtime") - t.starts[1] == 86400 and t.dod() is None and t.number(1, "hospital_expire_flag") == 1
    with pytest.raises(UserError, match="in column starttime of every omr event"):
        Timeline([Event("omr", "2150-01-05 12:00:00+00:00", None, None, "[]")])
    for value in ("01/05/2150", "2150-01-05 12:00:00+00:00", "0000-00-00"):
        with pytest.raises(UserError, match=r"trajectories: expected a time .* in column dischtime .*admissions") as error:
            trajectory(dischtime=value).time(1, "dischtime")
        assert value not in str(error.value)
    with pytest.raises(UserError, match="hospital_expire_flag"):
        trajectory(hospital_expire_flag="yes").number(1, "hospital_expire_flag")


def test_keys_of_other_builds_are_looked_up(tmp_path: Path) -> None:
    lookups = Lookups(write_dictionaries(tmp_path))
    columns = ("itemid", "icd_code", "icd_version", "ndc", "note_id")
    row = ["50912.0", "0010 ", "9.0", "12143361000.0", " 90000001-RR-1"]
    keys = {"labevents": "item_name", "diagnoses_icd": "diagnoses", "prescriptions": "ATC Type", "radiology": "exam_name"}
    values = [lookups.getter(EVENTS[table], key, columns)(row) for table, key in keys.items()]
    assert values == ["Creatinine", "Cholera", "Statins", ["CHEST"]]


def test_a_record_without_time_does_not_take_diagnoses_along(original: Path, tmp_path: Path) -> None:
    """The untimed prescription of `TABLES` comes between the last timed record of the admission and its diagnoses."""
    events = [event["file_name"] for event in read_trajectories(original / "patients_ehr")["90000001"]]
    assert events[events.index("diagnoses_icd") - 1] == "prescriptions"
    assert len(make_index_of(original)["diagnoses_icd"]) == 2
    assert MISSING_TEXTS[-1] == r"\N"


def test_a_first_row_of_data_is_not_quoted(tmp_path: Path) -> None:
    mimic = write_mimic(tmp_path / "mimiciv", TWO_PATIENTS)
    path = mimic / "hosp/labevents.csv"
    path.write_text("10000032,SECRET,2150-01-01\n" + path.read_text())
    with pytest.raises(UserError, match="header missing") as error:
        merge_patient.main(["--root_dir", str(tmp_path)])
    assert "SECRET" not in str(error.value) and "10000032" not in str(error.value)
