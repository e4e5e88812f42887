"""Finished runs and baselines: read from their folders, compared on the samples that both have."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.baselines import FOLDER as BASELINES_FOLDER
from evaluation.page import Style
from evaluation.score import SCORE_VERSION, Sample, main_statistic, read_outputs, sample_name
from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.errors import UserError
from pipeline.files import read_json, require
from pipeline.progress import progress

if TYPE_CHECKING:
    import numpy as np

    from evaluation.metrics import Comparison, Statistic

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#5b3fa0")
"""Told apart by the colour-blind too (after Okabe and Ito 2008); a report has seldom more models."""

GREYS = (Style("#6b7785", "5 3"), Style("#9aa4b0", "2 3"), Style("#434c58", "7 2 2 2"))
OUTLINE = Style("#8b95a3", hollow=True)

MAIN = {"decision": ("decision_f1", "F1", None), "risk": ("risk_auroc", "AUROC", 0.5)}
"""Kind of task → its macro average in result.json, what that is called, and what it is by chance."""


@dataclass
class Row:
    """One output, as far as the report looks at it; lengths in characters, None where the line does not say."""

    sample: Sample
    input_sha256: str | None
    prompt_sha256: str | None
    prompt_chars: int | None
    answer_chars: int
    truncated: bool
    finish_reason: str | None


@dataclass
class Run:
    """A run or a baseline: its folder, what it is called, its outputs and its result.

    `rows` are by `sample_name`, so that runs of different models can be laid beside each other.
    """

    folder: Path
    name: str
    baseline: bool
    result: dict[str, Any]
    rows: dict[tuple[str | None, ...], Row]
    style: Style = field(default=OUTLINE)

    @property
    def arguments(self) -> dict[str, Any]:
        return self.result.get("arguments", {})

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        return self.result["tasks"]

    @cached_property
    def by_task(self) -> dict[str, list[Sample]]:
        found: dict[str, list[Sample]] = defaultdict(list)
        for row in self.rows.values():
            found[row.sample.task].append(row.sample)
        return found

    @cached_property
    def replicates(self) -> dict[str, Any]:
        """Bootstrap replicates of each task's main metric, on the same resampled patients."""
        from evaluation.metrics import resample_patients

        drawn = resample_patients(
            {row.sample.subject_id for row in self.rows.values()}, self.result["resamples"], self.result["seed"]
        )
        statistics = {task: main_statistic(task, rows) for task, rows in self.by_task.items()}
        return {
            task: drawn.apply([row.subject_id for row in self.by_task[task]], statistic)
            for task, statistic in statistics.items()
            if statistic is not None
        }

    def hash(self, part: Callable[[tuple[str | None, ...], Row], Any]) -> str:
        """A hash over all samples in an order of its own."""
        from pipeline.files import sha256

        return sha256(json.dumps(sorted(str(part(name, row)) for name, row in self.rows.items())))


def read_run(folder: Path, baseline: bool) -> Run:
    """A run from its folder.

    Raises:
        UserError: there is no result, or it is not of these outputs.
    """
    maker = f"python -m evaluation.baselines {folder.parent.parent}" if baseline else "test.py"
    path = require(folder / "result.json", "the result of a finished run", f"run {maker} to its end first")
    result = read_json(path)
    rows: dict[str, tuple[tuple[str | None, ...], Row]] = {}
    for key, sample, line in read_outputs(folder):
        rows[key] = _name(key, line), _row(sample, line)
    again = f"score it again: python -m evaluation.score {folder}"
    if not isinstance(result, dict) or result.get("score_version") != SCORE_VERSION:
        raise UserError(f"{path}: wanted a result of score version {SCORE_VERSION}, found another; {again}")
    scored = sum(found["n"] for found in result["tasks"].values())
    if scored != len(rows):
        raise UserError(f"{path}: wanted the {len(rows):,} outputs that are in the folder, found {scored:,}; {again}")
    arguments = result.get("arguments", {})
    name = Path(str(arguments.get("model_name_or_path") or folder.name)).name
    if arguments.get("lora_path"):
        name += f" + {Path(arguments['lora_path']).name}"
    return Run(folder, name, baseline, result, dict(rows.values()))


def _name(key: str, line: Mapping[str, Any]) -> tuple[str | None, ...]:
    name = sample_name(line["task_info"], line.get("input_sha256"))
    return name if name[1] is not None else (name[0], key)


def _row(sample: Sample, line: Mapping[str, Any]) -> Row:
    from inference.answers import split_reasoning

    output = (line.get("outputs") or [{}])[0]
    answer = split_reasoning(sample.response, sample.thinking_open)[1] or ""
    return Row(
        sample, line.get("input_sha256"), line.get("prompt_sha256"), line.get("prompt_chars"), len(answer),
        bool(line.get("truncated")), output.get("finish_reason"),
    )  # fmt: skip


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs, each with a name and a style of its own, then the baselines below them, each kind once."""
    found = {folder.resolve(): folder for folder in folders}.values()
    below = {path.name: path for folder in reversed(found) for path in sorted((folder / BASELINES_FOLDER).glob("*/"))}
    wanted = [(folder, False) for folder in found] + [(below[name], True) for name in sorted(below)]
    runs = [read_run(folder, baseline) for folder, baseline in progress(wanted, desc="reading", unit="run")]
    names = Counter(one.name for one in runs)
    for one in runs:
        if names[one.name] > 1:
            one.name += f" ({one.folder.name})"
    names = Counter(one.name for one in runs)
    colours, greys = itertools.cycle(map(Style, COLOURS)), itertools.cycle(GREYS)
    for one in runs:
        if names[one.name] > 1:
            one.name += f" in {one.folder.parent}"
        one.style = next(greys if one.baseline else colours)
    return runs


def compare_runs(a: Run, b: Run, resamples: int) -> tuple[dict[str, Comparison], dict[str, Comparison], dict[str, int]]:
    """Two runs on the samples both have: by task, the macro averages by kind of task, and number of samples by task."""
    from evaluation.metrics import compare

    common: dict[str, list[tuple[str | None, ...]]] = defaultdict(list)
    for name, row in a.rows.items():
        if name in b.rows:
            common[row.sample.task].append(name)
    tasks = {}
    for task in [task for task in ALL_TASKS if task in common]:
        ours, theirs = ([one.rows[name].sample for name in common[task]] for one in (a, b))
        statistics = main_statistic(task, ours), main_statistic(task, theirs)
        if None not in statistics:
            tasks[task] = ([sample.subject_id for sample in ours], *statistics)
    macros = {}
    for kind in MAIN:
        chosen = [asked for task, asked in tasks.items() if ALL_TASKS[task].kind == kind]
        if chosen:
            patients, ours, theirs = zip(*chosen, strict=True)
            sizes = [len(some) for some in patients]
            macros[kind] = list(itertools.chain(*patients)), mean_statistic(ours, sizes), mean_statistic(theirs, sizes)
    return compare(tasks, resamples), compare(macros, resamples), {task: len(common[task]) for task in tasks}


def mean_statistic(statistics: Sequence[Statistic], sizes: Sequence[int]) -> Statistic:
    """The mean of several tasks' statistics as one, over the samples of all tasks, which stand task after task.

    A task that has no value in a resample is left out there.
    """
    import numpy as np

    ends = list(itertools.accumulate(sizes))

    def statistic(weights: np.ndarray) -> np.ndarray:
        parts = [one(weights[:, end - size : end]) for one, size, end in zip(statistics, sizes, ends, strict=True)]
        defined = [~np.isnan(part) for part in parts]
        counts = np.sum(defined, axis=0)
        return np.divide(np.nansum(parts, axis=0), counts, out=np.full(len(weights), np.nan), where=counts > 0)

    return statistic
