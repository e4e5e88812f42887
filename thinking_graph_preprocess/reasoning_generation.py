"""Evidence rows → reasoning chains: a strong model writes down how the record leads to the answer.

For each row a model behind an OpenAI-compatible API (--base_url, key in $OPENAI_API_KEY) gets the patient's record, the
question, the right answer and the paths of the row's graph, and writes --n chains. One line a row goes to
OUTPUT/reasoning.jsonl as its reply comes. Run the same command again after any crash: only what is missing is asked for, rows
that ended in an error among it. There is no default server: MIMIC-IV records may not go to third parties.

The prompt of a row is prompts/with_knowledge.txt, or prompts/without_knowledge.txt where it has no graph; --prompts takes a
folder of your own wording. --dry_run prints the first prompt and asks nobody.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from inference.client import add_server_flags, make_client
from inference.openai_backend import ChatBuilder
from inference.replies import (
    NO_URL,
    Ask,
    Meter,
    add_cost_flags,
    appending,
    ask_all,
    chunk_file,
    finished_keys,
)
from mimiciv_dataset.samples import label_list
from pipeline.cli import Chunk, Parser, run
from pipeline.errors import UserError
from pipeline.files import require, sha256
from pipeline.progress import Summary, progress

if TYPE_CHECKING:
    from inference.prompts import Truncation
    from mimiciv_dataset.mimiciv import MIMICIV
    from mimiciv_dataset.text import SampleText

PROMPTS = Path(__file__).parent / "prompts"
WITH_KNOWLEDGE, WITHOUT_KNOWLEDGE, WITHOUT_FORMAT = "with_knowledge", "without_knowledge", "without_format"
VERIFIER = "verifier"
SLOTS = {
    WITH_KNOWLEDGE: {"record", "question", "answer", "knowledge"},
    WITHOUT_KNOWLEDGE: {"record", "question", "answer"},
    WITHOUT_FORMAT: {"record", "question", "answer", "knowledge"},
    VERIFIER: {"record", "question", "reasoning"},
}
"""The prompt files, and the places in each that are filled in, written {record}."""

NAME = "reasoning"
PLACE = ("task", "subject_id", "period_begin", "period_end")
"""What names a row, in an index and in a line of replies."""


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    summary = Summary("reasoning_generation")
    prompts = {name: read_prompt(args.prompts, name) for name in (WITH_KNOWLEDGE, WITHOUT_KNOWLEDGE, WITHOUT_FORMAT)}
    client = None if args.dry_run else make_client(args.base_url, args)  # refuses a remote host before anything is read
    meter = Meter.of(args)
    rows = Chunk(args.chunk_num, args.chunk_idx).of(read_rows(args, args.filter_nograph))[: args.limit]
    if not rows:
        raise UserError(f"{args.data_index_dir}: wanted rows to write chains for, found none in this chunk; --filter_nograph "
                        "leaves out those without a graph, and rows of discharge have no list of answers")  # fmt: skip
    maker = AskMaker(args, prompts)
    if client is None:
        ask = next(maker.asks(rows), None)
        if ask is None:
            raise UserError(f"--max_seq_len {args.max_seq_len}: wanted room for a record, found none for any row")
        print(ask.body["messages"][0]["content"])
        return 0
    output = chunk_file(args.output_path, NAME, args.chunk_num, args.chunk_idx)
    with appending(output) as write:
        finished = finished_keys(args.output_path, NAME, meter)
        todo = [row for row in rows if maker.key(row) not in finished]
        with progress(total=len(todo), desc="reasoning_generation", unit="row") as bar:
            errors = ask_all(client, maker.asks(todo), write, meter, bar)
    client.close()
    for reason, count in errors.most_common():
        print(f"no reply to {count:,} rows: {reason}; the same command asks for them again", file=sys.stderr)
    answered = meter.requests - errors.total()
    if maker.too_long:
        print(f"{maker.too_long:,} rows do not fit into --max_seq_len {args.max_seq_len}: left out", file=sys.stderr)
    if meter.stopped:
        left = len(todo) - maker.too_long - meter.requests
        print(f"stopped before --max_cost {args.max_cost:g}: {left:,} rows are left", file=sys.stderr)
    summary.print(
        f"{answered:,} rows answered, {len(rows) - len(todo):,} were there, {maker.shortened:,} shortened; "
        f"{meter.status()} → {output}", answered, "rows",
    )  # fmt: skip
    return 1 if errors or meter.stopped else 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cli = Parser(__doc__)
    cli.add_path("--data_index_dir", "--data_index_path", default="evidence_datas/evidence", help="evidence: folder or CSV")
    cli.add_path("--output_path", default="evidence_datas/reasoning", help="folder for reasoning.jsonl")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_argument("--filter_nograph", action="store_true", help="only rows that have a graph")
    variant = cli.add_mutually_exclusive_group()
    variant.add_argument("--without_knowledge", action="store_true", help="do not show the graph (without_knowledge.txt)")
    variant.add_argument("--without_format", action="store_true", help="ask for no sections (without_format.txt)")
    cli.add_argument("--prompts", type=Path, default=PROMPTS, help="folder with the three prompt files (ours)")
    cli.add_argument("--instructions", help="JSON, task → question, in place of ours")
    cli.add_argument("--limit", type=int, help="only the first so many rows of the chunk")
    cli.add_argument("--dry_run", action="store_true", help="print the first prompt, with its record, and stop")
    cli.add_chunks()
    model = cli.add_argument_group("model")
    model.add_argument("--model", required=True, help="as the server calls it")
    model.add_argument("--temperature", type=float, default=0.5, help="of sampling (0.5)")
    model.add_argument("--n", type=int, default=3, help="chains a row (3)")
    model.add_argument("--max_new_tokens", type=int, default=4096, help="tokens of a chain at most (4096)")
    model.add_argument("--max_seq_len", type=int, default=12288, help="tokens of prompt and one chain at most (12288, the "
                       "length of training on chains); a longer record loses its oldest events")  # fmt: skip
    model.add_argument("--tokenizer", help="counts them: Hub id or folder (an estimate of 3 bytes a token)")
    server = cli.add_argument_group("server")
    add_server_flags(server, "--base_url")
    add_cost_flags(server)
    args = cli.parse_args(argv)
    for name in ("n", "max_new_tokens", "max_seq_len", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: wanted a number ≥ 1")
    if args.max_new_tokens >= args.max_seq_len:
        raise UserError(
            f"--max_seq_len {args.max_seq_len}: wanted more than --max_new_tokens {args.max_new_tokens}, which it holds"
        )
    if not 0 <= args.temperature <= 2:
        raise UserError(f"--temperature {args.temperature:g}: wanted a number from 0 to 2")
    if args.base_url is None and not args.dry_run:
        raise UserError(NO_URL)
    return args


# --- rows


Row = tuple["MIMICIV", int]
"""A row of an evidence file: its dataset, its position there."""

Paths = tuple[tuple[str, ...], ...]
"""Paths of a graph: term, relation, term, …"""


def read_rows(args: argparse.Namespace, only_graph: bool = False) -> list[Row]:
    """The rows that can have chains, each once, in the order of the files; only those that have a graph if `only_graph`.

    Raises:
        UserError: there is no such file, a chunk is missing, or a row is not as it should be.
    """
    from thinking_graph_preprocess.evidence_generation import evidence_files

    rows: dict[tuple[Any, ...], Row] = {}
    for path in evidence_files(args.data_index_dir):
        dataset = open_evidence(path, args)
        if only_graph and "graph" not in dataset.rows.columns:
            raise UserError(f"{path}: wanted a column graph for --filter_nograph, found {', '.join(dataset.rows.columns)}; "
                            "make it with thinking_graph_preprocess/evidence_generation.py")  # fmt: skip
        for index in range(len(dataset)):
            columns = dataset.row(index)
            task = dataset.task(columns)
            try:
                paths = read_graph(columns.get("graph"))
                if None in place(columns) or not columns.get("target"):
                    raise UserError("wanted a patient, a window and a target, found one of them missing")
            except UserError as error:
                raise UserError(f"{path}, row {index + 1}: {error}") from None
            if task.kind != "generation" and (paths or not only_graph):
                rows.setdefault(place(columns), (dataset, index))
    return list(rows.values())


def open_evidence(path: Path, args: argparse.Namespace) -> MIMICIV:
    """An evidence CSV as a dataset."""
    from mimiciv_dataset.mimiciv import MIMICIV

    if path.suffix != ".csv":
        raise UserError(f"{path}: wanted a CSV of evidence_generation.py, found another kind of file")
    return MIMICIV(args.root_dir, path, lazzy_mode=True, shuffle=False, instructions=args.instructions, ehr_dir=args.ehr_dir)


def place(row: dict[str, Any]) -> tuple[Any, ...]:
    """What names a row."""
    return tuple(row[name] for name in PLACE)


def read_graph(text: str | None) -> Paths:
    """The paths of a row's `graph`; none where it is empty.

    Raises:
        UserError: it is something else.

    >>> read_graph('{"umls_graph": [["Pain", "may be treated by", "Aspirin"]]}'), read_graph(None)
    ((('Pain', 'may be treated by', 'Aspirin'),), ())
    >>> read_graph("[1]")
    Traceback (most recent call last):
    pipeline.errors.UserError: graph: wanted {"umls_graph": [[term, relation, term, ...], ...]}, found something else
    """
    if not text:
        return ()
    try:
        paths = json.loads(text)["umls_graph"]
    except (ValueError, KeyError, TypeError):
        paths = None
    if isinstance(paths, list) and all(isinstance(path, list) and all(isinstance(s, str) for s in path) for path in paths):
        return tuple(map(tuple, paths))
    raise UserError('graph: wanted {"umls_graph": [[term, relation, term, ...], ...]}, found something else')


# --- prompts


def read_prompt(folder: Path, name: str) -> str:
    """A prompt file.

    Raises:
        UserError: there is none, or its places are not those of `SLOTS`.
    """
    path = require(folder / f"{name}.txt", "a prompt", f"copy and change those in {PROMPTS}")
    text = path.read_text(encoding="utf-8").strip()
    found = set(re.findall(r"\{(\w+)\}", text))
    if found != SLOTS[name]:
        raise UserError(f"{path}: wanted the places {_braced(SLOTS[name])}, found {_braced(found) or 'none'}")
    return text


def _braced(names: set[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names))


def fill(template: str, **values: str) -> str:
    """A prompt with its places filled, all at once: braces in a value are text.

    >>> fill("{a} and {b}", a="{b}", b="x")
    '{b} and x'
    """
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], template)


def knowledge(paths: Paths) -> str:
    """Paths as the prompt shows them, one a line, each once.

    >>> knowledge((("Pain", "may be treated by", "Aspirin"), ("Pain", "is a", "Finding")))
    '- Pain → may be treated by → Aspirin\\n- Pain → is a → Finding'
    """
    return "\n".join(dict.fromkeys("- " + " → ".join(path) for path in paths)) or "(none)"


_RECORD = "\0"  # stands for the record in a prompt that is not yet fitted; no text of a record or name holds it


class Fitter(ChatBuilder):
    """Fits records into prompts by the rules of all prompts (docs/data.md): puts them into prompts that are filled already."""

    def prompt(self, record: str, instruction: str, mode: str) -> str:
        return instruction.replace(_RECORD, record)


def fit(fitter: Fitter, template: str, text: SampleText, room: int, **values: str) -> tuple[str, Truncation | None]:
    """A filled prompt of at most `room` tokens, and what its record lost: whole events, the oldest first."""
    return fitter.fit(text, fill(template, record=_RECORD, **values), "", room)


class AskMaker:
    """Makes the requests of rows.

    Attributes:
        shortened, too_long: rows whose record lost events; rows that do not fit even so, and are not asked for.
    """

    def __init__(self, args: argparse.Namespace, prompts: dict[str, str]) -> None:
        self.args, self.prompts = args, prompts
        self.fitter = Fitter(args.tokenizer)
        self.shortened = self.too_long = 0
        self._settings = [args.model, args.temperature, args.n, args.max_new_tokens, args.max_seq_len, args.tokenizer]

    def variant(self, paths: Paths) -> str:
        """Which prompt a row with these paths gets."""
        if self.args.without_format:
            return WITHOUT_FORMAT
        return WITH_KNOWLEDGE if paths and not self.args.without_knowledge else WITHOUT_KNOWLEDGE

    def key(self, row: Row) -> str:
        """Hash of all that decides the reply: the row, its paths if shown, the trajectories, question, prompt, settings."""
        dataset, index = row
        columns = dataset.row(index)
        paths = read_graph(columns.get("graph"))
        variant = self.variant(paths)
        about = [columns.get(name) for name in (*PLACE, "admissions_id", "last_discharge_id", "target")]
        shown = paths if "knowledge" in SLOTS[variant] else ()
        question, digest = dataset.instructions[columns["task"]], dataset.trajectories.digest
        return sha256(json.dumps([about, shown, digest, question, self.prompts[variant], self._settings]))

    def asks(self, rows: Sequence[Row]) -> Iterator[Ask]:
        """The requests of rows that fit."""
        for row in rows:
            ask = self.ask(row)
            if ask is None:
                self.too_long += 1
            else:
                yield ask

    def ask(self, row: Row) -> Ask | None:
        """The request of a row; None if it does not fit."""
        args, (dataset, index) = self.args, row
        columns = dataset.row(index)
        paths = read_graph(columns.get("graph"))
        variant = self.variant(paths)
        prompt, dropped = fit(
            self.fitter, self.prompts[variant], dataset.text(index), args.max_seq_len - args.max_new_tokens,
            question=dataset.instructions[columns["task"]], knowledge=knowledge(paths),
            answer="\n".join(f"- {name}" for name in label_list(columns["target"])),
        )  # fmt: skip
        if dropped is not None and not dropped.fits:
            return None
        self.shortened += dropped is not None
        line = {"key": self.key(row), **{name: columns[name] for name in PLACE}, "model": args.model, "prompt": variant}
        body = {
            "model": args.model, "messages": [{"role": "user", "content": prompt}], "temperature": args.temperature,
            "n": args.n, "max_completion_tokens": args.max_new_tokens,
        }  # fmt: skip
        return Ask(line, body, self.fitter.tokens(prompt), args.n * args.max_new_tokens)


if __name__ == "__main__":
    run(main)
