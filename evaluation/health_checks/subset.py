"""The subset of a benchmark without findings: its files, and the scores of finished runs on it."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.cells import read_cells
from mimiciv_dataset.json_lines import read_lines
from pipeline.files import atomic_path

if TYPE_CHECKING:
    import numpy as np

    from evaluation.finished_runs import FinishedRun
    from evaluation.health_checks.cues import Bootstrap


def subset_path(folder: Path, source: Path) -> Path:
    """The file of the rows of `source` that are kept."""
    return folder / f"{source.stem}.leak_free{source.suffix}"


def write_subset(files: Sequence[Path], kept: Sequence[bool] | np.ndarray, folder: Path) -> list[Path]:
    """Write the kept rows of each file of a benchmark, verbatim and in order; a file without any is not written.

    `kept` says it of each row, over all files, in the order of `read_benchmark`.
    """
    written, number = [], 0
    for source in files:
        path = subset_path(folder, source)
        with _row_writer(source, path) as (rows, write):
            before = number
            for row in rows:
                if kept[number]:
                    write(row)
                number += 1
        if any(kept[before:number]):
            written.append(path)
        else:
            path.unlink()
    return written


@contextmanager
def _row_writer(source: Path, path: Path) -> Iterator[tuple[Iterator[Any], Any]]:
    """The rows of an index, and a function that writes one to `path`, which has the header of a CSV already."""
    is_csv = source.suffix not in (".jsonl", ".json")
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if is_csv:
            rows, writer = (cells for _, cells in read_cells(source)), csv.writer(file, lineterminator="\n")
            writer.writerow(next(rows))
            yield rows, writer.writerow
        else:
            yield (line.decode().rstrip("\r\n") + "\n" for _, line in read_lines(source)), file.write


# --- runs on the subset


def score_changes(run: FinishedRun, samples: Mapping[str, bool], bootstrap: Bootstrap) -> dict[str, Any]:
    """The scores of a run on the samples of a benchmark and on those that are kept, and their difference.

    Args:
        samples: `sample_id` of each sample of the benchmark → whether it is kept.
        bootstrap: of the intervals. Both scores are computed on the same resampled patients, so that the interval is that of
            the difference.

    Returns:
        `tasks` and `macro` (by kind of task), each name → metric, n, n_kept, before, after, change, ci. Tasks also have
        `too_few`; macro means are over the `tasks` with enough kept samples for an interval, or, if there are none, over all
        (`of`).
    """
    import numpy as np

    from evaluation.metrics import as_number, interval, mean_replicates, resample_patients, too_few
    from evaluation.score import MACRO, main_metric, main_scores
    from mimiciv_dataset.tasks import ALL_TASKS

    of_task: dict[str, list[str]] = {}
    for sample_id, output in run.outputs.items():
        if sample_id in samples:
            of_task.setdefault(output.prediction.task, []).append(sample_id)
    resampling = resample_patients(
        {run.outputs[sample_id].prediction.subject_id for ids in of_task.values() for sample_id in ids},
        bootstrap.resamples,
        bootstrap.seed,
    )
    tasks: dict[str, dict[str, Any]] = {}
    replicates: dict[str, np.ndarray] = {}
    for task in [task for task in ALL_TASKS if task in of_task]:
        predictions = [run.outputs[sample_id].prediction for sample_id in of_task[task]]
        if (scores := main_scores(task, predictions)) is None:
            continue
        kept = np.array([samples[sample_id] for sample_id in of_task[task]])
        patients = [prediction.subject_id for prediction in predictions]
        before, after = (as_number(scores.metric(weights[None])[0]) for weights in (np.ones(len(kept)), kept.astype(float)))
        labels = None if scores.labels is None else scores.labels[kept]
        reason = too_few([patient for patient, keep in zip(patients, kept, strict=True) if keep], labels)
        sizes = {"n": len(kept), "n_kept": int(kept.sum()), "metric": main_metric(task)}
        tasks[task] = sizes | {"before": before, "after": after, "change": None, "ci": None, "too_few": reason}
        if None not in (before, after):
            tasks[task]["change"] = after - before
        if reason is None:
            replicates[task] = resampling.apply(
                patients, lambda weights, scores=scores, kept=kept: scores.metric(weights * kept) - scores.metric(weights)
            )
            tasks[task]["ci"] = interval(replicates[task])
    macro = {}
    for kind in MACRO:
        changed = [task for task in tasks if ALL_TASKS[task].kind == kind and tasks[task]["change"] is not None]
        members = [task for task in changed if task in replicates] or changed
        if members:
            means = {name: float(np.mean([tasks[task][name] for task in members])) for name in ("before", "after", "change")}
            totals = {name: sum(tasks[task][name] for task in members) for name in ("n", "n_kept")}
            draws = [replicates[task] for task in members if task in replicates]
            ci = interval(mean_replicates(draws)) if draws else None
            macro[kind] = {"metric": MACRO[kind], "tasks": len(members), "of": len(changed)} | totals | means | {"ci": ci}
    return {"tasks": tasks, "macro": macro}


def kept_samples(sample_ids: Sequence[str], kept: Collection[bool] | np.ndarray) -> dict[str, bool]:
    """Whether each sample is kept: if one of its rows is."""
    samples: dict[str, bool] = {}
    for sample_id, keep in zip(sample_ids, kept, strict=True):
        samples[sample_id] = samples.get(sample_id, False) or bool(keep)
    return samples
