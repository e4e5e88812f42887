"""Run a model over an index file and score it: F1 and AUROC per task, with intervals.

One line per sample is appended to OUTPUT/outputs.jsonl as it finishes; result.json and a table follow. --resume does only what
is missing. Risk tasks are scored by p(yes) in one forward pass, without reasoning unless --think_risk. Score stored outputs
again with `python -m evaluation.score OUTPUT`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from inference.settings import FromArguments, InferenceSettings, add_model_flags, add_prompt_flags, as_json, parse_model
from pipeline.cli import Chunk, Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import append_jsonl, require
from pipeline.progress import Summary, progress
from pipeline.provenance import Provenance, folder_record, read_record

if TYPE_CHECKING:
    from inference.generation import SamplePrompt
    from mimiciv_dataset.mimiciv import MIMICIV


@dataclass(frozen=True)
class EvaluationSettings(FromArguments):
    """Which samples are evaluated, and where the outputs go.

    Attributes:
        root_dir: directory of the data.
        dataset_name: index files, comma-separated.
        output_path: directory of the outputs.
        limit: the first N samples; None: all.
        resume: whether the directory may have outputs.
        chunk_num, chunk_idx: the share of this process.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    root_dir: Path
    dataset_name: str
    output_path: Path
    limit: int | None = None
    resume: bool = False
    chunk_num: int = 1
    chunk_idx: int = 0
    resamples: int = 1000
    seed: int = 0


def make_parser() -> Parser:
    cli = Parser(__doc__)
    data = cli.add_argument_group("data")
    data.add_argument("--dataset_name", required=True, help="index CSV or JSONL; several are comma-separated")
    data.add_argument("--output_path", required=True, type=Path, help="directory for outputs.jsonl and result.json")
    data.add_argument(
        "--prompt", action="store_true", help="add candidates and answer rules, for models not trained on EHR-Ins"
    )
    data.add_argument("--oracle_reasoning", action="store_true", help="pre-fill the row's own reasoning")
    data.add_argument("--limit", type=at_least(1), help="the first N samples only, for a quick look")
    data.add_argument("--resume", action="store_true", help="resume in a used directory; only what is missing is done")
    cli.add_chunks()
    add_model_flags(cli)
    add_prompt_flags(cli)
    cli.add_argument("--resamples", type=at_least(1), default=1000, help="bootstrap resamples for the intervals (1000)")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_model(make_parser(), argv)
    evaluation, settings = EvaluationSettings.from_args(args), InferenceSettings.from_args(args)
    chunk, replicas = Chunk(args.chunk_num, args.chunk_idx), settings.model.data_parallel_size
    if replicas > 1 and (chunk.number > 1 or settings.server.url):
        raise UserError("--data_parallel_size: expected neither --chunk_num, which it sets, nor --url, got one of them.")
    summary = Summary("test.py")
    folder, outputs = evaluation.output_path, evaluation.output_path / "outputs.jsonl"
    fix = "make one with mimiciv_dataset/data_index_gen.py"
    files = [require(name, "an index CSV or JSONL", fix) for name in evaluation.dataset_name.split(",")]
    own = chunk.path(outputs)
    used = [own] if own.exists() else [] if chunk.number > 1 else sorted(folder.glob("outputs*.jsonl"))
    if used and not evaluation.resume:
        raise UserError(f"{folder}: expected no outputs, got {used[0].name}. Add --resume, or choose another --output_path.")

    from evaluation.score import print_result, score_dir
    from evaluation.training_info import training_warnings
    from inference.generation import finished_keys
    from inference.prompts import instructions_sha256
    from inference.replicas import run_replicas
    from mimiciv_dataset.index_files import sample_id
    from mimiciv_dataset.mimiciv import MIMICIV

    own_wording = settings.prompt.instructions
    datasets = [MIMICIV(args.root_dir, path, lazzy_mode=True, shuffle=False, instructions=own_wording) for path in files]
    samples: dict[str, tuple[MIMICIV, int]] = {}  # a row that appears twice is one sample
    for dataset in datasets:
        for index in range(len(dataset)):
            row = dataset.row(index)
            samples.setdefault(sample_id(row.get("task_info", {}) | row), (dataset, index))
    samples = list(samples.values())[: evaluation.limit]
    if not samples:
        raise UserError(f"{evaluation.dataset_name}: expected samples, got none. Give an index file with rows.")
    wording = instructions_sha256(datasets[0].instructions)
    patients = {str(row["subject_id"]) for dataset, index in samples if "subject_id" in (row := dataset.row(index))}
    for warning in training_warnings(settings.model.model_name_or_path, wording, own_wording is not None, patients):
        print(f"warning: {warning}", file=sys.stderr)

    failed = False
    if replicas > 1:
        argv = sys.argv[1:] if argv is None else argv
        run_replicas(argv, settings.model, folder, len(samples), len(finished_keys(outputs)))
        done = f"{replicas} processes"
    else:
        if chunk.number > 1:  # chunks with as many long samples as short ones
            samples.sort(key=lambda sample: window_length(*sample))
        done, failed = run_samples(chunk.of(samples), evaluation, settings, wording)
    num_finished = len(finished_keys(outputs))  # other chunks may have made progress meanwhile
    if num_finished < len(samples):
        why = "the other chunks are not finished. When they are" if chunk.number > 1 else "some got no reply. As it is"
        print(f"{num_finished:,} of {len(samples):,} samples are there; {why}: python -m evaluation.score {folder}")
        summary.print(f"{done} → {own}")
        return 0 if chunk.number > 1 and not failed else 1
    about = {
        "arguments": as_json(evaluation, settings),
        "instructions_sha256": wording,
        "trajectories": None if datasets[0].rendered else datasets[0].trajectories.digest,
    }
    result = score_dir(folder, evaluation.resamples, evaluation.seed, expected=len(samples), extra=about)
    print_result(result)
    record = read_record(folder_record(folder))
    Provenance(folder_record(folder), record["step"], record["inputs"], record["settings"]).complete(samples=len(samples))
    summary.print(f"{done} → {folder}/result.json")
    return 0


def window_length(dataset: MIMICIV, index: int) -> int:
    """A measure of the length of a sample's input: events of its window, or characters."""
    row = dataset.row(index)
    return len(row["input"]) if "input" in row else row["period_end"] - row["period_begin"]


def run_samples(
    samples: list[tuple[MIMICIV, int]], evaluation: EvaluationSettings, settings: InferenceSettings, wording: str
) -> tuple[str, bool]:
    """Answer the samples (dataset, position) of this process.

    Returns:
        What was done, in words, and whether samples got no reply.
    """
    from evaluation.metrics import sample_score
    from inference.backends import load_backend
    from inference.generation import Prompter, finished_keys, generate_and_record, output_line, reply_settings

    samples.sort(key=lambda sample: str(sample[0].row(sample[1]).get("subject_id")))  # prompts of a patient share a prefix
    backend = load_backend(settings)
    Provenance(
        folder_record(evaluation.output_path),
        "test.py",
        inputs={"instructions": wording, "template": backend.builder.template_sha256},
        settings=reply_settings(settings) | as_json(replace(settings.prompt, instructions=None)),
    ).claim(change="--output_path", used=False)
    prompters = {id(dataset): Prompter(dataset, backend.builder, settings) for dataset, _ in samples}
    outputs = evaluation.output_path / "outputs.jsonl"
    log = Chunk(evaluation.chunk_num, evaluation.chunk_idx).path(outputs)
    with append_jsonl(log) as write, progress(total=len(samples), desc="test.py", unit="sample") as bar:
        finished = finished_keys(outputs)
        num_before = len(finished)

        def prompts() -> Iterator[SamplePrompt]:
            for dataset, index in samples:
                prompt = prompters[id(dataset)](index)
                if prompt.key in finished:
                    bar.update()
                else:
                    finished.add(prompt.key)
                    yield prompt

        tally = generate_and_record(prompts(), backend, write, partial(output_line, scorer=sample_score), bar)
    for reason, count in tally.errors.most_common():
        print(f"no reply to {count:,} samples: {reason}; --resume asks for them again", file=sys.stderr)
    done = f"{tally.answered + tally.too_long:,} samples answered, {num_before:,} already finished"
    return f"{done}, {tally.truncated:,} truncated, {tally.too_long:,} too long", bool(tally.errors)


if __name__ == "__main__":
    run(main)
