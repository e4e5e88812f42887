"""Score stored outputs: metrics of every task with 95 % intervals, and the macro averages, without a model.

Reads DIR/outputs*.jsonl, writes DIR/result.json and prints a table. Only the raw reply, p_yes and task_info of a line
are used, so old outputs can be scored again after a change of the answer rules. A key that stands several times counts
once, as it stands last; a last line that a crash cut off is left out. Exit code 1 if samples are missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.index_files import clean_id
from mimiciv_dataset.patients import DATA_USE
from mimiciv_dataset.tasks import ALL_TASKS, NO, TASKS, YES
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import read_json, require, write_json
from pipeline.provenance import git_revision

if TYPE_CHECKING:
    import numpy as np

    from evaluation.metrics import Resampling, Statistic

SCORE_VERSION = 2
"""Raised whenever the same outputs would get other figures."""

_OURS = ("tasks", "macro", "missing", "score_version", "git", "resamples", "seed", "data_use")


@dataclass(frozen=True)
class Sample:
    """One stored output, as far as scoring looks at it.

    Attributes:
        task, labels, subject_id: of the sample.
        response: the raw reply.
        p_yes: P(yes) / (P(yes) + P(no)), or None.
        thinking_open: the prompt ended inside an open reasoning block.
        candidates: the answers given to choose from; empty: none were given.
        error: why there is no reply, or None.
    """

    task: str
    labels: tuple[str, ...]
    subject_id: str
    response: str = ""
    p_yes: float | None = None
    thinking_open: bool = False
    candidates: tuple[str, ...] = ()
    error: str | None = None


# --- reading


def read_samples(path: Path | str) -> dict[str, Sample]:
    """The samples of a folder's outputs*.jsonl by key: of a key that stands several times the last, files by name.

    Raises:
        UserError: there is no such file, or a line (but a torn last one) cannot be read.
    """
    samples: dict[str, Sample] = {}
    for key, sample, _ in read_outputs(path):
        samples.pop(key, None)
        samples[key] = sample
    return samples


def read_outputs(path: Path | str) -> Iterator[tuple[str, Sample, dict[str, Any]]]:
    """Key, sample and the line itself of every output in a folder, files by name; a key can stand several times.

    Raises:
        UserError: there is no such file, or a line (but a torn last one) cannot be read.
    """
    folder = require(path, "a folder of outputs", "run test.py first")
    files = sorted(folder.glob("outputs*.jsonl"))
    if not files:
        raise UserError(f"{folder}: wanted outputs*.jsonl, found none; run test.py first")
    for file in files:
        for number, line in _lines(file):
            try:
                yield *parse_line(line), line
            except UserError as error:
                raise UserError(f"{file}, line {number}: {error}; remove the line and resume the run") from None


def sample_name(info: Mapping[str, Any], input_sha256: str | None = None) -> tuple[str | None, ...]:
    """What names the same sample in the outputs of any model, where `key` names it with a prompt and a model.

    Args:
        info: the index row or `task_info`: task, subject_id and window.
        input_sha256: hash of its record, which stands in for patient and window where a row has none.

    >>> sample_name({"task": "emar", "subject_id": 7.0, "period_begin": 3, "period_end": "9"})
    ('emar', '7', '3', '9')
    >>> sample_name({"task": "emar"}, "ab12")
    ('emar', 'ab12')
    """
    window = [clean_id(info.get(name)) for name in ("subject_id", "period_begin", "period_end")]
    return (info["task"], *window) if None not in window else (info["task"], input_sha256)


def _lines(file: Path) -> Iterator[tuple[int, Any]]:
    """The JSON value of every line that is not blank, with its number; a last line without its end may be torn."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:  # not JSON, or not UTF-8
                if line.endswith(b"\n"):
                    raise UserError(f"{file}, line {number}: wanted JSON, found something else: {error}") from None


def parse_line(line: Any) -> tuple[str, Sample]:
    """Key and sample of one output line.

    Raises:
        UserError: what is missing or not as it should be.
    """
    if not isinstance(line, dict) or not isinstance(line.get("task_info"), dict):
        raise UserError("wanted an object with task_info")
    info, error = line["task_info"], line.get("error")
    task = ALL_TASKS.get(info.get("task"))
    if task is None:
        raise UserError(f"task_info.task {info.get('task')!r}: wanted one of the tasks (--list_tasks)")
    labels = info.get("label")
    labels = [labels] if isinstance(labels, str) else labels
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise UserError(f"task_info.label {info.get('label')!r}: wanted a text or a list of texts")
    if task.kind == "risk" and labels not in ([YES], [NO]):
        raise UserError(f"task_info.label {labels!r}: wanted yes or no for {task.name}")
    if "key" not in line:
        raise UserError("wanted a key")
    outputs = line.get("outputs") or [{}]
    if not isinstance(outputs, list) or not isinstance(outputs[0], dict) or not (line.get("outputs") or error):
        raise UserError("wanted outputs, a list of objects, or error")
    response, p_yes = outputs[0].get("response") or "", outputs[0].get("p_yes")
    if not isinstance(response, str):
        raise UserError(f"response {response!r}: wanted a text")
    if p_yes is not None and not (isinstance(p_yes, (int, float)) and 0 <= p_yes <= 1):
        raise UserError(f"p_yes {p_yes!r}: wanted a number from 0 to 1, or null")
    candidates = line.get("candidates")
    given = tuple(map(str, candidates)) if isinstance(candidates, list) else ()
    key, patient = str(line["key"]), info.get("subject_id")
    if patient is None:
        patient = key  # data without subject_id: each sample counts as a patient of its own
    thinking_open = bool(line.get("thinking_open"))
    return key, Sample(task.name, tuple(labels), str(patient), response, p_yes, thinking_open, given, error)


# --- computing


def score_samples(samples: Iterable[Sample], resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """{"tasks": …, "macro": …} of the samples; see `score_dir`.

    All intervals come from the same resampled patients, so those of the macro averages account for patients who have
    samples of several tasks.
    """
    from evaluation.metrics import as_number, interval, resample_patients

    by_task: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_task[sample.task].append(sample)
    drawn = resample_patients({sample.subject_id for rows in by_task.values() for sample in rows}, resamples, seed)
    tasks: dict[str, dict[str, Any]] = {}
    replicates: dict[str, np.ndarray] = {}
    for name in [task for task in ALL_TASKS if task in by_task]:
        rows = by_task[name]
        result, statistics = _score(name, rows)
        result = {"n": len(rows), "patients": len({row.subject_id for row in rows})} | result
        for metric, found in _with_intervals(rows, statistics, drawn).items():
            value, draws = found
            result[metric], result[f"{metric}_ci"] = as_number(value), interval(draws)
            if metric == main_metric(name):
                replicates[name] = draws
        tasks[name] = result
    return {"tasks": tasks, "macro": _macro(tasks, replicates)}


def main_metric(task: str) -> str:
    """The metric a task is judged by: `f1`, `accuracy`, `rouge1` or `auroc`."""
    return ALL_TASKS[task].metric


def main_statistic(task: str, rows: Sequence[Sample]) -> Statistic | None:
    """The main metric of a task's samples as a function of weights, for `metrics.compare`; None if not defined."""
    return _score(task, rows)[1].get(main_metric(task))


def _score(name: str, rows: Sequence[Sample]) -> tuple[dict[str, Any], dict[str, Statistic]]:
    """What of a task's result has no interval, and the statistics that have one."""
    return _score_risk(rows) if ALL_TASKS[name].kind == "risk" else _score_words(name, rows)


def _with_intervals(
    rows: Sequence[Sample], statistics: Mapping[str, Statistic], drawn: Resampling
) -> dict[str, tuple[float, np.ndarray]]:
    """Value over all rows and replicates of each statistic."""
    import numpy as np

    patients, once = [row.subject_id for row in rows], np.ones((1, len(rows)))
    return {metric: (float(statistic(once)[0]), drawn.apply(patients, statistic)) for metric, statistic in statistics.items()}


def _score_words(name: str, rows: Sequence[Sample]) -> tuple[dict[str, Any], dict[str, Statistic]]:
    """Result and statistics of a task that is answered in words: items, or a note."""
    from evaluation.metrics import mean, sample_score, set_scores

    answers = [_answer(row) for row in rows]
    if main_metric(name) == "f1":
        triples = [set_scores(_items(answer), row.labels) for answer, row in zip(answers, rows, strict=True)]
        columns = dict(zip(("precision", "recall", "f1"), zip(*triples, strict=True), strict=True))
    else:
        scores = [sample_score(name, row.labels, answer) for answer, row in zip(answers, rows, strict=True)]
        columns = {main_metric(name): scores}
    unread = [not (_items(answer) if ALL_TASKS[name].kind == "decision" else answer) for answer in answers]
    result = {"invalid": _share(unread)}
    if ALL_TASKS[name].kind == "decision":
        result["unanswerable"] = _share(_unanswerable(row) for row in rows)
    return result, {metric: partial(mean, values) for metric, values in columns.items()}


def _score_risk(rows: Sequence[Sample]) -> tuple[dict[str, Any], dict[str, Statistic]]:
    """Result and statistics of a yes/no task.

    A row without a readable answer (too long, cut off, neither yes nor no) counts as wrong: in the metrics of p_yes as sure
    of the wrong label. At 0.5 it would outrank the answers of a model that rarely says yes, and be right by failing. A row
    that answers in words, without p_yes, counts as 0.5 there; what the words say is never taken for a probability. Where
    no row that answers has a p_yes these metrics are null.
    """
    import numpy as np

    from evaluation.metrics import accuracy, auprc_rows, auroc_rows, brier, calibration, f1_binary, said_yes

    labels = np.array([row.labels[0] == YES for row in rows])
    usable = [row.error is None and not _cut_off(row) for row in rows]
    read = [said_yes(_answer(row), row.p_yes) if ok else None for row, ok in zip(rows, usable, strict=True)]
    said = np.array([not label if one is None else one for label, one in zip(labels, read, strict=True)], dtype=bool)
    known = [row.p_yes if ok else None for row, ok in zip(rows, usable, strict=True)]
    p = np.array([
        one if one is not None else 0.5 if word is not None else float(not label)
        for one, word, label in zip(known, read, labels, strict=True)
    ], dtype=float)  # fmt: skip
    result: dict[str, Any] = {"positives": int(labels.sum()), "invalid": _share(one is None for one in read)}
    statistics: dict[str, Statistic] = {
        "accuracy": partial(accuracy, labels, said),
        "f1": partial(f1_binary, labels, said),
    }
    if any(usable) and all(one is None for one in known):
        note = "no p_yes in these outputs: AUROC and the other metrics of probabilities are not defined"
        empty = ("auroc", "auroc_ci", "auprc", "auprc_ci", "brier", "brier_ci", "ece")
        return result | dict.fromkeys(empty) | {"note": note}, statistics
    missing = sum(one is None and word is not None for one, word in zip(known, read, strict=True))
    if missing:
        result["note"] = f"{missing} of {len(rows)} rows without p_yes count as 0.5"
    bins, ece = calibration(labels, p)
    ranking = {"auroc": partial(auroc_rows, labels, p), "auprc": partial(auprc_rows, labels, p)}
    return result | {"ece": ece, "calibration": bins}, ranking | statistics | {"brier": partial(brier, labels, p)}


def _answer(row: Sample) -> str | None:
    """The reply without its reasoning; None if there is none."""
    from inference.answers import split_reasoning

    return None if row.error is not None else split_reasoning(row.response, row.thinking_open)[1]


def _cut_off(row: Sample) -> bool:
    """The reply ended inside its reasoning. An empty reply did not: only p_yes was asked for."""
    return bool(row.response.strip()) and _answer(row) is None


def _items(answer: str | None) -> list[str]:
    from inference.answers import read_items

    return read_items(answer)


def _unanswerable(row: Sample) -> bool:
    """Whether some right answer is not among the candidates that were given."""
    given = {candidate.strip().casefold() for candidate in row.candidates}
    return bool(given) and any(label.strip().casefold() not in given for label in row.labels)


def _share(flags: Iterable[bool]) -> float:
    flags = list(flags)
    return sum(flags) / len(flags)


def _macro(tasks: Mapping[str, Mapping[str, Any]], replicates: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Unweighted means over tasks: the paper's 24 + 18, the released benchmark's 27 + 18, and EHRSHOT's 14 if they were run.

    decision_f1 is the mean F1 of the decision tasks, where next_event (released only) contributes its accuracy;
    risk_auroc is the mean AUROC. Tasks without a value are listed as missing and are not part of the mean, so only
    results with nothing missing can be compared with others.
    """
    macro: dict[str, dict[str, Any]] = {}
    suites = {
        "paper": [task for task in TASKS.values() if task.paper],
        "released": [task for task in TASKS.values() if task.released],
        "ehrshot": [task for task in ALL_TASKS.values() if task.suite == "ehrshot"],
    }
    if not any(task.name in tasks for task in suites["ehrshot"]):
        del suites["ehrshot"]
    for suite, members in suites.items():
        result: dict[str, Any] = {}
        missing = []
        for kind, title in (("decision", "decision_f1"), ("risk", "risk_auroc")):
            names = [task.name for task in members if task.kind == kind]
            if not names:
                continue
            values = {name: tasks[name][main_metric(name)] for name in names if name in tasks}
            have = [name for name, value in values.items() if value is not None]
            missing += [name for name in names if name not in have]
            found = mean_over_tasks([values[name] for name in have], [replicates[name] for name in have])
            result[title], result[f"{title}_ci"] = found
            result[f"{kind}_tasks"] = len(have)
        macro[suite] = result | {"missing": missing}
    return macro


def mean_over_tasks(values: Sequence[float], replicates: Sequence[np.ndarray]) -> tuple[float | None, list[float] | None]:
    """Unweighted mean of tasks' values, and its interval from their replicates on the same resampled patients.

    A small task may have no value in a resample: the mean of the others stands in.
    """
    import numpy as np

    from evaluation.metrics import interval

    if not len(values):
        return None, None
    draws = np.stack(replicates)
    sums, counts = np.nansum(draws, axis=0), (~np.isnan(draws)).sum(axis=0)
    return float(np.mean(values)), interval(sums[counts > 0] / counts[counts > 0])


# --- the command


def score_dir(
    path: Path | str,
    resamples: int = 1000,
    seed: int = 0,
    expected: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score a folder of outputs and write its result.json.

    Args:
        path: the folder with outputs*.jsonl.
        resamples, seed: of the patient-clustered bootstrap.
        expected: how many samples there should be; None: as an earlier result.json in the folder says, if there is one.
        extra: more to keep in the result (arguments, versions, …); what an earlier result kept stays.

    Returns:
        What was written: `tasks.<task>` with n, patients, the task's metrics as fractions, each with `<metric>_ci`
        [low, high], `invalid` (share without a readable answer) and `unanswerable` (share of decision samples with a
        right answer outside the candidates given); `macro.paper` and `macro.released` (see `_macro`); `missing`, how
        many of the expected samples are not there; and how it was made.

    Raises:
        UserError: the outputs cannot be read.
    """
    samples = read_samples(path)
    target = Path(path) / "result.json"
    earlier = read_json(target) if target.exists() else {}
    kept = {key: value for key, value in earlier.items() if key not in _OURS} if isinstance(earlier, dict) else {}
    if expected is not None:
        kept["expected"] = expected
    result = score_samples(samples.values(), resamples, seed) | {
        "missing": max(0, (kept.get("expected") or 0) - len(samples)),
        "score_version": SCORE_VERSION, "git": git_revision(), "resamples": resamples, "seed": seed,
        "data_use": DATA_USE,
    } | kept | dict(extra or {})  # fmt: skip
    write_json(target, result)
    return result


def table(result: Mapping[str, Any]) -> str:
    """The result as text: a line a task, then the macro averages."""
    rows = [("task", "n", "patients", "metric", "value", "95 % interval", "invalid", "unanswerable")]
    for name, found in result["tasks"].items():
        metric = main_metric(name)
        if found[metric] is None and found.get("note"):
            metric = "accuracy"  # words only
        rows.append((
            name, f"{found['n']:,}", f"{found['patients']:,}", metric, _figure(found[metric]),
            _interval(found.get(f"{metric}_ci")), f"{found['invalid']:.1%}",
            f"{found['unanswerable']:.1%}" if "unanswerable" in found else "–",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    for suite, found in result["macro"].items():
        if not any(ALL_TASKS[name].suite in ("", suite) for name in result["tasks"]):
            continue  # only another benchmark was run
        parts = []
        for kind, title in (("decision", "decision_f1"), ("risk", "risk_auroc")):
            if title in found:
                ci = _interval(found[f"{title}_ci"])
                parts.append(f"{title} {_figure(found[title])} {ci} over {found[f'{kind}_tasks']} tasks")
        lines.append(f"macro, {suite}: {'; '.join(parts)}")
        if found["missing"]:
            names = found["missing"] if len(found["missing"]) <= 12 else [f"{len(found['missing'])} tasks"]
            lines.append(f"  without a value: {', '.join(names)}")
    if result.get("missing"):
        lines.append(f"missing samples: {result['missing']:,} of {result['expected']:,}")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _interval(ci: Sequence[float] | None) -> str:
    return "–" if ci is None else f"[{ci[0]:.4f}, {ci[1]:.4f}]"


def print_result(result: Mapping[str, Any]) -> None:
    """Print `table`."""
    print(table(result), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.add_argument("dir", type=Path, metavar="DIR", help="folder with outputs*.jsonl")
    cli.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples of the patients (1000)")
    cli.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (0)")
    args = cli.parse_args(argv)
    if args.resamples < 1:
        raise UserError(f"--resamples {args.resamples}: wanted 1 or more")
    result = score_dir(args.dir, args.resamples, args.seed)
    print_result(result)
    return 1 if result["missing"] else 0


if __name__ == "__main__":
    run(main)
