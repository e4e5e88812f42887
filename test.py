"""Run a model over an index file and score it: F1 and AUROC per task, with intervals.

One line a sample goes to OUTPUT/outputs.jsonl as it finishes; result.json and a table follow. --resume does only what is
missing. Risk tasks are scored by p(yes) in one forward pass, without reasoning unless --think_risk. Score stored outputs
again with `python -m evaluation.score OUTPUT`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from evaluation.arguments import add_model_flags, add_prompt_flags, backend_name, check_lengths, empty_think
from mimiciv_dataset.commands import (
    Summary,
    UserError,
    add_chunks,
    chunk,
    parse,
    parser,
    progress,
    require,
    run,
)  # fmt: skip


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cli = parser(__doc__)
    data = cli.add_argument_group("data")
    data.add_argument("--dataset_name", required=True, help="index CSV or JSONL; several with commas between")
    data.add_argument("--output_path", required=True, type=Path, help="folder for outputs.jsonl and result.json")
    data.add_argument(
        "--prompt", action="store_true", help="add candidates and answer rules, for models not trained on EHR-Ins"
    )
    data.add_argument("--oracle_reasoning", action="store_true", help="pre-fill the row's own reasoning")
    data.add_argument("--limit", type=int, help="only the first so many samples, for a quick look")
    data.add_argument("--resume", action="store_true", help="go on in a used folder; only what is missing is done")
    add_chunks(data)
    add_model_flags(cli)
    add_prompt_flags(cli)
    cli.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples for the intervals (1000)")
    args = parse(cli, argv)
    check_lengths(args)
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

    from evaluation.backends import load_backend
    from evaluation.inference import Prompter, check_settings, identity, read_keys, run_window
    from evaluation.score import print_table, score_dir
    from mimiciv_dataset.chat import PromptBuilder, instructions_sha256
    from mimiciv_dataset.mimiciv import MIMICIV

    datasets = [MIMICIV(args.root_dir, path, lazzy_mode=True, shuffle=False, instructions=args.instructions) for path in files]
    samples: dict[object, tuple[MIMICIV, int]] = {}  # a row that stands twice is one sample
    for dataset in datasets:
        for index in range(len(dataset)):
            samples.setdefault(identity(dataset.row(index)), (dataset, index))
    samples = list(samples.values())[: args.limit]
    mine = chunk(samples, args.chunk_num, args.chunk_idx)
    mine.sort(key=lambda sample: str(sample[0].row(sample[1]).get("subject_id")))  # a patient's prompts share a prefix
    backend = load_backend(backend_name(args), args)
    builder = PromptBuilder(backend.tokenizer, empty_think(args))
    args.template_sha256 = builder.template_sha256
    wording = instructions_sha256(datasets[0].instructions)
    check_settings(args.output_path, args, template_sha256=builder.template_sha256, instructions_sha256=wording)
    prompters = {id(dataset): Prompter(dataset, builder, args) for dataset in datasets}
    finished = read_keys(args.output_path, repair=output)
    before, answered, truncated, too_long = len(finished), 0, 0, 0
    bar = progress(total=len(mine), desc="test.py", unit="sample")
    with bar, output.open("a", encoding="utf-8", errors="replace") as file:  # half a surrogate pair ends no run
        for start in range(0, len(mine), backend.window):
            window = [prompters[id(dataset)](index) for dataset, index in mine[start : start + backend.window]]
            todo = {prompt.key: prompt for prompt in window if prompt.key not in finished}
            truncated += sum(prompt.dropped is not None for prompt in todo.values())
            too_long += sum(not prompt.fits for prompt in todo.values())
            for line in run_window(list(todo.values()), backend, args):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                finished.add(line["key"])
                answered += 1
            bar.update(len(window))

    finished = read_keys(args.output_path, repair=output)  # chunks that run beside this one have gone on
    done = f"{answered:,} samples answered, {before:,} were there, {truncated:,} truncated, {too_long:,} too long"
    if len(finished) < len(samples):
        print(f"{len(finished):,} of {len(samples):,} samples are there; the other chunks are not finished. "
              f"When they are: python -m evaluation.score {args.output_path}")  # fmt: skip
        summary.print(f"{done} → {output}")
        return 0 if chunked else 1
    about = {
        "arguments": {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        "instructions_sha256": wording,
        "trajectories": None if datasets[0].rendered else datasets[0].trajectories.digest,
    }
    print_table(score_dir(args.output_path, resamples=args.resamples, seed=args.seed, expected=len(samples), extra=about))
    summary.print(f"{done} → {args.output_path}/result.json")
    return 0


if __name__ == "__main__":
    run(main)
