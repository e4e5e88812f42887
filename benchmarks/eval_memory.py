"""Transformers: peak memory of an evaluation of long prompts, with and without bounds on what a batch needs.

Random prompts of about --tokens tokens, of which no two have the same length, are scored (p(yes)), each variant in a process
of its own. "unbounded" is a batch of whole prompts, as before; the attention mask of padded prompts alone needs
batch × tokens² × 5 bytes then. Without --model_name_or_path the benchmark makes the tiny model of scripts/quickstart.sh.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
import random
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence

from inference.settings import InferenceSettings, ModelSettings
from pipeline.cli import Parser, at_least, run

REPO = Path(__file__).resolve().parent.parent
HEADERS = ["variant", "prompts", "tokens per prompt", "prompts in a batch", "peak MiB", "of it the model", "s"]
UNBOUNDED, NO_LIMIT = "unbounded", 1 << 40


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--model_name_or_path", help="Hub id or local directory (the tiny model)")
    cli.add_argument("--prompts", type=at_least(1), default=24, help="number of prompts (24)")
    cli.add_argument("--tokens", type=at_least(100), default=32000, help="tokens of the longest prompt (32000)")
    cli.add_argument("--batch", type=at_least(1), default=8, help="prompts in a batch (8)")
    cli.add_argument("--unbounded_batch", type=at_least(1), default=2, help="the same, for the variant without bounds (2)")
    cli.add_argument("--variant", nargs=4, help="measure one: name, model, prompts in a batch, prompts")
    args = cli.parse_args(argv)
    if args.variant:
        variant, model, batch, prompts = args.variant
        print(json.dumps(measure(variant, model, int(batch), int(prompts), args.tokens)))
        return
    print(f"| {' | '.join(HEADERS)} |\n| --- |{' ---: |' * (len(HEADERS) - 1)}")
    with tempfile.TemporaryDirectory() as folder:
        model = args.model_name_or_path or make_model(Path(folder) / "model")
        for variant, batch in {UNBOUNDED: args.unbounded_batch, "bounded": args.batch, "one at a time": 1}.items():
            command = [sys.executable, __file__, "--tokens", args.tokens, "--variant", variant, model, batch, args.prompts]
            done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
            cells = json.loads(done.stdout.splitlines()[-1])
            print(f"| {' | '.join([variant, str(args.prompts), f'{args.tokens:,}', *cells])} |", flush=True)


def make_model(folder: Path) -> str:
    """Make the tiny model of scripts/quickstart.sh, with a tokenizer of this repository's README."""
    command = [sys.executable, REPO / "scripts/make_tiny_model.py", "--output_path", folder, "--text", REPO / "README.md"]
    subprocess.run([*map(str, command), "--vocab_size", "2048"], check=True, stdout=subprocess.DEVNULL)
    return str(folder)


def measure(variant: str, model: str, batch: int, number: int, tokens: int) -> list[str]:
    """Prompts in the largest batch, peak memory, memory before the first prompt, and seconds."""
    from inference import transformers_backend
    from inference.backends import Query

    limits = {}
    if variant == UNBOUNDED:
        transformers_backend.PREFILL_TOKENS, limits = NO_LIMIT, {"max_batch_tokens": NO_LIMIT}
    backend = transformers_backend.TransformersBackend(InferenceSettings(ModelSettings(model, batch=batch, **limits)))
    loaded, draw = peak_mib(), random.Random(0)
    vocabulary = range(len(backend.tokenizer))
    ids = [draw.choices(vocabulary, k=tokens - length) for length in draw.sample(range(tokens // 10), number)]
    sizes = [len(rows) for rows in backend._batches([(0, Query("", True), each) for each in ids], score=True)]
    start = time.perf_counter()
    for _ in backend.answer(Query("", score=True, ids=each) for each in ids):
        pass
    return [str(max(sizes)), f"{peak_mib():,}", f"{loaded:,}", f"{time.perf_counter() - start:,.0f}"]


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    run(main)
