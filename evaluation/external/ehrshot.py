"""Convert EHRSHOT to a JSONL for test.py, zero- or few-shot (docs/external.md).

Reads the benchmark's own files in --ehrshot_dir: `benchmark/TASK/labeled_patients.csv`, `splits/person_id_map.csv`, the
events (`data/ehrshot.csv`, or a MEDS export `data/**/*.parquet`) and the OMOP concept table with the names of the codes. Each
label becomes a sample; its input is what is known of the patient before the prediction time, in the format of our text.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the packages of this checkout

import random
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from evaluation.external.rows import BenchmarkRow, check_output, make_row, write_rows
from mimiciv_dataset.events import EVENTS, MISSING
from mimiciv_dataset.tasks import NO, YES
from mimiciv_dataset.text import SampleText, event_text
from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import Line
from pipeline.progress import Summary
from pipeline.work import Workers, map_lines

if TYPE_CHECKING:
    import polars as pl

    from evaluation.external.ehrshot_files import EhrshotLabel

_LAB = "From the record up to this moment, will the next result of this test show {}, mild or worse? Answer yes or no."
_NEW = "From the record up to the day of discharge, will {} be diagnosed for the first time within a year? Answer yes or no."

# The benchmark's 14 yes/no tasks, and the instruction of each.
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
}
PATIENTS_PER_PART = 50


@dataclass(frozen=True)
class EhrshotSettings:
    """Settings of the command by the names of its flags; None means all."""

    split: str
    samples: int | None
    days: int | None
    max_events: int
    shots: int
    shot_chars: int
    seed: int


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--ehrshot_dir", type=Path, required=True, help="EHRSHOT_ASSETS, as downloaded")
    tasks = ("all", *QUESTIONS)
    cli.add_argument("--task", nargs="+", default=["all"], choices=tasks, metavar="TASK", help=f"{', '.join(tasks)} (all)")
    cli.add_argument("--split", default="test", choices=("train", "val", "test"), help="patients to ask about (test)")
    cli.add_argument("--output_path", type=Path, required=True, help="JSONL to write")
    cli.add_argument("--concept", type=Path, help="OMOP concepts (athena_download/CONCEPT.csv or metadata/codes.parquet)")
    cli.add_argument("--samples", type=at_least(1), help="draw N labels per task (all)", metavar="N")
    cli.add_argument("--days", type=at_least(1), help="show events of the last N days only (all)", metavar="N")
    cli.add_argument("--max_events", type=at_least(1), default=200, help="show the latest N events at most (200)", metavar="N")
    cli.add_argument("--shots", type=at_least(0), default=0, help="solved examples of training patients per question (0)")
    cli.add_argument("--shot_chars", type=at_least(1), default=4000, help="maximum characters of an example's input (4000)")
    cli.add_argument("--seed", type=int, default=0, help="seed of --samples and --shots (0)")
    cli.add_num_workers()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    check_output(args.output_path)
    summary = Summary("ehrshot")
    settings = EhrshotSettings(**{name: getattr(args, name) for name in EhrshotSettings.__dataclass_fields__})
    tasks = list(QUESTIONS) if "all" in args.task else list(dict.fromkeys(args.task))

    from evaluation.external.ehrshot_files import DOWNLOAD, read_events, read_labels, read_splits

    splits, left_out = read_splits(args.ehrshot_dir), Counter()
    labels: dict[str, list[EhrshotLabel]] = {}
    shots: dict[str, list[EhrshotLabel]] = {}
    for task in tasks:
        by_split = read_labels(args.ehrshot_dir, task, splits, left_out)
        if not by_split[settings.split]:
            expected = f"{args.ehrshot_dir}/benchmark/{task}: expected labels of {settings.split} patients, got none"
            raise UserError(f"{expected}. Use labels and splits/person_id_map.csv of the same download.")
        labels[task], shots[task] = draw_labels(task, by_split, settings)
    of_patient: dict[str, list[tuple[str, EhrshotLabel]]] = defaultdict(list)
    for task, of_task in labels.items():
        for label in of_task:
            of_patient[label.patient_id].append((task, label))
    patients = set(of_patient) | {label.patient_id for of_task in shots.values() for label in of_task}
    events, unnamed = read_events(args.ehrshot_dir, patients, args.concept)
    frames = {key[0]: frame for key, frame in events.partition_by("patient_id", as_dict=True).items()}
    if not frames:
        raise UserError(f"{args.ehrshot_dir}: expected events of the labels' patients, got none. {DOWNLOAD}.")
    examples = {task: examples_text(task, shots[task], frames, settings) for task in tasks}
    job = EhrshotJob(dict(of_patient), frames, examples, settings)
    order = sorted(of_patient)
    parts = [order[start : start + PATIENTS_PER_PART] for start in range(0, len(order), PATIENTS_PER_PART)]
    scratch = args.output_path.parent, args.output_path.name

    def rows() -> Iterator[BenchmarkRow]:
        for line in map_lines(parts, job.rows, *scratch, workers=workers, desc="ehrshot", unit="part"):
            if line["note"]:
                left_out[line["note"]] += 1
            if line["row"]:
                yield line["row"]

    count = write_rows(args.output_path, rows())
    notes = "".join(f", {number:,} labels {why}" for why, number in sorted(left_out.items()))
    text = f"{count:,} samples of {len(tasks)} tasks{notes}, {unnamed:.1%} of the events are displayed by their code"
    summary.print(f"{text} → {args.output_path}", count, "samples")


@dataclass(frozen=True)
class EhrshotJob:
    """Labels (task, label) and events of each patient, and the solved examples of each task."""

    labels: dict[str, list[tuple[str, EhrshotLabel]]]
    frames: dict[str, pl.DataFrame]
    examples: dict[str, str]
    settings: EhrshotSettings

    def rows(self, patients: Sequence[str]) -> Iterator[Line]:
        """Yield {"row": sample or None, "note": reason or None} for each label of some patients."""
        for patient_id in patients:
            if patient_id not in self.frames:
                yield from ({"row": None, "note": "of patients without events"} for _ in self.labels[patient_id])
                continue
            patient = Patient.of(self.frames[patient_id])
            for task, label in self.labels[patient_id]:
                text = patient.text_before(label.time, self.settings)
                info = {"subject_id": patient_id, "prediction_time": str(label.time)}
                info |= {"split": self.settings.split, "shots": self.settings.shots}
                row = make_row(task, QUESTIONS[task], self.examples[task] + str(text), label.answer, [YES, NO], **info)
                yield {"row": row, "note": None if text.window else "kept although nothing happened before them"}


# --- the input of a sample


class Patient(NamedTuple):
    """A patient: time of birth, the known ones of Gender, Race and Ethnicity, and times and texts of the events."""

    birth: datetime | None
    demographics: dict[str, str]
    times: list[datetime]
    texts: list[str]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Patient:
        """From the patient's rows of `read_events`; records of the same table and time become one event."""
        from evaluation.external.ehrshot_files import BIRTH, DISPLAYED

        birth, demographics, times, texts = None, {}, [], []
        for (time, table), group in groupby(frame.iter_rows(named=True), key=lambda row: (row["time"], row["table"])):
            records = list(group)
            if table == "person":
                for record in records:
                    vocabulary, _, code = record["code"].partition("/")
                    if record["code"] in BIRTH:
                        birth = time
                    elif vocabulary == "Gender":
                        demographics[vocabulary] = code
                    elif vocabulary in ("Race", "Ethnicity"):
                        demographics[vocabulary] = record["name"]
            elif time is not None and table in DISPLAYED:
                event, columns = DISPLAYED[table]
                values = [[record[name] for name in columns.values()] for record in records]
                cells = [[MISSING if value is None else value for value in row] for row in values]
                times.append(time)
                texts.append(event_text(EVENTS[event].title, str(time), [key.title() for key in columns], cells))
        return cls(birth, demographics, times, texts)

    def text_before(self, time: datetime, settings: EhrshotSettings) -> SampleText:
        """What is known before `time`: demographics, then the latest events of the last days, oldest first."""
        end = bisect_left(self.times, time)
        begin = bisect_left(self.times, time - timedelta(days=settings.days)) if settings.days else 0
        window = tuple(self.texts[max(begin, end - settings.max_events) : end])
        values = {"Anchor_Age": age(self.birth, time), "Gender": self.demographics.get("Gender", MISSING)}
        values |= {name: self.demographics[name] for name in ("Race", "Ethnicity") if name in self.demographics}
        demographics = event_text(EVENTS["patients"].title, str(time), list(values), [list(values.values())])
        return SampleText(demographics, "", "", window)


def age(birth: datetime | None, time: datetime) -> str:
    """Age in completed years.

    >>> [age(datetime(1980, 5, 2), datetime(2020, 5, day)) for day in (1, 2)], age(None, datetime(2020, 5, 1))
    (['39', '40'], 'nan')
    """
    return str(time.year - birth.year - ((time.month, time.day) < (birth.month, birth.day))) if birth else MISSING


# --- draws and few-shot examples


def draw_labels(
    task: str, by_split: Mapping[str, list[EhrshotLabel]], settings: EhrshotSettings
) -> tuple[list[EhrshotLabel], list[EhrshotLabel]]:
    """The labels to ask about, and the labels of the examples; patients of examples are not asked about."""
    shots = draw_shots(task, by_split["train"], settings.shots, settings.seed)
    examples = {label.patient_id for label in shots}
    labels = [label for label in by_split[settings.split] if label.patient_id not in examples]
    if settings.samples and settings.samples < len(labels):
        labels = random.Random(f"{settings.seed} {task}").sample(labels, settings.samples)
    return labels, shots


def draw_shots(task: str, labels: Sequence[EhrshotLabel], shots: int, seed: int) -> list[EhrshotLabel]:
    """Draw labels of `shots` different patients, alternating between yes and no."""
    order = random.Random(f"{seed} {task} shots").sample(list(labels), len(labels)) if shots else []
    drawn: list[EhrshotLabel] = []
    for number in range(shots):
        answer, patients = (YES, NO)[number % 2], {label.patient_id for label in drawn}
        label = next((label for label in order if label.answer == answer and label.patient_id not in patients), None)
        if label is None:
            expected = f"expected another training patient with the answer {answer} to {task}, got none"
            raise UserError(f"--shots {shots}: {expected}. Use fewer shots.")
        drawn.append(label)
    return drawn


def examples_text(
    task: str, shots: Sequence[EhrshotLabel], frames: Mapping[str, pl.DataFrame], settings: EhrshotSettings
) -> str:
    """The solved examples before the input, the same for all samples of a task so that servers can cache the prefix.

    The oldest events of an example are left out until its input has at most `shot_chars` characters. Empty without shots.
    """
    parts = []
    for number, label in enumerate(shots, 1):
        if label.patient_id not in frames:
            raise UserError(f"--shots: expected events of each patient drawn for {task}, got none of one. Use another --seed.")
        text = Patient.of(frames[label.patient_id]).text_before(label.time, settings)
        while len(str(text)) > settings.shot_chars and text.window:
            text = replace(text, window=text.window[1:])
        parts.append(f"# Example {number}\n{text}\n{QUESTIONS[task]}\nAnswer: {label.answer}\n\n")
    return "".join(parts) + "# Patient\n" if parts else ""


if __name__ == "__main__":
    run(main)
