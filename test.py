"""Run a model over an index file and score it: F1 and AUROC per task, with intervals.

One line a sample goes to OUTPUT/outputs.jsonl as it finishes; result.json and a table follow. --resume does only what is
missing. Risk tasks are scored by p(yes) in one forward pass, without reasoning unless --think_risk. Score stored outputs
again with `python -m evaluation.score OUTPUT`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inference.settings import add_model_flags, add_prompt_flags, backend_name, check_lengths, parse_model
from pipeline.cli import Chunk, Parser, run
from pipeline.errors import UserError
from pipeline.files import require
from pipeline.progress import Summary, progress

if TYPE_CHECKING:
    from mimiciv_dataset.mimiciv import MIMICIV


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cli = Parser(__doc__)
    data = cli.add_argument_group("data")
    data.add_argument("--dataset_name", required=True, help="index CSV or JSONL; several with commas between")
    data.add_argument("--output_path", required=True, type=Path, help="folder for outputs.jsonl and result.json")
    data.add_argument(
        "--prompt", action="store_true", help="add candidates and answer rules, for models not trained on EHR-Ins"
    )
    data.add_argument("--oracle_reasoning", action="store_true", help="pre-fill the row's own reasoning")
    data.add_argument("--limit", type=int, help="only the first so many samples, for a quick look")
    data.add_argument("--resume", action="store_true", help="go on in a used folder; only what is missing is done")
    cli.add_chunks()
    add_model_flags(cli)
    add_prompt_flags(cli)
    cli.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples for the intervals (1000)")
    args = parse_model(cli, argv)
    check_lengths(args)
    if args.chat and args.oracle_reasoning:
        raise UserError("--oracle_reasoning: wanted prompts that can hold the start of the reply, found --chat")
    if args.data_parallel_size > 1 and (args.chunk_num > 1 or args.url):
        raise UserError("--data_parallel_size: wanted it without --chunk_num, whose chunks it makes, and without --url, whose "
                        "server decides on its own replicas")  # fmt: skip
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    summary = Summary("test.py")
    files = [require(name, "an index CSV or JSONL", "make one with mimiciv_dataset/data_index_gen.py")
             for name in args.dataset_name.split(",")]  # fmt: skip
    chunked = f"-{args.chunk_idx}-of-{args.chunk_num}" if args.chunk_num > 1 else ""
    output = args.output_path / f"outputs{chunked}.jsonl"
    used = [output] if output.exists() else [] if chunked else sorted(args.output_path.glob("outputs*.jsonl"))
    if used and not args.resume:
        raise UserError(f"{args.output_path}: wanted an empty folder, found {used[0].name}; add --resume to go on with it, "
                        "or choose another --output_path")  # fmt: skip
    args.output_path.mkdir(parents=True, exist_ok=True)

    from evaluation.score import print_result, score_dir
    from evaluation.training_info import training_warnings
    from inference.generation import identity, length, read_keys
    from inference.prompts import instructions_sha256
    from inference.replicas import run_replicas
    from mimiciv_dataset.mimiciv import MIMICIV

    datasets = [MIMICIV(args.root_dir, path, lazzy_mode=True, shuffle=False, instructions=args.instructions) for path in files]
    samples: dict[object, tuple[MIMICIV, int]] = {}  # a row that stands twice is one sample
    for dataset in datasets:
        for index in range(len(dataset)):
            samples.setdefault(identity(dataset.row(index)), (dataset, index))
    samples = list(samples.values())[: args.limit]
    if not samples:
        raise UserError(f"{args.dataset_name}: wanted rows to answer, found none")
    wording = instructions_sha256(datasets[0].instructions)
    patients = {str(row["subject_id"]) for dataset, index in samples if "subject_id" in (row := dataset.row(index))}
    for warning in training_warnings(args.model_name_or_path, wording, args.instructions is not None, patients):
        print(f"warning: {warning}", file=sys.stderr)
    failures: Counter[str] = Counter()
    if args.data_parallel_size > 1:
        run_replicas(sys.argv[1:] if argv is None else argv, args, len(samples), len(read_keys(args.output_path)))
        done = f"{args.data_parallel_size} processes"
    else:
        if args.chunk_num > 1:  # chunks with as many long samples as short ones
            samples.sort(key=lambda sample: length(sample[0].row(sample[1])))
        done, failures = run_samples(Chunk(args.chunk_num, args.chunk_idx).of(samples), output, wording, args)
    for reason, count in failures.most_common():
        print(f"no reply to {count:,} samples: {reason}; --resume asks for them again", file=sys.stderr)
    finished = read_keys(args.output_path)  # chunks that run beside this one have gone on
    if len(finished) < len(samples):
        why = "the other chunks are not finished. When they are" if chunked else "some got no reply. As it is"
        print(f"{len(finished):,} of {len(samples):,} samples are there; {why}: python -m evaluation.score {args.output_path}")
        summary.print(f"{done} → {output}")
        return 0 if chunked and not failures else 1
    about = {
        "arguments": {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        "instructions_sha256": wording,
        "trajectories": None if datasets[0].rendered else datasets[0].trajectories.digest,
    }
    print_result(score_dir(args.output_path, resamples=args.resamples, seed=args.seed, expected=len(samples), extra=about))
    summary.print(f"{done} → {args.output_path}/result.json")
    return 0


def run_samples(
    samples: list[tuple[MIMICIV, int]], output: Path, wording: str, args: argparse.Namespace
) -> tuple[str, Counter[str]]:
    """Answer these samples (dataset, position), a line each to `output`; what was done, and why samples got no reply."""
    from evaluation.metrics import sample_score
    from inference.backends import load_backend
    from inference.generation import Prompter, check_settings, read_keys, run_window

    samples.sort(key=lambda sample: str(sample[0].row(sample[1]).get("subject_id")))  # a patient's prompts share a prefix
    backend = load_backend(backend_name(args), args)
    args.template_sha256 = backend.builder.template_sha256
    check_settings(args.output_path, args, template_sha256=args.template_sha256, instructions_sha256=wording)
    prompters = {id(dataset): Prompter(dataset, backend.builder, args) for dataset, _ in samples}
    finished = read_keys(args.output_path, repair=output)
    before, answered, truncated, too_long = len(finished), 0, 0, 0
    bar = progress(total=len(samples), desc="test.py", unit="sample")
    with bar, output.open("a", encoding="utf-8", errors="replace") as file:  # half a surrogate pair ends no run
        for start in range(0, len(samples), backend.window):
            window = [prompters[id(dataset)](index) for dataset, index in samples[start : start + backend.window]]
            todo = {prompt.key: prompt for prompt in window if prompt.key not in finished}
            truncated += sum(prompt.dropped is not None for prompt in todo.values())
            too_long += sum(not prompt.fits for prompt in todo.values())
            bar.update(len(window) - len(todo))
            for line in run_window(list(todo.values()), backend, args, sample_score):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                finished.add(line["key"])
                answered += 1
                bar.update()
    done = f"{answered:,} samples answered, {before:,} were there, {truncated:,} truncated, {too_long:,} too long"
    return done, backend.failures


if __name__ == "__main__":
    run(main)
