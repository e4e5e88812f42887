"""One measured run of benchmarks/gpu.py, in a process of its own, so that its memory is its own.

    python benchmarks/gpu_run.py device OUT.json                      the device and the versions of the libraries
    python benchmarks/gpu_run.py model OUT.json MODEL TINY            save a random Qwen3-0.6B with TINY's tokenizer
    python benchmarks/gpu_run.py train OUT.json SECONDS SFT_PY_FLAGS  run sft.py, and record time and tokens of each step
    python benchmarks/gpu_run.py evaluate OUT.json ROWS TEST_PY_FLAGS answer ROWS prompts of each index file

Results are written as JSON. Memory is the peak of the GPU's allocated memory, or of the process if there is no GPU, in MiB.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import runpy
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from pipeline.cli import Parser, run
from pipeline.files import write_json
from pipeline.progress import peak_memory_mib

REPO = Path(__file__).resolve().parent.parent
QWEN3_0_6B = {
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
}
"""Arguments of Qwen3Config, from the published model."""


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("what", choices=RUNS, help="what to run")
    cli.add_argument("output", type=Path, help="JSON file for the result")
    arguments = sys.argv[1:] if argv is None else list(argv)
    args = cli.parse_args(arguments[:2])
    RUNS[args.what](args.output.resolve(), arguments[2:])  # the rest are flags of another command


def peak_mib() -> float:
    """Peak memory so far: of the GPU, or of the process if there is none."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else peak_memory_mib()


def describe_device(output: Path, _: Sequence[str]) -> None:
    """Write the name of the device, whether it is a GPU, and the versions of the libraries."""
    import torch

    gpu = torch.cuda.is_available()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    write_json(output, {"gpu": gpu, "text": f"{torch.cuda.get_device_name() if gpu else 'no GPU'}, {libraries}"})


def make_model(output: Path, flags: Sequence[str]) -> None:
    """Save a model with Qwen3-0.6B's shape, random weights, and the tokenizer of another model."""
    import torch
    from transformers import AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    folder, tiny = flags
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen3ForCausalLM(Qwen3Config(**QWEN3_0_6B, **ends)).bfloat16()
    model.generation_config = GenerationConfig.from_pretrained(tiny)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(output, {"parameters": sum(parameter.numel() for parameter in model.parameters())})


def train(output: Path, flags: Sequence[str]) -> None:
    """Run sft.py with flags that log every step, and write time, tokens so far and loss of each step.

    The first flag is a time in seconds, after which no further step begins.
    """
    import transformers.trainer

    deadline = time.monotonic() + float(flags[0])

    class Recorder(transformers.TrainerCallback):
        """Records a step when its loss is known, so that the GPU has finished it."""

        steps: list[tuple[float, float, float]] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop |= time.monotonic() > deadline

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                self.steps.append((time.perf_counter(), float(logs["num_tokens"]), float(logs["loss"])))

        def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.is_world_process_zero:
                attention = model.config._attn_implementation
                write_json(output, {"steps": self.steps, "attention": attention, "peak_mib": peak_mib()})

    transformers.trainer.DEFAULT_CALLBACKS.append(Recorder)
    sys.argv = ["sft.py", *flags[1:]]
    runpy.run_path(str(REPO / "sft.py"), run_name="__main__")


def evaluate(output: Path, flags: Sequence[str]) -> None:
    """Answer prompts as test.py does, and write samples/s of each index file, without loading the model."""
    import torch

    from inference.backends import load_backend
    from inference.generation import Prompter, replies
    from inference.settings import InferenceSettings, parse_model
    from mimiciv_dataset.mimiciv import MIMICIV

    rows = int(flags[0])
    arguments = parse_model(runpy.run_path(str(REPO / "test.py"))["make_parser"](), flags[1:])
    settings = InferenceSettings.from_flags(arguments)
    backend = load_backend(settings)
    rates, tokens = {}, []
    for path in arguments["dataset_name"].split(","):
        dataset = MIMICIV(arguments["root_dir"], path, lazzy_mode=True, shuffle=False)
        evenly_spaced = range(0, len(dataset), max(1, len(dataset) // rows))[:rows]
        prompts = list(map(Prompter(dataset, backend.builder, settings), evenly_spaced))
        tokens += [backend.builder.tokens(prompt.text) for prompt in prompts]
        list(replies(prompts[:1], backend))  # loads and compiles what the first use needs
        start = time.perf_counter()
        number = len(list(replies(prompts, backend)))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        rates[Path(path).stem] = number / (time.perf_counter() - start)
    write_json(output, {"samples_per_second": rates, "mean_tokens": sum(tokens) / len(tokens), "peak_mib": peak_mib()})


RUNS = {"device": describe_device, "model": make_model, "train": train, "evaluate": evaluate}


if __name__ == "__main__":
    run(main)
