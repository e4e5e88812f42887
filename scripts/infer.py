"""Ask a model about one patient: markdown text and a question in, the answer out.

RECORD is a file (or - for standard input) with the input of a sample, as this repository renders it (docs/data.md). The
question is that of a task (--task) or your own (--instruction). The prompt is the same as in training and evaluation. Risk
tasks are answered by yes or no, with p(yes). The answer goes to standard output. An input that is too long for --max_seq_len
loses its oldest events, which a line on standard error reports.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
from collections.abc import Sequence
from dataclasses import asdict

from inference.checks import check_inference, served_model
from inference.settings import InferenceSettings, add_inference_flags, parse_model
from mimiciv_dataset.tasks import TASKS, load_instructions
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import require, sha256


def make_parser() -> Parser:
    cli = Parser(__doc__)
    cli.add_argument("record", metavar="RECORD", help="file with the input of a sample, or - for standard input")
    text = "ask this task's question (--list_tasks of mimiciv_dataset/task_sample_info_gen.py shows the tasks)"
    cli.add_argument("--task", choices=tuple(TASKS), metavar="TASK", help=text)
    cli.add_argument("--instruction", help="the question itself, instead of a task's wording")
    cli.add_argument("--json", action="store_true", help="print reasoning, items, p(yes) and more as one JSON object")
    add_inference_flags(cli, omit=("prompt", "oracle_reasoning", "as_known"))
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    flags = parse_model(make_parser(), argv)
    if not (flags["task"] or flags["instruction"]):
        raise UserError("infer.py: expected a question, got neither --task nor --instruction. Give one of them.")
    settings = InferenceSettings.from_flags(flags)
    check_inference(settings)
    if settings.server.url is not None:
        served_model(settings)
    input_text = read_input(flags["record"])
    task = TASKS[flags["task"]] if flags["task"] else None
    instruction = flags["instruction"] or load_instructions(settings.prompt.instructions)[task.name]

    from inference.answers import read_items, split_reasoning
    from inference.backends import load_backend, prompt_warnings
    from inference.generation import replies, sample_prompt
    from mimiciv_dataset.text import SampleText

    backend = load_backend(settings)
    for warning in prompt_warnings(settings, backend.builder):
        print(f"warning: {warning}", file=sys.stderr)
    prompt = sample_prompt(SampleText.parse(input_text, task), instruction, task, backend.builder, settings)
    truncation = prompt.truncation
    if truncation:
        dropped = f"the {truncation.events:,} oldest events and {truncation.lines:,} lines of the last discharge note"
        print(f"truncated: the prompt has {truncation.tokens_before:,} tokens; dropped {dropped}", file=sys.stderr)
    if not prompt.fits:
        got = f"got {truncation.tokens_after:,} tokens. Raise --max_seq_len or shorten the input"
        raise UserError(f"{flags['record']}: expected a prompt that fits after truncation, {got}.")
    ((_, reply),) = replies([prompt], backend)
    if reply.error:
        raise UserError(f"{', '.join(settings.server.urls)}: expected a reply, got none: {reply.error}.")
    reasoning, answer = split_reasoning(reply.text, prompt.thinking_open)
    if flags["json"]:
        result = {
            "p_yes": reply.p_yes,
            "finish_reason": reply.finish_reason,
            "reasoning": reasoning,
            "answer": answer,
            "items": read_items(answer),
            "mode": prompt.mode,
            "truncated": asdict(truncation) if truncation else None,
            "prompt_sha256": sha256(prompt.text),
        }
        print(json.dumps(result, ensure_ascii=False))
    else:
        p_yes = None if reply.p_yes is None else f"p(yes) = {reply.p_yes:.4f}"
        print("\n\n".join(part for part in (reasoning, answer, p_yes) if part))
    if answer is None:
        print("warning: the reply was cut off inside its reasoning. Raise --max_new_tokens.", file=sys.stderr)
    return int(answer is None)


def read_input(name: str) -> str:
    """Read the input of a sample; one line end at its end belongs to the file and is dropped."""
    try:
        if name == "-":
            text = sys.stdin.read()
        else:
            text = require(Path(name), "a text file", "save the `input` of a sample").read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{name}: expected text in UTF-8, got other bytes. Convert the file.") from None
    if not text.strip():
        raise UserError(f"{name}: expected the input of a sample, got an empty file.")
    return text.removesuffix("\n")


if __name__ == "__main__":
    run(main, resume="Run the same command again.")
