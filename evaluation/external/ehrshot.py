"""EHRSHOT → a JSONL that test.py runs and scores, zero- or few-shot (docs/external.md).

Reads the benchmark's own files below --ehrshot_dir: `benchmark/TASK/labeled_patients.csv`, `splits/person_id_map.csv`, the
events (`data/ehrshot.csv`, or a MEDS export `data/**/*.parquet`) and the OMOP concept table, which names the codes. Each
label becomes a sample: what is known of the patient before its prediction time, as our trajectories are written.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the packages of this checkout

import argparse
import random
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from evaluation.external.rows import Row, check_output, make_row, write_rows
from mimiciv_dataset.events import EVENTS, MISSING
from mimiciv_dataset.tasks import NO, YES
from mimiciv_dataset.text import SampleText, event_text
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import require
from pipeline.progress import Summary, progress

if TYPE_CHECKING:
    import polars as pl

_LAB = "From the record up to this moment, will the next result of this test show {}, mild or worse? Answer yes or no."
_NEW = "From the record up to the day of discharge, will {} be diagnosed for the first time within a year? Answer yes or no."

QUESTIONS = {
    "guo_los": "From the record up to the end of the day of admission, will this hospital stay last 7 days or longer? "
               "Answer yes or no.",
    "guo_readmission": "From the record up to the day of discharge, will the patient be admitted again within 30 days? "
                       "Answer yes or no.",
    "guo_icu": "From the record up to the end of the day of admission, will the patient be in intensive care during this "
               "hospital stay? Answer yes or no.",
    "lab_thrombocytopenia": _LAB.format("a low platelet count (thrombocytopenia)"),
    "lab_hyperkalemia": _LAB.format("a high potassium (hyperkalemia)"),
    "lab_hypoglycemia": _LAB.format("a low glucose (hypoglycemia)"),
    "lab_hyponatremia": _LAB.format("a low sodium (hyponatremia)"),
    "lab_anemia": _LAB.format("a low hemoglobin (anemia)"),
    "new_hypertension": _NEW.format("hypertension"),
    "new_hyperlipidemia": _NEW.format("hyperlipidemia"),
    "new_pancan": _NEW.format("pancreatic cancer"),
    "new_celiac": _NEW.format("celiac disease"),
    "new_lupus": _NEW.format("lupus"),
    "new_acutemi": _NEW.format("an acute myocardial infarction"),
}  # fmt: skip
"""The benchmark's 14 yes/no tasks, and how we ask them."""

SHOWN = {
    "visit_occurrence": ("admissions", {"admission_type": "name"}),
    "visit_detail": ("transfers", {"careunit": "name"}),
    "condition_occurrence": ("diagnoses_icd", {"diagnoses": "name"}),
    "drug_exposure": ("prescriptions", {"drug": "name"}),
    "procedure_occurrence": ("procedures_icd", {"procedures": "name"}),
    "device_exposure": ("procedureevents", {"item_name": "name"}),
    "measurement": ("labevents", {"item_name": "name", "valuenum": "value", "valueuom": "unit"}),
    "observation": ("omr", {"result_name": "name", "result_value": "value"}),
}
"""OMOP table → our table under whose title and keys its records stand, so that a model trained on our text knows them.
Ends of visits and exposures are never shown: they may lie after the prediction time. Other tables are left out."""

VOCABULARIES = {
    "Visit": "visit_occurrence", "ICD10CM": "condition_occurrence", "ICD9CM": "condition_occurrence",
    "SNOMED": "condition_occurrence", "RxNorm": "drug_exposure", "RxNorm Extension": "drug_exposure",
    "NDC": "drug_exposure", "CVX": "drug_exposure", "CPT4": "procedure_occurrence", "HCPCS": "procedure_occurrence",
    "ICD10PCS": "procedure_occurrence", "ICD9Proc": "procedure_occurrence", "LOINC": "measurement",
    "Gender": "person", "Race": "person", "Ethnicity": "person",
}  # fmt: skip
"""Where an event belongs if the export does not say its OMOP table, by the vocabulary of its code; else observation."""

BIRTH = ("SNOMED/3950001", "MEDS_BIRTH")

_DOWNLOAD = "download EHRSHOT_ASSETS and name that folder in --ehrshot_dir"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cli = Parser(__doc__)
    cli.add_argument("--ehrshot_dir", type=Path, required=True, help="EHRSHOT_ASSETS, as downloaded")
    cli.add_argument("--task", nargs="+", default=["all"], choices=("all", *QUESTIONS), metavar="TASK",
                     help=f"all (default), or some of {', '.join(QUESTIONS)}")  # fmt: skip
    cli.add_argument("--split", default="test", choices=("train", "val", "test"), help="whose patients to ask about (test)")
    cli.add_argument("--output_path", type=Path, required=True, help="the JSONL to write")
    cli.add_argument("--concept", type=Path, help="OMOP CONCEPT.csv (EHRSHOT_DIR/athena_download/CONCEPT.csv; of a MEDS "
                                                  "export also its metadata/codes.parquet)")  # fmt: skip
    cli.add_argument("--samples", type=int, help="draw so many labels of each task (all of them)")
    cli.add_argument("--days", type=int, help="show only the last so many days (all)")
    cli.add_argument("--max_events", type=int, default=200, help="show at most so many events, the newest (200)")
    cli.add_argument("--shots", type=int, default=0, help="solved examples of training patients before each question (0)")
    cli.add_argument("--shot_chars", type=int, default=4000, help="most characters of each example's record (4000)")
    cli.add_argument("--seed", type=int, default=0, help="seed of --samples and --shots (0)")
    args = cli.parse_args(argv)
    check_output(args.output_path)
    for name, least in (("samples", 1), ("days", 1), ("max_events", 1), ("shots", 0), ("shot_chars", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: wanted {least} or more")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    summary = Summary("ehrshot")
    tasks = list(QUESTIONS) if "all" in args.task else list(dict.fromkeys(args.task))
    splits = read_splits(args.ehrshot_dir / "splits/person_id_map.csv")
    left_out: Counter[str] = Counter()
    asked: dict[str, list[Label]] = {}
    shots: dict[str, list[Label]] = {}
    for task in tasks:
        labels = read_labels(args.ehrshot_dir / f"benchmark/{task}/labeled_patients.csv", splits, left_out)
        if not labels[args.split]:
            raise UserError(f"{args.ehrshot_dir}/benchmark/{task}: wanted labels of {args.split} patients, found none; "
                            "the labels and splits/person_id_map.csv belong to different downloads")  # fmt: skip
        shots[task] = draw_shots(task, labels["train"], args.shots, args.seed)
        asked[task] = without_patients(labels[args.split], shots[task])
        if args.samples and args.samples < len(asked[task]):
            asked[task] = random.Random(f"{args.seed} {task}").sample(asked[task], args.samples)
    patients = {label.patient_id for labels in (*asked.values(), *shots.values()) for label in labels}
    events = read_events(args.ehrshot_dir, patients)
    events, unnamed = with_names(events, args)
    frames = {key[0]: frame for key, frame in events.partition_by("patient_id", as_dict=True).items()}
    if not frames:
        raise UserError(f"{args.ehrshot_dir}: wanted events of the labels' patients, found none; {_DOWNLOAD}")
    of_patient: dict[str, list[tuple[str, Label]]] = defaultdict(list)
    for task, labels in asked.items():
        for label in labels:
            of_patient[label.patient_id].append((task, label))
    examples = {task: write_examples(task, shots[task], frames, args) for task in tasks}

    def rows() -> Iterator[Row]:
        for patient_id in progress(sorted(of_patient), desc="ehrshot", unit="patient"):
            if patient_id not in frames:
                left_out["of patients without events"] += len(of_patient[patient_id])
                continue
            patient = Patient.of(frames[patient_id])
            for task, label in of_patient[patient_id]:
                text = patient.record(label.time, args.days, args.max_events)
                if not text.window:
                    left_out["kept although nothing happened before them"] += 1
                yield make_row(
                    task, QUESTIONS[task], examples[task] + str(text), label.answer, [YES, NO], subject_id=patient_id,
                    prediction_time=str(label.time), split=args.split, shots=args.shots,
                )  # fmt: skip

    count = write_rows(args.output_path, rows())
    notes = "".join(f", {number:,} labels {why}" for why, number in sorted(left_out.items()))
    summary.print(f"{count:,} samples of {len(tasks)} tasks{notes}, {unnamed:.1%} of the events are shown by their code "
                  f"→ {args.output_path}", count, "samples")  # fmt: skip


# --- labels


@dataclass(frozen=True)
class Label:
    """One label: whose, made when, yes or no."""

    patient_id: str
    time: datetime
    answer: str


def read_csv(path: Path, what: str, columns: Sequence[str]) -> pl.DataFrame:
    """These columns of a CSV, as text.

    Raises:
        UserError: there is no such file or column.
    """
    import polars as pl

    require(path, f"EHRSHOT's {what}", _DOWNLOAD)
    return collect(wanted_columns(path, pl.scan_csv(path, infer_schema=False), what, columns), path)


def wanted_columns(path: Path, frame: pl.LazyFrame, what: str, columns: Sequence[str]) -> pl.LazyFrame:
    """These columns of a frame, or a `UserError` that names the missing ones."""
    import polars as pl

    try:
        found = frame.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError):
        raise UserError(f"{path}: wanted EHRSHOT's {what}, found an empty or broken file; download it again") from None
    missing = [name for name in columns if name not in found]
    if missing:
        raise UserError(f"{path}: wanted columns {', '.join(columns)}, found {', '.join(found)}; {_DOWNLOAD}")
    return frame.select(columns)


def collect(frame: pl.LazyFrame, path: Path) -> pl.DataFrame:
    """The frame's rows; of a broken file it is said which, without the values that polars would quote."""
    import polars as pl

    try:
        return frame.collect(engine="streaming")
    except pl.exceptions.PolarsError:
        raise UserError(f"{path}: wanted a whole file, found one that breaks off or is damaged; download it again") from None


def times(column: str) -> pl.Expr:
    """A text column as times; null where it is none of `2018-03-04T23:59:00`, `2018-03-04 23:59`, `2018-03-04`."""
    import polars as pl

    text = pl.col(column).str.replace("T", " ", literal=True)
    formats = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
    parsed = [text.str.to_datetime(one, time_unit="us", strict=False) for one in formats]
    return pl.coalesce(*parsed, text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")))


def read_splits(path: Path) -> dict[str, str]:
    """Patient → train, val or test."""
    frame = read_csv(path, "split of the patients", ("omop_person_id", "split"))
    return dict(zip(frame["omop_person_id"], frame["split"], strict=True))


def read_labels(path: Path, splits: Mapping[str, str], left_out: Counter[str]) -> dict[str, list[Label]]:
    """The labels of a task by split, in file order; labels without value or split are counted in `left_out`.

    Raises:
        UserError: no such file, or a row that is not a label.
    """
    import polars as pl

    frame = read_csv(path, "labels", ("patient_id", "prediction_time", "label_type", "value"))
    labels: dict[str, list[Label]] = defaultdict(list)
    rows = frame.with_columns(time=times("prediction_time")).select(pl.col("patient_id", "time", "value"))
    for number, (patient_id, time, value) in enumerate(rows.iter_rows(), 2):
        if not value:
            left_out["without a value"] += 1
        elif patient_id not in splits:
            left_out["of patients in no split"] += 1
        elif time is None:
            raise UserError(f"{path}, line {number}: wanted a prediction_time like 2018-03-04T23:59:00, found another text")
        else:
            answer = answer_of(value)
            if answer is None:
                raise UserError(f"{path}, line {number}: wanted True, False or a number as value, found another text")
            labels[splits[patient_id]].append(Label(patient_id, time, answer))
    return labels


def answer_of(value: str) -> str | None:
    """The yes/no answer of a label: true or false, or a class from 0 (normal) up; None if it is neither.

    >>> [answer_of(value) for value in ("True", "false", "0", "0.0", "3", "severe")]
    ['yes', 'no', 'no', 'no', 'yes', None]
    """
    words = {"true": YES, "false": NO}
    if value.casefold() in words:
        return words[value.casefold()]
    try:
        return YES if float(value) > 0 else NO
    except ValueError:
        return None


# --- events


def read_events(folder: Path, patients: set[str]) -> pl.DataFrame:
    """The events of these patients: patient_id, time (null: no time), code, value, unit, table; by patient, time, table.

    Raises:
        UserError: there are no events, or not in the format of EHRSHOT's CSV or of MEDS.
    """
    import polars as pl

    path, files = folder / "data/ehrshot.csv", sorted((folder / "data").rglob("*.parquet"))
    if path.exists():
        columns = ("patient_id", "start", "code", "value", "unit", "omop_table")
        frame = wanted_columns(path, pl.scan_csv(path, infer_schema=False), "events", columns)
        frame = frame.rename({"start": "text", "omop_table": "table"})
    elif files:
        path, frame = files[0].parent, pl.scan_parquet(files)
        optional = frame.collect_schema().names()
        extra = {
            name: pl.col(name) if name in optional else pl.lit(None, pl.String) for name in ("unit", "table", "text_value")
        }
        frame = wanted_columns(
            path, frame.with_columns(**extra), "MEDS events",
            ("subject_id", "time", "code", "numeric_value", "text_value", "unit", "table"),
        )  # fmt: skip
        frame = frame.select(
            pl.col("subject_id").cast(pl.String).alias("patient_id"),
            pl.col("time").dt.to_string("iso").alias("text"),
            pl.col("code").cast(pl.String),
            pl.coalesce(pl.col("numeric_value").cast(pl.String), pl.col("text_value").cast(pl.String)).alias("value"),
            pl.col("unit").cast(pl.String),
            pl.col("table").cast(pl.String),
        )
    else:
        raise UserError(f"{path}: wanted EHRSHOT's events, or a MEDS export (data/**/*.parquet), found neither; {_DOWNLOAD}")
    vocabulary = pl.col("code").str.split("/").list.first()
    table = pl.when(pl.col("code").is_in(BIRTH)).then(pl.lit("person")).otherwise(
        pl.coalesce("table", vocabulary.replace_strict(VOCABULARIES, default="observation", return_dtype=pl.String))
    )  # fmt: skip
    events = collect(frame.filter(pl.col("patient_id").is_in(patients)), path)
    events = events.with_columns(time=times("text"), table=table)
    if events["time"].null_count() > events["text"].null_count():
        raise UserError(f"{path}: wanted start times like 2018-03-04 23:59:00, found another text; {_DOWNLOAD}")
    return events.drop("text").sort("patient_id", "time", "table", nulls_last=False, maintain_order=True)


def with_names(events: pl.DataFrame, args: argparse.Namespace) -> tuple[pl.DataFrame, float]:
    """The events with a column name: of the concept, else the code. And the share of those shown by their code."""
    import polars as pl

    path, codes = args.concept or args.ehrshot_dir / "athena_download/CONCEPT.csv", args.ehrshot_dir / "metadata/codes.parquet"
    if not args.concept and not path.exists() and codes.exists():
        names = wanted_columns(codes, pl.scan_parquet(codes), "code metadata", ("code", "description"))
        names, path = names.rename({"description": "name"}), codes
    else:
        require(path, "the OMOP concept table", "download the vocabularies from athena.ohdsi.org, or name it with --concept")
        with path.open(encoding="utf-8") as file:
            tabs = "\t" in file.readline()
        frame = pl.scan_csv(path, infer_schema=False, separator="\t" if tabs else ",", quote_char=None if tabs else '"')
        frame = wanted_columns(path, frame, "concept table", ("concept_code", "vocabulary_id", "concept_name"))
        code = pl.format("{}/{}", "vocabulary_id", "concept_code")
        names = frame.select(code.alias("code"), pl.col("concept_name").alias("name"))
    wanted = events.select("code").unique().lazy()
    names = collect(wanted.join(names, on="code").drop_nulls().unique("code", keep="first", maintain_order=True), path)
    events = events.join(names, on="code", how="left", maintain_order="left")
    unnamed = events.filter(pl.col("table").is_in(list(SHOWN)))["name"].is_null().mean() or 0.0
    return events.with_columns(pl.coalesce("name", "code").alias("name")), unnamed


# --- records


class Patient(NamedTuple):
    """A patient's events as text, oldest first, with their times; demographics; birth or None."""

    birth: datetime | None
    facts: dict[str, str]
    times: list[datetime]
    texts: list[str]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Patient:
        """From the patient's rows of `read_events` with names.

        Neighbouring records of one table and time are one event, as in our trajectories.
        """
        birth, facts, moments, texts = None, {}, [], []
        columns = frame.select("time", "table", "code", "name", "value", "unit")
        for (time, table), group in groupby(columns.iter_rows(named=True), key=lambda row: (row["time"], row["table"])):
            records = list(group)
            if table == "person":
                for record in records:
                    vocabulary, _, code = record["code"].partition("/")
                    if record["code"] in BIRTH:
                        birth = time
                    elif vocabulary == "Gender":
                        facts[vocabulary] = code
                    elif vocabulary in ("Race", "Ethnicity"):
                        facts[vocabulary] = record["name"]
            elif time is not None and table in SHOWN:
                ours, keys = SHOWN[table]
                cells = [[MISSING if record[key] is None else record[key] for key in keys.values()] for record in records]
                moments.append(time)
                texts.append(event_text(EVENTS[ours].title, str(time), [key.title() for key in keys], cells))
        return cls(birth, facts, moments, texts)

    def record(self, time: datetime, days: int | None, max_events: int) -> SampleText:
        """What is known before `time`: demographics, then the newest events of the last `days`, oldest first."""
        end = bisect_left(self.times, time)
        begin = bisect_left(self.times, time - timedelta(days=days)) if days else 0
        window = tuple(self.texts[max(begin, end - max_events) : end])
        facts = {"Anchor_Age": age(self.birth, time), "Gender": self.facts.get("Gender", MISSING)}
        facts |= {name: self.facts[name] for name in ("Race", "Ethnicity") if name in self.facts}
        demographics = event_text(EVENTS["patients"].title, str(time), list(facts), [list(facts.values())])
        return SampleText(demographics, "", "", window)


def age(birth: datetime | None, time: datetime) -> str:
    """Full years at a time.

    >>> [age(datetime(1980, 5, 2), datetime(2020, 5, day)) for day in (1, 2)], age(None, datetime(2020, 5, 1))
    (['39', '40'], 'nan')
    """
    if birth is None:
        return MISSING
    return str(time.year - birth.year - ((time.month, time.day) < (birth.month, birth.day)))


# --- few-shot examples


def draw_shots(task: str, labels: Sequence[Label], shots: int, seed: int) -> list[Label]:
    """Labels of `shots` different patients, yes and no in turn, drawn by seed and task.

    Raises:
        UserError: there are too few patients of one answer.
    """
    order = random.Random(f"{seed} {task} shots").sample(list(labels), len(labels)) if shots else []
    drawn: list[Label] = []
    for number in range(shots):
        answer, taken = (YES, NO)[number % 2], {label.patient_id for label in drawn}
        found = next((label for label in order if label.answer == answer and label.patient_id not in taken), None)
        if found is None:
            raise UserError(f"--shots {shots}: wanted another training patient with the answer {answer} to {task}, found "
                            "none; ask for fewer")  # fmt: skip
        drawn.append(found)
    return drawn


def without_patients(labels: Sequence[Label], shots: Sequence[Label]) -> list[Label]:
    """The labels of other patients than the examples' (with --split train they would be asked about what is shown)."""
    shown = {label.patient_id for label in shots}
    return [label for label in labels if label.patient_id not in shown]


def write_examples(task: str, shots: Sequence[Label], frames: Mapping[str, pl.DataFrame], args: argparse.Namespace) -> str:
    """The solved examples before a record, the same for all of a task's samples so that a server can cache them; "" for none.

    An example's record loses its oldest events until it has at most `--shot_chars` characters.
    """
    parts = []
    for number, label in enumerate(shots, 1):
        if label.patient_id not in frames:
            raise UserError(f"{args.ehrshot_dir}: wanted events of each training patient, found none of one drawn for {task}; "
                            "take another --seed")  # fmt: skip
        text = Patient.of(frames[label.patient_id]).record(label.time, args.days, args.max_events)
        while len(str(text)) > args.shot_chars and text.window:
            text = replace(text, window=text.window[1:])
        parts.append(f"# Example {number}\n{text}\n{QUESTIONS[task]}\nAnswer: {label.answer}\n\n")
    return "".join(parts) + "# Patient\n" if parts else ""


if __name__ == "__main__":
    run(main)
