"""Convert MIMIC-IV-Ext-CDM (four abdominal pathologies) to a JSONL for test.py (docs/external.md).

Reads the four `*_hadm_info_first_diag.pkl` in --cdm_dir, or the dataset's CSVs if there are no pickles. The input of a
sample is the history, the physical examination, laboratory tests with reference ranges, microbiology and radiology. There
are two tasks: which of the four pathologies the patient has (cdm_pathology), and which diagnoses are coded (cdm_diagnoses).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the packages of this checkout

import csv
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evaluation.external.rows import BenchmarkRow, check_output, make_row, write_rows
from mimiciv_dataset.cells import shown_columns
from mimiciv_dataset.events import EVENTS, MISSING
from mimiciv_dataset.index_files import clean_id
from mimiciv_dataset.text import event_text
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import read_json, require
from pipeline.progress import Summary, progress

PATHOLOGIES = ("appendicitis", "cholecystitis", "diverticulitis", "pancreatitis")

QUESTIONS = {
    "cdm_pathology": "From the record above, which of these explains the abdominal pain: appendicitis, cholecystitis, "
    "diverticulitis or pancreatitis? Answer with that one word.",
    "cdm_diagnoses": "From the record above, which diagnoses are coded for this hospital stay? Write the title of one "
    "diagnosis per line.",
}

Admission = dict[str, Any]  # the data of an admission, by the keys of the pickles

# File name of a CSV → the columns that are read besides hadm_id.
TABLES: dict[str, tuple[str, ...]] = {
    "history_of_present_illness.csv": ("hpi",),
    "physical_examination.csv": ("pe",),
    "laboratory_tests.csv": ("itemid", "valuestr", "ref_range_lower", "ref_range_upper"),
    "microbiology.csv": ("test_itemid", "valuestr"),
    "radiology_reports.csv": ("exam_name", "text"),
    "discharge_diagnosis.csv": ("discharge_diagnosis",),
    "icd_diagnosis.csv": ("icd_diagnosis",),
}
LAB_KEYS = ("Laboratory Tests", "Reference Range Lower", "Reference Range Upper")

# The dataset replaces an admission's own pathology and its operation in texts by blanks, so that a blank gives away the
# answer. We replace the names of all four pathologies in every input, and all blanks by the same one.
_WORDS = "append(?:icitis|ectomy)|cholecyst(?:itis|ostomy)|diverticulitis|pancreat(?:itis|ectomy)"
_ANSWERS = re.compile(f"_*(?:{_WORDS}|__)(?:{_WORDS}|_)*", re.IGNORECASE)
BLANK = "___"

_FIX = "Pass the directory of the dataset, as PhysioNet distributes it, with --cdm_dir"


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--cdm_dir", type=Path, required=True, help="dataset: pickles or CSVs, and lab_test_mapping.csv")
    tasks = tuple(QUESTIONS)
    cli.add_argument("--task", nargs="+", default=tasks, choices=tasks, metavar="TASK", help=f"{', '.join(tasks)} (both)")
    cli.add_argument("--output_path", type=Path, required=True, help="JSONL to write")
    cli.add_argument("--lab_names", type=Path, help="CSV with itemid and label of the tests (CDM_DIR/lab_test_mapping.csv)")
    args = cli.parse_args(argv)
    check_output(args.output_path)
    summary = Summary("cdm")
    names = read_names(args.lab_names or args.cdm_dir / "lab_test_mapping.csv")
    admissions = list(read_admissions(args.cdm_dir))
    tasks = [task for task in tasks if task in args.task]

    def rows() -> Iterator[BenchmarkRow]:
        for hadm_id, pathology, admission in progress(admissions, desc="cdm", unit="admission"):
            text = sample_input(admission, names)
            answers = {"cdm_pathology": pathology, "cdm_diagnoses": diagnoses(admission)}
            candidates = {"cdm_pathology": list(PATHOLOGIES), "cdm_diagnoses": None}
            for task in [task for task in tasks if answers[task]]:
                yield make_row(task, QUESTIONS[task], text, answers[task], candidates[task], hadm_id=hadm_id)

    count = write_rows(args.output_path, rows())
    num_unlabelled = len(tasks) * len(admissions) - count
    text = f"{count:,} samples of {len(admissions):,} admissions, {num_unlabelled:,} without an answer left out"
    summary.print(f"{text} → {args.output_path}", count, "samples")


# --- reading


class PlainUnpickler(pickle.Unpickler):
    """An unpickler for dicts, lists, tuples, sets, strings, numbers and None.

    A pickle that refers to any other class or function is refused, and none of its code is run.
    """

    def find_class(self, module: str, name: str) -> type:
        if module in ("builtins", "__builtin__") and name == "set":
            return set
        raise pickle.UnpicklingError(f"the class or function {module}.{name}")


def read_pickle(path: Path) -> dict[Any, Admission]:
    """The admissions in a pickle of plain values by hadm_id."""
    try:
        with path.open("rb") as file:
            admissions = PlainUnpickler(file).load()
    except pickle.UnpicklingError as error:
        got = f"expected a pickle of dicts, lists, strings and numbers, got {error}; no code of it was run"
        fix = "Use the file from PhysioNet, or the dataset's CSVs in a directory without pickles"
        raise UserError(f"{path}: {got}. {fix}.") from None
    except (EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError, OverflowError, MemoryError):
        raise UserError(f"{path}: expected a pickle, got a damaged file. Download it again.") from None
    if not isinstance(admissions, dict) or not all(isinstance(admission, dict) for admission in admissions.values()):
        raise UserError(f"{path}: expected a dict of admissions by hadm_id, got something else. {_FIX}.")
    return admissions


def read_admissions(folder: Path) -> Iterator[tuple[str, str | None, Admission]]:
    """Yield (hadm_id, pathology or None, data) of every admission, from the pickles or else from the CSVs."""
    pickles = {name: folder / f"{name}_hadm_info_first_diag.pkl" for name in PATHOLOGIES}
    if any(path.exists() for path in pickles.values()):
        for pathology, path in pickles.items():
            admissions = read_pickle(require(path, f"the admissions with {pathology}, beside the other pickles", _FIX))
            yield from ((str(hadm_id), pathology, admission) for hadm_id, admission in admissions.items())
        return
    admissions = read_tables(folder)
    ids_file = folder / "pathology_ids.json"  # since version 1.1
    if ids_file.exists():
        pathologies = {str(hadm_id): pathology for pathology, ids in read_json(ids_file).items() for hadm_id in ids}
    else:
        pathologies = {hadm_id: first_named(of.get("Discharge Diagnosis")) for hadm_id, of in admissions.items()}
    yield from ((hadm_id, pathologies.get(hadm_id), admission) for hadm_id, admission in admissions.items())


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV with these columns, and others, as text."""
    csv.field_size_limit(1 << 30)  # radiology reports
    require(path, "a CSV of MIMIC-IV-Ext-CDM, or the four *_hadm_info_first_diag.pkl", _FIX)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not set(columns) <= set(reader.fieldnames or []):
            header = shown_columns(reader.fieldnames, columns) if reader.fieldnames else "an empty file"
            raise UserError(f"{path}: expected columns {', '.join(columns)}, got {header}. {_FIX}.")
        return list(reader)


def read_tables(folder: Path) -> dict[str, Admission]:
    """The admissions in the CSVs by hadm_id, in the format of the pickles; the first result of a repeated test counts."""
    tables = {name: read_table(folder / name, ("hadm_id", *columns)) for name, columns in TABLES.items()}
    admissions: dict[str, Admission] = {str(clean_id(row["hadm_id"])): {} for row in tables["history_of_present_illness.csv"]}
    texts = {"hpi": "Patient History", "pe": "Physical Examination", "discharge_diagnosis": "Discharge Diagnosis"}
    results = {"laboratory_tests.csv": LAB_KEYS, "microbiology.csv": ("Microbiology",)}
    for name, rows in tables.items():
        first, *columns = TABLES[name]
        for row in rows:
            admission = admissions.setdefault(str(clean_id(row["hadm_id"])), {})
            if first in texts:
                admission[texts[first]] = row[first]
            elif name in results:
                for key, column in zip(results[name], columns, strict=True):
                    admission.setdefault(key, {}).setdefault(row[first], row[column])
            elif name == "radiology_reports.csv":
                admission.setdefault("Radiology", []).append({"Exam Name": row["exam_name"], "Report": row["text"]})
            else:
                admission.setdefault("ICD Diagnosis", []).append(row["icd_diagnosis"])
    return admissions


def read_names(path: Path) -> dict[str, str]:
    """Names of laboratory and microbiology tests by itemid."""
    fix = "pass a CSV with columns itemid and label with --lab_names, such as MIMIC-IV's hosp/d_labitems.csv"
    rows = read_table(require(path, "the names of the laboratory tests", fix), ("itemid", "label"))
    return {str(clean_id(row["itemid"])): row["label"] for row in rows}


def first_named(diagnosis: str | None) -> str | None:
    """The pathology that is named first in a discharge diagnosis; None if none is.

    >>> first_named("Acute Cholecystitis, mild pancreatitis"), first_named("Gastritis")
    ('cholecystitis', None)
    """
    text = (diagnosis or "").casefold()
    named = [name for name in PATHOLOGIES if name in text]
    return min(named, key=text.find) if named else None


def diagnoses(admission: Admission) -> list[str]:
    """The titles of the coded diagnoses, without repeats."""
    titles = map(value_text, admission.get("ICD Diagnosis") or [])
    return list(dict.fromkeys(title for title in titles if title != MISSING))


# --- the input of a sample


def value_text(value: Any) -> str:
    """A value as text; missing values are spelled as in our trajectories.

    >>> value_text(" 7.0 K/uL "), value_text(float("nan")), value_text(None), value_text("")
    ('7.0 K/uL', 'nan', 'nan', 'nan')
    """
    return ("" if value is None else str(value).strip()) or MISSING


def blanked(text: str) -> str:
    """A text in which the names of the four pathologies and their operations are replaced by blanks.

    >>> blanked("No evidence of acute Appendicitis or pancreatitis; s/p appendectomy. Appendix normal, pancreas ____.")
    'No evidence of acute ___ or ___; s/p ___. Appendix normal, pancreas ___.'
    """
    return _ANSWERS.sub(BLANK, text)


def sample_input(admission: Admission, names: Mapping[str, str]) -> str:
    """The data known before the diagnosis, without anything written at discharge (diagnoses, procedures).

    Titles and keys are those of our tables of the same kind, where there is one.
    """

    def test_rows(*keys: str) -> list[list[Any]]:
        results = [admission.get(key) or {} for key in keys]
        numbers = {item: str(clean_id(item)) for item in results[0]}
        return [[names.get(number, number), *(value_text(of.get(item)) for of in results)] for item, number in numbers.items()]

    sections = [
        ("History of Present Illness", ("Text",), [[value_text(admission.get("Patient History"))]]),
        ("Physical Examination", ("Text",), [[value_text(admission.get("Physical Examination"))]]),
        (EVENTS["labevents"].title, ("Item_Name", "Value", "Ref_Range_Lower", "Ref_Range_Upper"), test_rows(*LAB_KEYS)),
        (EVENTS["microbiologyevents"].title, ("Test_Name", "Comments"), test_rows("Microbiology")),
    ]
    for report in admission.get("Radiology") or []:
        cells = [[value_text(report.get("Exam Name", report.get("Modality"))), value_text(report.get("Report"))]]
        sections.append((EVENTS["radiology"].title, ("Exam_Name", "Text"), cells))
    return "\n\n".join([blanked(event_text(title, None, keys, rows)) for title, keys, rows in sections if rows])


if __name__ == "__main__":
    run(main)
