"""Finished runs and baselines: read from their directories, and compared on the samples they have in common."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evaluation.attributes import read_attributes
from evaluation.baselines import FOLDER as BASELINES_FOLDER
from evaluation.baselines import SAMPLES
from evaluation.predictions import Prediction, read_outputs, sample_id_of_output
from evaluation.risk_predictions import risk_labels
from evaluation.score import MACRO, SCORE_VERSION, main_scores, score_predictions
from mimiciv_dataset.tasks import ALL_TASKS, TASKS
from pipeline.digests import digest_lines
from pipeline.errors import UserError
from pipeline.files import Line, read_json, require, sha256
from pipeline.progress import progress
from pipeline.records import folder_record, read_record

if TYPE_CHECKING:
    import numpy as np

    from evaluation.comparisons import Comparison

# Arguments of a run that the report shows.
SETTINGS = (
    "model_name_or_path", "lora_path", "dataset_name", "limit", "prompt", "think_prompt", "direct_answer", "think_risk",
    "oracle_reasoning", "as_known", "empty_think", "family", "instructions", "max_seq_len", "max_new_tokens", "temperature",
    "seed", "dtype", "use_vllm", "train_index", "max_train",
)  # fmt: skip

# First words of the inputs in a record that decide replies; the others are those of its samples.
MADE_FROM = ("model", "adapter", "tokenizer", "server", "training")


def made_from_record(folder: Path) -> tuple[Line, Line] | None:
    """The settings of a run, and the digests of its model and training data: all that decides replies, apart from the samples.

    None if the directory has no record.
    """
    record = read_record(folder_record(folder))
    if not record:
        return None
    settings = {name: value for name, value in record["settings"].items() if name != "samples"}
    return settings, {name: source["digest"] for name, source in record["inputs"].items() if name.startswith(MADE_FROM)}


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
    truncated: Mapping[str, Any] | None  # what was dropped from the prompt

    @property
    def reply(self) -> tuple[str, float | None, str | None]:
        """What a model answered; equal for equal answers."""
        return self.prediction.response, self.prediction.p_yes, self.prediction.error

    @classmethod
    def from_line(cls, prediction: Prediction, line: Line) -> Output:
        """From a line of outputs.jsonl and its prediction."""
        finish_reason = (line.get("outputs") or [{}])[0].get("finish_reason")
        copied = ("input_sha256", "prompt_sha256", "template_sha256", "prompt_chars", "truncated")
        return cls(prediction, len(prediction.answer or ""), finish_reason, *map(line.get, copied))


@dataclass
class FinishedRun:
    """A run or a baseline."""

    folders: list[Path]  # several if it was run in parts
    name: str  # of the model or baseline; unique among the runs of `read_runs`
    baseline: bool
    result: dict[str, Any]  # content of result.json
    outputs: dict[str, Output]  # by `sample_id`, so that runs of different models are aligned

    def __post_init__(self) -> None:
        self.arguments: dict[str, Any] = self.result.get("arguments", {})
        self.tasks: dict[str, dict[str, Any]] = self.result["tasks"]
        self.identity = self._identity()  # before names are made unique

    @property
    def folder(self) -> Path:
        """The first of its directories."""
        return self.folders[0]

    @cached_property
    def predictions(self) -> dict[str, list[Prediction]]:
        """Predictions by task."""
        by_task: dict[str, list[Prediction]] = defaultdict(list)
        for output in self.outputs.values():
            by_task[output.prediction.task].append(output.prediction)
        return by_task

    @cached_property
    def replicates(self) -> dict[str, np.ndarray]:
        """Bootstrap replicates of each task's main metric, shape (resamples,); tasks with too few samples have none.

        All are on the same resampled patients.
        """
        from evaluation.metrics import resample_patients

        patients = {output.prediction.subject_id for output in self.outputs.values()}
        resampling = resample_patients(patients, self.result["resamples"], self.result["seed"])
        return {
            task: resampling.apply([prediction.subject_id for prediction in predictions], scores.metric)
            for task, predictions in self.predictions.items()
            if not self.tasks[task]["too_few"] and (scores := main_scores(task, predictions)) is not None
        }

    def _identity(self) -> str:
        """What makes directories those of one model: kind, name, and all that decides replies, apart from the samples."""
        made_from = made_from_record(self.folder)
        if made_from is None:  # of an older version
            settings = {name: self.arguments.get(name) for name in SETTINGS if name not in ("dataset_name", "limit")}
            made_from = settings, {"instructions": self.result.get("instructions_sha256")}
        return json.dumps([self.baseline, self.name, *made_from], sort_keys=True)

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
    return FinishedRun([folder], name, baseline, result, outputs)


def sample_ids(folder: Path) -> list[str]:
    """The identities of the samples of a run that baselines can answer."""
    lines = (line for _, _, line in read_outputs(folder))
    return list(dict.fromkeys(sample_id_of_output(line) for line in lines if line["task_info"]["task"] in TASKS))


def read_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Read runs, then the baselines below them; directories of one model are merged, and every run gets a unique name."""
    models = list({folder.resolve(): folder for folder in folders}.values())
    baselines = sorted(
        (path for folder in models for path in (folder / BASELINES_FOLDER).glob("[!.]*/")), key=lambda path: path.name
    )
    directories = [(folder, False) for folder in models] + [(path, True) for path in baselines]
    runs = merge_runs([read_run(folder, baseline) for folder, baseline in progress(directories, desc="reading", unit="run")])
    for suffix in (" ({0})", " in {1}"):
        names = Counter(run.name for run in runs)
        for run in runs:
            if names[run.name] > 1:
                folder = run.folder.parent.parent if run.baseline else run.folder
                run.name += suffix.format(folder.name, folder.parent)
    return runs


def merge_runs(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Merge runs of one model, or of one baseline, with the same settings on other samples into one run each.

    Models are merged if they have no sample in common: the same samples twice are two runs to compare. Baselines of several
    runs are merged if they answer the samples that they have in common alike. The order is that of the first of each.
    """
    merged: list[FinishedRun] = []
    for run in runs:
        for index, earlier in enumerate(merged):
            if earlier.identity == run.identity:
                common, different = common_samples(earlier, run)
                if not common or run.baseline and not different:
                    merged[index] = merge_pair(earlier, run)
                    break
        else:
            merged.append(run)
    return merged


def common_samples(a: FinishedRun, b: FinishedRun) -> tuple[int, int]:
    """The number of samples that two runs have in common, and that of those with different replies."""
    common = a.outputs.keys() & b.outputs.keys()
    return len(common), sum(a.outputs[sample].reply != b.outputs[sample].reply for sample in common)


def merge_pair(a: FinishedRun, b: FinishedRun) -> FinishedRun:
    """One run with the outputs of both, scored together.

    The numbers of samples that there are and should be are added up, unless both are parts of the same dataset.
    """
    from evaluation.clinical import clinical_results
    from evaluation.metrics import resample_patients

    outputs, folders = a.outputs | b.outputs, a.folders + b.folders
    predictions = [output.prediction for output in outputs.values()]
    resamples, seed = a.result["resamples"], a.result["seed"]
    scores = score_predictions(predictions, resamples, seed)
    groups = {sample: of_sample for folder in folders for sample, of_sample in read_attributes(folder).items()}
    resampling = resample_patients({prediction.subject_id for prediction in predictions}, resamples, seed)
    scores["clinical"] = clinical_results(predictions, groups, resampling)
    recalibrated = [run.result.get("recalibration", {}) for run in (a, b)]  # of parts of a task, it would be of other samples
    scores["recalibration"] = {
        task: values for of_run in recalibrated for task, values in of_run.items() if (task in a.tasks) != (task in b.tasks)
    }
    datasets = dict.fromkeys(str(run.arguments["dataset_name"]) for run in (a, b) if run.arguments.get("dataset_name"))
    total = max if len(datasets) == 1 else sum
    counts = {name: total(run.result.get(name) or 0 for run in (a, b)) for name in ("available", "expected")}
    counts["missing"] = max(0, counts["expected"] - len(outputs))
    result = a.result | scores | counts | {"arguments": a.arguments | {"dataset_name": ",".join(datasets)}}
    return FinishedRun(folders, a.name, a.baseline, result, outputs)


class RunComparison(NamedTuple):
    """Two runs on the samples both have.

    Attributes:
        tasks: a − b of the main metric by task.
        macros: a − b of its mean over tasks, by kind of task.
        values: the main metrics of a and b by task.
        common: a's predictions of the common samples by task.
        resamples: of the tests.
    """

    a: FinishedRun
    b: FinishedRun
    tasks: Mapping[str, Comparison]
    macros: Mapping[str, Comparison]
    values: Mapping[str, tuple[float | None, float | None]]
    common: Mapping[str, Sequence[Prediction]]
    resamples: int

    @property
    def num_tests(self) -> int:
        """The number of tasks that are tested."""
        return sum(each.p is not None for each in self.tasks.values())

    @property
    def can_be_significant(self) -> bool:
        """Whether there are enough resamples for a p below 0.05 after Holm's correction: see `comparisons.two_sided_p`."""
        return self.resamples >= 40 * self.num_tests

    def sizes(self, task: str) -> tuple[int, int | None]:
        """The number of common samples, and for risk tasks that of those with label yes."""
        predictions = self.common[task]
        return len(predictions), int(risk_labels(predictions).sum()) if ALL_TASKS[task].kind == "risk" else None


def compare_pairs(pairs: Iterable[tuple[FinishedRun, FinishedRun]], resamples: int) -> list[RunComparison]:
    """Compare the pairs whose first run is a model and that have samples in common."""
    pairs = [(a, b) for a, b in pairs if not a.baseline and a.outputs.keys() & b.outputs.keys()]
    return [compare_runs(a, b, resamples) for a, b in progress(pairs, desc="comparing", unit="pair")]


def compare_runs(a: FinishedRun, b: FinishedRun, resamples: int) -> RunComparison:
    """Compare two runs on the samples both have."""
    from evaluation.comparisons import Pair, compare
    from evaluation.metrics import as_number

    common: dict[str, list[str]] = defaultdict(list)
    for sample_id, output in a.outputs.items():
        if sample_id in b.outputs:
            common[output.prediction.task].append(sample_id)
    tasks, predictions = {}, {}
    for task in [task for task in ALL_TASKS if task in common]:
        of_a, of_b = ([run.outputs[sample_id].prediction for sample_id in common[task]] for run in (a, b))
        scores = main_scores(task, of_a), main_scores(task, of_b)
        if None not in scores:
            tasks[task] = Pair([prediction.subject_id for prediction in of_a], *scores)
            predictions[task] = of_a
    kinds = {kind: [task for task in tasks if ALL_TASKS[task].kind == kind] for kind in MACRO}
    by_task, macros = compare(tasks, {kind: members for kind, members in kinds.items() if members}, resamples)
    values = {task: (as_number(pair.a.metric()[0]), as_number(pair.b.metric()[0])) for task, pair in tasks.items()}
    return RunComparison(a, b, by_task, macros, values, predictions, resamples)
