"""Run a model over an index file and score it: F1 and AUROC per task, with intervals.

One line per sample is appended to OUTPUT/outputs.jsonl as it finishes; result.json and a table follow. --resume does only what
is missing, with the data, model and settings that the directory was begun with; --overwrite starts afresh. Risk tasks are
scored by p(yes) in one forward pass, without reasoning unless --think_risk. Score stored outputs again with
`python -m evaluation.score OUTPUT`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.checks import check_inference
from inference.costs import CostSettings
from inference.prompts import instructions_sha256
from inference.settings import (
    DecodingSettings,
    InferenceSettings,
    Settings,
    add_flags,
    add_inference_flags,
    as_json,
    flag,
    parse_model,
)
from pipeline.cli import Chunk, Parser, at_least, chunk_paths, run
from pipeline.errors import UserError
from pipeline.files import Line, append_jsonl, remove_paths, sha256
from pipeline.progress import Summary, progress
from pipeline.provenance import Provenance, check_sources
from pipeline.records import folder_record
from pipeline.work import Workers

if TYPE_CHECKING:
    from inference.backends import Generation
    from inference.generation import DatasetRow, SamplePrompt, Tally

    LineOf = Callable[[SamplePrompt, Sequence[Generation]], Line | None]

RULES = 2  # how samples are chosen, prompts made and replies decoded; see `pipeline.provenance`
WORKERS = 4  # processes that make prompts, by default, where a GPU would wait for one
MOST_REASONS = 5  # why samples got no reply, that are printed


@dataclass(frozen=True)
class EvaluationSettings(Settings):
    """Which samples are evaluated, which of them by this process, and how they are scored."""

    root_dir: Path
    chunk_num: int
    chunk_idx: int
    engine: str
    seed: int
    dataset_name: str = flag(help="index CSV or JSONL; several are comma-separated")
    output_path: Path = flag(help="directory for outputs.jsonl and result.json", type=Path)
    limit: int | None = flag(None, help="N samples in all, of each task in turn; a larger N extends a run", type=at_least(1))
    resume: bool = flag(False, help="resume in a used directory; only what is missing is done")
    overwrite: bool = flag(False, help="start afresh in a used directory: remove its outputs")
    num_workers: int | None = flag(
        None, help="processes that make prompts ahead; 0: this process makes them (4 with a GPU, else 0)", type=at_least(0)
    )
    resamples: int = flag(1000, help="bootstrap resamples for the intervals", type=at_least(1))


def make_parser() -> Parser:
    cli = Parser(__doc__)
    add_flags(cli.add_argument_group("data and scores"), EvaluationSettings)
    cli.add_chunks()
    cli.add_engine()
    add_inference_flags(cli)
    add_flags(cli.add_argument_group("several replies, and cost"), DecodingSettings)
    add_flags(cli, CostSettings, omit=["max_cost"])
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    cli = make_parser()
    flags = parse_model(cli, argv)
    evaluation, settings = EvaluationSettings.from_flags(flags), InferenceSettings.from_flags(flags)
    summary = Summary("test.py")
    folder, outputs = evaluation.output_path, evaluation.output_path / "outputs.jsonl"
    chunk, replicas = Chunk(evaluation.chunk_num, evaluation.chunk_idx), settings.model.data_parallel_size
    on_ray = Workers(engine=evaluation.engine).engine == "ray"
    if (replicas > 1 or on_ray) and (chunk.number > 1 or settings.server.url):
        name = "--engine ray" if on_ray else "--data_parallel_size"
        raise UserError(f"{name}: expected neither --chunk_num, which it sets, nor --url, got one of them.")
    check_output(evaluation, chunk)
    check_inference(settings, elsewhere=on_ray)

    from evaluation.attributes import read_attributes, write_attributes
    from evaluation.score import format_result, score_dir
    from evaluation.sources import dataset_sources, evaluation_settings, model_sources
    from evaluation.training_info import training_warnings
    from inference.backends import load_builder, prompt_warnings
    from inference.generation import finished_keys, read_samples
    from inference.replicas import run_replicas

    available = read_samples(flags["root_dir"], evaluation.dataset_name, settings.prompt)
    samples = available[: evaluation.limit]
    dataset = samples[0].dataset
    wording = instructions_sha256(dataset.instructions)
    patients = {sample.subject_id for sample in samples if sample.subject_id is not None}
    own_wording = settings.prompt.instructions is not None
    model = settings.model.model_name_or_path
    builder = load_builder(settings)
    warnings = training_warnings(model, wording, own_wording, patients, flags["root_dir"])
    warnings += prompt_warnings(settings, builder) if chunk.index == 0 else []
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    finished = set() if evaluation.overwrite else finished_keys(outputs, name="sample_id")
    pending = [sample for sample in samples if sample.sample_id not in finished]
    sources = [
        *dataset_sources(sample.dataset for sample in available),
        *model_sources(settings, folder, finished=not pending),
    ]
    family = builder.facts()
    made_with = evaluation_settings(settings, wording, family) | {"samples": len(available)}
    provenance = Provenance(folder, "test.py", sources, made_with, RULES, cli.arguments)
    if evaluation.overwrite:
        check_sources(provenance.sources)
        provenance.check_output()
        remove_outputs(folder)
    provenance.begin(used=bool(chunk_paths(outputs)), extend=bool(pending))

    failed, done = False, f"{replicas} processes" if pending else f"0 samples answered, {len(samples):,} already finished"
    if pending and replicas > 1 and not on_ray:
        run_replicas(cli.arguments, settings.model, folder, len(samples))
    elif pending:
        made_from = sha256(json.dumps(provenance.made_from, sort_keys=True))
        done, failed = run_samples(samples, evaluation, settings, made_from)
    finished = finished_keys(outputs, name="sample_id")  # other chunks may have made progress meanwhile
    if missing := sum(sample.sample_id not in finished for sample in samples):
        why = "the other chunks are not finished. When they are" if chunk.number > 1 else "some got no reply. As it is"
        number = f"{len(samples) - missing:,} of {len(samples):,} samples are there"
        print(f"{number}; {why}: python -m evaluation.score {folder}")
        summary.print(f"{done} → {chunk.path(outputs)}")
        return 0 if chunk.number > 1 and not failed else 1
    from_trajectories = {sample.sample_id: sample.dataset for sample in available if not sample.dataset.rendered}
    if unread := (finished & from_trajectories.keys()) - read_attributes(folder).keys():
        write_attributes(folder, from_trajectories[unread.pop()].trajectories, from_trajectories)
    trajectories = next((source.digest for source in sources if source.name == "trajectories"), None)
    prices = {name: flags[name] for name in ("price_in", "price_out")}
    about = {"arguments": as_json(evaluation, settings) | prices, "instructions_sha256": wording, "trajectories": trajectories}
    about["family"] = family
    expected = len(finished.union(sample.sample_id for sample in samples))  # a run with a larger --limit may have gone before
    identities = {sample.sample_id for sample in available}
    result = score_dir(folder, evaluation.resamples, evaluation.seed, identities, expected, about)
    print(format_result(result), flush=True)
    digest = result["samples_digest"]  # which scoring needs where result.json is gone
    provenance.complete(files=[], samples=expected, available=len(available), samples_digest=digest)
    summary.print(f"{done} → {folder}/result.json")
    return 0


def check_output(evaluation: EvaluationSettings, chunk: Chunk) -> None:
    """Check that the output directory is new, or to be resumed or overwritten."""
    folder, outputs = evaluation.output_path, evaluation.output_path / "outputs.jsonl"
    if evaluation.overwrite and chunk.number > 1:
        fix = "Remove the outputs before the first chunk"
        raise UserError(f"--overwrite: expected a run in one process, got --chunk_num. {fix}.")
    log = chunk.path(outputs)
    used = [log] if log.exists() else [] if chunk.number > 1 else chunk_paths(outputs)
    fix = "--overwrite to start afresh, or choose another --output_path"
    if used and not evaluation.resume and not evaluation.overwrite:
        raise UserError(f"{folder}: expected no outputs, got {used[0].name}. Add --resume to continue, {fix}.")
    if chunk_paths(outputs) and not evaluation.overwrite and not folder_record(folder).exists():
        got = "outputs of an older version without it"
        raise UserError(f"{folder}: expected provenance.json, which says what they were made from, got {got}. Add {fix}.")


def remove_outputs(folder: Path) -> None:
    """Remove what earlier runs, the baselines on them and reports left in an output directory, and nothing else."""
    baselines = [record.parent for record in folder.glob("baselines/*/provenance.json")]
    outputs = [path for place in (*baselines, folder) for path in chunk_paths(place / "outputs.jsonl")]
    records = [place / name for place in (*baselines, folder) for name in ("result.json", "provenance.json")]
    exported = folder.glob("meds_predictions/*.parquet")
    reports = [folder / name for name in ("report.html", "report.md", "report.png", "run.json", "attributes.csv")]
    remove_paths(folder, [*outputs, *reports, *exported, *records])


def share_of(chunk: Chunk, samples: Sequence[DatasetRow]) -> list[DatasetRow]:
    """The samples of a chunk: as many long as short ones, and those of a patient together, whose prompts share a prefix."""
    share = chunk.of(sorted(samples, key=lambda sample: sample.length)) if chunk.number > 1 else samples
    return sorted(share, key=lambda sample: str(sample.subject_id))


def run_samples(
    samples: Sequence[DatasetRow], evaluation: EvaluationSettings, settings: InferenceSettings, made_from: str
) -> tuple[str, bool]:
    """Answer the samples of this process; returns what was done, and whether some got no reply.

    `made_from` identifies data, model and settings; every line has it, so that lines of another run are noticed.
    """
    from evaluation.metrics import sample_score
    from inference.generation import finished_keys, output_line

    outputs, chunk = evaluation.output_path / "outputs.jsonl", Chunk(evaluation.chunk_num, evaluation.chunk_idx)
    line_of = partial(output_line, scorer=sample_score)
    samples, finished = share_of(chunk, samples), finished_keys(outputs, name="sample_id")
    if all(sample.sample_id in finished for sample in samples):
        return f"0 samples answered, {len(samples):,} already finished", False
    answer = (on_cluster if evaluation.engine == "ray" else on_this_machine)(evaluation, settings, line_of)
    with append_jsonl(chunk.path(outputs)) as write, progress(total=len(samples), desc="test.py", unit="sample") as bar:
        finished = finished_keys(outputs, name="sample_id")
        pending = [sample for sample in samples if sample.sample_id not in finished]
        bar.update(len(samples) - len(pending))
        last = time.monotonic()

        def write_timed(line: Line) -> None:
            nonlocal last
            now = time.monotonic()
            # Seconds since the line before add up to those of the run, whatever is batched, split or resumed.
            write(line | {"made_from_sha256": made_from, "seconds": round(now - last, 4)})
            last = now

        tally = answer(pending, write_timed, bar)
    for reason, count in tally.errors.most_common(MOST_REASONS):
        print(f"no reply to {count:,} samples: {reason}; --resume asks for them again", file=sys.stderr)
    if len(tally.errors) > MOST_REASONS:
        print(f"no reply to more samples: {len(tally.errors) - MOST_REASONS:,} other reasons", file=sys.stderr)
    done = f"{tally.answered + tally.too_long:,} samples answered, {len(samples) - len(pending):,} already finished"
    return f"{done}, {tally.truncated:,} truncated, {tally.too_long:,} too long", bool(tally.errors)


# Answers samples, writes a line for each, advances the progress bar, and counts.
Answer = Callable[["Sequence[DatasetRow]", Callable[[Line], None], Any], "Tally"]


def on_this_machine(evaluation: EvaluationSettings, settings: InferenceSettings, line_of: LineOf) -> Answer:
    """The model, loaded in this process."""
    from inference.backends import load_backend
    from inference.generation import generate_and_record
    from inference.prompt_workers import sample_prompts
    from inference.replicas import visible_gpus

    num_workers = WORKERS * bool(visible_gpus()) if evaluation.num_workers is None else evaluation.num_workers
    backend = load_backend(settings)

    def answer(samples: Sequence[DatasetRow], write: Callable[[Line], None], bar: Any) -> Tally:
        prompts = sample_prompts(samples, backend.builder, settings, num_workers)
        return generate_and_record(prompts, backend, write, line_of, bar)

    return answer


def on_cluster(evaluation: EvaluationSettings, settings: InferenceSettings, line_of: LineOf) -> Answer:
    """The replicas of the model on a Ray cluster."""
    from inference.ray_replicas import Replica, answer_on_ray, gpus_of_cluster

    num_workers = WORKERS * bool(gpus_of_cluster()) if evaluation.num_workers is None else evaluation.num_workers
    replica = Replica(settings, evaluation.root_dir, evaluation.dataset_name, num_workers, line_of)
    number = settings.model.data_parallel_size

    def answer(samples: Sequence[DatasetRow], write: Callable[[Line], None], bar: Any) -> Tally:
        shares = [share_of(Chunk(number, index), samples) for index in range(number)]
        return answer_on_ray([[sample.sample_id for sample in share] for share in shares], replica, write, bar)

    return answer


if __name__ == "__main__":
    run(main, resume="Add --resume to the same command to continue.")
