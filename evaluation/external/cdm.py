"""MIMIC-IV-Ext-CDM (four abdominal pathologies) → a JSONL that test.py runs and scores (docs/external.md).

Reads the four `*_hadm_info_first_diag.pkl` below --cdm_dir, or, where there are none, the dataset's CSVs. A record is the
history, the physical examination, laboratory tests with reference ranges, microbiology and radiology. Two tasks: which of
the four it is (cdm_pathology), and which diagnoses are coded (cdm_diagnoses).
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

from evaluation.external.rows import Row, check_output, make_row, write_rows
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
}  # fmt: skip

Info = dict[str, Any]
"""What is known of an admission, by the keys of the pickles."""

TABLES: dict[str, tuple[str, ...]] = {
    "history_of_present_illness.csv": ("hpi",),
    "physical_examination.csv": ("pe",),
    "laboratory_tests.csv": ("itemid", "valuestr", "ref_range_lower", "ref_range_upper"),
    "microbiology.csv": ("test_itemid", "valuestr"),
    "radiology_reports.csv": ("exam_name", "text"),
    "discharge_diagnosis.csv": ("discharge_diagnosis",),
    "icd_diagnosis.csv": ("icd_diagnosis",),
}
"""The CSVs and the columns of them that we read, besides hadm_id."""

# The dataset's authors blanked an admission's own pathology (and its operation) in its texts, which tells the answer to
# whoever looks for the blank: we blank all four in every record, and every blank alike.
_WORDS = "append(?:icitis|ectomy)|cholecyst(?:itis|ostomy)|diverticulitis|pancreat(?:itis|ectomy)"
_ANSWERS = re.compile(f"_*(?:{_WORDS}|__)(?:{_WORDS}|_)*", re.IGNORECASE)
BLANK = "___"

_FIX = "name the folder of the dataset as PhysioNet ships it in --cdm_dir"


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--cdm_dir", type=Path, required=True, help="the dataset: pickles or CSVs, and lab_test_mapping.csv")
    cli.add_argument("--task", nargs="+", default=list(QUESTIONS), choices=tuple(QUESTIONS), metavar="TASK",
                     help=f"which of {', '.join(QUESTIONS)} (both)")  # fmt: skip
    cli.add_argument("--output_path", type=Path, required=True, help="the JSONL to write")
    cli.add_argument("--lab_names", type=Path, help="CSV of itemid and label (CDM_DIR/lab_test_mapping.csv; MIMIC-IV's "
                                                    "d_labitems.csv fits)")  # fmt: skip
    args = cli.parse_args(argv)
    check_output(args.output_path)
    summary = Summary("cdm")
    names = read_names(args.lab_names or args.cdm_dir / "lab_test_mapping.csv")
    cases = list(read_cases(args.cdm_dir))
    untold = 0

    def rows() -> Iterator[Row]:
        nonlocal untold
        for hadm_id, pathology, info in progress(cases, desc="cdm", unit="admission"):
            text = record(info, names)
            answers = {"cdm_pathology": pathology, "cdm_diagnoses": diagnoses(info)}
            choices = {"cdm_pathology": list(PATHOLOGIES), "cdm_diagnoses": None}
            for task in QUESTIONS:
                if task in args.task and answers[task]:
                    yield make_row(task, QUESTIONS[task], text, answers[task], choices[task], hadm_id=hadm_id)
                untold += task in args.task and not answers[task]

    count = write_rows(args.output_path, rows())
    summary.print(f"{count:,} samples of {len(cases):,} admissions, {untold:,} without an answer left out → "
                  f"{args.output_path}", count, "samples")  # fmt: skip


# --- reading


class PlainUnpickler(pickle.Unpickler):
    """Reads pickles of plain values; whatever would need a class or a function is refused, and nothing of it is run.

    Dicts, lists, tuples, texts, numbers and None need none; `set` is the one name that is let through.
    """

    def find_class(self, module: str, name: str) -> type:
        if module in ("builtins", "__builtin__") and name == "set":
            return set
        raise pickle.UnpicklingError(f"the class or function {module}.{name}")


def read_pickle(path: Path) -> dict[Any, Info]:
    """The admissions of one pickle, by hadm_id.

    Raises:
        UserError: it is no pickle of plain values, or holds something else than admissions.
    """
    try:
        with path.open("rb") as file:
            found = PlainUnpickler(file).load()
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: wanted a pickle of dicts, lists, texts and numbers, found {error}; nothing of it was run. Take the file "
            "from PhysioNet, or the dataset's CSVs in a folder without pickles"
        ) from None
    except (EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError, OverflowError, MemoryError):
        raise UserError(f"{path}: wanted a pickle, found a broken file; download it again") from None
    if not isinstance(found, dict) or not all(isinstance(info, dict) for info in found.values()):
        raise UserError(f"{path}: wanted a dict, hadm_id → what is known of the admission, found something else; {_FIX}")
    return found


def read_cases(folder: Path) -> Iterator[tuple[str, str | None, Info]]:
    """(hadm_id, pathology or None, what is known) of every admission, of the pickles or else of the CSVs."""
    pickles = {name: folder / f"{name}_hadm_info_first_diag.pkl" for name in PATHOLOGIES}
    if any(path.exists() for path in pickles.values()):
        for pathology, path in pickles.items():
            cases = read_pickle(require(path, "the admissions of a pathology, as of the other three", _FIX))
            yield from ((str(hadm_id), pathology, info) for hadm_id, info in cases.items())
        return
    cases = read_tables(folder)
    told = folder / "pathology_ids.json"  # since version 1.1
    if told.exists():
        of = {str(hadm_id): pathology for pathology, ids in read_json(told).items() for hadm_id in ids}
        yield from ((hadm_id, of.get(hadm_id), info) for hadm_id, info in cases.items())
    else:
        yield from ((hadm_id, first_named(info.get("Discharge Diagnosis")), info) for hadm_id, info in cases.items())


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV as text.

    Raises:
        UserError: there is no such file or column.
    """
    csv.field_size_limit(1 << 30)  # radiology reports
    require(path, "a CSV of MIMIC-IV-Ext-CDM, or the four *_hadm_info_first_diag.pkl", _FIX)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or [])]
        if missing:
            found = ", ".join(reader.fieldnames or []) or "an empty file"
            raise UserError(f"{path}: wanted columns {', '.join(columns)}, found {found}; {_FIX}")
        return list(reader)


def read_tables(folder: Path) -> dict[str, Info]:
    """The CSVs as the pickles have them: hadm_id → what is known. Of a test that was done twice the first result counts."""
    tables = {name: read_table(folder / name, ("hadm_id", *columns)) for name, columns in TABLES.items()}
    cases: dict[str, Info] = {str(clean_id(row["hadm_id"])): {} for row in tables["history_of_present_illness.csv"]}
    for name, rows in tables.items():
        for row in rows:
            info = cases.setdefault(str(clean_id(row["hadm_id"])), {})
            match name:
                case "history_of_present_illness.csv":
                    info["Patient History"] = row["hpi"]
                case "physical_examination.csv":
                    info["Physical Examination"] = row["pe"]
                case "laboratory_tests.csv":
                    keys = ("Laboratory Tests", "Reference Range Lower", "Reference Range Upper")
                    for key, column in zip(keys, ("valuestr", "ref_range_lower", "ref_range_upper"), strict=True):
                        info.setdefault(key, {}).setdefault(row["itemid"], row[column])
                case "microbiology.csv":
                    info.setdefault("Microbiology", {}).setdefault(row["test_itemid"], row["valuestr"])
                case "radiology_reports.csv":
                    info.setdefault("Radiology", []).append({"Exam Name": row["exam_name"], "Report": row["text"]})
                case "discharge_diagnosis.csv":
                    info["Discharge Diagnosis"] = row["discharge_diagnosis"]
                case "icd_diagnosis.csv":
                    info.setdefault("ICD Diagnosis", []).append(row["icd_diagnosis"])
    return cases


def read_names(path: Path) -> dict[str, str]:
    """Names of laboratory and microbiology tests by itemid."""
    fix = "name a CSV with columns itemid and label with --lab_names; MIMIC-IV's hosp/d_labitems.csv fits"
    rows = read_table(require(path, "the names of the laboratory tests", fix), ("itemid", "label"))
    return {str(clean_id(row["itemid"])): row["label"] for row in rows}


def first_named(diagnosis: str | None) -> str | None:
    """The pathology that a discharge diagnosis names first.

    >>> first_named("Acute Cholecystitis, mild pancreatitis"), first_named("Gastritis")
    ('cholecystitis', None)
    """
    text = (diagnosis or "").casefold()
    named = [name for name in PATHOLOGIES if name in text]
    return min(named, key=text.find) if named else None


def diagnoses(info: Info) -> list[str]:
    """The titles of the coded diagnoses, each once."""
    return list(dict.fromkeys(title for value in info.get("ICD Diagnosis") or [] if (title := shown(value)) != MISSING))


# --- the record


def shown(value: Any) -> str:
    """A value as text; a missing one as our trajectories write it.

    >>> shown(" 7.0 K/uL "), shown(float("nan")), shown(None), shown("")
    ('7.0 K/uL', 'nan', 'nan', 'nan')
    """
    text = "" if value is None else str(value).strip()
    return text or MISSING


def blanked(text: str) -> str:
    """A text that names none of the four answers.

    >>> blanked("No evidence of acute Appendicitis or pancreatitis; s/p appendectomy. Appendix normal, pancreas ____.")
    'No evidence of acute ___ or ___; s/p ___. Appendix normal, pancreas ___.'
    """
    return _ANSWERS.sub(BLANK, text)


def record(info: Info, names: Mapping[str, str]) -> str:
    """What a physician knows before the diagnosis: nothing that was written at discharge (diagnoses, procedures).

    The headings and keys are those of our text where there is such a table.
    """
    labs, low, high = (info.get(key) or {} for key in ("Laboratory Tests", "Reference Range Lower", "Reference Range Upper"))
    lab_rows = [[named(item, names), shown(labs[item]), shown(low.get(item)), shown(high.get(item))] for item in labs]
    micro_rows = [[named(item, names), shown(value)] for item, value in (info.get("Microbiology") or {}).items()]
    sections = [
        ("History of Present Illness", ("Text",), [[shown(info.get("Patient History"))]]),
        ("Physical Examination", ("Text",), [[shown(info.get("Physical Examination"))]]),
        (EVENTS["labevents"].title, ("Item_Name", "Value", "Ref_Range_Lower", "Ref_Range_Upper"), lab_rows),
        (EVENTS["microbiologyevents"].title, ("Test_Name", "Comments"), micro_rows),
    ]
    for report in info.get("Radiology") or []:
        cells = [[shown(report.get("Exam Name", report.get("Modality"))), shown(report.get("Report"))]]
        sections.append((EVENTS["radiology"].title, ("Exam_Name", "Text"), cells))
    return "\n\n".join([blanked(event_text(title, None, keys, rows)) for title, keys, rows in sections if rows])


def named(item: Any, names: Mapping[str, str]) -> str:
    """The name of a test, or its number if it has none."""
    number = str(clean_id(item))
    return names.get(number, number)


if __name__ == "__main__":
    run(main)
