"""vLLM: the engine's queue kept full over a whole run, relative to windows of prompts, and to one prompt after the other.

The prompts are those of test.py for the rows of each index's first patients, in test.py's order: risk rows are scored, others
generated, with replies whose lengths differ ten-fold. In windows, as test.py did before, the engine gets the next prompts when
all replies of a window have finished. Variants alternate, and each starts with an empty prefix cache. A step is idle if no
prompt waits in the engine although the run has more, and a slot is busy if a prompt runs in it. Without --model_name_or_path
the benchmark makes a small random model; its times do not transfer to a real model. Unknown flags are passed to test.py.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.settings import InferenceSettings, parse_model
from pipeline.cli import Parser, at_least, run
from pipeline.files import require, sha256

REPO = Path(__file__).resolve().parent.parent
WHOLE_RUN = "whole run"
HEADERS = ["index", "prompts", "tokens per prompt", "variant", "s", "CPU s", "steps", "idle steps", "busy slots", "cache hits"]
HEADERS += ["same replies"]


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--dataset_name", required=True, nargs="+", type=Path, help="index files, measured one after the other")
    cli.add_argument("--model_name_or_path", help="Hub id or local directory (a small random model)")
    cli.add_argument("--rows", type=at_least(1), default=1024, help="rows of each index (1024)")
    cli.add_argument("--window", type=at_least(1), default=512, help="prompts of a window (512)")
    cli.add_argument("--alone", type=at_least(0), default=0, help="also measure this many rows one after the other (0)")
    cli.add_argument("--rounds", type=at_least(1), default=3, help="rounds (3); the table has medians")
    cli.add_argument("--max_new_tokens", type=at_least(10), default=100, help="tokens of the longest replies (100)")
    args, flags = cli.parse_known_args(argv)
    indexes = [require(path, "an index CSV or JSONL", "make one with task_sample_info_gen.py") for path in args.dataset_name]
    with tempfile.TemporaryDirectory() as folder:
        model = args.model_name_or_path or make_small_model(Path(folder) / "model", args.root_dir, indexes)
        test_flags = ["--root_dir", str(args.root_dir), "--dataset_name", "-", "--output_path", folder]
        test_flags += ["--model_name_or_path", model, "--use_vllm", "--max_new_tokens", str(args.max_new_tokens), *flags]
        parser = runpy.run_path(str(REPO / "test.py"))["make_parser"]()
        settings = InferenceSettings.from_flags(parse_model(parser, test_flags))

        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine's queue is read in this process
        from inference.generation import Prompter
        from mimiciv_dataset.mimiciv import MIMICIV

        backend = make_backend(settings)
        builder = backend.builder
        print(f"| {' | '.join(HEADERS)} |\n| --- |{' ---: |' * (len(HEADERS) - 1)}")
        for path in indexes:
            dataset = MIMICIV(args.root_dir, path, lazzy_mode=True, shuffle=False, instructions=settings.prompt.instructions)
            order = sorted(range(len(dataset)), key=lambda index: str(dataset.row(index).get("subject_id")))
            prompts = [prompt for prompt in map(Prompter(dataset, builder, settings), order[: args.rows]) if prompt.fits]
            tokens = statistics.mean(builder.tokens(prompt.text) for prompt in prompts)
            first = [path.stem, str(len(prompts)), f"{tokens:,.0f}"]
            variants = {f"windows of {args.window}": args.window, WHOLE_RUN: len(prompts)}
            for row in measure(prompts, backend, variants, args.rounds):
                print(f"| {' | '.join([*first, *row])} |", flush=True)
            if args.alone:
                few = prompts[: args.alone]
                for row in measure(few, backend, {"one at a time": 1, WHOLE_RUN: len(few)}, args.rounds):
                    print(f"| {' | '.join([path.stem, str(len(few)), first[2], *row])} |", flush=True)


def make_small_model(folder: Path, root_dir: Path, indexes: Sequence[Path]) -> str:
    """Make a random model with Qwen3's architecture, large enough that prompts take longer than the engine's own overhead."""
    size = ["--hidden_size", 256, "--layers", 4, "--heads", 4, "--kv_heads", 2, "--head_dim", 64, "--samples", 100]
    command = [sys.executable, REPO / "scripts/make_tiny_model.py", "--root_dir", root_dir, "--output_path", folder, *size]
    subprocess.run([*map(str, command), "--dataset_name", *indexes], check=True, stdout=subprocess.DEVNULL)
    return str(folder)


def make_backend(settings: InferenceSettings) -> Any:
    """The vLLM backend, with replies whose lengths differ ten-fold, by their prompt: a random model rarely ends one itself."""
    from inference.vllm_backend import VLLMBackend

    class TenLengths(VLLMBackend):
        def _parameters(self, query: Any) -> Any:
            parameters = super()._parameters(query)
            if not query.score:
                parameters.max_tokens = self.decoding.max_new_tokens * (1 + int(sha256(query.prompt)[:8], 16) % 10) // 10
                parameters.min_tokens = parameters.max_tokens
            return parameters

    return TenLengths(settings)


@dataclass
class Steps:
    """What the engine was doing at the beginning of each step."""

    idle: list[bool] = field(default_factory=list)  # no prompt waited, although the run had more
    busy: list[float] = field(default_factory=list)  # share of the slots in which a prompt ran


def measure(prompts: Sequence[Any], backend: Any, variants: dict[str, int], rounds: int) -> Iterator[list[str]]:
    """Cells of each variant, which is a number of prompts that the engine gets at once."""
    from inference.generation import replies

    engine = backend.engine.llm_engine
    scheduler, step = engine.engine_core.engine_core.scheduler, engine.step
    seconds: dict[str, list[tuple[float, float]]] = {variant: [] for variant in variants}
    hits, texts, steps, unsent = {}, {}, {}, 0

    def counted_step() -> list[Any]:
        steps[variant].idle.append(not len(scheduler.waiting) and unsent > 0)
        steps[variant].busy.append((len(scheduler.running) + len(scheduler.waiting)) / scheduler.max_num_running_reqs)
        return step()

    def counted(window: Sequence[Any]) -> Iterator[Any]:
        nonlocal unsent
        for prompt in window:
            unsent -= 1
            yield prompt

    list(replies(prompts[:1], backend))  # loads and compiles what the first use needs
    engine.step = counted_step
    for _ in range(rounds):
        for variant, size in variants.items():
            backend.engine.reset_prefix_cache()
            before = cache_counts(backend.engine)
            steps[variant], unsent, texts[variant] = Steps(), len(prompts), {}
            start, cpu_start = time.perf_counter(), time.process_time()
            for position in range(0, len(prompts), size):
                pairs = replies(counted(prompts[position : position + size]), backend)
                texts[variant] |= {prompt.key: reply.text for prompt, reply in pairs}
            seconds[variant].append((time.perf_counter() - start, time.process_time() - cpu_start))
            after = cache_counts(backend.engine)
            hits[variant] = (after[1] - before[1]) / (after[0] - before[0])
    engine.step = step
    for variant in variants:
        same = statistics.mean(text == texts[WHOLE_RUN][key] for key, text in texts[variant].items())
        shares = [statistics.mean(steps[variant].idle), statistics.mean(min(1.0, share) for share in steps[variant].busy)]
        shares += [hits[variant], same]
        count = f"{len(steps[variant].idle):,}"
        times = [f"{statistics.median(measured):,.1f}" for measured in zip(*seconds[variant], strict=True)]
        yield [variant, *times, count, *(f"{share:.0%}" for share in shares)]


def cache_counts(engine: Any) -> tuple[float, float]:
    """Prompt tokens so far, and how many of them the prefix cache had."""
    counts = {metric.name: metric.value for metric in engine.get_metrics() if "prefix_cache" in metric.name}
    return counts.get("vllm:prefix_cache_queries", 0), counts.get("vllm:prefix_cache_hits", 0)


if __name__ == "__main__":
    run(main)
