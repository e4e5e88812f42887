"""Make a tiny, untrained model of Qwen3's shape, with a tokenizer trained on rendered records.

For trying the whole chain on a laptop and for tests: it has Qwen3's architecture, chat markup and enable_thinking switch,
a head size that vLLM's CPU build takes, and loads in Transformers and vLLM. Same input and seed, same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
import random
from collections.abc import Iterator, Sequence

from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_dir, require
from pipeline.progress import Summary

# Our own template, with the markup and the behaviour of Qwen3's: chatml turns, and where thinking is switched off, an
# empty think block that the model goes on after.
CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}"""

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, TURN_START, TURN_END)
MARKS = ("<think>", "</think>")
"""Tokens of their own that decoding keeps, as in Qwen3."""

WORDS = "system user assistant\nYou are a helpful assistant.\n/think\n/no_think\nyes\nno\nYes No\n"
"""Read with the records, so that the chat's own words are tokens."""


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--output_path", required=True, type=Path, help="folder for the model")
    cli.add_argument("--dataset_name", nargs="+", type=Path, default=[], help="index files to render records from")
    cli.add_argument("--text", nargs="+", type=Path, default=[], help="text files to train the tokenizer on as well")
    cli.add_argument("--samples", type=int, default=400, help="records rendered for the tokenizer (400)")
    cli.add_argument("--vocab_size", type=int, default=4096)
    cli.add_argument("--long_tokens", action="store_true", help="a token may be as long as a line, such as a measurement with "
                     "its value: a third of the tokens, and a small model sees at once what it has to see")  # fmt: skip
    cli.add_argument("--hidden_size", type=int, default=64)
    cli.add_argument("--intermediate_size", type=int, help="of the feed-forward layers (3 × hidden)")
    cli.add_argument("--layers", type=int, default=2)
    cli.add_argument("--heads", type=int, default=2)
    cli.add_argument("--kv_heads", type=int, default=1)
    cli.add_argument("--head_dim", type=int, default=32, help="32, 64, 80, 96, 112 or 128 for vLLM on CPU (32)")
    cli.add_argument("--max_position", type=int, default=32768, help="longest sequence (32768)")
    cli.add_argument("--seed", type=int, default=0)
    args = cli.parse_args(argv)
    summary = Summary("make_tiny_model")
    if not args.dataset_name and not args.text:
        raise UserError("make_tiny_model: wanted --dataset_name or --text to train the tokenizer on, found neither")
    if args.output_path.exists():
        raise UserError(f"{args.output_path}: wanted a new folder, found one; remove it or choose another --output_path")
    tokenizer = make_tokenizer(texts(args), args.vocab_size, args.long_tokens)
    with atomic_dir(args.output_path) as folder:
        tokenizer.save_pretrained(folder)
        parameters = save_model(args, tokenizer, folder)
    summary.print(f"{parameters:,} parameters, {len(tokenizer):,} tokens → {args.output_path}")


def texts(args) -> Iterator[str]:
    """What the tokenizer is trained on: the chat's words, text files, records with instructions and answers."""
    yield WORDS * 50
    for path in args.text:
        yield require(path, "a text file", "check the path").read_text(encoding="utf-8")
    if args.dataset_name:
        from mimiciv_dataset.mimiciv import MIMICIV

        for path in args.dataset_name:
            dataset = MIMICIV(args.root_dir, path, lazzy_mode=True, shuffle=False)
            rows = range(len(dataset))
            for index in random.Random(args.seed).sample(rows, min(args.samples, len(rows))):
                sample = dataset[index]
                yield "\n".join((sample["input"], sample["instruction"], sample["output"]))


def make_tokenizer(corpus: Iterator[str], vocab_size: int, long_tokens: bool = False):
    """A byte-level BPE tokenizer with Qwen3's markup."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    # Words with a space before them, runs of white space, single digits, runs of signs; or lines.
    pieces = r"[^\n]*\n+|[^\n]+" if long_tokens else r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pieces), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(MARKS), special_tokens=list(SPECIAL),
                                  initial_alphabet=alphabet, show_progress=False)  # fmt: skip
    raw.train_from_iterator(corpus, trainer)
    raw.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in MARKS])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=TURN_END, pad_token=END_OF_TEXT, chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False, model_max_length=131072,
    )  # fmt: skip


def save_model(args, tokenizer, folder: Path) -> int:
    """Write the model with random weights; the number of its parameters."""
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(args.seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=args.hidden_size,
        intermediate_size=args.intermediate_size or 3 * args.hidden_size, num_hidden_layers=args.layers,
        num_attention_heads=args.heads, num_key_value_heads=args.kv_heads, head_dim=args.head_dim,
        max_position_embeddings=args.max_position, tie_word_embeddings=True, dtype="float32",
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TEXT)]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=False)
    model.save_pretrained(folder)
    # Transformers writes its own version into the files; nothing else differs between two runs.
    about = {"made_by": "scripts/make_tiny_model.py", "seed": args.seed}
    (folder / "tiny_model.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    run(main)
