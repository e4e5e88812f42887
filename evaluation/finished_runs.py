"""Finished runs and baselines: read from their directories, and compared on the samples they have in common."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.baselines import FOLDER as BASELINES_FOLDER
from evaluation.baselines import SAMPLES
from evaluation.predictions import Prediction, read_outputs, sample_id_of_output
from evaluation.score import MACRO, SCORE_VERSION, main_statistic
from mimiciv_dataset.tasks import ALL_TASKS, TASKS
from pipeline.digests import digest_lines
from pipeline.errors import UserError
from pipeline.files import Line, read_json, require, sha256
from pipeline.progress import progress
from pipeline.records import folder_record, read_record

if TYPE_CHECKING:
    import numpy as np

    from evaluation.metrics import Comparison, Statistic

    Comparisons = dict[str, Comparison]


@dataclass(frozen=True)
class Output:
    """A prediction with the fields of its output line that the report uses; None where the line lacks one."""

    prediction: Prediction
    answer_chars: int
    finish_reason: str | None
    input_sha256: str | None
    prompt_sha256: str | None
    template_sha256: str | None
    prompt_chars: int | None
    truncated: bool | None

    @classmethod
    def from_line(cls, prediction: Prediction, line: Line) -> Output:
        """From a line of outputs.jsonl and its prediction."""
        finish_reason = (line.get("outputs") or [{}])[0].get("finish_reason")
        copied = ("input_sha256", "prompt_sha256", "template_sha256", "prompt_chars", "truncated")
        return cls(prediction, len(prediction.answer or ""), finish_reason, *map(line.get, copied))


@dataclass
class FinishedRun:
    """A run or a baseline."""

    folder: Path
    name: str  # of the model or baseline; unique among the runs of `read_runs`
    baseline: bool
    result: dict[str, Any]  # content of result.json
    outputs: dict[str, Output]  # by `sample_id`, so that runs of different models are aligned

    def __post_init__(self) -> None:
        self.arguments: dict[str, Any] = self.result.get("arguments", {})
        self.tasks: dict[str, dict[str, Any]] = self.result["tasks"]

    @cached_property
    def predictions(self) -> dict[str, list[Prediction]]:
        """Predictions by task."""
        by_task: dict[str, list[Prediction]] = defaultdict(list)
        for output in self.outputs.values():
            by_task[output.prediction.task].append(output.prediction)
        return by_task

    @cached_property
    def replicates(self) -> dict[str, np.ndarray]:
        """Bootstrap replicates of each task's main metric, shape (resamples,), on the same resampled patients."""
        from evaluation.metrics import resample_patients

        patients = {output.prediction.subject_id for output in self.outputs.values()}
        resampling = resample_patients(patients, self.result["resamples"], self.result["seed"])
        return {
            task: resampling.apply([prediction.subject_id for prediction in predictions], statistic)
            for task, predictions in self.predictions.items()
            if (statistic := main_statistic(task, predictions)) is not None
        }

    def hash(self, part: Callable[[str, Output], Any]) -> str:
        """A hash of `part(sample_id, output)` over all samples, whatever their order."""
        return sha256(json.dumps(sorted(str(part(sample_id, output)) for sample_id, output in self.outputs.items())))


def read_run(folder: Path, baseline: bool) -> FinishedRun:
    """Read a run from its directory; an error if there is no result.json, or it does not belong to the outputs."""
    command = f"python -m evaluation.baselines {folder.parent.parent}" if baseline else "test.py"
    path = require(folder / "result.json", "the result of a finished run", f"run {command} to its end first")
    result = read_json(path)
    outputs = {prediction.sample_id: Output.from_line(prediction, line) for _, prediction, line in read_outputs(folder)}
    fix = f"Score it again: python -m evaluation.score {folder}"
    if not isinstance(result, dict) or result.get("score_version") != SCORE_VERSION:
        raise UserError(f"{path}: expected a result of score version {SCORE_VERSION}, got another one. {fix}")
    scored = sum(values["n"] for values in result["tasks"].values())
    if scored != len(outputs):
        raise UserError(f"{path}: expected a result of the {len(outputs):,} outputs in the directory, got {scored:,}. {fix}")
    made_for = (read_record(folder_record(folder)) or {}).get("inputs", {}).get(SAMPLES) if baseline else None
    if made_for and made_for["digest"] != digest_lines(sample_ids(folder.parent.parent)):
        got = "got one on other samples"
        raise UserError(f"{folder}: expected a baseline on the samples of the run, {got}. Run {command} --overwrite.")
    arguments = result.get("arguments", {})
    parts = [arguments.get("model_name_or_path") or folder.name, arguments.get("lora_path")]
    name = " + ".join(Path(str(part)).name for part in parts if part)
    return FinishedRun(folder, name, baseline, result, outputs)


def sample_ids(folder: Path) -> list[str]:
    """The identities of the samples of a run that baselines can answer."""
    lines = (line for _, _, line in read_outputs(folder))
    return list(dict.fromkeys(sample_id_of_output(line) for line in lines if line["task_info"]["task"] in TASKS))


def read_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Read runs, then the baselines below them, each kind of baseline once; every run gets a unique name."""
    models = {folder.resolve(): folder for folder in folders}.values()
    baselines = {path.name: path for folder in reversed(models) for path in sorted((folder / BASELINES_FOLDER).glob("[!.]*/"))}
    directories = [(folder, False) for folder in models] + [(baselines[name], True) for name in sorted(baselines)]
    runs = [read_run(folder, baseline) for folder, baseline in progress(directories, desc="reading", unit="run")]
    for suffix in (" ({0.name})", " in {0.parent}"):
        names = Counter(run.name for run in runs)
        for run in runs:
            if names[run.name] > 1:
                run.name += suffix.format(run.folder)
    return runs


def compare_runs(a: FinishedRun, b: FinishedRun, resamples: int) -> tuple[Comparisons, Comparisons, dict[str, int]]:
    """Compare two runs on the samples both have: by task, macro averages by kind of task, number of samples by task."""
    from evaluation.metrics import compare

    common: dict[str, list[str]] = defaultdict(list)
    for sample_id, output in a.outputs.items():
        if sample_id in b.outputs:
            common[output.prediction.task].append(sample_id)
    tasks = {}
    for task in [task for task in ALL_TASKS if task in common]:
        of_a, of_b = ([run.outputs[sample_id].prediction for sample_id in common[task]] for run in (a, b))
        statistics = main_statistic(task, of_a), main_statistic(task, of_b)
        if None not in statistics:
            tasks[task] = ([prediction.subject_id for prediction in of_a], *statistics)
    macros = {}
    for kind in MACRO:
        if of_kind := [values for task, values in tasks.items() if ALL_TASKS[task].kind == kind]:
            patients, *statistics = zip(*of_kind, strict=True)
            sizes = list(map(len, patients))
            macros[kind] = list(itertools.chain(*patients)), *(mean_statistic(of_run, sizes) for of_run in statistics)
    return compare(tasks, resamples), compare(macros, resamples), {task: len(common[task]) for task in tasks}


def mean_statistic(statistics: Sequence[Statistic], sizes: Sequence[int]) -> Statistic:
    """The mean of the statistics of several tasks as one statistic; tasks that are undefined in a resample are left out.

    `sizes` are the numbers of samples. The weights of the result are those of all samples, one task after another.
    """
    import numpy as np

    ends = list(itertools.accumulate(sizes))

    def statistic(weights: np.ndarray) -> np.ndarray:
        parts = [of_task(weights[:, end - size : end]) for of_task, size, end in zip(statistics, sizes, ends, strict=True)]
        counts = np.sum([~np.isnan(part) for part in parts], axis=0)
        return np.divide(np.nansum(parts, axis=0), counts, out=np.full(len(weights), np.nan), where=counts > 0)

    return statistic
