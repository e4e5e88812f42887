"""Cheap baselines on the samples of a run: what a model must beat, in the files of a model.

Reads DIR (test.py's --output_path) and writes DIR/baselines/<name>/, each with outputs.jsonl, run.json and result.json;
`python -m evaluation.report DIR` shows them beside the run.

  majority             the answers most frequent in training rows, as many as a row has in the median; for risk tasks
                       the share of yes in them, for all samples alike
  copy_last            the answer of the patient's last earlier event of the same table; nothing where there is none
  logistic_regression  risk tasks: on counts of the events and items that the sample's text shows, and the age

copy_last leaves risk tasks out: whether an earlier stay's outcome was known at the later stay's time is not sure.
Training rows come from a task index, of training patients only.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import argparse
import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.index_files import clean_id, clean_position, index_files, parse_target, reading, scan, task_of_file
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.tasks import TASKS, YES, Task
from pipeline.cli import ROOT_DIR, Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, require, write_json
from pipeline.progress import Summary, progress

if TYPE_CHECKING:
    from mimiciv_dataset.mimiciv import MIMICIV
    from mimiciv_dataset.text import SampleText

Line = dict[str, Any]
Rows = list[dict[str, Any]]
Answers = Iterator[tuple[Line, str, float | None]]
"""Output lines of the run, and what the baseline answers: the reply, and p_yes for risk tasks."""

FOLDER = "baselines"
KEPT = ("key", "task_info", "candidates", "input_sha256")
"""Fields of the run's lines that the baselines' have too; prompts have no part in them."""


# --- the baselines


@dataclass
class Run:
    """A finished run and the training rows beside it.

    Attributes:
        lines: the run's output lines, by task.
        training: index rows of training patients, by task, as they stand in the file.
        args: the command's arguments, with the run's dataset_name and root_dir where none were given.
    """

    lines: dict[str, list[Line]]
    training: dict[str, Rows]
    args: argparse.Namespace

    def tasks(self, *kinds: str) -> Iterator[tuple[Task, list[Line], Rows]]:
        """The tasks of these kinds that have training rows, with the run's lines and the training rows."""
        for name, lines in self.lines.items():
            if TASKS[name].kind in kinds and self.training.get(name):
                yield TASKS[name], lines, self.training[name]

    @cached_property
    def texts(self) -> Mapping[tuple[str | None, ...], tuple[MIMICIV, int]]:
        """Where the record of each sample is, by `sample_name`."""
        from evaluation.score import sample_name
        from mimiciv_dataset.mimiciv import MIMICIV
        from pipeline.files import sha256

        found = {}
        for path in self.args.dataset_name.split(","):
            require(path, "the index file of the run", "start from the run's folder, or say --dataset_name")
            dataset = MIMICIV(self.args.root_dir, path, lazzy_mode=True, shuffle=False)
            for index in range(len(dataset)):
                row = dataset.row(index)
                text = sha256(row["input"]) if "input" in row else None
                found[sample_name(row.get("task_info", {}) | row | {"task": dataset.task(row).name}, text)] = dataset, index
        return found

    def text(self, line: Line) -> SampleText:
        """The record that the sample's prompt was made from.

        Raises:
            UserError: the run's index file does not hold the sample.
        """
        from evaluation.score import sample_name

        place = self.texts.get(sample_name(line["task_info"], line.get("input_sha256")))
        if place is None:
            raise UserError(f"{self.args.dataset_name}: wanted the samples of {self.args.dir}, found others; "
                            "say --dataset_name, the index file that the run was made from")  # fmt: skip
        dataset, index = place
        return dataset.text(index)


def majority(work: Run) -> Answers:
    """The answers most frequent in training rows; for risk tasks the training rows' share of yes."""
    for task, lines, rows in work.tasks("decision", "risk"):
        if task.kind == "risk":
            answer = risk_answer(sum(says_yes(row) for row in rows) / len(rows))
        else:
            answer = frequent_answers([parse_target(row["target"]) for row in rows]), None
        yield from ((line, *answer) for line in lines)


def frequent_answers(targets: Sequence[str | list[str]]) -> str:
    r"""The most frequent answers, one a line, as many as a target has in the median; of equally frequent the first by name.

    >>> frequent_answers([["b", "a"], ["b"], ["a", "b", "c"]])
    'b\na'
    """
    from evaluation.metrics import label_list

    counts = Counter(label for target in targets for label in label_list(target))
    number = round(statistics.median(len(label_list(target)) for target in targets))
    return "\n".join(sorted(counts, key=lambda label: (-counts[label], label))[:number])


def copy_last(work: Run) -> Answers:
    """The answer of the patient's last earlier event of the task's table (next_event: of any table).

    It looks at the whole trajectory before the sample, of which the prompt shows a day.
    """
    from mimiciv_dataset.lookups import Lookups
    from mimiciv_dataset.samples import decision_target
    from mimiciv_dataset.trajectory import Trajectories

    patients: dict[str | None, list[Line]] = defaultdict(list)
    for name, lines in work.lines.items():
        if TASKS[name].kind != "risk":
            for line in lines:
                patients[clean_id(line["task_info"].get("subject_id"))].append(line)
    if None in patients:
        raise UserError(f"{work.args.dir}: copy_last wants rows with subject_id, found rows without; "
                        "leave it out (--baselines majority logistic_regression)")  # fmt: skip
    trajectories = Trajectories(Path(work.args.root_dir) / "patients_ehr")
    lookups = Lookups(Path(work.args.root_dir) / "index_mapping")
    for subject_id, lines in progress(patients.items(), desc="copy_last", unit="patient"):
        timeline = trajectories.timeline(subject_id)
        for line in lines:
            task = TASKS[line["task_info"]["task"]]
            answer: str | list[str] | None = None
            for position in range(clean_position(line["task_info"]["period_end"]) - 1, 0, -1):
                if task.event in (None, timeline.file_names[position]):
                    answer = decision_target(task, timeline, position, lookups)
                if answer is not None:
                    break
            yield line, "\n".join(answer) if isinstance(answer, list) else answer or "", None


def logistic_regression(work: Run) -> Answers:
    """p(yes) by logistic regression on `counts` of the training rows' records; risk tasks only.

    A task whose training rows all say the same is left out.
    """
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    from mimiciv_dataset.mimiciv import MIMICIV

    tasks = []
    for found in work.tasks("risk"):
        if len({says_yes(row) for row in found[2]}) == 2:
            tasks.append(found)
        else:
            print(f"logistic_regression: {found[0].name} left out, all its training rows say the same")
    with progress(
        total=sum(len(lines) + len(rows) for _, lines, rows in tasks), desc="logistic_regression", unit="record"
    ) as bar:
        for _, lines, rows in tasks:
            dataset = MIMICIV(work.args.root_dir, sample_info=rows, lazzy_mode=True, shuffle=False)
            known, asked = [], []
            for index in range(len(dataset)):
                known.append(counts(dataset.text(index)))
                bar.update()
            for line in lines:
                asked.append(counts(work.text(line)))
                bar.update()
            model = make_pipeline(DictVectorizer(), MaxAbsScaler(), LogisticRegression(max_iter=1000))
            model.fit(known, [says_yes(row) for row in rows])
            for line, share in zip(lines, model.predict_proba(asked)[:, 1], strict=True):
                yield line, *risk_answer(float(share))


def counts(text: SampleText) -> dict[str, float]:
    r"""What logistic regression knows of a record: log(1 + n) of its events by table and of its items, and the age.

    The item of a record is its first shown value. All is read from the text, so nothing enters that a model is not shown.

    >>> from mimiciv_dataset.text import SampleText
    >>> patient = "## Patient Demographics [None]\n- Anchor_Age: 61\n- Gender: F"
    >>> labs = "## Labotary Test Events [2180-05-07 05:30:00]\n| Item_Name | Valuenum |\n| ------ | ------ |\n"
    >>> found = counts(SampleText(patient, "", "", (labs + "| Glucose | 109.0 |\n| Glucose | 99.0 |",)))
    >>> {name: round(value, 2) for name, value in found.items()}
    {'age': 0.61, 'Labotary Test Events': 0.69, 'Labotary Test Events: Glucose': 1.1}
    """
    found: Counter[str] = Counter()
    for event in (text.last_discharge, text.admission, *text.window):
        if event:
            title, *lines = event.splitlines()
            title = title.removeprefix("## ").partition(" [")[0]
            found[title] += 1
            found.update(f"{title}: {item}" for item in items(lines))
    age = text.patient.partition("\n- Anchor_Age: ")[2].partition("\n")[0]
    known = {"age": float(age) / 100} if age.isdecimal() else {}
    return known | {name: math.log1p(number) for name, number in found.items()}


def items(lines: Sequence[str]) -> list[str]:
    """The first shown value of each record of a rendered event, given without its title.

    >>> items(["- Medication: Aspirin", "- Event_Txt: Administered"])
    ['Aspirin']
    """
    if lines and lines[0].startswith("- "):
        return [lines[0].partition(": ")[2]]
    return [line.removeprefix("| ").partition(" | ")[0].removesuffix(" |") for line in lines[2:] if line.startswith("| ")]


def says_yes(row: Mapping[str, Any]) -> bool:
    """The label of a risk task's index row."""
    return parse_target(row["target"]) == YES


def risk_answer(share: float) -> tuple[str, float]:
    """Reply and p_yes."""
    return "yes" if share >= 0.5 else "no", share


BASELINES: dict[str, Callable[[Run], Answers]] = {
    "majority": majority,
    "copy_last": copy_last,
    "logistic_regression": logistic_regression,
}


# --- training rows


def training_rows(index: Path, tasks: Sequence[str], subjects: Collection[str], number: int, seed: int) -> dict[str, Rows]:
    """At most `number` rows of each task, drawn from these patients' rows of a task index.

    Raises:
        UserError: there are none.
    """
    import polars as pl

    from mimiciv_dataset.draws import draw_uniform, row_hashes

    def draw(task: str, rows: pl.DataFrame) -> pl.DataFrame:
        return rows[draw_uniform(row_hashes(task, rows, seed), number)]

    drawn: dict[str, list[pl.DataFrame]] = defaultdict(list)
    files = [path for path in index_files(index) if task_of_file(path) in (None, *tasks)]
    for path in progress(files, desc="training rows", unit="file"):
        if path.stem.isdecimal() and path.stem not in subjects:
            continue  # --group patient: the file of a patient who does not count
        with reading(path):
            mine = pl.col("task").is_in(list(tasks)) & pl.col("subject_id").is_in(list(subjects))
            found = scan(path).filter(mine).drop("target_weight", "audit").collect(engine="streaming")
        for (task,), rows in found.partition_by("task", as_dict=True).items():
            drawn[task].append(draw(task, rows))
    if not drawn:
        raise UserError(f"{index}: wanted rows of the run's tasks and of training patients, found none; "
                        "say --train_index and --train_subjects")  # fmt: skip
    return {task: draw(task, pl.concat(frames)).to_dicts() for task, frames in drawn.items()}


# --- the command


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.set_defaults(root_dir=None)  # the run's
    cli.add_argument("dir", type=Path, metavar="DIR", help="folder of a finished run of test.py")
    cli.add_argument("--dataset_name", help="index file(s) that the run was made from (as the run says)")
    cli.add_argument("--train_index", type=Path, help="task index: folder or CSV (ROOT_DIR/task_index/all)")
    cli.add_argument("--train_subjects", type=Path, help="CSV of training patients (ROOT_DIR/patient_data/train.csv)")
    cli.add_argument("--max_train", type=int, default=2000, help="training rows of a task, drawn at random (2000)")
    cli.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
    cli.add_argument("--baselines", nargs="+", choices=BASELINES, default=list(BASELINES), help="only these (all)")
    args = cli.parse_args(argv)
    summary = Summary("baselines")
    if args.max_train < 1:
        raise UserError(f"--max_train {args.max_train}: wanted 1 or more")
    result = read_json(require(args.dir / "result.json", "the result of a finished run", "run test.py to its end first"))
    said = result.get("arguments", {})
    args.dataset_name = args.dataset_name or said.get("dataset_name", "")
    args.root_dir = args.root_dir or said.get("root_dir", ROOT_DIR)
    args.train_index = args.train_index or Path(args.root_dir) / "task_index/all"
    args.train_subjects = args.train_subjects or Path(args.root_dir) / "patient_data/train.csv"

    lines = read_lines(args.dir)
    subjects = set(read_subject_ids(args.train_subjects))
    both = subjects & {clean_id(line["task_info"].get("subject_id")) for found in lines.values() for line in found}
    if both:
        raise UserError(f"{args.train_subjects}: wanted patients that are not in the run, found {len(both):,} of its "
                        "patients; say --train_subjects, the training patients")  # fmt: skip
    training = training_rows(args.train_index, list(lines), subjects, args.max_train, args.seed)
    work = Run(lines, training, args)
    for name in args.baselines:
        write(args.dir / FOLDER / name, name, work, result)
    without = [name for name in lines if name not in training]
    if without:
        print(f"without training rows, so only copied: {', '.join(without)}")
    number = sum(map(len, lines.values()))
    summary.print(f"{', '.join(args.baselines)} on {number:,} samples → {args.dir / FOLDER}", number, "samples")
    return 0


def read_lines(folder: Path) -> dict[str, list[Line]]:
    """The run's lines, as far as the baselines need them, by task."""
    from evaluation.score import read_outputs

    kept = {key: {name: line.get(name) for name in KEPT} for key, _, line in read_outputs(folder)}
    by_task: dict[str, list[Line]] = {name: [] for name in TASKS}
    for line in kept.values():
        by_task[line["task_info"]["task"]].append(line)
    return {name: found for name, found in by_task.items() if found}


def write(folder: Path, name: str, work: Run, result: Mapping[str, Any]) -> None:
    """Write a baseline's outputs.jsonl, run.json and result.json, scored as the run is."""
    from evaluation.metrics import sample_score
    from evaluation.score import score_dir

    about = {
        "model_name_or_path": name, "dataset_name": work.args.dataset_name, "root_dir": str(work.args.root_dir),
        "train_index": str(work.args.train_index), "train_subjects": str(work.args.train_subjects),
        "max_train": work.args.max_train, "seed": work.args.seed,
    }  # fmt: skip
    answers = list(BASELINES[name](work))
    if not answers:
        print(f"{name}: no sample here that it could answer, so nothing is written")
        return
    with atomic_path(folder / "outputs.jsonl") as temporary, temporary.open("w", encoding="utf-8") as file:
        for line, response, p_yes in answers:
            info = line["task_info"]
            score = sample_score(info["task"], info["label"], response, p_yes)
            output = {"response": response, "reasoning": None, "p_yes": p_yes, "finish_reason": "stop"}
            file.write(json.dumps(line | {"outputs": [output], "score": score}, ensure_ascii=False) + "\n")
    write_json(folder / "run.json", about)
    score_dir(folder, result["resamples"], result["seed"], extra={"arguments": about})


if __name__ == "__main__":
    run(main)
