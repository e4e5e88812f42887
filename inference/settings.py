"""Settings of inference: which model runs, how its prompts are made, how replies are decoded. And the flags that set them.

Each dataclass is built once, in the `main` of a command, by `from_args`; fields are named after flags. Libraries take the
dataclasses, and results record them (`as_json`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from inference.prompts import EMPTY_THINK
from pipeline.cli import Parser, at_least, between, positive
from pipeline.errors import UserError
from pipeline.files import require

MODELS_FILE = Path(__file__).resolve().parent.parent / "models.yaml"
NUM_WORKER = 64
TIMEOUT = 1800.0


class FromArguments:
    """A dataclass of settings whose fields are named after flags."""

    @classmethod
    def from_args(cls, args: argparse.Namespace, **values: Any) -> Any:
        """Settings from parsed flags.

        Args:
            args: what a parser returned; flags that are no field of this class are ignored, fields without a flag keep
                their default.
            values: fields to set otherwise.
        """
        flags = {each.name: getattr(args, each.name) for each in fields(cls) if hasattr(args, each.name)}
        return cls(**flags | values)


def as_json(*settings: Any) -> dict[str, Any]:
    """The fields of settings, nested settings included, as one flat mapping of JSON values.

    >>> as_json(DecodingSettings(max_new_tokens=8))
    {'max_new_tokens': 8, 'temperature': 0.0, 'seed': 0, 'n': None}
    """
    flat: dict[str, Any] = {}
    for each in settings:
        for name, value in asdict(each).items():
            flat |= value if isinstance(value, dict) else {name: value}
    return {name: str(value) if isinstance(value, Path) else value for name, value in flat.items()}


@dataclass(frozen=True)
class ModelSettings(FromArguments):
    """Which model runs, and on what.

    Attributes:
        model_name_or_path: Hub id or local folder; with a server, the name by which the server knows the model.
        lora_path: folder of a LoRA adapter; None: no adapter.
        dtype: `float32`, `bfloat16`, `float16` or `auto` (the model's own, float32 on a CPU).
        device: `cpu`, `cuda`, `cuda:1`; None: the GPU if there is one.
        device_map: of Transformers, such as `auto` for models larger than one GPU.
        batch: prompts in a batch of Transformers.
        use_vllm: run with vLLM instead of Transformers.
        gpu_memory_utilization: share of the GPU memory that vLLM takes.
        tensor_parallel_size: GPUs that share each layer (vLLM); None: all visible GPUs / `pipeline_parallel_size`.
        pipeline_parallel_size: groups of GPUs that share the layers (vLLM).
        data_parallel_size: processes that share the samples, each with its own model and GPUs.
    """

    model_name_or_path: str
    lora_path: str | None = None
    dtype: str = "auto"
    device: str | None = None
    device_map: str | None = None
    batch: int = 1
    use_vllm: bool = False
    gpu_memory_utilization: float = 0.85
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1


@dataclass(frozen=True)
class ServerSettings(FromArguments):
    """How to reach an OpenAI-compatible server. The key is read from $OPENAI_API_KEY, never from the command line.

    Attributes:
        url: base URL of the API, such as http://127.0.0.1:8000/v1; None: the model runs in this process.
        num_worker: requests in flight.
        max_rpm: requests a minute at most; None: no limit.
        max_tpm: tokens of prompts and replies a minute at most; None: no limit.
        timeout: seconds to wait for one reply.
        allow_remote: the host may be outside this machine and its private network.
        chat: send messages to the chat endpoint instead of token ids to the completions endpoint.
        tokenizer: Hub id or folder of the model's tokenizer, if `model_name_or_path` is only the server's name. With `chat`
            it only counts tokens; without one they are estimated from bytes.
    """

    url: str | None = None
    num_worker: int = NUM_WORKER
    max_rpm: float | None = None
    max_tpm: float | None = None
    timeout: float = TIMEOUT
    allow_remote: bool = False
    chat: bool = False
    tokenizer: str | None = None


@dataclass(frozen=True)
class PromptSettings(FromArguments):
    r"""How the prompts of samples are made.

    Attributes:
        instructions: JSON file, task → sentence; None: the instructions of this repository.
        prompt: add candidates and answer rules, for models that were not trained on EHR-Ins.
        think_prompt: let decision tasks reason before they answer.
        direct_answer: with `think_prompt`, answer at once (`/no_think`).
        think_risk: let risk tasks reason too; p(yes) comes after the chain.
        oracle_reasoning: pre-fill the `reasoning` of the row.
        empty_think: the empty think block for chat templates without `enable_thinking`, in which a literal `\n` is a line
            end; None: the block of Qwen3.
        max_seq_len: tokens of prompt and reply together.
    """

    instructions: Path | None = None
    prompt: bool = False
    think_prompt: bool = False
    direct_answer: bool = False
    think_risk: bool = False
    oracle_reasoning: bool = False
    empty_think: str | None = None
    max_seq_len: int = 32000

    @property
    def empty_think_block(self) -> str:
        """The empty think block itself."""
        return EMPTY_THINK if self.empty_think is None else self.empty_think.replace("\\n", "\n")


@dataclass(frozen=True)
class DecodingSettings(FromArguments):
    """How replies are decoded.

    Attributes:
        max_new_tokens: tokens of a reply at most.
        temperature: of sampling; 0 is greedy.
        seed: of sampling, where the temperature is above 0; None: none is sent to a server.
        n: replies to each prompt, from the chat endpoint; None: not sent, which gives one.
    """

    max_new_tokens: int = 2048
    temperature: float = 0.0
    seed: int | None = 0
    n: int | None = None


@dataclass(frozen=True)
class InferenceSettings:
    """All settings of inference.

    Raises:
        UserError: no tokens are left for a prompt.
    """

    model: ModelSettings
    server: ServerSettings = field(default_factory=ServerSettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    decoding: DecodingSettings = field(default_factory=DecodingSettings)

    def __post_init__(self) -> None:
        tokens, longest = self.decoding.max_new_tokens, self.prompt.max_seq_len
        if tokens >= longest:
            raise UserError(f"--max_new_tokens {tokens}: expected fewer tokens than --max_seq_len {longest}.")

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> InferenceSettings:
        """Settings from the flags of `add_model_flags` and `add_prompt_flags`.

        Raises:
            UserError: flags contradict each other.
        """
        if args.url is None and (args.chat or args.tokenizer):
            raise UserError("--chat, --tokenizer: expected --url with them, got none.")
        if args.url is not None and args.use_vllm:
            raise UserError("--url, --use_vllm: expected one of them, got both. With --url the server runs the model.")
        if args.chat and getattr(args, "oracle_reasoning", False):
            raise UserError("--oracle_reasoning: expected prompts that can hold the start of the reply, got --chat.")
        tokens = args.max_new_tokens or (4096 if args.think_prompt else 2048)
        return cls(
            ModelSettings.from_args(args),
            ServerSettings.from_args(args),
            PromptSettings.from_args(args),
            DecodingSettings.from_args(args, max_new_tokens=tokens),
        )

    @property
    def backend(self) -> str:
        """The entry of `inference.backends.BACKENDS` that runs the model."""
        if self.server.url is not None:
            return "openai"
        return "vllm" if self.model.use_vllm else "transformers"


# --- flags


def add_model_flags(cli: Parser) -> None:
    """Add the flags of `ModelSettings` and `ServerSettings`, `--models` and `--seed`."""
    model = cli.add_argument_group("model")
    model.add_argument(
        "--model_name_or_path",
        required=True,
        help="Hub id, local folder, short name of --models, or with --url the server's name for it",
    )
    model.add_argument("--models", type=Path, default=MODELS_FILE, help="YAML of short names (the repository's models.yaml)")
    model.add_argument("--lora_path", help="folder of a LoRA adapter")
    model.add_argument("--dtype", default="auto", help="float32, bfloat16, float16 or auto (auto: float32 on a CPU)")
    model.add_argument("--device", help="cpu, cuda, cuda:1 (the GPU if there is one)")
    model.add_argument("--device_map", help="device_map of Transformers, such as auto, for models larger than a GPU")
    model.add_argument("--batch", type=at_least(1), default=1, help="prompts in a Transformers batch (1)")
    model.add_argument("--use_vllm", action="store_true", help="run with vLLM")
    model.add_argument("--gpu_memory_utilization", type=between(0, 1), default=0.85, help="vLLM: share of GPU memory (0.85)")
    model.add_argument(
        "--tensor_parallel_size", type=at_least(1), help="vLLM: GPUs that share each layer (all visible / pipeline)"
    )
    model.add_argument(
        "--pipeline_parallel_size", type=at_least(1), default=1, help="vLLM: groups of GPUs that share the layers (1)"
    )
    model.add_argument(
        "--data_parallel_size",
        type=at_least(1),
        default=1,
        help="processes that share the samples, each with its own model and GPUs (1)",
    )
    model.add_argument("--seed", type=int, default=0, help="seed of sampling, and of the bootstrap where scores are made (0)")
    server = cli.add_argument_group("server", "an OpenAI-compatible API instead of a model in this process")
    add_server_flags(server)
    server.add_argument("--tokenizer", help="its Hub id or folder, if --model_name_or_path is only the server's name")
    server.add_argument(
        "--chat", action="store_true", help="use the chat endpoint, for hosted models whose prompts cannot be rendered here"
    )


def add_server_flags(cli: argparse._ActionsContainer, url_flag: str = "--url") -> None:
    """Add the flags that say how to reach an OpenAI-compatible server."""
    cli.add_argument(url_flag, help="base URL of the API, such as http://127.0.0.1:8000/v1")
    cli.add_argument(
        "--num_worker",
        type=at_least(1),
        default=NUM_WORKER,
        help=f"requests in flight, all of one process ({NUM_WORKER}); --num_workers, where a command has it, are processes",
    )
    cli.add_argument("--max_rpm", type=positive, help="requests a minute at most (no limit)")
    cli.add_argument("--max_tpm", type=positive, help="tokens of prompts and replies a minute at most (no limit)")
    cli.add_argument("--timeout", type=positive, default=TIMEOUT, help=f"seconds to wait for one reply ({TIMEOUT:g})")
    cli.add_argument(
        "--allow_remote",
        action="store_true",
        help="send patient text to a host outside this machine and its private network; only where the data use agreement "
        "allows it",
    )


def add_prompt_flags(cli: Parser) -> None:
    """Add the flags of `PromptSettings` and `DecodingSettings`."""
    prompt = cli.add_argument_group("prompt and decoding")
    prompt.add_argument("--instructions", type=Path, help="JSON, task → sentence, instead of this repository's instructions")
    prompt.add_argument("--think_prompt", action="store_true", help="let decision tasks reason before they answer")
    prompt.add_argument("--direct_answer", action="store_true", help="with --think_prompt: answer at once (/no_think)")
    prompt.add_argument("--think_risk", action="store_true", help="let risk tasks reason too; p(yes) comes after the chain")
    prompt.add_argument("--empty_think", help="the empty think block of models without an enable_thinking switch")
    prompt.add_argument("--max_seq_len", type=at_least(1), default=32000, help="tokens of prompt and reply together (32000)")
    prompt.add_argument("--max_new_tokens", type=at_least(1), help="tokens of a reply at most (2048; 4096 with reasoning)")
    prompt.add_argument("--temperature", type=between(0, 2), default=0.0, help="temperature of sampling; 0 is greedy (0)")


def parse_model(cli: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; a short name of `--models` stands for the flags it lists, which flags given override.

    Raises:
        UserError: the file of short names cannot be read, or has an unknown flag.
    """
    args = cli.parse_args(argv)
    entry = short_names(args.models).get(args.model_name_or_path)
    if entry is None:
        return args
    unknown = [flag for flag in entry if not hasattr(args, flag)]
    if unknown or "model_name_or_path" not in entry:
        got = f"unknown flags ({', '.join(unknown)})" if unknown else "none"
        raise UserError(f"{args.models}, {args.model_name_or_path}: expected flags, model_name_or_path among them, got {got}.")
    flags = {name: value for name, value in entry.items() if value not in (None, False)}
    given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()]
    args = cli.parse_args([*given, *(sys.argv[1:] if argv is None else argv)])
    args.model_name_or_path = entry["model_name_or_path"]
    return args


def short_names(path: Path) -> dict[str, dict[str, Any]]:
    """Read a models.yaml: short name → flags.

    Raises:
        UserError: there is no such file, or it is not a mapping of mappings.
    """
    import yaml

    try:
        names = yaml.safe_load(require(path, "a YAML file of short names", "check --models").read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: expected YAML, got something else: {' '.join(str(error).split())}.") from None
    if not isinstance(names, dict) or not all(isinstance(entry, dict) for entry in names.values()):
        raise UserError(f"{path}: expected short names, each with flags below it, got something else.")
    return names
