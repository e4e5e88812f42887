"""vLLM: all prompts of a window handed over at once against one prompt after the other, and what its prefix cache finds.

The rows of each index's first patients in test.py's order, through test.py's own code: risk rows are scored, others
generated. The two ways take turns, and each begins with an empty prefix cache. Without --model_name_or_path a small random
model is made on the spot; its seconds say nothing of a real model. Other flags are test.py's.
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
from pipeline.cli import Parser, run
from pipeline.files import require

REPO = Path(__file__).resolve().parent.parent
WAYS = ("one at a time", "at once")


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--dataset_name", required=True, nargs="+", type=Path, help="index files, measured one by one")
    cli.add_argument("--model_name_or_path", help="Hub id or local folder (a small random model)")
    cli.add_argument("--rows", type=int, default=64, help="rows of each index (64)")
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument("--max_new_tokens", type=int, default=64, help="tokens of a reply (64)")
    ours, flags = cli.parse_known_args(argv)
    files = [require(path, "an index CSV or JSONL", "make one with task_sample_info_gen.py") for path in ours.dataset_name]
    with tempfile.TemporaryDirectory() as folder:
        model = ours.model_name_or_path or small_model(Path(folder) / "model", ours.root_dir, files)
        words = ["--root_dir", str(ours.root_dir), "--dataset_name", "-", "--output_path", folder]
        words += ["--model_name_or_path", model, "--use_vllm", "--max_new_tokens", str(ours.max_new_tokens), *flags]
        settings = InferenceSettings.from_args(parse_model(runpy.run_path(str(REPO / "test.py"))["make_parser"](), words))

        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from inference.backends import load_backend
        from inference.generation import Prompter
        from mimiciv_dataset.mimiciv import MIMICIV

        backend = load_backend(settings)
        builder = backend.builder
        print("| index | prompts | tokens a prompt | one at a time s | at once s | ratio | cache hits one at a time | at once "
              "| same replies |\n|" + " --- |" + " ---: |" * 8)  # fmt: skip
        for path in files:
            dataset = MIMICIV(ours.root_dir, path, lazzy_mode=True, shuffle=False, instructions=settings.prompt.instructions)
            order = sorted(range(len(dataset)), key=lambda index: str(dataset.row(index).get("subject_id")))
            prompts = [prompt for prompt in map(Prompter(dataset, builder, settings), order[: ours.rows]) if prompt.fits]
            tokens = statistics.mean(builder.tokens(prompt.text) for prompt in prompts)
            print(
                f"| {path.stem} | {len(prompts)} | {tokens:,.0f} | {measure(prompts, backend, ours.rounds)} |",
                flush=True,
            )


def small_model(folder: Path, root_dir: str, files: Sequence[Path]) -> str:
    """A random model of Qwen3's shape, large enough that a prompt costs more than the engine's own steps."""
    words = [sys.executable, REPO / "scripts/make_tiny_model.py", "--root_dir", root_dir, "--output_path", folder,
             "--hidden_size", 256, "--layers", 4, "--heads", 4, "--kv_heads", 2, "--head_dim", 64, "--samples", 100,
             "--dataset_name", *files]  # fmt: skip
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
    return str(folder)


def measure(prompts: Sequence[Any], backend: Any, rounds: int) -> str:
    """The last cells of a row: medians of both ways, their ratio, the share of prompt tokens found in the cache."""
    from inference.generation import replies

    parts = {"one at a time": [[prompt] for prompt in prompts], "at once": [prompts]}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    found, texts = {}, {}
    list(replies(prompts[:1], backend))  # what is compiled or read at first use
    for _ in range(rounds):
        for way in WAYS:
            backend.engine.reset_prefix_cache()
            before = cache_counts(backend.engine)
            start = time.perf_counter()
            pairs = [pair for part in parts[way] for pair in replies(part, backend)]
            seconds[way].append(time.perf_counter() - start)
            asked, hit = (now - then for now, then in zip(cache_counts(backend.engine), before, strict=True))
            found[way] = hit / asked
            texts[way] = {prompt.key: reply.text for prompt, reply in pairs}
    alone, together = (statistics.median(seconds[way]) for way in WAYS)
    same = statistics.mean(text == texts["at once"][key] for key, text in texts["one at a time"].items())
    return (f"{alone:,.1f} | {together:,.1f} | {alone / together:.1f} | {found['one at a time']:.0%} | {found['at once']:.0%} "
            f"| {same:.0%}")  # fmt: skip


def cache_counts(engine: Any) -> tuple[float, float]:
    """Prompt tokens so far, and those of them that the prefix cache had."""
    counts = {metric.name: metric.value for metric in engine.get_metrics() if "prefix_cache" in metric.name}
    return counts.get("vllm:prefix_cache_queries", 0), counts.get("vllm:prefix_cache_hits", 0)


if __name__ == "__main__":
    run(main)
