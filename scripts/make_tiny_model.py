"""Make a tiny, untrained model with the architecture of Qwen3, and a tokenizer trained on the inputs of samples.

It is for trying the pipeline on a laptop and for tests: it has Qwen3's architecture, chat template and `enable_thinking`
switch, loads in Transformers and vLLM, and has a head size that vLLM's CPU build supports. The same inputs and seed give the
same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import atomic_dir, require
from pipeline.progress import Summary

# written by us, with the markup and behaviour of Qwen3's: ChatML turns, and an empty think block if thinking is disabled
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
THINK_TOKENS = ("<think>", "</think>")  # not special tokens: decoding keeps them, as in Qwen3
# part of the tokenizer's corpus, so that the words of the chat template are tokens
CHAT_TEXT = "system user assistant\nYou are a helpful assistant.\n/think\n/no_think\nyes\nno\nYes No\n"


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    number = at_least(1)
    cli.add_argument("--output_path", required=True, type=Path, help="directory for the model")
    cli.add_argument("--dataset_name", nargs="+", type=Path, default=[], help="index files whose samples train the tokenizer")
    cli.add_argument("--text", nargs="+", type=Path, default=[], help="text files that train the tokenizer, too")
    cli.add_argument("--tokenizer", type=Path, help="directory of a model whose tokenizer is taken; none is trained then")
    cli.add_argument("--samples", type=number, default=400, help="samples of each index file for the tokenizer (400)")
    cli.add_argument("--vocab_size", type=number, default=4096, help="number of tokens (4096)")
    cli.add_argument("--long_tokens", action="store_true", help="tokens may be lines: inputs have a third of the tokens")
    cli.add_argument("--hidden_size", type=number, default=64, help="width (64)")
    cli.add_argument("--intermediate_size", type=number, help="width of the feed-forward layers (3 × hidden_size)")
    cli.add_argument("--layers", type=number, default=2, help="number of layers (2)")
    cli.add_argument("--heads", type=number, default=2, help="number of attention heads (2)")
    cli.add_argument("--kv_heads", type=number, default=1, help="number of key-value heads (1)")
    cli.add_argument("--head_dim", type=number, default=32, help="head size: 32, 64, 80, 96, 112 or 128 for vLLM on CPU (32)")
    cli.add_argument("--max_position", type=number, default=32768, help="longest sequence, in tokens (32768)")
    cli.add_argument("--seed", type=at_least(0), default=0, help="seed of the weights and of the samples drawn (0)")
    args = cli.parse_args(argv)
    size = {
        "hidden_size": args.hidden_size,
        "intermediate_size": args.intermediate_size or 3 * args.hidden_size,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads,
        "head_dim": args.head_dim,
        "max_position_embeddings": args.max_position,
    }
    summary = Summary("make_tiny_model")
    if args.tokenizer and (args.dataset_name or args.text):
        raise UserError("--tokenizer: expected a tokenizer or texts to train one, got both. Omit --dataset_name and --text.")
    if not (args.dataset_name or args.text or args.tokenizer):
        raise UserError("make_tiny_model: expected --dataset_name or --text to train the tokenizer on, got neither.")
    if args.output_path.exists():
        raise UserError(f"{args.output_path}: expected a new directory, got one that exists. Choose another --output_path.")
    if args.tokenizer:
        tokenizer = read_tokenizer(args.tokenizer)
    else:
        corpus = itertools.chain(texts(args.text), samples(args.root_dir, args.dataset_name, args.samples, args.seed))
        tokenizer = make_tokenizer(corpus, args.vocab_size, args.long_tokens)
    with atomic_dir(args.output_path) as folder:
        tokenizer.save_pretrained(folder)
        parameters = save_model(size, args.seed, tokenizer, folder)
    summary.print(f"{parameters:,} parameters, {len(tokenizer):,} tokens → {args.output_path}")


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a tiny model."""
    from transformers import AutoTokenizer

    require(folder / "tokenizer.json", "the tokenizer of a model", "give the directory of a tiny model")
    return AutoTokenizer.from_pretrained(folder)


def texts(paths: Sequence[Path]) -> Iterator[str]:
    """The text of the chat template, then the contents of text files."""
    yield CHAT_TEXT * 50
    for path in paths:
        yield require(path, "a text file", "check the path").read_text(encoding="utf-8")


def samples(root_dir: Path, indexes: Sequence[Path], number: int, seed: int) -> Iterator[str]:
    """The text of up to `number` random samples of each index file: input, instruction and answer."""
    from mimiciv_dataset.index_files import index_paths
    from mimiciv_dataset.mimiciv import MIMICIV

    for path in index_paths(indexes) if indexes else []:
        dataset = MIMICIV(root_dir, path, lazzy_mode=True, shuffle=False)
        rows = range(len(dataset))
        for row in random.Random(seed).sample(rows, min(number, len(rows))):
            sample = dataset[row]
            yield "\n".join((sample["input"], sample["instruction"], sample["output"]))


def make_tokenizer(corpus: Iterator[str], vocab_size: int, long_tokens: bool = False) -> Any:
    """Train a byte-level BPE tokenizer with Qwen3's markup.

    Args:
        long_tokens: whether a token may be a whole line instead of a word.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    # lines; or words with the space before them, single digits, runs of punctuation, runs of white space
    pieces = r"[^\n]*\n+|[^\n]+" if long_tokens else r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pieces), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(THINK_TOKENS),
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(corpus, trainer)
    raw.add_tokens([AddedToken(token, normalized=False, special=False) for token in THINK_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=131072,
    )


def save_model(size: Mapping[str, int], seed: int, tokenizer: Any, folder: Path) -> int:
    """Write the model with random weights, and return its number of parameters.

    Args:
        size: arguments of Qwen3Config.
    """
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        **size,
        tie_word_embeddings=True,
        dtype="float32",
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TEXT)]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=False)
    model.save_pretrained(folder)
    about = {"made_by": "scripts/make_tiny_model.py", "seed": seed}
    (folder / "tiny_model.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    run(main)
