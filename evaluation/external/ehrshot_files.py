"""Reads the files of EHRSHOT: labels, the split of the patients, events (CSV or MEDS export) and the names of codes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from mimiciv_dataset.cells import shown_columns
from mimiciv_dataset.tasks import NO, YES
from pipeline.errors import UserError
from pipeline.files import require

# OMOP table → the table of ours whose title its events get, and key in the text → column of `read_events`. The titles and keys
# are those a model trained on our text knows. Ends of visits and exposures are not displayed, since they may lie after the
# prediction time. Other OMOP tables are left out.
DISPLAYED = {
    "visit_occurrence": ("admissions", {"admission_type": "name"}),
    "visit_detail": ("transfers", {"careunit": "name"}),
    "condition_occurrence": ("diagnoses_icd", {"diagnoses": "name"}),
    "drug_exposure": ("prescriptions", {"drug": "name"}),
    "procedure_occurrence": ("procedures_icd", {"procedures": "name"}),
    "device_exposure": ("procedureevents", {"item_name": "name"}),
    "measurement": ("labevents", {"item_name": "name", "valuenum": "value", "valueuom": "unit"}),
    "observation": ("omr", {"result_name": "name", "result_value": "value"}),
}

# Vocabulary of a code → OMOP table of its events, for exports that do not name the table; others are observations.
VOCABULARIES = {
    "Visit": "visit_occurrence", "ICD10CM": "condition_occurrence", "ICD9CM": "condition_occurrence",
    "SNOMED": "condition_occurrence", "RxNorm": "drug_exposure", "RxNorm Extension": "drug_exposure",
    "NDC": "drug_exposure", "CVX": "drug_exposure", "CPT4": "procedure_occurrence", "HCPCS": "procedure_occurrence",
    "ICD10PCS": "procedure_occurrence", "ICD9Proc": "procedure_occurrence", "LOINC": "measurement",
    "Gender": "person", "Race": "person", "Ethnicity": "person",
}  # fmt: skip

BIRTH = ("SNOMED/3950001", "MEDS_BIRTH")  # codes of the event at the time of birth
DOWNLOAD = "Download EHRSHOT_ASSETS and pass its directory with --ehrshot_dir"


@dataclass(frozen=True)
class EhrshotLabel:
    """A label of the benchmark: its patient, its prediction time, and the answer, yes or no."""

    patient_id: str
    time: datetime
    answer: str


# --- tables


def read_csv(path: Path, content: str, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of a CSV as text; `content` names the table in errors."""
    require(path, f"EHRSHOT's {content}", DOWNLOAD)
    return collect(select_columns(path, pl.scan_csv(path, infer_schema=False), content, columns), path)


def select_columns(path: Path, frame: pl.LazyFrame, content: str, columns: Sequence[str]) -> pl.LazyFrame:
    """Columns of a lazy frame of the file at `path`; `content` names it in errors."""
    try:
        header = frame.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError):
        raise UserError(f"{path}: expected EHRSHOT's {content}, got an empty or damaged file. Download it again.") from None
    if not set(columns) <= set(header):
        raise UserError(f"{path}: expected columns {', '.join(columns)}, got {shown_columns(header, columns)}. {DOWNLOAD}.")
    return frame.select(columns)


def collect(frame: pl.LazyFrame, path: Path) -> pl.DataFrame:
    """The rows of a lazy frame; errors do not quote values, as those of polars would."""
    try:
        return frame.collect(engine="streaming")
    except pl.exceptions.PolarsError:
        raise UserError(f"{path}: expected a complete file, got a truncated or damaged one. Download it again.") from None


def parse_times(column: str) -> pl.Expr:
    """Times in a text column: `2018-03-04T23:59:00`, `2018-03-04 23:59` or `2018-03-04`; null for other texts."""
    text = pl.col(column).str.replace("T", " ", literal=True)
    formats = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
    parsed = [text.str.to_datetime(each, time_unit="us", strict=False) for each in formats]
    return pl.coalesce(*parsed, text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")))


# --- labels


def read_splits(folder: Path) -> dict[str, str]:
    """Patient → train, val or test."""
    frame = read_csv(folder / "splits/person_id_map.csv", "split of the patients", ("omop_person_id", "split"))
    return dict(zip(frame["omop_person_id"], frame["split"], strict=True))


def read_labels(folder: Path, task: str, splits: Mapping[str, str], left_out: Counter[str]) -> dict[str, list[EhrshotLabel]]:
    """The labels of a task by split, in the order of the file; those without value or split are counted in `left_out`."""
    path = folder / f"benchmark/{task}/labeled_patients.csv"
    frame = read_csv(path, "labels", ("patient_id", "prediction_time", "label_type", "value"))
    labels: dict[str, list[EhrshotLabel]] = defaultdict(list)
    rows = frame.with_columns(time=parse_times("prediction_time")).select(pl.col("patient_id", "time", "value"))
    for number, (patient_id, time, value) in enumerate(rows.iter_rows(), 2):
        if not value:
            left_out["without a value"] += 1
        elif patient_id not in splits:
            left_out["of patients in no split"] += 1
        elif time is None:
            expected = "expected a prediction_time like 2018-03-04T23:59:00, got another text"
            raise UserError(f"{path}, line {number}: {expected}. {DOWNLOAD}.")
        elif (answer := parse_answer(value)) is None:
            raise UserError(f"{path}, line {number}: expected True, False or a number, got another value. {DOWNLOAD}.")
        else:
            labels[splits[patient_id]].append(EhrshotLabel(patient_id, time, answer))
    return labels


def parse_answer(value: str) -> str | None:
    """The yes/no answer of a label: true or false, or a class of which those above 0 (normal) mean yes; None for others.

    >>> [parse_answer(value) for value in ("True", "false", "0", "0.0", "3", "severe")]
    ['yes', 'no', 'no', 'no', 'yes', None]
    """
    try:
        return YES if float({"true": 1, "false": 0}.get(value.casefold(), value)) > 0 else NO
    except ValueError:
        return None


# --- events


def read_events(folder: Path, patients: set[str], concept: Path | None) -> tuple[pl.DataFrame, float]:
    """The events of patients, sorted by patient, time and table, events without a time first.

    Args:
        folder: directory of EHRSHOT.
        patients: their patient_id.
        concept: OMOP concept table; None: `athena_download/CONCEPT.csv`, or `metadata/codes.parquet` of a MEDS export.

    Returns:
        Columns patient_id, time (null if unknown), code, value, unit, table (an OMOP table) and name (of the concept; the
        code if it has none); and the share of displayed events without a name.
    """
    path, files = folder / "data/ehrshot.csv", sorted((folder / "data").rglob("*.parquet"))
    if path.exists():
        columns = ("patient_id", "start", "code", "value", "unit", "omop_table")
        frame = select_columns(path, pl.scan_csv(path, infer_schema=False), "events", columns)
        frame = frame.rename({"start": "text", "omop_table": "table"})
    elif files:
        path, frame = files[0].parent, pl.scan_parquet(files)
        missing = {"unit", "table", "text_value"} - set(frame.collect_schema().names())
        frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
        columns = ("subject_id", "time", "code", "numeric_value", "text_value", "unit", "table")
        frame = select_columns(path, frame, "MEDS events", columns).with_columns(pl.col("time").dt.to_string("iso"))
        frame = frame.cast(pl.String).rename({"subject_id": "patient_id", "time": "text"})
        frame = frame.with_columns(value=pl.coalesce("numeric_value", "text_value")).drop("numeric_value", "text_value")
    else:
        raise UserError(f"{path}: expected EHRSHOT's events or a MEDS export (data/**/*.parquet), got neither. {DOWNLOAD}.")
    vocabulary = pl.col("code").str.split("/").list.first()
    default = vocabulary.replace_strict(VOCABULARIES, default="observation", return_dtype=pl.String)
    table = pl.when(pl.col("code").is_in(BIRTH)).then(pl.lit("person")).otherwise(pl.coalesce("table", default))
    events = collect(frame.filter(pl.col("patient_id").is_in(patients)), path)
    events = events.with_columns(time=parse_times("text"), table=table)
    if events["time"].null_count() > events["text"].null_count():
        raise UserError(f"{path}: expected start times like 2018-03-04 23:59:00, got another text. {DOWNLOAD}.")
    events = events.drop("text").sort("patient_id", "time", "table", nulls_last=False, maintain_order=True)
    return _add_names(events, folder, concept)


def _add_names(events: pl.DataFrame, folder: Path, concept: Path | None) -> tuple[pl.DataFrame, float]:
    path, codes = concept or folder / "athena_download/CONCEPT.csv", folder / "metadata/codes.parquet"
    if concept is None and not path.exists() and codes.exists():
        names = select_columns(codes, pl.scan_parquet(codes), "code metadata", ("code", "description"))
        names, path = names.rename({"description": "name"}), codes
    else:
        require(path, "the OMOP concept table", "download the vocabularies from athena.ohdsi.org, or pass it with --concept")
        with path.open(encoding="utf-8") as file:
            tabs = "\t" in file.readline()
        frame = pl.scan_csv(path, infer_schema=False, separator="\t" if tabs else ",", quote_char=None if tabs else '"')
        frame = select_columns(path, frame, "concept table", ("concept_code", "vocabulary_id", "concept_name"))
        code = pl.format("{}/{}", "vocabulary_id", "concept_code")
        names = frame.select(code.alias("code"), pl.col("concept_name").alias("name"))
    used = events.select("code").unique().lazy()
    names = collect(used.join(names, on="code").drop_nulls().unique("code", keep="first", maintain_order=True), path)
    events = events.join(names, on="code", how="left", maintain_order="left")
    unnamed = events.filter(pl.col("table").is_in(list(DISPLAYED)))["name"].is_null().mean() or 0.0
    return events.with_columns(pl.coalesce("name", "code").alias("name")), unnamed
