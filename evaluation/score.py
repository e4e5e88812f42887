"""Score stored outputs without a model: the metrics of every task with 95 % intervals, and macro averages.

Reads DIR/outputs*.jsonl, writes DIR/result.json and prints a table. Only the reply, p_yes and task_info of an output line
are used, so that old outputs can be scored again after a change of the answer-reading rules. Of several lines with the same
key the last one counts; a truncated last line is skipped. Outputs of other samples or of several settings are an error. The
exit code is 1 if samples are missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from evaluation.predictions import Prediction, read_predictions
from evaluation.risk_predictions import LOW_MASS, has_low_mass, risk_labels, risk_predictions, score_risk
from evaluation.usage import format_usage, summarise_usage
from inference.answers import READER_VERSION
from mimiciv_dataset.patients import DATA_USE
from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.cli import Parser, at_least, run
from pipeline.digests import digest_lines
from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.progress import format_table
from pipeline.provenance import git_revision
from pipeline.records import folder_record, read_record

if TYPE_CHECKING:
    import numpy as np

    from evaluation.comparisons import Scores
    from evaluation.metrics import Statistic

SCORE_VERSION = 3  # of the scoring rules, raised whenever the same outputs would get other values

# Keys of result.json that scoring computes; others are kept when outputs are scored again.
_COMPUTED = (
    "tasks", "macro", "clinical", "recalibration", "missing", "usage", "score_version", "reader_version", "git", "resamples",
    "seed", "data_use",
)  # fmt: skip

TOO_FEW = "too few"  # shown in place of an interval

MACRO = {"decision": "decision_f1", "risk": "risk_auroc"}  # kind of task → name of its macro average


# --- computing


def score_predictions(predictions: Iterable[Prediction], resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """{"tasks": …, "macro": …} of the predictions; see `score_dir`.

    All intervals come from the same resampled patients, so that those of the macro averages account for patients who have
    samples of several tasks.
    """
    import numpy as np

    from evaluation.metrics import as_number, interval, resample_patients, too_few

    by_task: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        by_task[prediction.task].append(prediction)
    patients = {task: [prediction.subject_id for prediction in of_task] for task, of_task in by_task.items()}
    resampling = resample_patients({patient for of_task in patients.values() for patient in of_task}, resamples, seed)
    tasks: dict[str, dict[str, Any]] = {}
    replicates: dict[str, np.ndarray] = {}
    for name in [task for task in ALL_TASKS if task in by_task]:
        result, statistics = _score_task(name, by_task[name])
        tasks[name] = {"n": len(patients[name]), "patients": len(set(patients[name]))} | result
        labels = risk_labels(by_task[name]) if ALL_TASKS[name].kind == "risk" else None
        tasks[name]["too_few"] = too_few(patients[name], labels)
        tasks[name]["clustered"] = all(prediction.has_patient for prediction in by_task[name])
        for metric, statistic in statistics.items():
            tasks[name] |= {metric: as_number(statistic(np.ones((1, len(patients[name]))))[0]), f"{metric}_ci": None}
            if tasks[name]["too_few"] is None:
                draws = resampling.apply(patients[name], statistic)
                tasks[name][f"{metric}_ci"] = interval(draws)
                if metric == main_metric(name):
                    replicates[name] = draws
    return {"tasks": tasks, "macro": _macro(tasks, replicates)}


def main_metric(task: str) -> str:
    """The metric that a task is judged by: `f1`, `accuracy`, `rouge1` or `auroc`."""
    return ALL_TASKS[task].metric


def main_scores(task: str, predictions: Sequence[Prediction]) -> Scores | None:
    """What the main metric of a task's predictions is computed from, for `comparisons.compare`; None without p_yes.

    Of several replies it is the mean score, or the mean of p_yes.
    """
    import numpy as np

    from evaluation.comparisons import Scores
    from evaluation.several_replies import rounds_of, vote

    rounds = rounds_of(task, predictions)
    if ALL_TASKS[task].kind != "risk":
        return Scores(np.mean([_sample_scores(task, of_round)[main_metric(task)] for of_round in rounds], axis=0))
    risks = list(map(risk_predictions, rounds))
    if not all(risk.has_p_yes for risk in risks):
        return None
    return Scores(risks[0].probabilities if len(risks) == 1 else vote(risks)[1], risks[0].labels)


def _score_task(name: str, predictions: Sequence[Prediction]) -> tuple[dict[str, Any], dict[str, Statistic]]:
    """The values of a task that have no interval, and the statistics that have one; of several replies, their means."""
    from evaluation.several_replies import combine_answers, combine_risks, mean_over_rounds, rounds_of

    rounds = rounds_of(name, predictions)
    scores = [_score_replies(name, of_round) for of_round in rounds]
    if len(rounds) == 1:
        return scores[0]
    result, statistics = mean_over_rounds(scores)
    is_risk = ALL_TASKS[name].kind == "risk"
    values, combined = combine_risks(list(map(risk_predictions, rounds))) if is_risk else combine_answers(name, rounds)
    return {"replies": len(rounds)} | result | values, statistics | combined


def _score_replies(name: str, predictions: Sequence[Prediction]) -> tuple[dict[str, Any], dict[str, Statistic]]:
    """`_score_task` of one reply to each sample."""
    from evaluation.metrics import mean

    kind = ALL_TASKS[name].kind
    if kind == "risk":
        return score_risk(predictions)
    if kind == "decision":
        result = {"invalid": _share(not prediction.items for prediction in predictions)}
        result["unanswerable"] = _share(map(_is_unanswerable, predictions))
    else:
        result = {"invalid": _share(not prediction.answer for prediction in predictions)}
    return result, {metric: partial(mean, values) for metric, values in _sample_scores(name, predictions).items()}


def _sample_scores(name: str, predictions: Sequence[Prediction]) -> dict[str, Sequence[float]]:
    """The score of each sample by metric, for the tasks whose metrics are means over samples."""
    from evaluation.metrics import sample_score, set_scores

    if (metric := main_metric(name)) != "f1":
        return {metric: [sample_score(name, each.labels, each.answer, None, each.candidates) for each in predictions]}
    triples = [set_scores(prediction.items, prediction.labels) for prediction in predictions]
    return dict(zip(("precision", "recall", "f1"), zip(*triples, strict=True), strict=True))


def _is_unanswerable(prediction: Prediction) -> bool:
    """Whether a correct answer is missing from the candidates."""
    from inference.answers import fold_name

    candidates = set(map(fold_name, prediction.candidates))
    return bool(candidates) and any(fold_name(label) not in candidates for label in prediction.labels)


def _share(flags: Iterable[bool]) -> float:
    flags = list(flags)
    return sum(flags) / len(flags)


def _macro(tasks: Mapping[str, Mapping[str, Any]], replicates: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Unweighted means over the paper's 24 + 18 tasks, the released benchmark's 27 + 18, and EHRSHOT's 14 if any was run.

    decision_f1 is the mean F1 of the decision tasks, where next_event (released only) contributes its accuracy;
    risk_auroc is the mean AUROC. Tasks without a value are listed under `missing` and left out of the mean, so that only
    results with nothing missing are comparable. A mean with a task of too few samples has no interval.
    """
    suites = {
        "paper": [task for task in ALL_TASKS.values() if task.paper],
        "released": [task for task in ALL_TASKS.values() if task.released],
        "ehrshot": [task for task in ALL_TASKS.values() if task.suite == "ehrshot"],
    }
    if not any(task.name in tasks for task in suites["ehrshot"]):
        del suites["ehrshot"]
    macro: dict[str, dict[str, Any]] = {}
    for suite, members in suites.items():
        macro[suite], missing = {}, []
        for kind, title in MACRO.items():
            if names := [task.name for task in members if task.kind == kind]:
                values = {name: tasks[name][main_metric(name)] for name in names if name in tasks}
                values = {name: value for name, value in values.items() if value is not None}
                missing += [name for name in names if name not in values]
                mean, interval = mean_over_tasks(list(values.values()), [replicates.get(name) for name in values])
                macro[suite] |= {title: mean, f"{title}_ci": interval, f"{kind}_tasks": len(values)}
                macro[suite][f"{kind}_n"] = sum(tasks[name]["n"] for name in values)
                if kind == "risk":
                    macro[suite]["risk_positives"] = sum(tasks[name]["positives"] for name in values)
        macro[suite]["missing"] = missing
    return macro


def mean_over_tasks(
    values: Sequence[float], replicates: Sequence[np.ndarray | None]
) -> tuple[float | None, list[float] | None]:
    """The unweighted mean of one value per task, and its 95 % interval; None for no tasks.

    `replicates` are those of each task, shape (resamples,), on the same resampled patients. There is no interval if those of
    a task are None: its samples are too few, and the mean inherits what their bootstrap cannot show.
    """
    import numpy as np

    from evaluation.metrics import interval, mean_replicates

    if not values:
        return None, None
    return float(np.mean(values)), None if any(each is None for each in replicates) else interval(mean_replicates(replicates))


# --- directories


def score_dir(
    path: Path | str,
    resamples: int = 1000,
    seed: int = 0,
    samples: Collection[str] | None = None,
    expected: int | None = None,
    extra: Mapping[str, Any] | None = None,
    calibration_results: Path | None = None,
) -> dict[str, Any]:
    """Score the outputs in a directory and write its result.json.

    Args:
        path: directory with outputs*.jsonl.
        resamples, seed: of the bootstrap over patients.
        samples: identities (`sample_id`) of all samples of the dataset; None: result.json or the record has their number.
        expected: number of samples there should be; None: the number in an earlier result.json, or all of the dataset.
        extra: further keys of the result (arguments, versions, …), added to those of an earlier result.json.
        calibration_results: directory of the run that recalibration is fitted on; None: that of an earlier result.json.

    Returns:
        The content of result.json: `tasks.<task>` with n, patients, positives (risk tasks), the task's metrics as fractions,
        each with `<metric>_ci` [low, high] or null, `too_few` (why there are no intervals, or null), `clustered` (false if
        samples have no subject_id and count as patients of their own), `invalid` (share of replies without a readable
        answer) and `unanswerable` (share of decision samples with a correct answer outside the candidates);
        `macro.paper` and `macro.released` (see `_macro`); `clinical` (see `clinical.clinical_results`); `recalibration` (see
        `recalibration.recalibrate`); `usage` (see `usage.summarise_usage`); `available` (number of
        samples of the dataset), `expected` (number of those that were to be answered) and `missing` (number of those
        without an output); and the settings of the scoring.

    Raises:
        UserError: there are outputs of other samples, more outputs than samples, or several of a sample.
    """
    from evaluation.clinical import further_results

    predictions = read_predictions(path)
    target = Path(path) / "result.json"
    earlier = read_json(target) if target.exists() else {}
    earlier = earlier if isinstance(earlier, dict) else {}
    record = read_record(folder_record(Path(path))) or {}
    before = earlier if "expected" in earlier else record | {"expected": record.get("samples")}
    kept = {key: value for key, value in earlier.items() if key not in _COMPUTED}
    if expected is not None:
        kept["expected"] = expected
    if samples is not None:
        kept["available"] = len(samples)
    elif "available" not in kept:
        settings = record.get("settings", {})
        kept |= {"available": settings["samples"], "expected": settings["samples"]} if "samples" in settings else {}
    answered = {prediction.sample_id for prediction in predictions.values()}
    most = kept.get("available") or kept.get("expected")
    if samples is not None:
        same_run = answered.issubset(samples)
    elif before.get("expected") == len(answered):
        same_run = before.get("samples_digest") in (None, digest_lines(answered))
    else:
        same_run = most is None or len(answered) <= most
    if not same_run:
        needed = f"expected outputs of the run's samples only (at most {most:,})"
        fix = "Remove the lines of other runs, or start afresh with --overwrite"
        raise UserError(f"{path}: {needed}, got {len(answered):,}, others among them. {fix}.")
    result = score_predictions(predictions.values(), resamples, seed)
    if calibration_results:
        kept["calibration_results"] = str(calibration_results.resolve())
    result |= further_results(Path(path), predictions.values(), resamples, seed, kept.get("calibration_results"))
    result["missing"] = max(0, (kept.get("expected") or 0) - len(predictions))
    result["usage"] = summarise_usage(predictions.values(), (extra or kept).get("arguments", {}))
    kept["samples_digest"] = digest_lines(answered)
    result |= {"score_version": SCORE_VERSION, "reader_version": READER_VERSION, "git": git_revision()}
    result |= {"resamples": resamples, "seed": seed}
    result |= {"data_use": DATA_USE} | kept | dict(extra or {})
    write_json(target, result)
    return result


def format_result(result: Mapping[str, Any]) -> str:
    """The content of a result.json as text: a table with one row per task, then the macro averages."""
    rows = []
    for name, values in result["tasks"].items():
        metric = main_metric(name)
        if values[metric] is None and values.get("note"):
            metric = "accuracy"  # no p_yes
        shares = [f"{values[share]:.1%}" if share in values else None for share in ("invalid", "unanswerable")]
        sizes = [values["n"], values.get("positives"), values["patients"]]
        rows.append([name, *sizes, metric, *_value_and_interval(values, metric), *shares])
    headers = ("task", "n", "yes", "patients", "metric", "value", "95 % interval", "invalid", "unanswerable")
    lines = [format_table(headers, rows), ""]
    for suite, macro in result["macro"].items():
        if not any(ALL_TASKS[name].suite in ("", suite) for name in result["tasks"]):
            continue  # only another benchmark was run
        parts = []
        for kind, title in [(kind, title) for kind, title in MACRO.items() if title in macro]:
            value, ci = _value_and_interval(macro, title)
            sizes = f"{macro[f'{kind}_tasks']} tasks"
            if number := macro[f"{kind}_n"]:
                sizes += f", {number:,} samples" + (f", {macro['risk_positives']:,} of them yes" if kind == "risk" else "")
            parts.append(f"{title} {value} {f'[{TOO_FEW}]' if ci == TOO_FEW else ci} over {sizes}")
        lines.append(f"macro, {suite}: {'; '.join(parts)}")
        if macro["missing"]:
            names = macro["missing"] if len(macro["missing"]) <= 12 else [f"{len(macro['missing'])} tasks"]
            lines.append(f"  without a value: {', '.join(names)}")
    lines += [*sample_notes(result["tasks"]), *mass_notes(result["tasks"])]
    if result.get("available", 0) > (answered := sum(values["n"] for values in result["tasks"].values())):
        lines.append(f"samples: {answered:,} of the {result['available']:,} of the dataset")
    if usage := format_usage(result.get("usage", {})):
        lines.append(usage)
    if result.get("missing"):
        lines.append(f"missing samples: {result['missing']:,} of {result['expected']:,}")
    return "\n".join(lines)


def mass_notes(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader of AUROC must know: tasks in which the model wanted to write something else than yes or no."""
    if not (low := [name for name, values in tasks.items() if has_low_mass(values)]):
        return []
    names = ", ".join(low) if len(low) <= 12 else f"{len(low)} tasks"
    fix = "a model that reasons first needs --think_prompt --think_risk, or its family (python -m inference.describe)"
    return [f"p(yes) rests on almost no probability (median of P(yes) + P(no) below {LOW_MASS}) in {names}: {fix}"]


def sample_notes(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader of intervals must know about the samples of a result: tasks with too few of them, or without patients."""
    from evaluation.metrics import MIN_PATIENTS, MIN_PER_LABEL

    notes = []
    if few := [name for name, values in tasks.items() if values["too_few"]]:
        needed = f"at least {MIN_PATIENTS} patients, and for risk tasks {MIN_PER_LABEL} with yes and {MIN_PER_LABEL} with no"
        notes.append(f"too few samples for intervals and tests in {len(few)} of {len(tasks)} tasks; they take {needed}")
    if apart := [name for name, values in tasks.items() if not values["clustered"]]:
        count = f"{len(apart)} of {len(tasks)} tasks"
        notes.append(f"samples without subject_id in {count}: each counts as a patient, so intervals may be too narrow")
    return notes


def _value_and_interval(values: Mapping[str, Any], metric: str) -> tuple[str, str]:
    value, ci = values[metric], values.get(f"{metric}_ci")
    return ("–", "–") if value is None else (f"{value:.4f}", f"[{ci[0]:.4f}, {ci[1]:.4f}]" if ci else TOO_FEW)


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.add_argument("dir", type=Path, metavar="DIR", help="directory with outputs*.jsonl")
    cli.add_argument("--resamples", type=at_least(1), default=1000, help="bootstrap resamples of the patients (1000)")
    cli.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (0)")
    text = "read the sex, age, race, … of patients from ROOT_DIR/patients_ehr again, for scores by subgroup; test.py does it"
    cli.add_argument("--subgroups", action="store_true", help=text)
    text = "finished run of the same model on other patients, on which recalibration of p(yes) is fitted"
    cli.add_argument("--calibration_results", type=Path, metavar="DIR", help=text)
    args = cli.parse_args(argv)
    if args.subgroups:
        from evaluation.attributes import write_attributes
        from mimiciv_dataset.trajectory import Trajectories

        write_attributes(args.dir, Trajectories(args.root_dir / "patients_ehr"))
    result = score_dir(args.dir, args.resamples, args.seed, calibration_results=args.calibration_results)
    print(format_result(result))
    return 1 if result["missing"] else 0


if __name__ == "__main__":
    run(main)
