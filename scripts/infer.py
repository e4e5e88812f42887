"""Ask a model about one record: markdown text and a question in, the answer out.

RECORD is a file (or - for standard input) with a record as this repository renders it (docs/data.md; `input` of a sample). The
question is a task's own (--task), or yours (--instruction). The prompt is built by the code that training and evaluation
use, so a model reads here what it reads there. Risk tasks answer yes or no with p(yes). The answer goes to standard output; a
record too long for --max_seq_len loses its oldest events, and a line on standard error says so.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import argparse
import json
from collections.abc import Sequence

from inference.settings import add_model_flags, add_prompt_flags, backend_name, check_lengths, parse_model
from mimiciv_dataset.tasks import TASKS, load_instructions
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import require


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cli = Parser(__doc__)
    cli.add_argument("record", metavar="RECORD", help="file with the record, or - for standard input")
    cli.add_argument("--task", choices=tuple(TASKS), metavar="TASK", help="ask this task's question (--list_tasks of "
                     "mimiciv_dataset/task_sample_info_gen.py shows them)")  # fmt: skip
    cli.add_argument("--instruction", help="the question itself, in place of a task's wording")
    cli.add_argument("--json", action="store_true", help="print reasoning, items, p(yes) and more as one JSON object")
    add_model_flags(cli)
    add_prompt_flags(cli)
    args = parse_model(cli, argv)
    if not (args.task or args.instruction):
        raise UserError("infer.py: wanted a question, found neither --task nor --instruction")
    check_lengths(args)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    record = read_record(args.record)
    task = TASKS[args.task] if args.task else None
    kind = task.kind if task else "decision"
    instruction = args.instruction or load_instructions(args.instructions)[task.name]

    from inference.answers import read_items, split_reasoning
    from inference.backends import load_backend
    from inference.generation import CHAIN_END, after_chain
    from inference.prompts import THINK, evaluation_mode, open_think_prefix
    from mimiciv_dataset.text import SampleText
    from pipeline.files import sha256

    backend = load_backend(backend_name(args), args)
    mode = evaluation_mode(kind, args.think_prompt, args.direct_answer, args.think_risk)
    scored = kind == "risk" and mode != THINK
    room = args.max_seq_len - (1 if scored else args.max_new_tokens) - (CHAIN_END if kind == "risk" and not scored else 0)
    prompt, dropped = backend.builder.fit(SampleText.parse(record, task), instruction, mode, room)
    if dropped:
        print(
            f"the prompt has {dropped.tokens_before:,} tokens, with room for {room:,}: left out the {dropped.events:,} "
            f"oldest events and {dropped.lines:,} lines of the last discharge note",
            file=sys.stderr,
        )
        if not dropped.fits:
            raise UserError(f"{args.record}: wanted a record of at most {room:,} tokens after truncation, found "
                            f"{dropped.tokens_after:,}; raise --max_seq_len or shorten the record")  # fmt: skip
    if scored:
        answers = backend.score_yes_no([prompt])
    else:
        answers = backend.generate([prompt], args.max_new_tokens, args.temperature)
    for _, reply in answers:  # noqa: B007  the one reply; none if the server refused
        break
    else:
        raise UserError(f"{args.url}: wanted a reply, found none: {', '.join(backend.failures)}")
    p_yes = reply.p_yes
    chain = after_chain(prompt, reply.text) if kind == "risk" and not scored and backend.continues else None
    if chain:
        p_yes = next((scored_reply.p_yes for _, scored_reply in backend.score_yes_no([chain])), None)
    reasoning, answer = split_reasoning(reply.text, not scored and bool(open_think_prefix(prompt)))
    if args.json:
        found = {"p_yes": p_yes, "finish_reason": reply.finish_reason, "reasoning": reasoning, "answer": answer,
                 "items": read_items(answer), "mode": mode,
                 "truncated": dropped.to_dict() if dropped else None, "prompt_sha256": sha256(prompt)}  # fmt: skip
        print(json.dumps(found, ensure_ascii=False))
    else:
        parts = [reasoning, answer, f"p(yes) = {p_yes:.4f}" if p_yes is not None else None]
        print("\n\n".join(part for part in parts if part))
    if answer is None:
        print("the reply was cut off inside its reasoning; raise --max_new_tokens", file=sys.stderr)
    return int(answer is None)


def read_record(name: str) -> str:
    """The record's text; one line end at its end is the file's own and goes.

    Raises:
        UserError: there is no such file, it is empty, or it is not UTF-8.
    """
    try:
        if name == "-":
            text = sys.stdin.read()
        else:
            text = require(Path(name), "a text file with a record", "save one sample's `input`").read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{name}: wanted a record as UTF-8 text, found other bytes") from None
    if not text.strip():
        raise UserError(f"{name}: wanted a record, found nothing in it")
    return text.removesuffix("\n")


if __name__ == "__main__":
    run(main)
