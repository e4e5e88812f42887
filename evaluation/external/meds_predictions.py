"""Export the predictions of a finished run as MEDS prediction files, one parquet per risk task, for tools that score MEDS.

The columns are those of the `meds-evaluation` package: subject_id, prediction_time, boolean_value (the label),
predicted_boolean_value, and predicted_boolean_probability, which is p(yes) as 32-bit float. Subject and prediction time are
those of `meds_labels.py`, or those in the rows of other benchmarks. A sample without a readable answer has the wrong answer
with the worst-case probability, as in result.json (docs/evaluation.md); of several replies, the vote and the mean of p(yes)
are exported.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the packages of this checkout

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from evaluation.external.meds_labels import MICROSECONDS, check_sample, write_table
from evaluation.predictions import Prediction, read_outputs
from mimiciv_dataset.tasks import ALL_TASKS, TASKS
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import Line, read_json, require
from pipeline.progress import Summary, progress

if TYPE_CHECKING:
    from mimiciv_dataset.trajectory import Trajectories

WINDOW = ("subject_id", "period_begin", "period_end")  # of a sample, in the task_info of its output line
TIMED = ("subject_id", "prediction_time")  # of a sample of another benchmark


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("dir", type=Path, metavar="DIR", help="directory of a finished run")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories of the run")
    cli.add_argument("--output_path", type=Path, help="directory for TASK.parquet (DIR/meds_predictions)")
    args = cli.parse_args(argv)
    summary = Summary("meds_predictions")
    output = args.output_path or args.dir / "meds_predictions"

    from mimiciv_dataset.trajectory import Trajectories

    samples = risk_samples(args.dir)
    lines = sorted((line for of_task in samples.values() for _, line in of_task.values()), key=patient_of)
    trajectories = None
    if any("prediction_time" not in line["task_info"] for line in lines):
        trajectories = Trajectories(args.ehr_dir)
        check_trajectories(args.dir, trajectories)
    shown = progress(lines, desc="meds_predictions", unit="sample")
    times = {line["key"]: prediction_time(trajectories, line) for line in shown}
    tables = {task: prediction_table(task, of_task, times) for task, of_task in samples.items()}
    for task, table in tables.items():
        write_table(output / f"{task}.parquet", table)
    summary.print(f"{len(lines):,} predictions of {len(tables)} tasks → {output}", len(lines), "predictions")


def risk_samples(folder: Path) -> dict[str, dict[str, tuple[Prediction, Line]]]:
    """The predictions of a finished run and their output lines, by risk task and key."""
    result = read_json(require(folder / "result.json", "the result of a finished run", "run test.py to its end first"))
    if not isinstance(result, dict) or result.get("missing"):
        raise UserError(f"{folder}: expected a finished run, got one with missing samples. Run test.py with --resume first.")
    samples: dict[str, dict[str, tuple[Prediction, Line]]] = defaultdict(dict)
    for key, prediction, line in read_outputs(folder):
        if ALL_TASKS[prediction.task].kind != "risk":
            continue
        info = line["task_info"]
        needed = TIMED if "prediction_time" in info or prediction.task not in TASKS else WINDOW
        if None in map(info.get, needed) or not str(info["subject_id"]).isdecimal():
            fix = "Evaluate an index CSV, or rows whose task_info has them"
            raise UserError(f"{folder}: expected {', '.join(needed)} of every sample, got one without. {fix}.")
        samples[prediction.task][key] = prediction, line
    if not samples:
        raise UserError(f"{folder}: expected outputs of risk tasks, got none. Choose another directory.")
    return samples


def patient_of(line: Line) -> tuple[int, int, str]:
    """Patient and window of a sample, by which files are ordered."""
    info = line["task_info"]
    return int(info["subject_id"]), info.get("period_end") or 0, line["key"]


def check_trajectories(folder: Path, trajectories: Trajectories) -> None:
    """Check that trajectories are those that a run read, as far as both are recorded."""
    digest = read_json(folder / "result.json").get("trajectories")
    if None not in (digest, trajectories.digest) and digest != trajectories.digest:
        fix = "Choose those of the run by --root_dir or --ehr_dir"
        raise UserError(f"{trajectories.folder}: expected the trajectories of the run, got others. {fix}.")


def prediction_time(trajectories: Trajectories | None, line: Line) -> int:
    """The prediction time of a sample in microseconds since 1970: its own, or the latest time of a record in its window."""
    info = line["task_info"]
    if trajectories is None or "prediction_time" in info:
        return microseconds(info["prediction_time"])
    timeline = trajectories.timeline(str(info["subject_id"]))
    task, row = TASKS[info["task"]], {**info, "target": info["label"]}
    check_sample(task, timeline, row, f"a sample of {task.name}")
    return timeline.prediction_time(row["period_begin"], row["period_end"]) * MICROSECONDS


def microseconds(time: Any) -> int:
    """Microseconds since 1970 of an ISO time; one without time zone is taken as UTC.

    >>> microseconds("1970-01-01 00:00:01.000002"), microseconds("1970-01-01T02:00:00+02:00")
    (1000002, 0)
    """
    try:
        parsed = datetime.fromisoformat(time)
    except (TypeError, ValueError):
        fix = "Write it as 2150-01-31 12:00:00"
        raise UserError(f"task_info.prediction_time: expected an ISO date and time, got another value. {fix}.") from None
    parsed = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return (parsed - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def prediction_table(task: str, samples: dict[str, tuple[Prediction, Line]], times: dict[str, int]) -> dict[str, list[Any]]:
    """The columns of the prediction file of a task, ordered by patient and time."""
    from evaluation.risk_predictions import risk_predictions
    from evaluation.several_replies import rounds_of, vote

    keys = sorted(samples, key=lambda key: patient_of(samples[key][1]))
    rounds = [risk_predictions(of_round) for of_round in rounds_of(task, [samples[key][0] for key in keys])]
    if not all(of_round.has_p_yes for of_round in rounds):
        fix = "Evaluate with a backend that gives log-probabilities"
        raise UserError(f"{task}: expected p(yes) in the outputs, got replies in words only. {fix}.")
    answers, p_yes = vote(rounds)
    return {
        "subject_id": [int(samples[key][1]["task_info"]["subject_id"]) for key in keys],
        "prediction_time": [times[key] for key in keys],
        "boolean_value": rounds[0].labels.tolist(),
        "predicted_boolean_value": answers.tolist(),
        "predicted_boolean_probability": p_yes.tolist(),
    }


if __name__ == "__main__":
    run(main)
