"""Answer the samples of a finished run with simple baselines, which a model should beat.

Reads DIR (the --output_path of test.py) and writes DIR/baselines/<name>/, each with outputs.jsonl and result.json like a
run; `python -m evaluation.report DIR` shows them beside the run.

  majority             the most frequent answers in training rows, as many as the median row has; for risk tasks the share
                       of yes in training rows as p(yes) of every sample
  copy_last            the answer of the patient's latest earlier event of the same table; empty if there is none
  logistic_regression  risk tasks only: on counts of the events and items in the sample's input, and the age

copy_last leaves risk tasks out, because the outcome of an earlier stay may lie after the sample. Training rows come from a
task index, of training patients only.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
import math
import shutil
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from evaluation.predictions import read_outputs, sample_id_of_output
from mimiciv_dataset.index_files import clean_id, clean_position, index_paths, parse_target
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.sources import index_mapping_source, index_sources, patients_source, trajectories_source
from mimiciv_dataset.tasks import NO, TASKS, YES, Task
from pipeline.cli import ROOT_DIR, Parser, at_least, run
from pipeline.digests import digest_lines
from pipeline.errors import UserError
from pipeline.files import Line, atomic_path, read_json, require
from pipeline.progress import Summary, progress
from pipeline.provenance import Provenance, Source
from pipeline.work import Workers, map_lines

if TYPE_CHECKING:
    from mimiciv_dataset.lookups import Lookups
    from mimiciv_dataset.mimiciv import MIMICIV
    from mimiciv_dataset.samples import Target
    from mimiciv_dataset.text import SampleText
    from mimiciv_dataset.timeline import Timeline

IndexRows = list[dict[str, Any]]
Answers = Iterator[tuple[Line, str, float | None]]  # lines of the run, the baseline's replies, and p(yes) for risk tasks

STEP = "evaluation/baselines.py"
RULES = 1  # see `pipeline.provenance`
FOLDER = "baselines"
SAMPLES = "samples"  # name of the run's samples among the inputs of a baseline
PATIENTS_PER_PART = 200

# Fields of the run's output lines that the baselines' lines have too; those about prompts and replies are left out.
COPIED = ("key", "sample_id", "task_info", "candidates", "input_sha256")


@dataclass(frozen=True)
class BaselineSettings:
    """Settings of the command by the names of its flags, recorded in result.json; paths are text."""

    dataset_name: str
    root_dir: str
    train_index: str
    train_subjects: str
    max_train: int
    seed: int


@dataclass(frozen=True)
class BaselineJob:
    """The output lines of a run and index rows of training patients, both by task."""

    run_dir: Path
    lines: dict[str, list[Line]]
    training: dict[str, IndexRows]
    settings: BaselineSettings

    def trained_tasks(self, *kinds: str) -> list[str]:
        """The tasks of these kinds that have training rows."""
        return [name for name in self.lines if TASKS[name].kind in kinds and self.training.get(name)]

    @cached_property
    def lines_by_patient(self) -> dict[str | None, list[Line]]:
        """Output lines of all but risk tasks by patient; None for lines without a patient."""
        patients: dict[str | None, list[Line]] = defaultdict(list)
        for line in [line for name, lines in self.lines.items() if TASKS[name].kind != "risk" for line in lines]:
            patients[clean_id(line["task_info"].get("subject_id"))].append(line)
        return dict(patients)

    @cached_property
    def _positions(self) -> dict[str, tuple[MIMICIV, int]]:
        """Dataset and position of each sample of the run's index files, by `sample_id`."""
        from mimiciv_dataset.mimiciv import MIMICIV
        from mimiciv_dataset.row_keys import row_keys

        positions = {}
        fix = "start from the directory of the run, or pass --dataset_name"
        for path in index_paths(self.settings.dataset_name.split(","), fix):
            dataset = MIMICIV(self.settings.root_dir, path, lazzy_mode=True, shuffle=False, check=False)
            positions |= {key.sample_id: (dataset, index) for index, key in enumerate(row_keys(dataset.rows))}
        return positions

    def text(self, line: Line) -> SampleText:
        """The input of the sample of an output line, before truncation."""
        identity = sample_id_of_output(line)
        if identity not in self._positions:
            expected = f"expected the samples of {self.run_dir}, got others"
            raise UserError(f"{self.settings.dataset_name}: {expected}. Pass the run's index file with --dataset_name.")
        dataset, index = self._positions[identity]
        return dataset.text(index)


# --- the baselines


def majority(job: BaselineJob, tasks: Sequence[str]) -> Answers:
    """Answer with the most frequent answers in training rows; for risk tasks p(yes) is the share of yes in them."""
    for task in tasks:
        rows = job.training[task]
        if TASKS[task].kind == "risk":
            reply = risk_reply(sum(map(is_positive, rows)) / len(rows))
        else:
            reply = frequent_answers([parse_target(row["target"]) for row in rows]), None
        yield from ((line, *reply) for line in job.lines[task])


def frequent_answers(targets: Sequence[str | list[str]]) -> str:
    r"""The most frequent answers, one per line: as many as the median target has, ties by name.

    >>> frequent_answers([["b", "a"], ["b"], ["a", "b", "c"]])
    'b\na'
    """
    from mimiciv_dataset.samples import label_list

    counts = Counter(label for target in targets for label in label_list(target))
    number = round(statistics.median(len(label_list(target)) for target in targets))
    return "\n".join(sorted(counts, key=lambda label: (-counts[label], label))[:number])


def copy_last(job: BaselineJob, patients: Sequence[str]) -> Answers:
    """Answer with the target of the patient's latest earlier event of the task's table (next_event: of any table).

    Uses the whole trajectory before the sample, of which the prompt shows only the context window.
    """
    from mimiciv_dataset.lookups import Lookups
    from mimiciv_dataset.samples import label_list
    from mimiciv_dataset.trajectory import Trajectories

    trajectories = Trajectories(Path(job.settings.root_dir) / "patients_ehr")
    lookups = Lookups(Path(job.settings.root_dir) / "index_mapping")
    for subject_id in patients:
        timeline = trajectories.timeline(subject_id)
        for line in job.lines_by_patient[subject_id]:
            info = line["task_info"]
            target = last_answer(TASKS[info["task"]], timeline, clean_position(info["period_end"]), lookups)
            yield line, "\n".join(label_list(target or "")), None


def last_answer(task: Task, timeline: Timeline, end: int, lookups: Lookups) -> Target | None:
    """The target of the latest event of the task's table before `end` (next_event: of any table); None if there is none."""
    from mimiciv_dataset.samples import decision_target

    positions = (position for position in range(end - 1, 0, -1) if task.event in (None, timeline.file_names[position]))
    targets = (decision_target(task, timeline, position, lookups) for position in positions)
    return next((target for target in targets if target is not None), None)


def _copy_last_parts(job: BaselineJob) -> list[Sequence[str]]:
    patients = list(job.lines_by_patient)
    if None in patients:
        fix = "Leave it out: --baselines majority logistic_regression"
        raise UserError(f"{job.run_dir}: expected samples with subject_id for copy_last, got some without. {fix}.")
    return [patients[start : start + PATIENTS_PER_PART] for start in range(0, len(patients), PATIENTS_PER_PART)]


def logistic_regression(job: BaselineJob, tasks: Sequence[str]) -> Answers:
    """Answer risk tasks with p(yes) of a logistic regression on `features`, fitted on the training rows of each task."""
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    from mimiciv_dataset.mimiciv import MIMICIV

    for task in tasks:
        rows, lines = job.training[task], job.lines[task]
        dataset = MIMICIV(job.settings.root_dir, sample_info=rows, lazzy_mode=True, shuffle=False)
        model = make_pipeline(DictVectorizer(), MaxAbsScaler(), LogisticRegression(max_iter=1000))
        model.fit([features(dataset.text(index)) for index in range(len(dataset))], list(map(is_positive, rows)))
        probabilities = model.predict_proba([features(job.text(line)) for line in lines])[:, 1]
        yield from ((line, *risk_reply(float(p_yes))) for line, p_yes in zip(lines, probabilities, strict=True))


def _logistic_regression_parts(job: BaselineJob) -> list[Sequence[str]]:
    tasks = job.trained_tasks("risk")
    if one_label := [task for task in tasks if len(set(map(is_positive, job.training[task]))) < 2]:
        print(f"logistic_regression: {', '.join(one_label)} left out, because all training rows have the same label")
    return [[task] for task in tasks if task not in one_label]


def features(text: SampleText) -> dict[str, float]:
    r"""Features for logistic regression: log(1 + n) of the events of each table and of each item, and age / 100.

    The item of a record is its first displayed value. Everything is read from the text that a model is shown.

    >>> from mimiciv_dataset.text import SampleText
    >>> patient = "## Patient Demographics [None]\n- Anchor_Age: 61\n- Gender: F"
    >>> labs = "## Labotary Test Events [2180-05-07 05:30:00]\n| Item_Name | Valuenum |\n| ------ | ------ |\n"
    >>> values = features(SampleText(patient, "", "", (labs + "| Glucose | 109.0 |\n| Glucose | 99.0 |",)))
    >>> {name: round(value, 2) for name, value in values.items()}
    {'age': 0.61, 'Labotary Test Events': 0.69, 'Labotary Test Events: Glucose': 1.1}
    """
    counts: Counter[str] = Counter()
    for event in (text.last_discharge, text.admission, *text.window):
        if event:
            title, *lines = event.splitlines()
            title = title.removeprefix("## ").partition(" [")[0]
            counts[title] += 1
            counts.update(f"{title}: {item}" for item in items_of_event(lines))
    age = text.patient.partition("\n- Anchor_Age: ")[2].partition("\n")[0]
    values = {"age": float(age) / 100} if age.isdecimal() else {}
    return values | {name: math.log1p(count) for name, count in counts.items()}


def items_of_event(lines: Sequence[str]) -> list[str]:
    """The first displayed value of each record of a rendered event, from its lines after the title.

    >>> items_of_event(["- Medication: Aspirin", "- Event_Txt: Administered"])
    ['Aspirin']
    """
    if lines and lines[0].startswith("- "):
        return [lines[0].partition(": ")[2]]
    return [line.removeprefix("| ").partition(" | ")[0].removesuffix(" |") for line in lines[2:] if line.startswith("| ")]


def is_positive(row: Mapping[str, Any]) -> bool:
    """Whether the label of a risk task's index row is yes."""
    return parse_target(row["target"]) == YES


def risk_reply(p_yes: float) -> tuple[str, float]:
    """The reply to a risk task, and its p(yes)."""
    return YES if p_yes >= 0.5 else NO, p_yes


# Name → how it divides a job into parts that one process answers at a time (some tasks or patients), and answers a part.
Baseline = tuple[Callable[[BaselineJob], list[Sequence[str]]], Callable[[BaselineJob, Sequence[str]], Answers]]
BASELINES: dict[str, Baseline] = {
    "majority": (lambda job: [[task] for task in job.trained_tasks("decision", "risk")], majority),
    "copy_last": (_copy_last_parts, copy_last),
    "logistic_regression": (_logistic_regression_parts, logistic_regression),
}


# --- reading and writing


def read_lines(run_dir: Path) -> dict[str, list[Line]]:
    """The fields `COPIED` of a run's output lines, by task."""
    lines: dict[str, Line] = {}
    for _, prediction, line in read_outputs(run_dir):
        lines[prediction.sample_id] = {name: line.get(name) for name in COPIED if name != "sample_id" or name in line}
    by_task: dict[str, list[Line]] = {name: [] for name in TASKS}
    for line in lines.values():
        by_task[line["task_info"]["task"]].append(line)
    return {name: of_task for name, of_task in by_task.items() if of_task}


def training_rows(tasks: Sequence[str], subjects: Collection[str], settings: BaselineSettings) -> dict[str, IndexRows]:
    """Index rows of these patients, at most `max_train` per task, drawn at random; an error if there are none."""
    import polars as pl

    from mimiciv_dataset.draws import draw_uniform, row_hashes
    from mimiciv_dataset.index_files import index_files
    from mimiciv_dataset.index_frames import scan, task_of_file

    def draw(task: str, rows: pl.DataFrame) -> pl.DataFrame:
        return rows[draw_uniform(row_hashes(task, rows, settings.seed), settings.max_train)]

    drawn: dict[str, list[pl.DataFrame]] = defaultdict(list)
    files = [path for path in index_files(settings.train_index) if task_of_file(path) in (None, *tasks)]
    for path in progress(files, desc="training rows", unit="file"):
        if path.stem.isdecimal() and path.stem not in subjects:
            continue  # --group patient: a file of another patient
        selected = pl.col("task").is_in(list(tasks)) & pl.col("subject_id").is_in(list(subjects))
        frame = scan(path).filter(selected).drop("target_weight", "audit").collect(engine="streaming")
        for (task,), rows in frame.partition_by("task", as_dict=True).items():
            drawn[task].append(draw(task, rows))
    if not drawn:
        expected = "expected rows of training patients for the run's tasks, got none"
        raise UserError(f"{settings.train_index}: {expected}. Check --train_index and --train_subjects.")
    return {task: draw(task, pl.concat(frames)).to_dicts() for task, frames in drawn.items()}


def output_lines(job: BaselineJob, part: tuple[str, Sequence[str]]) -> Iterator[Line]:
    """Yield {"baseline": name, "line": output line} for a part: the name of a baseline, and some of its tasks or patients."""
    from evaluation.metrics import sample_score

    name, members = part
    for line, response, p_yes in BASELINES[name][1](job, members):
        info = line["task_info"]
        score = sample_score(info["task"], info["label"], response, p_yes)
        output = {"response": response, "reasoning": None, "p_yes": p_yes, "finish_reason": "stop"}
        yield {"baseline": name, "line": line | {"outputs": [output], "score": score}}


def write_baselines(job: BaselineJob, records: Sequence[Provenance], workers: Workers) -> None:
    """Write outputs.jsonl of the baselines of these records, which are begun."""
    parts = []
    for name in [record.output.name for record in records]:
        members = BASELINES[name][0](job)
        parts += [(name, each) for each in members]
        if not members:
            print(f"{name}: the run has no sample that it can answer, so nothing is written")
    folder, work = job.run_dir / FOLDER, partial(output_lines, job)
    lines = map_lines(parts, work, folder, "baselines", workers=workers, desc="baselines", unit="part")
    by_name = {record.output.name: record for record in records}
    for name, of_baseline in groupby(lines, key=lambda line: line["baseline"]):
        path = folder / name / "outputs.jsonl"
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line["line"], ensure_ascii=False) + "\n" for line in of_baseline)
        by_name[name].complete(files=[path])


def baseline_sources(lines: Mapping[str, Sequence[Line]], job: BaselineSettings, run_dir: Path, verify: bool) -> list[Source]:
    """The samples of the run, its index files, the training rows and the patients they are from, and the trajectories."""
    from evaluation.sources import dataset_sources
    from mimiciv_dataset.mimiciv import MIMICIV

    root_dir = Path(job.root_dir)
    answered = [sample_id_of_output(line) for of_task in lines.values() for line in of_task]
    paths = [Path(name) for name in job.dataset_name.split(",") if name and Path(name).exists()]
    sources = [Source(SAMPLES, run_dir, digest_lines(answered), is_ancestor=False, by=SAMPLES)]
    sources += dataset_sources(MIMICIV(root_dir, path, lazzy_mode=True, shuffle=False, check=False) for path in paths)
    if (trajectories := root_dir / "patients_ehr").exists() and "trajectories" not in {source.name for source in sources}:
        sources += [trajectories_source(trajectories, verify), index_mapping_source(root_dir / "index_mapping", verify)]
    subjects = read_subject_ids(job.train_subjects)
    training = index_sources(Path(job.train_index), "training index", verify)
    return [*sources, *training, patients_source(Path(job.train_subjects), subjects, "training patients")]


# --- the command


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.set_defaults(root_dir=None)  # that of the run
    cli.add_argument("dir", type=Path, metavar="DIR", help="directory of a finished run of test.py")
    cli.add_argument("--dataset_name", help="index file(s) of the run (as recorded in its result)")
    cli.add_argument("--train_index", type=Path, help="task index: directory or CSV (ROOT_DIR/task_index/all)")
    cli.add_argument("--train_subjects", type=Path, help="CSV of training patients (ROOT_DIR/patient_data/train.csv)")
    cli.add_argument("--max_train", type=at_least(1), default=2000, help="training rows per task, drawn at random (2000)")
    cli.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
    cli.add_argument("--baselines", nargs="+", choices=BASELINES, default=list(BASELINES), help="only these (all)")
    cli.add_num_workers()
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    summary = Summary("baselines")
    from evaluation.score import score_dir

    result = read_json(require(args.dir / "result.json", "the result of a finished run", "run test.py to its end first"))
    arguments = result.get("arguments", {})
    dataset_name = args.dataset_name or arguments.get("dataset_name", "")
    root_dir = Path(args.root_dir or arguments.get("root_dir", ROOT_DIR))
    train_index = args.train_index or root_dir / "task_index/all"
    train_subjects = args.train_subjects or root_dir / "patient_data/train.csv"
    paths = map(str, (dataset_name, root_dir, train_index, train_subjects))
    settings = BaselineSettings(*paths, args.max_train, args.seed)

    lines = read_lines(args.dir)
    subjects = set(read_subject_ids(settings.train_subjects))
    overlap = subjects & {clean_id(line["task_info"].get("subject_id")) for of_task in lines.values() for line in of_task}
    if overlap:
        got, fix = f"got {len(overlap):,} of its patients", "Pass the training patients with --train_subjects"
        raise UserError(f"{settings.train_subjects}: expected patients that are not in the run, {got}. {fix}.")
    sources = baseline_sources(lines, settings, args.dir, args.verify)
    made_with = {"max_train": settings.max_train, "seed": settings.seed}
    folders = [args.dir / FOLDER / name for name in args.baselines]
    records = [Provenance(folder, STEP, sources, made_with, RULES, cli.arguments, flag="DIR") for folder in folders]
    begun = [record for record in records if record.begin(args.overwrite, args.verify)]
    try:
        if begun:
            job = BaselineJob(args.dir, lines, training_rows(list(lines), subjects, settings), settings)
            write_baselines(job, begun, workers)
            if without := [name for name in lines if name not in job.training]:
                print(f"no training rows, so only copy_last can answer: {', '.join(without)}")
    finally:
        for record in [record for record in begun if not record.is_complete]:
            shutil.rmtree(record.output)  # it has no outputs: they are written at once
    for folder in folders:
        if folder.exists():
            arguments = {"model_name_or_path": folder.name} | asdict(settings)
            score_dir(folder, result["resamples"], result["seed"], extra={"arguments": arguments})
    number = sum(map(len, lines.values()))
    summary.print(f"{', '.join(args.baselines)} on {number:,} samples → {args.dir / FOLDER}", number, "samples")
    return 0


if __name__ == "__main__":
    run(main)
