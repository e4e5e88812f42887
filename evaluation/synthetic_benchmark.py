"""A benchmark with a known optimum: synthetic patients, whose outcomes are drawn from probabilities that are recorded.

    python -m evaluation.synthetic_benchmark make --root_dir DIR           patients, samples, and the truth about them
    python test.py --root_dir DIR --dataset_name ... --output_path RUN     a model answers DIR/benchmark/*.csv
    python -m evaluation.synthetic_benchmark score RUN --root_dir DIR      its regret: optimum - score

make runs the published commands, resumes where it was interrupted, and writes below DIR

  benchmark/TASK.csv             test samples, at most one of a patient and task, without labels
  benchmark/truth.json           their labels, and what a perfect model answers: for `score` only
  train.csv, validation.csv      labelled samples of other patients
  patient_data, patients_ehr, index_mapping, cache, task_index      as any other data

Without --seed, --patients and --samples it is the benchmark synthetic-1, whose samples are the same everywhere; with them it
is one of your own. score reads directories with outputs.jsonl, or CSVs with the columns task, subject_id, p_yes (risk tasks)
and answer (decision tasks: one item per line, or a JSON list). A task must be answered for all samples or not at all.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from evaluation.leaderboard import LEADERBOARD, write_entry
from evaluation.regret import (
    TrueSample,
    Truth,
    check_samples,
    digest_of,
    format_regrets,
    read_answers,
    read_truth,
    regrets,
    write_truth,
)
from evaluation.synthetic_truth import DrawnOutcome, Row, best_answer, read_conditions, read_outcomes, rows_of, with_outcomes
from mimiciv_dataset.draws import text_hash
from mimiciv_dataset.index_files import SAMPLE_COLUMNS, parse_target, sample_id
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.sources import index_sources, patients_source, trajectories_source
from mimiciv_dataset.tasks import YES
from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, write_json
from pipeline.progress import Summary
from pipeline.provenance import Provenance, content_of
from pipeline.work import Workers

STEP, RULES = "evaluation/synthetic_benchmark.py", 1
RISK = (
    "ED_Hospitalization", "ED_ICU_Tranfer_12hour", "ED_Reattendance_3day", "Inpatient_Mortality", "Readmission_30day",
    "Readmission_60day",
)  # fmt: skip
DECISION = ("diagnosis", "diagnosis_ccs")
"""The tasks whose optimum is exact; docs/leaderboard.md says why the others are left out."""
MIN_WINDOW, MAX_WINDOW = 10, 100  # events of a window, exclusive bounds: those of data_index_gen.py
TEST_RATIO, VALIDATION_RATIO = 0.3, 0.2  # shares of all patients, and of those that are not in the test set


@dataclass(frozen=True)
class BenchmarkSettings:
    """What decides a benchmark: seed and number of the patients, and the maximal number of test samples per task."""

    seed: int
    patients: int
    samples: int


@dataclass(frozen=True)
class Rerun:
    """How test samples that exist are treated: written again, or their files hashed again; see the flags."""

    overwrite: bool
    verify: bool


PUBLISHED = {"synthetic-1": BenchmarkSettings(seed=14, patients=2500, samples=400)}
DIGESTS = {"synthetic-1": "dd83ba3335f580c592f26c0437b6ca332936f6c02d8ed2c6c786e1f9b6e2063f"}
"""Of the samples of each published benchmark, which `make` must arrive at."""
LATEST = list(PUBLISHED)[-1]


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("step", choices=("make", "score"), help="what to do")
    cli.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="score: directories of finished runs, or CSVs")
    latest = PUBLISHED[LATEST]
    cli.add_argument("--seed", type=at_least(0), default=latest.seed, help=f"make: seed of the patients ({latest.seed})")
    cli.add_argument("--patients", type=at_least(1), default=latest.patients, help=f"make: patients ({latest.patients:,})")
    text = f"make: maximal number of test samples per task ({latest.samples})"
    cli.add_argument("--samples", type=at_least(1), default=latest.samples, help=text)
    cli.add_argument("--resamples", type=at_least(1), default=1000, help="score: bootstrap resamples of the patients (1000)")
    cli.add_argument("--entry", type=Path, metavar="FILE", help=f"score: write an entry for {LEADERBOARD}/ (JSON)")
    cli.add_argument("--model", help="score: name of the model in the entry")
    cli.add_argument("--setting", help="score: how it was trained and asked, in one line of the entry")
    cli.add_num_workers()
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    if args.step == "make":
        if args.runs:
            cli.error("make: expected no RUN, got one")
        settings, rerun = BenchmarkSettings(args.seed, args.patients, args.samples), Rerun(args.overwrite, args.verify)
        make(args.root_dir, settings, workers, rerun, cli.arguments)
        return
    if not args.runs:
        cli.error("score: expected a RUN, got none")
    if args.entry and not (len(args.runs) == 1 and args.model and args.setting):
        cli.error("--entry: expected one RUN, --model and --setting, got others")
    truth = read_truth(args.root_dir / "benchmark/truth.json")
    check_digest(args.root_dir, truth)
    for path in args.runs:
        summary = Summary("synthetic_benchmark")
        answered = check_samples(path, truth, read_answers(path, truth))
        result = regrets(truth, answered, args.resamples)
        print(format_regrets(result, truth))
        if args.entry:
            write_entry(args.entry, args.model, args.setting, truth, result)
        number = sum(map(len, answered.values()))
        summary.print(
            f"{truth.benchmark}, {path}: {len(answered)} tasks{f' → {args.entry}' if args.entry else ''}", number, "samples"
        )


# --- make


def steps(root: Path, settings: BenchmarkSettings, workers: Workers) -> Iterator[tuple[str, list[object]]]:
    """The commands, as modules, and their flags but --root_dir; each finds out by itself if it is up to date."""
    if not (root / "mimiciv").exists():
        patients = ["--patients", settings.patients, "--seed", settings.seed]
        yield "preprocess.synthetic_mimic", [*patients, *workers.flags]
    for step in ("merge_patient", "rank", "combination"):
        yield f"preprocess.{step}", workers.flags
    yield "preprocess.build_index_mapping", ["--mimic_dir", root / "mimiciv"]
    split, validation = "preprocess.split_patients", root / "patient_data/validation"
    yield split, ["--ehr_dir", root / "patients_ehr", "--test_ratio", TEST_RATIO]
    parts = ["--patients", root / "patient_data/train.csv", "--output_dir", validation, "--test_ratio", VALIDATION_RATIO]
    yield split, [*parts, "--seed", 1]
    # the length of a record depends on the outcomes, which must not decide who is in the benchmark
    index = ["--task", *RISK, *DECISION, "--traj_len_max", 10**9]
    yield "mimiciv_dataset.task_sample_info_gen", [*index, *workers.flags]
    train = validation / "train.csv"
    yield "mimiciv_dataset.similar_item_gen", ["--task", *DECISION, "--subject_id_path", train, *workers.flags]
    config = ["--data_config", root / "tasks.json", *workers.flags]
    for name, subjects in (("train", train), ("validation", validation / "test.csv")):
        yield "mimiciv_dataset.data_index_gen", [*config, "--subject_id_path", subjects, "--output_path", root / f"{name}.csv"]


def make(root: Path, settings: BenchmarkSettings, workers: Workers, rerun: Rerun, arguments: Sequence[str]) -> None:
    """Make a benchmark below `root`, or what is missing of it."""
    summary = Summary("synthetic_benchmark")
    recorded = root / "benchmark.json"
    made_with = read_json(recorded) if recorded.exists() else None
    if made_with != asdict(settings) and root.exists() and any(root.iterdir()):
        got = "other data" if made_with is None else "one with other settings"
        raise UserError(f"{root}: expected a new directory, or this benchmark, got {got}. Choose another --root_dir.")
    write_json(recorded, asdict(settings))
    write_json(root / "tasks.json", dict.fromkeys((*RISK, *DECISION), -1))
    for module, flags in steps(root, settings, workers):
        importlib.import_module(module).main(["--root_dir", str(root), *map(str, flags)])
    truth = write_benchmark(root, settings, rerun, arguments)
    check_digest(root, truth)
    summary.print(
        f"{truth.benchmark}: {len(truth.samples):,} test samples of {len(truth.by_task)} tasks → {root / 'benchmark'}"
    )


def write_benchmark(root: Path, settings: BenchmarkSettings, rerun: Rerun, arguments: Sequence[str]) -> Truth:
    """Write the test samples and the truth about them, unless they are up to date."""
    folder, index, mimic_dir = root / "benchmark", root / "task_index/all", root / "mimiciv"
    subjects = set(read_subject_ids(root / "patient_data/test.csv"))
    sources = [trajectories_source(root / "patients_ehr"), *index_sources(index), patients_source(None, subjects)]
    sources.append(content_of("truth", mimic_dir / "synthetic_truth.csv"))
    provenance = Provenance(folder, STEP, sources, asdict(settings), RULES, arguments, flag="--root_dir")
    if not provenance.begin(rerun.overwrite, rerun.verify):
        return read_truth(folder / "truth.json")
    outcomes, conditions = read_outcomes(mimic_dir), read_conditions(mimic_dir)
    answers = best_answers()
    samples: list[TrueSample] = []
    for task in (*RISK, *DECISION):
        of_task = outcomes.get(task if task in RISK else "ED_Hospitalization", {})
        rows = list(with_outcomes(rows_of(index / f"{task}.csv"), of_task))
        drawn = draw_samples([(row, outcome) for row, outcome in rows if row["subject_id"] in subjects], settings)
        for row, outcome in drawn:
            samples.append(true_sample(row, outcome, answers[task, conditions[outcome.stay_id]] if task in DECISION else None))
        write_index(folder / f"{task}.csv", [row for row, _ in drawn])
    name = next((name for name, published in PUBLISHED.items() if published == settings), "custom")
    truth = Truth(name, digest_of(samples), samples)
    write_truth(folder / "truth.json", truth)
    provenance.complete(samples=len(samples))
    return truth


def draw_samples(
    rows: Sequence[tuple[Row, DrawnOutcome | None]], settings: BenchmarkSettings
) -> list[tuple[Row, DrawnOutcome]]:
    """At most `settings.samples` of the rows, as they are sorted: pseudorandom ones of the first row of each patient.

    Only the first row with an outcome counts, and only if its window has the usual number of events. Nothing here depends on
    labels, and a patient's later visits depend on the outcomes of earlier ones.
    """
    first: dict[str, tuple[Row, DrawnOutcome]] = {}
    for row, outcome in rows:
        if outcome is not None:
            first.setdefault(row["subject_id"], (row, outcome))
    in_window = [
        (row, outcome)
        for row, outcome in first.values()
        if MIN_WINDOW < int(row["context_end"]) - int(row["context_begin"]) < MAX_WINDOW
    ]
    chosen = sorted(in_window, key=lambda pair: text_hash(f"{settings.seed}:{sample_id(pair[0])}"))[: settings.samples]
    return sorted(chosen, key=lambda pair: int(pair[0]["subject_id"]))


def best_answers() -> dict[tuple[str, str], list[str]]:
    """(task, name of a condition) → the best answer to a decision task given the condition."""
    from preprocess.synthetic.emergency import diagnosis_sets
    from preprocess.synthetic.vocab import CONDITIONS

    sets = {(task, entry.name): diagnosis_sets(entry, task) for task in DECISION for entry in CONDITIONS}
    return {key: list(best_answer(of_condition)) for key, of_condition in sets.items()}


def true_sample(row: Mapping[str, str], outcome: DrawnOutcome, answer: list[str] | None) -> TrueSample:
    """The truth about an index row; an error if its label is not the outcome that was drawn."""
    target, task = parse_target(row["target"]), row["task"]
    sample = (sample_id(row), task, row["subject_id"], [target] if isinstance(target, str) else target)
    if task in DECISION:
        return TrueSample(*sample, answer=answer)
    if (target == YES) != outcome.outcome:
        raise UserError(f"{task}: expected labels that are the drawn outcomes, got another one. Choose another --seed.")
    return TrueSample(*sample, p_yes=outcome.probability)


def write_index(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows of a task index as test samples, without labels."""
    columns = [name for name in SAMPLE_COLUMNS if name not in ("target", "audit")]
    begins = {"period_begin": "context_begin", "period_end": "context_end"}
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns, *([row[begins.get(name, name)] for name in columns] for row in rows)])


def check_digest(root: Path, truth: Truth) -> None:
    """Refuse a published benchmark with other samples than everywhere else."""
    if truth.benchmark in DIGESTS and truth.digest != DIGESTS[truth.benchmark]:
        expected, got = f"the samples of {truth.benchmark} ({DIGESTS[truth.benchmark][:12]})", f"others ({truth.digest[:12]})"
        fix = "Use the package versions of requirements-base.txt, and make it again in another --root_dir"
        raise UserError(f"{root}: expected {expected}, got {got}. {fix}.")


if __name__ == "__main__":
    run(main)
