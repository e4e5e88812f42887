"""What is known of a benchmark after its rows, and the trajectories of its patients, have been read once."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import log2
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.health_checks.cues import FOLDS, Bootstrap, fold_of, majority_scores, measure_cues, without_each
from evaluation.health_checks.rows import BenchmarkRow, RowSample, read_benchmark
from evaluation.health_checks.texts import can_copy, copy_from_text, target_in_text
from evaluation.health_checks.trajectories import Question, answer_questions
from evaluation.metrics import set_scores
from inference.answers import fold_name
from mimiciv_dataset.audit import DEATH_IN_HOSPITAL, FLAGS, RELATED
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.tasks import ALL_TASKS, TASKS, YES, Task
from pipeline.progress import progress
from pipeline.work import Workers

if TYPE_CHECKING:
    from mimiciv_dataset.candidates import Candidates

REPEATED, UNANSWERABLE, TRAIN_PATIENT = "repeated", "unanswerable", "train_patient"
# What can be wrong with a row → in words, for tables.
FINDINGS = {
    "outcome_in_window": "what decides the label yes happens before the prediction time",
    "stay_ended_in_window": "the stay is over at the prediction time",
    "label_vs_hospital_expire_flag": "the label of a death in hospital disagrees with hospital_expire_flag",
    "target_in_context": "a related table in the input shows every answer",
    "not_yet_stored": "the input shows a value that was stored after the prediction time",
    REPEATED: "an earlier row has the same task, patient and window, or the same text",
    UNANSWERABLE: "a correct answer is not among the candidates",
    TRAIN_PATIENT: "the patient, or the same text, is in the training set",
}
assert tuple(FINDINGS)[: len(FLAGS)] == FLAGS
_BIT = {name: 1 << number for number, name in enumerate(FINDINGS)}


def applies(finding: str, task: Task) -> bool:
    """Whether rows of a task can have a finding.

    >>> [applies("target_in_context", TASKS[name]) for name in ("emar", "omr", "ICU_Readmission")]
    [True, False, False]
    """
    match finding:
        case "outcome_in_window":
            return task.rule is not None
        case "stay_ended_in_window":
            return task.stay_end is not None
        case "label_vs_hospital_expire_flag":
            return task.name in DEATH_IN_HOSPITAL
        case "target_in_context":
            return task.kind == "decision" and task.event in RELATED
        case "not_yet_stored":
            return task.name in TASKS
        case "unanswerable":
            return task.kind == "decision"
    return True


@dataclass(frozen=True)
class Training:
    """The training set: its patients, and hashes of its texts."""

    subjects: frozenset[str]
    texts: frozenset[int]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Training:
        """From CSVs with a column subject_id (lists of patients, index files) and JSONL with texts."""
        subjects: set[str] = set()
        texts: set[int] = set()
        for path in paths:
            if path.suffix in (".jsonl", ".json"):
                for row in progress(read_benchmark([path]), desc=path.name, unit="row"):
                    subjects |= {row.subject_id} - {None}
                    texts |= {hash(row.text)} if row.text is not None else set()
            else:
                subjects.update(read_subject_ids(path, may_repeat=True))
        return cls(frozenset(subjects), frozenset(texts))


@dataclass
class TaskFacts:
    """What is known of the rows of a task."""

    task: Task
    sample: RowSample
    rows: int = 0
    patients: set[int] = field(default_factory=set)  # hashes
    labels: list[Counter[str]] = field(default_factory=lambda: [Counter() for _ in range(FOLDS)])  # of the rows, by fold
    label_counts: Counter[int] = field(default_factory=Counter)  # of labels in a row
    checked: Counter[str] = field(default_factory=Counter)  # rows that were checked for each finding
    copied: list[tuple[str, float]] = field(default_factory=list)  # patient, and score of copying the last answer
    copied_from: str | None = None  # "text" or "trajectories"


@dataclass
class Facts:
    """What is known of a benchmark."""

    name: str
    files: list[Path]
    max_rows: int
    tasks: dict[str, TaskFacts] = field(default_factory=dict)
    findings: array[int] = field(default_factory=lambda: array("H"))  # of each row, as bits
    task_of_row: array[int] = field(default_factory=lambda: array("H"))  # position in `ALL_TASKS`
    sample_ids: list[str] = field(default_factory=list)
    unaudited: list[Question] = field(default_factory=list)  # rows whose flags trajectories can tell
    contradicting: int = 0  # repeated rows with other answers than the first
    sharing_window: int = 0  # rows whose patient and window, or text, another row has, too
    without_patient: int = 0

    @property
    def rows(self) -> int:
        return len(self.findings)

    def add(self, row_number: int, findings: Iterable[str]) -> None:
        """Note findings about a row."""
        for finding in findings:
            self.findings[row_number] |= _BIT[finding]

    def has(self, findings: Iterable[str]) -> np.ndarray:
        """Whether each row has one of these findings, shape (rows,)."""
        return (np.frombuffer(self.findings, np.uint16) & sum(_BIT[finding] for finding in set(findings))) > 0

    def of_task(self, name: str) -> np.ndarray:
        """Whether each row is of a task, shape (rows,)."""
        return np.frombuffer(self.task_of_row, np.uint16) == list(ALL_TASKS).index(name)


def read_facts(
    name: str, files: list[Path], max_rows: int, training: Training | None, with_trajectories: bool = False
) -> Facts:
    """Read the rows of a benchmark, one at a time.

    Args:
        max_rows: rows of each task to keep for what is measured on a sample.
        with_trajectories: whether `read_trajectories` follows, so that texts need not be read for what it tells.
    """
    facts, positions = Facts(name, files, max_rows), {name: number for number, name in enumerate(ALL_TASKS)}
    seen: dict[int, int] = {}  # hash of what identifies a sample → of its labels
    windows: Counter[int] = Counter()
    for row in progress(read_benchmark(files), desc=name, unit="row"):
        task, is_located = row.task, with_trajectories and row.window is not None and row.task.name in TASKS
        if task.name not in facts.tasks:
            facts.tasks[task.name] = TaskFacts(task, RowSample(max_rows))
        of_task = facts.tasks[task.name]
        facts.findings.append(0)
        facts.task_of_row.append(positions[task.name])
        facts.sample_ids.append(row.sample_id)
        facts.without_patient += row.subject_id is None
        of_task.rows += 1
        of_task.patients.add(hash(row.patient))
        of_task.sample.add(row)
        of_task.label_counts[len(row.labels)] += 1
        if task.kind != "generation":
            of_task.labels[fold_of(row.patient)].update(set(row.labels))
        identities = {hash(row.sample_id)} | ({hash((task.name, row.text))} if row.text is not None else set())
        labels = hash(frozenset(row.labels))
        if earlier := [seen[identity] for identity in identities if identity in seen]:
            facts.add(row.number, [REPEATED])
            facts.contradicting += any(other != labels for other in earlier)
        for identity in identities:
            seen.setdefault(identity, labels)
        windows[hash((row.subject_id, row.window) if row.window else row.text)] += 1
        of_task.checked[REPEATED] += 1
        if training:
            of_task.checked[TRAIN_PATIENT] += 1
            if row.subject_id in training.subjects or (row.text is not None and hash(row.text) in training.texts):
                facts.add(row.number, [TRAIN_PATIENT])
        if row.candidates and applies(UNANSWERABLE, task):
            of_task.checked[UNANSWERABLE] += 1
            if _is_unanswerable(row):
                facts.add(row.number, [UNANSWERABLE])
        if row.audit is not None:
            note_flags(facts, row.number, task, row.audit)
        elif is_located:
            facts.unaudited.append(_question(row, audit=True))
        elif row.text is not None and applies("target_in_context", task):
            of_task.checked["target_in_context"] += 1
            if target_in_text(task, row.text, row.labels):
                facts.add(row.number, ["target_in_context"])
        if row.text is not None and not is_located and can_copy(task):
            of_task.copied.append((row.patient, set_scores(copy_from_text(task, row.text), row.labels)[2]))
            of_task.copied_from = "text"
    facts.sharing_window = sum(number for number in windows.values() if number > 1)
    return facts


def note_flags(facts: Facts, row_number: int, task: Task, flags: Iterable[str]) -> None:
    """Note the flags of the leak audit of a row that was audited."""
    facts.add(row_number, [flag for flag in flags if flag in FLAGS])
    facts.tasks[task.name].checked.update(flag for flag in FLAGS if applies(flag, task))


def _is_unanswerable(row: BenchmarkRow) -> bool:
    return not set(map(fold_name, row.labels)) <= set(map(fold_name, row.candidates))


def _question(row: BenchmarkRow, audit: bool = False, copy: bool = False) -> Question:
    return Question(row.number, row.task.name, row.subject_id, row.window, row.last_discharge_id, row.labels, audit, copy)


def read_trajectories(facts: Facts, ehr_dir: Path, index_mapping: Path, workers: Workers) -> None:
    """Read what only trajectories tell: the flags of rows without an audit, and the last answers of a sample of rows."""
    questions = {question.number: question for question in facts.unaudited}
    copying = {}
    for of_task in facts.tasks.values():
        if of_task.task.name in TASKS and of_task.task.kind == "decision":
            copying |= {row.number: row for row in of_task.sample.rows if row.window}
    questions |= {number: _question(row, audit=number in questions, copy=True) for number, row in copying.items()}
    for answer in answer_questions(questions.values(), ehr_dir, index_mapping, workers):
        question = questions[answer["number"]]
        of_task = facts.tasks[question.task]
        if question.audit:
            note_flags(facts, question.number, of_task.task, answer["flags"])
        if question.copy:
            of_task.copied.append((question.subject_id, answer["copied"]))
            of_task.copied_from = "trajectories"


# --- in numbers


def summarise_tasks(
    facts: Facts, exclude: Sequence[str], candidates: Candidates | None, bootstrap: Bootstrap
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each task and its numbers, for health.json, in the order of the registry."""
    excluded = facts.has(exclude)
    counts: dict[str, Any] = {finding: facts.has([finding]) for finding in FINDINGS}
    names = [name for name in ALL_TASKS if name in facts.tasks]
    for task in progress(names, desc="measuring", unit="task"):
        of_task, rows = facts.tasks[task], facts.of_task(task)
        numbers = {finding: (of_task.checked[finding], int((has & rows).sum())) for finding, has in counts.items()}
        findings = {name: {"checked": checked, "rows": n} if checked else None for name, (checked, n) in numbers.items()}
        sizes = {"kind": of_task.task.kind, "rows": of_task.rows, "patients": len(of_task.patients)}
        sizes["kept"] = int((rows & ~excluded).sum())
        unchecked = [flag for flag in FLAGS if applies(flag, of_task.task) and of_task.checked[flag] < of_task.rows]
        measured = {"labels": describe_labels(of_task)} | _measured(of_task, candidates, bootstrap)
        yield task, sizes | {"findings": findings, "unchecked": unchecked} | measured


def describe_labels(facts: TaskFacts) -> dict[str, Any]:
    """How the answers of a task are distributed.

    Returns:
        `per_row` (median) and, unless they are notes, `distinct`, `most_frequent` (share of the rows that have it) and
        `effective`, the number of equally frequent answers with the same entropy, 2^H; for yes/no tasks also `yes`.
    """
    described: dict[str, Any] = {"per_row": median(facts.label_counts.elements())}
    counts = sum(facts.labels, Counter())
    if total := counts.total():
        entropy = -sum(number / total * log2(number / total) for number in counts.values())
        most = max(counts.values()) / facts.rows
        described |= {"distinct": len(counts), "most_frequent": most, "effective": 2**entropy}
    if facts.task.kind == "risk":
        described["yes"] = counts[YES]
    return described


def _measured(facts: TaskFacts, candidates: Candidates | None, bootstrap: Bootstrap) -> dict[str, Any]:
    """The baselines `copy_last` and `majority` of a decision task, and the cues in its candidates; None if not measured."""
    rows, others = facts.sample.rows, without_each(facts.labels)
    copied = bootstrap.estimate(*zip(*facts.copied, strict=True)) if facts.copied else None
    measured: dict[str, Any] = {"copy_last": copied, "copied_from": facts.copied_from, "majority": None, "cues": None}
    if facts.task.kind == "decision":
        number = max(1, round(median(len(row.labels) for row in rows)))
        scores = majority_scores(rows, others, number)
        measured["majority"] = bootstrap.estimate([row.patient for row in rows], scores)
    offered = defaultdict(tuple, {row.number: row.candidates for row in rows})
    for row in rows if candidates else ():
        if row.text is None and not row.candidates and row.window and row.task.name in TASKS:
            offered[row.number] = tuple(candidates.of(row.task, row.labels, row.key) or ())
    if with_candidates := [row for row in rows if len(offered[row.number]) > 1]:
        lists = [offered[row.number] for row in with_candidates]
        measured["cues"] = measure_cues(with_candidates, lists, others, bootstrap)
    return measured
