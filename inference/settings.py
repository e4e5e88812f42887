"""Settings of inference: which model runs, how its prompts are made, how replies are decoded.

Each dataclass is built once, in the `main` of a command, by `from_flags`. Its fields are flags of the same name, and their
help is their documentation (`add_flags`). Libraries take the dataclasses, and results record them (`as_json`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pipeline.cli import Parser, at_least, between, positive
from pipeline.errors import UserError
from pipeline.files import require

TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")
URL_HELP = "base URL of an API, such as http://127.0.0.1:8000/v1; several servers of the model: repeat the flag"
MODELS_FILE = Path(__file__).resolve().parent.parent / "models.yaml"


def flag(default: Any = MISSING, *, help: str, type: Callable[[str], Any] = str, repeated: bool = False) -> Any:
    """A field of settings that is a flag; without a default the flag is required. A `repeated` flag gives a list."""
    return field(default=default, metadata={"help": help, "type": type, "repeated": repeated})


def add_flags(cli: argparse._ActionsContainer, settings: type, omit: Sequence[str] = ()) -> None:
    """Add the flags of a dataclass of settings, those in `omit` aside."""
    for each in fields(settings):
        if not each.metadata or each.name in omit:
            continue
        default = None if each.default is MISSING else each.default
        shown = f"{default:g}" if isinstance(default, float) else default
        text = each.metadata["help"] + ("" if default is None or default is False else f" ({shown})")
        typed = {"type": each.metadata["type"], "default": default, "required": each.default is MISSING}
        if each.metadata["repeated"]:
            typed["action"] = "append"
        cli.add_argument(f"--{each.name}", help=text, **({"action": "store_true"} if default is False else typed))


class Settings:
    """Base class of settings."""

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any], **values: Any) -> Any:
        """Settings from parsed flags by name. Fields without a flag keep their default; `values` replace flags."""
        given = {each.name: flags[each.name] for each in fields(cls) if each.name in flags}
        return cls(**given | values)


def as_json(*settings: Any) -> dict[str, Any]:
    """The fields of settings, nested settings included, as one flat mapping of JSON values.

    >>> as_json(DecodingSettings(max_new_tokens=8))
    {'max_new_tokens': 8, 'temperature': 0.0, 'seed': 0, 'n': None, 'num_samples': 1}
    """
    flat: dict[str, Any] = {}
    for each in settings:
        for name, value in asdict(each).items():
            flat |= value if isinstance(value, dict) else {name: value}
    return {name: str(value) if isinstance(value, Path) else value for name, value in flat.items()}


@dataclass(frozen=True)
class ModelSettings(Settings):
    """Which model runs, and on what."""

    model_name_or_path: str = flag(help="Hub id, local folder, short name of --models, or with --url its name on the server")
    lora_path: str | None = flag(None, help="folder of a LoRA adapter")
    family: str | None = flag(None, help="family of the model in inference/families.yaml (found by its name and template)")
    dtype: str = flag("auto", help="float32, bfloat16, float16, or auto: the model's own, float32 on a CPU")
    device: str | None = flag(None, help="cpu, cuda, cuda:1 (the GPU if there is one)")
    device_map: str | None = flag(None, help="device_map of Transformers, such as auto, for models larger than a GPU")
    trust_remote_code: bool = flag(False, help="run Python code that comes with the model; read it first")
    model_sampling: bool = flag(False, help="also use top_p, top_k, min_p and repetition_penalty of the model's own settings")
    batch: int = flag(1, help="prompts in a Transformers batch at most", type=at_least(1))
    max_batch_tokens: int = flag(65536, help="tokens of a Transformers batch: prompts, padding, replies", type=at_least(1))
    use_vllm: bool = flag(False, help="run with vLLM")
    gpu_memory_utilization: float = flag(0.85, help="vLLM: share of GPU memory", type=between(0, 1))
    tensor_parallel_size: int | None = flag(None, help="vLLM: GPUs for each layer (all visible / pipeline)", type=at_least(1))
    pipeline_parallel_size: int = flag(1, help="vLLM: groups of GPUs that share the layers", type=at_least(1))
    data_parallel_size: int = flag(1, help="processes that share the samples, each with its own model", type=at_least(1))


@dataclass(frozen=True)
class ServerSettings(Settings):
    """How to reach OpenAI-compatible servers of a model. Their key is read from $OPENAI_API_KEY, never from the command line.

    `num_worker`, `max_rpm` and `max_tpm` hold for each server. `url` is one URL, or a list of several.
    """

    url: str | Sequence[str] | None = flag(None, help=URL_HELP, repeated=True)
    num_worker: int = flag(64, help="requests in flight at each server; --num_workers are processes", type=at_least(1))
    max_rpm: float | None = flag(None, help="requests a minute at most, to each server (no limit)", type=positive)
    max_tpm: float | None = flag(None, help="tokens of prompts and replies a minute, of each server (no limit)", type=positive)
    timeout: float = flag(1800.0, help="seconds to wait for one reply", type=positive)
    allow_remote: bool = flag(False, help="send patient text to public hosts; only if the data use agreement allows it")
    chat: bool = flag(False, help="use the chat endpoint, for hosted models whose prompts cannot be rendered here")
    tokenizer: str | None = flag(None, help="Hub id or folder of its tokenizer, if the model's name is only the server's")

    def __post_init__(self) -> None:
        urls = [url.rstrip("/") for url in self.urls]
        if repeated := next((url for url in urls if urls.count(url) > 1), None):
            raise UserError(f"{repeated}: expected each server once, got its URL twice. Remove one.")
        if len(urls) == 1:  # recorded as a text, as ever
            object.__setattr__(self, "url", self.urls[0])

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of all servers."""
        return (self.url,) if isinstance(self.url, str) else tuple(self.url or ())


def json_object(text: str) -> dict[str, Any]:
    """Parse a flag whose value is a JSON object."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("expected a JSON object, got something else")
    return value


@dataclass(frozen=True)
class RequestSettings(Settings):
    """What requests to the chat endpoint have besides our fields, and which are sent again."""

    extra_body: Mapping[str, Any] | None = flag(
        None, help="JSON object of fields of every request; they replace ours, and null removes one", type=json_object
    )
    retry_refused: bool = flag(False, help="send requests again that a content filter or moderation refused")

    def __post_init__(self) -> None:
        if names := {"messages", "model", "stream"} & (self.extra_body or {}).keys():
            raise UserError(f"--extra_body: expected fields that may change, got {', '.join(sorted(names))}. Remove them.")


@dataclass(frozen=True)
class PromptSettings(Settings):
    """How the prompts of samples are made."""

    instructions: Path | None = flag(None, help="JSON, task → sentence, instead of this repository's instructions", type=Path)
    prompt: bool = flag(False, help="add candidates and answer rules, for models not trained on EHR-Ins")
    think_prompt: bool = flag(False, help="let decision tasks reason before they answer")
    direct_answer: bool = flag(False, help="with --think_prompt: answer at once (/no_think)")
    think_risk: bool = flag(False, help="let risk tasks reason too; p(yes) comes after the chain")
    oracle_reasoning: bool = flag(False, help="pre-fill the row's own reasoning")
    as_known: bool = flag(False, help="hide values that were stored after the prediction time (docs/tasks.md)")
    empty_think: str | None = flag(None, help="append this where thinking is off, not what the family of the model says")
    max_seq_len: int = flag(32000, help="tokens of prompt and reply together", type=at_least(1))

    @property
    def empty_think_block(self) -> str | None:
        r"""`empty_think`, in which a literal `\n` of the command line is a line end."""
        return None if self.empty_think is None else self.empty_think.replace("\\n", "\n")


@dataclass(frozen=True)
class DecodingSettings(Settings):
    """How replies are decoded."""

    max_new_tokens: int = 2048
    temperature: float = 0.0  # 0 is greedy
    seed: int | None = 0  # of sampling; None: none is sent to a server
    n: int | None = None  # choices in a reply of the chat endpoint; None: not sent, which gives one
    num_samples: int = flag(1, help="replies to each prompt; several need --temperature", type=at_least(1))

    def __post_init__(self) -> None:
        if self.num_samples > 1 and self.temperature == 0:
            fix = "Greedy replies to a prompt are all the same: set --temperature"
            raise UserError(f"--num_samples {self.num_samples}: expected a temperature above 0, got 0. {fix}.")


@dataclass(frozen=True)
class InferenceSettings:
    """All settings of inference."""

    model: ModelSettings
    server: ServerSettings = field(default_factory=ServerSettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    decoding: DecodingSettings = field(default_factory=DecodingSettings)

    def __post_init__(self) -> None:
        tokens, longest = self.decoding.max_new_tokens, self.prompt.max_seq_len
        if tokens >= longest:
            raise UserError(f"--max_new_tokens {tokens}: expected fewer tokens than --max_seq_len {longest}.")

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> InferenceSettings:
        """Settings from the flags of `add_inference_flags`."""
        model, server, prompt = (each.from_flags(flags) for each in (ModelSettings, ServerSettings, PromptSettings))
        if server.url is None and (server.chat or server.tokenizer):
            raise UserError("--chat, --tokenizer: expected --url with them, got none.")
        if server.url is not None and model.use_vllm:
            raise UserError("--url, --use_vllm: expected one of them, got both. With --url the server runs the model.")
        if server.url is not None and model.lora_path:
            fix = "Load it into the server, and give its name there as --model_name_or_path"
            raise UserError(f"--lora_path: expected no adapter with --url, got one. {fix}.")
        if server.chat and prompt.oracle_reasoning:
            raise UserError("--oracle_reasoning: expected prompts that can hold the start of the reply, got --chat.")
        tokens = flags["max_new_tokens"] or (4096 if prompt.think_prompt else 2048)
        return cls(model, server, prompt, DecodingSettings.from_flags(flags, max_new_tokens=tokens))

    @classmethod
    def of_chat(cls, model: str, server: ServerSettings, max_seq_len: int, decoding: DecodingSettings) -> InferenceSettings:
        """Settings for other prompts than those of samples, which go to the chat endpoint of a server."""
        settings = ModelSettings(model, model_sampling=True)
        return cls(settings, replace(server, chat=True), PromptSettings(max_seq_len=max_seq_len), decoding)

    @property
    def tokenizer(self) -> str | None:
        """Hub id or folder of the tokenizer that renders prompts; None if the server renders them, and none counts tokens."""
        model, server = self.model, self.server
        if server.url is not None:
            return server.tokenizer or (None if server.chat else model.model_name_or_path)
        adapter = Path(model.lora_path or "")
        has_own = any((adapter / file).exists() for file in TOKENIZER_FILES) if model.lora_path else False
        return str(adapter) if has_own else model.model_name_or_path

    @property
    def backend(self) -> str:
        """The entry of `inference.backends.BACKENDS` that runs the model."""
        if self.server.url is not None:
            return "openai"
        return "vllm" if self.model.use_vllm else "transformers"


def add_inference_flags(cli: Parser, omit: Sequence[str] = ()) -> None:
    """Add the flags of `InferenceSettings`, and `--models`."""
    model = cli.add_argument_group("model")
    add_flags(model, ModelSettings)
    model.add_argument("--models", type=Path, default=MODELS_FILE, help="YAML of short names (the repository's models.yaml)")
    add_flags(cli.add_argument_group("server", "OpenAI-compatible APIs instead of a model in this process"), ServerSettings)
    prompt = cli.add_argument_group("prompt and decoding")
    add_flags(prompt, PromptSettings, omit)
    prompt.add_argument("--max_new_tokens", type=at_least(1), help="tokens of a reply at most (2048; 4096 with reasoning)")
    prompt.add_argument("--temperature", type=between(0, 2), default=0.0, help="temperature of sampling; 0 is greedy (0)")
    prompt.add_argument("--seed", type=int, default=0, help="seed of sampling, and of the bootstrap where scores are made (0)")


def parse_model(cli: Parser, argv: Sequence[str] | None) -> dict[str, Any]:
    """Parse a command line into flags by name.

    A short name of `--models` stands for the flags it lists, which flags of the command line override.
    """
    args = cli.parse_args(argv)
    entry = short_names(args.models).get(args.model_name_or_path)
    if entry is None:
        return vars(args)
    unknown = [name for name in entry if name not in vars(args)]
    if unknown or "model_name_or_path" not in entry:
        got = f"unknown flags ({', '.join(unknown)})" if unknown else "none"
        raise UserError(f"{args.models}, {args.model_name_or_path}: expected flags, model_name_or_path among them, got {got}.")
    # A list is a repeated flag, which the same flag on the command line replaces as a whole.
    values = {
        name: value if isinstance(value, list) else [value]
        for name, value in entry.items()
        if value not in (None, False) and not isinstance(vars(args)[name], list)
    }
    arguments = [
        f"--{name}" if value is True else f"--{name}={value}" for name, several in values.items() for value in several
    ]
    args = cli.parse_args([*arguments, *(sys.argv[1:] if argv is None else argv)])
    return vars(args) | {"model_name_or_path": entry["model_name_or_path"]}


def short_names(path: Path) -> dict[str, dict[str, Any]]:
    """Read a models.yaml: short name → flags."""
    import yaml

    try:
        names = yaml.safe_load(require(path, "a YAML file of short names", "check --models").read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: expected YAML, got something else: {' '.join(str(error).split())}.") from None
    if not isinstance(names, dict) or not all(isinstance(entry, dict) for entry in names.values()):
        raise UserError(f"{path}: expected short names, each with flags below it, got something else.")
    return names
