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

from inference.prompts import instructions_sha256
from inference.settings import InferenceSettings, Settings, add_flags, add_inference_flags, as_json, flag, parse_model
from pipeline.cli import Chunk, Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import append_jsonl
from pipeline.progress import Summary, progress
from pipeline.provenance import Provenance

if TYPE_CHECKING:
    from inference.generation import DatasetRow, SamplePrompt


@dataclass(frozen=True)
class EvaluationSettings(Settings):
    """Which samples are evaluated, which of them by this process, and how they are scored."""

    root_dir: Path
    chunk_num: int
    chunk_idx: int
    seed: int
    dataset_name: str = flag(help="index CSV or JSONL; several are comma-separated")
    output_path: Path = flag(help="directory for outputs.jsonl and result.json", type=Path)
    limit: int | None = flag(None, help="the first N samples only, for a quick look", type=at_least(1))
    resume: bool = flag(False, help="resume in a used directory; only what is missing is done")
    resamples: int = flag(1000, help="bootstrap resamples for the intervals", type=at_least(1))


def make_parser() -> Parser:
    cli = Parser(__doc__)
    add_flags(cli.add_argument_group("data and scores"), EvaluationSettings)
    cli.add_chunks()
    add_inference_flags(cli)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    flags = parse_model(make_parser(), argv)
    evaluation, settings = EvaluationSettings.from_flags(flags), InferenceSettings.from_flags(flags)
    summary = Summary("test.py")
    folder, outputs = evaluation.output_path, evaluation.output_path / "outputs.jsonl"
    chunk, replicas = Chunk(evaluation.chunk_num, evaluation.chunk_idx), settings.model.data_parallel_size
    if replicas > 1 and (chunk.number > 1 or settings.server.url):
        raise UserError("--data_parallel_size: expected neither --chunk_num, which it sets, nor --url, got one of them.")
    log = chunk.path(outputs)
    used = [log] if log.exists() else [] if chunk.number > 1 else sorted(folder.glob("outputs*.jsonl"))
    if used and not evaluation.resume:
        raise UserError(f"{folder}: expected no outputs, got {used[0].name}. Add --resume, or choose another --output_path.")

    from evaluation.score import format_result, score_dir
    from evaluation.training_info import training_warnings
    from inference.generation import finished_keys, read_samples
    from inference.replicas import run_replicas

    samples = read_samples(flags["root_dir"], evaluation.dataset_name, settings.prompt)[: evaluation.limit]
    dataset = samples[0][0]
    wording = instructions_sha256(dataset.instructions)
    patients = {str(row["subject_id"]) for data, index in samples if "subject_id" in (row := data.row(index))}
    own_wording = settings.prompt.instructions is not None
    model = settings.model.model_name_or_path
    for warning in training_warnings(model, wording, own_wording, patients, flags["root_dir"]):
        print(f"warning: {warning}", file=sys.stderr)

    failed, done = False, f"{replicas} processes"
    if replicas > 1:
        run_replicas(sys.argv[1:] if argv is None else argv, settings.model, folder, len(samples))
    else:
        done, failed = run_samples(samples, outputs, chunk, settings)
    num_finished = len(finished_keys(outputs))  # other chunks may have made progress meanwhile
    if num_finished < len(samples):
        why = "the other chunks are not finished. When they are" if chunk.number > 1 else "some got no reply. As it is"
        print(f"{num_finished:,} of {len(samples):,} samples are there; {why}: python -m evaluation.score {folder}")
        summary.print(f"{done} → {log}")
        return 0 if chunk.number > 1 and not failed else 1
    trajectories = None if dataset.rendered else dataset.trajectories.digest
    about = {"arguments": as_json(evaluation, settings), "instructions_sha256": wording, "trajectories": trajectories}
    result = score_dir(folder, evaluation.resamples, evaluation.seed, expected=len(samples), extra=about)
    print(format_result(result), flush=True)
    summary.print(f"{done} → {folder}/result.json")
    return 0


def run_samples(samples: list[DatasetRow], outputs: Path, chunk: Chunk, settings: InferenceSettings) -> tuple[str, bool]:
    """Answer the samples of this process; returns what was done, and whether some got no reply."""
    from evaluation.metrics import sample_score
    from inference.backends import load_backend
    from inference.generation import Prompter, finished_keys, generate_and_record, output_line, reply_settings

    def length(sample: DatasetRow) -> int:
        row = sample[0].row(sample[1])  # characters, or events of its window
        return len(row["input"]) if "input" in row else row["period_end"] - row["period_begin"]

    wording = instructions_sha256(samples[0][0].instructions)
    if chunk.number > 1:  # chunks with as many long samples as short ones
        samples = chunk.of(sorted(samples, key=length))
    samples.sort(key=lambda sample: str(sample[0].row(sample[1]).get("subject_id")))  # prompts of a patient share a prefix
    backend = load_backend(settings)
    made_with = reply_settings(settings) | as_json(replace(settings.prompt, instructions=None))
    made_with |= {"instructions_sha256": wording, "template_sha256": backend.builder.template_sha256}
    Provenance(outputs.parent, "test.py", settings=made_with).begin(used=False)
    prompters = {id(dataset): Prompter(dataset, backend.builder, settings) for dataset, _ in samples}
    with append_jsonl(chunk.path(outputs)) as write, progress(total=len(samples), desc="test.py", unit="sample") as bar:
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
    run(main, resume="Add --resume to the same command to continue.")
