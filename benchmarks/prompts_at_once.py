"""vLLM: all prompts of a window submitted at once, relative to one prompt after the other, and hits of the prefix cache.

The prompts are those of test.py for the rows of each index's first patients, in test.py's order: risk rows are scored, others
generated. Both variants alternate, and each starts with an empty prefix cache. Without --model_name_or_path the benchmark
makes a small random model; its times do not transfer to a real model. Unknown flags are passed to test.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import os
import runpy
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from inference.settings import InferenceSettings, parse_model
from pipeline.cli import Parser, at_least, run
from pipeline.files import require

REPO = Path(__file__).resolve().parent.parent
VARIANTS = ("one at a time", "at once")
HEADERS = ["index", "prompts", "tokens per prompt", "one at a time s", "at once s", "ratio"]
HEADERS += ["cache hits one at a time", "at once", "same replies"]


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--dataset_name", required=True, nargs="+", type=Path, help="index files, measured one after the other")
    cli.add_argument("--model_name_or_path", help="Hub id or local directory (a small random model)")
    cli.add_argument("--rows", type=at_least(1), default=64, help="rows of each index (64)")
    cli.add_argument("--rounds", type=at_least(1), default=3, help="rounds (3); the table has medians")
    cli.add_argument("--max_new_tokens", type=at_least(1), default=64, help="tokens of a reply (64)")
    args, flags = cli.parse_known_args(argv)
    indexes = [require(path, "an index CSV or JSONL", "make one with task_sample_info_gen.py") for path in args.dataset_name]
    with tempfile.TemporaryDirectory() as folder:
        model = args.model_name_or_path or make_small_model(Path(folder) / "model", args.root_dir, indexes)
        test_flags = ["--root_dir", str(args.root_dir), "--dataset_name", "-", "--output_path", folder]
        test_flags += ["--model_name_or_path", model, "--use_vllm", "--max_new_tokens", str(args.max_new_tokens), *flags]
        parser = runpy.run_path(str(REPO / "test.py"))["make_parser"]()
        settings = InferenceSettings.from_flags(parse_model(parser, test_flags))

        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from inference.backends import load_backend
        from inference.generation import Prompter
        from mimiciv_dataset.mimiciv import MIMICIV

        backend = load_backend(settings)
        builder = backend.builder
        print(f"| {' | '.join(HEADERS)} |\n| --- |{' ---: |' * (len(HEADERS) - 1)}")
        for path in indexes:
            dataset = MIMICIV(args.root_dir, path, lazzy_mode=True, shuffle=False, instructions=settings.prompt.instructions)
            order = sorted(range(len(dataset)), key=lambda index: str(dataset.row(index).get("subject_id")))
            prompts = [prompt for prompt in map(Prompter(dataset, builder, settings), order[: args.rows]) if prompt.fits]
            tokens = statistics.mean(builder.tokens(prompt.text) for prompt in prompts)
            cells = [path.stem, str(len(prompts)), f"{tokens:,.0f}", *measure(prompts, backend, args.rounds)]
            print(f"| {' | '.join(cells)} |", flush=True)


def make_small_model(folder: Path, root_dir: Path, indexes: Sequence[Path]) -> str:
    """Make a random model with Qwen3's architecture, large enough that prompts take longer than the engine's own overhead."""
    size = ["--hidden_size", 256, "--layers", 4, "--heads", 4, "--kv_heads", 2, "--head_dim", 64, "--samples", 100]
    command = [sys.executable, REPO / "scripts/make_tiny_model.py", "--root_dir", root_dir, "--output_path", folder, *size]
    subprocess.run([*map(str, command), "--dataset_name", *indexes], check=True, stdout=subprocess.DEVNULL)
    return str(folder)


def measure(prompts: Sequence[Any], backend: Any, rounds: int) -> list[str]:
    """Median seconds of both variants, their ratio, the shares of prompt tokens in the cache, and of equal replies."""
    from inference.generation import replies

    windows = {"one at a time": [[prompt] for prompt in prompts], "at once": [prompts]}
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    hits, texts = {}, {}
    list(replies(prompts[:1], backend))  # loads and compiles what the first use needs
    for _ in range(rounds):
        for variant in VARIANTS:
            backend.engine.reset_prefix_cache()
            before = cache_counts(backend.engine)
            start = time.perf_counter()
            pairs = [pair for window in windows[variant] for pair in replies(window, backend)]
            seconds[variant].append(time.perf_counter() - start)
            after = cache_counts(backend.engine)
            hits[variant] = (after[1] - before[1]) / (after[0] - before[0])
            texts[variant] = {prompt.key: reply.text for prompt, reply in pairs}
    alone, together = (statistics.median(seconds[variant]) for variant in VARIANTS)
    same = statistics.mean(text == texts["at once"][key] for key, text in texts["one at a time"].items())
    cache_hits = [f"{hits[variant]:.0%}" for variant in VARIANTS]
    return [f"{alone:,.1f}", f"{together:,.1f}", f"{alone / together:.1f}", *cache_hits, f"{same:.0%}"]


def cache_counts(engine: Any) -> tuple[float, float]:
    """Prompt tokens so far, and how many of them the prefix cache had."""
    counts = {metric.name: metric.value for metric in engine.get_metrics() if "prefix_cache" in metric.name}
    return counts.get("vllm:prefix_cache_queries", 0), counts.get("vllm:prefix_cache_hits", 0)


if __name__ == "__main__":
    run(main)
