"""Serve a script that writes reasoning chains, in place of a strong model, as an OpenAI-compatible API on loopback.

For scripts/reproduce/graph_ablation.sh. The script knows no medicine: it reads what the prompt of reasoning_generation.py
shows, and cites --events events of the record, first those that mention a term of the relations in the prompt, then random
ones. Chains are drawn from record, question, answer and number, so that chains with and without relations have the same random
events and the same mistakes. A share --mistakes of the chains has a fault that filter_reasoning.py should find.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from inference.prompts import SECTIONS
from mimiciv_dataset.text import SampleText
from pipeline.cli import Parser, at_least, between, run
from pipeline.files import atomic_path, sha256

MODEL = "scripted-writer"
# the parts of thinking_graph_preprocess/prompts/with_knowledge.txt and without_knowledge.txt
PROMPT = re.compile(
    r"^# The record\n(?P<record>.*)^# The question\n(?P<question>.*)^# The right answer.*?\n(?P<answer>.*?)"
    r"^(?:# Relations.*?\n(?P<relations>.*?))?^# What to write$",
    re.DOTALL | re.MULTILINE,
)
UNEXPLAINED = "What comes next follows from these events."


class CitedEvent(NamedTuple):
    """An event that a chain cites: its heading without marks, and what the chain says about it."""

    heading: str
    statement: str


@dataclass(frozen=True)
class Draft:
    """A chain in parts, and the reason why its writer stopped."""

    events: list[CitedEvent]
    reasoning: list[str]
    answer: list[str]
    finish_reason: str = "stop"

    def __str__(self) -> str:
        cited = [f"- **{heading}**: {statement}" for heading, statement in self.events]
        parts = (cited, self.reasoning, [f"- {item}" for item in self.answer])
        return "\n".join("\n".join([heading, *lines]) for heading, lines in zip(SECTIONS, parts, strict=True))


def _with_first(draft: Draft, change: Callable[[CitedEvent], CitedEvent]) -> Draft:
    first, *others = draft.events
    return replace(draft, events=[change(first), *others])


# Reason of filter_reasoning.py → the mistake: a good draft with this fault.
MISTAKES: dict[str, Callable[[Draft], Draft]] = {
    "wrong_time": lambda good: _with_first(good, lambda event: event._replace(heading=event.heading.replace("[2", "[3"))),
    "wrong_number": lambda good: _with_first(good, lambda event: event._replace(statement=f"{event.statement}, 98765")),
    "told": lambda good: replace(good, reasoning=[*good.reasoning, "This agrees with the given answer."]),
    "wrong_answer": lambda good: replace(good, answer=[*good.answer, "Something that is not an answer"]),
    "unfinished": lambda good: replace(good, answer=good.answer[:1], finish_reason="length"),
}


@dataclass(frozen=True)
class Writer:
    """Writes chains for the prompts of reasoning_generation.py.

    Attributes:
        events: number of events that a chain cites, fewer if the record has fewer.
        mistakes: share of the chains with a mistake.
    """

    events: int = 2
    mistakes: float = 0.25

    def chain(self, prompt: str, number: int) -> Draft:
        """The chain with this number for a prompt; chains with other numbers cite other random events."""
        shown = PROMPT.search(prompt)
        if shown is None:
            raise ValueError("expected a prompt of reasoning_generation.py with a record, a question and an answer")
        record, question, answer = (shown[name].strip() for name in ("record", "question", "answer"))
        rng = random.Random(sha256(json.dumps([record, question, answer, number])))
        mistake = rng.choice(list(MISTAKES)) if rng.random() < self.mistakes else None
        window = list({event.partition("\n")[0]: event for event in SampleText.parse(record).window}.values())
        drawn = rng.sample(range(len(window)), len(window))
        lines = {at: rng.choice(statements(window[at])) for at in drawn}
        reasoning = {}
        for path in sorted(relations(shown["relations"] or ""), key=len):  # the shortest ones explain most
            for at in drawn:
                mention = next((line for line in statements(window[at]) if path[0].casefold() in line.casefold()), None)
                if mention is not None and at not in reasoning:
                    lines[at], reasoning[at] = mention, sentence(path)
        cited = sorted([*reasoning, *(at for at in drawn if at not in reasoning)][: self.events])
        events = [CitedEvent(window[at].partition("\n")[0].removeprefix("## "), lines[at]) for at in cited]
        explained = list(dict.fromkeys(reasoning[at] for at in cited if at in reasoning))
        draft = Draft(events, explained or [UNEXPLAINED], [item.removeprefix("- ") for item in answer.splitlines()])
        return MISTAKES[mistake](draft) if mistake else draft

    def reply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The response to a request of chat completions."""
        prompt = request["messages"][-1]["content"]
        drafts = [self.chain(prompt, number) for number in range(request.get("n") or 1)]
        choices = [
            {"index": index, "message": {"role": "assistant", "content": str(draft)}, "finish_reason": draft.finish_reason}
            for index, draft in enumerate(drafts)
        ]
        tokens = len(prompt) // 3, sum(len(str(draft)) // 3 for draft in drafts)
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
        return {"id": MODEL, "object": "chat.completion", "created": 0, "model": MODEL, "choices": choices, "usage": usage}


def statements(event: str) -> list[str]:
    """What a chain can say about a rendered event, by record or value.

    >>> statements("## Triage [2150-01-01 08:00:00]\\n- Pain: 5\\n- Sbp: nan")
    ['Pain: 5']
    >>> statements("## Labotary Test Events [None]\\n| Item | Value | Unit |\\n| - | - | - |\\n| pH | 7.4 | nan |")
    ['pH, 7.4']
    """
    lines = event.splitlines()[1:]
    if lines and lines[0].startswith("| "):
        records = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
        texts = [", ".join([cell for cell in cells if cell != "nan"][:2]) for cells in records]
    else:
        texts = [line.removeprefix("- ") for line in lines if not line.endswith(": nan")]
    return [text for text in texts if text.strip()] or ["recorded"]


def relations(text: str) -> list[list[str]]:
    """The paths that a prompt shows: term, relation, term, …"""
    return [line.removeprefix("- ").split(" → ") for line in text.splitlines() if " → " in line]


def sentence(path: Sequence[str]) -> str:
    """A path as a sentence.

    >>> sentence(["Aspirin", "may_treat", "Pain", "isa", "Finding"])
    'Aspirin may treat Pain, which isa Finding.'
    """
    first, *steps = path
    clauses = [f"{relation.replace('_', ' ')} {term}" for relation, term in zip(steps[::2], steps[1::2], strict=True)]
    return f"{first} {', which '.join(clauses)}."


class Handler(BaseHTTPRequestHandler):
    """Answers GET /v1/models and POST /v1/chat/completions."""

    protocol_version = "HTTP/1.1"

    def __init__(self, writer: Writer, *arguments: Any) -> None:
        self.writer = writer
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            self._send(200, self.writer.reply(json.loads(body)))
        except (ValueError, KeyError) as error:
            self._send(400, {"error": {"message": str(error), "type": "invalid_request_error"}})

    def _send(self, status: int, content: Mapping[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Requests contain records, which are not logged."""


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--url_file", type=Path, required=True, help="file to write the URL to, once the server listens")
    cli.add_argument("--port", type=at_least(0), default=0, help="port on 127.0.0.1 (a free one)")
    default = Writer()
    cli.add_argument("--events", type=at_least(1), default=default.events, help=f"events a chain cites ({default.events})")
    cli.add_argument(
        "--mistakes", type=between(0, 1), default=default.mistakes, help=f"share with a mistake ({default.mistakes})"
    )
    args = cli.parse_args(argv)
    server = ThreadingHTTPServer(("127.0.0.1", args.port), partial(Handler, Writer(args.events, args.mistakes)))
    url = f"http://127.0.0.1:{server.server_port}/v1"
    with atomic_path(args.url_file) as temporary:
        temporary.write_text(url, encoding="utf-8")
    print(f"scripted_writer: {MODEL} at {url}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    run(main)
