"""Prompts of test.py: how many are made a second, in the process that runs the model and in worker processes.

To make a prompt is to render, shorten and tokenise it. A GPU that reads prompts faster than one process makes them waits;
`--num_workers` of test.py is the remedy. Start-up of the workers is left out: the clock starts with the first prompt. Unknown
flags are passed to test.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import runpy
import statistics
import time
from collections.abc import Sequence

from inference.settings import InferenceSettings, parse_model
from pipeline.cli import Parser, at_least, run

REPO = Path(__file__).resolve().parent.parent
HEADERS = ["--num_workers", "prompts", "tokens per prompt", "truncated", "prompts/s", "tokens/s", "same prompts"]


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--dataset_name", required=True, help="index CSV or JSONL; several are comma-separated")
    cli.add_argument("--model_name_or_path", required=True, help="Hub id or local directory; only the tokenizer is used")
    cli.add_argument("--rows", type=at_least(2), default=400, help="rows (400)")
    cli.add_argument("--workers", type=at_least(0), nargs="+", default=[0, 1, 2], help="numbers of worker processes (0 1 2)")
    args, flags = cli.parse_known_args(argv)
    test_flags = ["--root_dir", str(args.root_dir), "--dataset_name", "-", "--output_path", "-"]
    test_flags += ["--model_name_or_path", args.model_name_or_path, *flags]
    parser = runpy.run_path(str(REPO / "test.py"))["make_parser"]()
    settings = InferenceSettings.from_flags(parse_model(parser, test_flags))

    from inference.backends import load_builder
    from inference.generation import read_samples
    from inference.prompt_workers import sample_prompts

    samples = read_samples(args.root_dir, args.dataset_name, settings.prompt)[: args.rows]
    builder, expected = load_builder(settings), None
    print(f"| {' | '.join(HEADERS)} |\n|{' ---: |' * len(HEADERS)}")
    for number in args.workers:
        prompts = sample_prompts(samples, builder, settings, number)
        made = [next(prompts)]
        start = time.perf_counter()
        made += prompts
        rate = (len(made) - 1) / (time.perf_counter() - start)
        texts = [prompt.text for prompt in made]
        expected = expected or texts
        tokens = statistics.mean(len(prompt.ids) for prompt in made)
        truncated = statistics.mean(prompt.truncation is not None for prompt in made)
        cells = [f"{tokens:,.0f}", f"{truncated:.0%}", f"{rate:,.1f}", f"{rate * tokens:,.0f}"]
        print(f"| {' | '.join([str(number), str(len(made)), *cells, 'yes' if texts == expected else 'no'])} |", flush=True)


if __name__ == "__main__":
    run(main)
