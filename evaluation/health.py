"""What a user of a benchmark should know: leaks, doubtful labels, repeated rows, and what can be guessed without a model.

Reads index files (sampled CSVs or released JSONL, or directories of CSVs), each a benchmark, and writes to --output_path:

  health.html, health.json   per benchmark a verdict, and per task: rows with a flag of the leak audit, labels that disagree
                             with hospital_expire_flag, repeated and unanswerable rows, patients of the training set
                             (--train), balance of the answers, scores of copying the patient's last answer and of the most
                             frequent answers, and cues in the candidates
  NAME.leak_free.csv         the rows without any finding of --exclude, verbatim: an index of the same format

With --results, the scores of finished runs on the benchmark and on the leak-free rows, and their difference. Rows without a
column audit are audited here if trajectories are there; of a row that has its text only, what the text tells.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.audit import FLAG_HEADERS, FLAGS
from mimiciv_dataset.index_files import index_files, index_paths
from mimiciv_dataset.patients import DATA_USE
from mimiciv_dataset.sources import index_mapping_source, index_sources, trajectories_source
from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, require, write_json
from pipeline.progress import Summary, print_table
from pipeline.provenance import Provenance, Source, content_of
from pipeline.work import Workers

if TYPE_CHECKING:
    from evaluation.finished_runs import FinishedRun
    from evaluation.health_checks.cues import Bootstrap
    from evaluation.health_checks.facts import Facts, Training
    from mimiciv_dataset.candidates import Candidates

STEP, RULES = "evaluation/health.py", 1
HEADERS = dict(zip(FLAGS, FLAG_HEADERS, strict=True)) | {"train_patient": "train_\npatient"}  # of a printed table


@dataclass(frozen=True)
class HealthSettings:
    """Settings of the command by the names of its flags.

    Attributes:
        ehr_dir: trajectories; None if there are none.
        exclude: findings whose rows the leak-free subset leaves out.
        max_rows: rows of a task, drawn at random, for what is measured on a sample: last answers and cues in candidates.
    """

    ehr_dir: Path | None
    index_mapping: Path
    cache_dir: Path
    exclude: tuple[str, ...]
    max_rows: int
    workers: Workers


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("index", nargs="+", type=Path, metavar="INDEX", help="sampled CSV, JSONL, or directory of CSVs")
    cli.add_argument(
        "--results", nargs="+", type=Path, default=[], metavar="DIR", help="directories of finished runs of test.py"
    )
    train = "training set: lists of patients, index CSVs or JSONL"
    cli.add_argument("--train", nargs="+", type=Path, default=[], metavar="FILE", help=train)
    cli.add_argument("--output_path", type=Path, metavar="DIR", help="directory to write (ROOT_DIR/health/NAME)")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories, if there are any")
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries and code maps")
    cli.add_path("--cache_dir", default="cache", help="answer vocabularies, for candidates of CSVs")
    exclude = "findings without which a row is leak-free, comma-separated (all)"
    cli.add_argument("--exclude", type=findings, metavar="NAME,...", help=exclude)
    cli.add_argument("--max_rows", type=at_least(1), default=2000, metavar="N", help="rows of a task for samples (2000)")
    cli.add_argument("--resamples", type=at_least(1), default=1000, help="bootstrap resamples of the patients (1000)")
    cli.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (0)")
    cli.add_num_workers()
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    summary = Summary("health")
    from evaluation.finished_runs import read_runs
    from evaluation.health_checks.cues import Bootstrap
    from evaluation.health_checks.facts import FINDINGS, Training
    from evaluation.health_checks.page import build
    from evaluation.health_checks.subset import subset_path

    benchmarks = {path.stem if path.is_file() else path.name: path for path in index_paths(args.index)}
    output = args.output_path or args.root_dir / "health" / "+".join(benchmarks)
    names = [subset_path(output, file) for path in benchmarks.values() for file in index_files(path)]
    if len(benchmarks) < len(args.index) or len(set(names)) < len(names):
        raise UserError("INDEX: expected files of different names, got the same name twice. Run the command on each.")
    is_default = "ehr_dir" in cli.defaults_used
    ehr_dir = args.ehr_dir if args.ehr_dir.exists() or not is_default else None
    if ehr_dir:
        require(ehr_dir, "trajectories", "Make them with preprocess/combination.py, or leave --ehr_dir out")
    settings = HealthSettings(
        ehr_dir, args.index_mapping, args.cache_dir, args.exclude or tuple(FINDINGS), args.max_rows, workers
    )
    bootstrap = Bootstrap(args.resamples, args.seed)
    made_with = {"exclude": settings.exclude, "max_rows": args.max_rows, "resamples": args.resamples, "seed": args.seed}
    sources = health_sources(benchmarks, settings, args.train, args.results, args.verify)
    provenance = Provenance(output, STEP, sources, made_with, RULES, cli.arguments)
    if not provenance.begin(args.overwrite, args.verify):
        return
    training = Training.read(args.train) if args.train else None
    runs = read_runs(args.results) if args.results else []
    results = [assess(name, path, settings, training, runs, bootstrap, output) for name, path in benchmarks.items()]
    for run_ in runs:
        if not run_.baseline and not any(run_.name in result["runs"] for result in results):
            print(f"warning: {run_.name}: it has no scores on samples of INDEX, and is left out.")
    health = {"benchmarks": {result["name"]: result for result in results}, "settings": made_with, "data_use": DATA_USE}
    write_json(output / "health.json", health)
    with atomic_path(output / "health.html") as temporary:
        temporary.write_text(build(health), encoding="utf-8")
    provenance.complete(data_use=DATA_USE)
    for result in results:
        print_result(result)
    rows, kept = (sum(result[name] for result in results) for name in ("rows", "kept"))
    summary.print(f"{rows:,} rows, {kept:,} of them leak-free → {output}/health.html", rows, "rows")


def findings(text: str) -> tuple[str, ...]:
    """An argparse type: findings about rows, comma-separated."""
    import argparse

    from evaluation.health_checks.facts import FINDINGS

    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in FINDINGS]:
        got = ", ".join(filter(None, unknown)) or "none"
        raise argparse.ArgumentTypeError(f"expected findings among {', '.join(FINDINGS)}, got {got}")
    return names


def health_sources(
    benchmarks: dict[str, Path], settings: HealthSettings, train: Sequence[Path], results: Sequence[Path], verify: bool
) -> list[Source]:
    """The index files, trajectories, dictionaries and candidates, the training set, and the results of runs and baselines."""
    sources = [source for name, path in benchmarks.items() for source in index_sources(path, f"index/{name}", verify)]
    if settings.ehr_dir:
        sources += [trajectories_source(settings.ehr_dir, verify), index_mapping_source(settings.index_mapping, verify)]
    caches = [settings.cache_dir / part for part in ("item_set", "similar_item")]
    sources += [content_of(f"candidates/{cache.name}", cache, verify=verify) for cache in caches if cache.exists()]
    sources += [content_of(f"train/{path.name}", require(path, "a training set", "Name another file")) for path in train]
    for folder in results:
        for path in [folder / "result.json", *sorted(folder.glob("baselines/[!.]*/result.json"))]:
            fix = "run test.py to its end first"
            sources.append(content_of(f"results/{path.parent}", require(path, "the result of a finished run", fix)))
    return sources


def assess(
    name: str,
    path: Path,
    settings: HealthSettings,
    training: Training | None,
    runs: Sequence[FinishedRun],
    bootstrap: Bootstrap,
    output: Path,
) -> dict[str, Any]:
    """The entry of a benchmark in health.json; writes the leak-free rows."""
    from evaluation.health_checks.facts import read_facts, read_trajectories
    from evaluation.health_checks.subset import kept_samples, score_changes, write_subset
    from evaluation.health_checks.verdict import points, verdict
    from mimiciv_dataset.candidates import Candidates

    facts = read_facts(name, index_files(path), settings.max_rows, training, settings.ehr_dir is not None)
    if not facts.rows:
        raise UserError(f"{path}: expected rows, got none. Choose another index.")
    if settings.ehr_dir:
        read_trajectories(facts, settings.ehr_dir, settings.index_mapping, settings.workers)
    candidates = Candidates(settings.cache_dir) if settings.cache_dir.exists() else None
    result = describe(facts, settings, candidates, bootstrap, training is not None)
    kept = ~facts.has(settings.exclude)
    result["leak_free"] = [file.name for file in write_subset(facts.files, kept, output)]
    samples = kept_samples(facts.sample_ids, kept)
    result["kept_as_known"] = int((~facts.has(set(settings.exclude) - {"not_yet_stored"})).sum())
    result["runs"] = {}
    for run_ in runs:
        changes = score_changes(run_, samples, bootstrap)
        if changes["tasks"]:
            result["runs"][run_.name] = {"baseline": run_.baseline} | changes
    result["verdict"], result["points"] = verdict(result), list(points(result))
    return result


def describe(
    facts: Facts, settings: HealthSettings, candidates: Candidates | None, bootstrap: Bootstrap, with_training: bool
) -> dict[str, Any]:
    """The numbers of a benchmark."""
    from evaluation.health_checks.facts import summarise_tasks
    from evaluation.health_checks.verdict import not_checked

    tasks = dict(summarise_tasks(facts, settings.exclude, candidates, bootstrap))
    return {
        "name": facts.name,
        "files": [file.name for file in facts.files],
        "rows": facts.rows,
        "kept": sum(task["kept"] for task in tasks.values()),
        "tasks": tasks,
        "contradicting": facts.contradicting,
        "sharing_window": facts.sharing_window,
        "without_patient": facts.without_patient,
        "not_checked": not_checked(tasks, with_training, settings.ehr_dir is not None),
    }


# --- what the command prints


def print_result(result: dict[str, Any]) -> None:
    """Print the tables of a benchmark and its verdict."""
    from evaluation.health_checks.cues import notable_cues
    from evaluation.health_checks.facts import FINDINGS
    from evaluation.health_checks.verdict import percent

    tasks = result["tasks"]
    shown = [name for name in FINDINGS if any(task["findings"][name] for task in tasks.values())]
    rows = []
    for name, task in tasks.items():
        entries = [task["findings"][finding] for finding in shown]
        shares = [entry and percent(entry["rows"], entry["checked"]) for entry in entries]
        rows.append([name, task["rows"], task["patients"], *shares, task["kept"]])
    print_table(["task", "rows", "patients", *(HEADERS.get(name, name) for name in shown), "kept"], rows)
    print()
    rows = []
    for name, task in tasks.items():
        labels = task["labels"]
        yes = percent(labels["yes"], task["rows"]) if "yes" in labels else None
        effective = f"{labels['effective']:.1f}" if "effective" in labels else None
        cues = ", ".join(notable_cues(task["cues"])) or "none" if task["cues"] else None
        scores = [estimate_text(task[baseline]) for baseline in ("majority", "copy_last")]
        rows.append([name, yes, labels.get("distinct"), effective, *scores, cues])
    print_table(["task", "yes", "answers", "effective", "majority", "copy_last", "cues in candidates"], rows)
    for run_name, changes in result["runs"].items():
        for macro in changes["macro"].values():
            text = estimate_text({"value": macro["change"], "ci": macro["ci"]}, "+.3f")
            over = f"leak-free rows of {macro['tasks']} of {macro['of']} tasks"
            print(f"{run_name}: {macro['metric']} {macro['before']:.3f} → {macro['after']:.3f} on {over}, {text}")
    print("", result["verdict"], *(f"  {point}" for point in result["points"]), sep="\n")
    for text in result["not_checked"]:
        print(f"  not checked: {text}.")


def estimate_text(estimate: dict[str, Any] | None, form: str = ".3f") -> str | None:
    """A value with its interval; "too few" if it has none.

    >>> estimate_text({"value": 0.5, "ci": [0.4, 0.6]}), estimate_text({"value": 0.5, "ci": None})
    ('0.500 [0.400, 0.600]', '0.500 [too few]')
    """
    if estimate is None or estimate["value"] is None:
        return None
    ci = estimate["ci"]
    return f"{estimate['value']:{form}} [{f'{ci[0]:{form}}, {ci[1]:{form}}' if ci else 'too few'}]"


if __name__ == "__main__":
    run(main)
