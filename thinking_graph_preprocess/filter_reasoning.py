"""Reasoning chains → the chains to train on: checked against the record and the right answer.

Reads the evidence rows and the replies of reasoning_generation.py. A chain is kept if it is finished, has its three sections
in order, names at least --min_right of the right answers and at most --max_wrong others under Final Results, speaks of nothing
it was given, cites only events that the record has at that time, and takes every number under Extraction from the event it
cites. With --verifier_model a second reader, who sees record and reasoning without the conclusion, must reach the answer too.

Writes OUTPUT.csv (a row of the index with its best chain as `reasoning`: training on chains reads it as it is),
OUTPUT.rejects.jsonl (each rejected chain and why) and OUTPUT.reasons.json (the table that is printed).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import argparse
import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from inference.answers import split_reasoning
from inference.client import add_server_flags, make_client
from inference.replies import (
    NO_URL,
    Ask,
    Meter,
    add_cost_flags,
    appending,
    ask_all,
    chunk_file,
    chunk_files,
    finished_keys,
    read_line,
    read_lines,
)
from mimiciv_dataset.index_files import SAMPLE_COLUMNS
from mimiciv_dataset.patients import DATA_USE
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.text import SampleText
from pipeline.cli import Chunk, Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, require, sha256, write_json
from pipeline.progress import Summary, progress
from thinking_graph_preprocess.chains import (
    REASONS,
    Fault,
    Limits,
    Record,
    answer_faults,
    before_conclusion,
    cited_events,
    conclusion,
    faults,
    right_answers,
)
from thinking_graph_preprocess.reasoning_generation import (
    NAME,
    PLACE,
    PROMPTS,
    VERIFIER,
    WITHOUT_FORMAT,
    Fitter,
    Row,
    fit,
    place,
    read_prompt,
    read_rows,
)

VERIFIED = "verified"
ROWS = ("rows", "answered", "kept", "chains", "passed")
"""Columns of the table before the reasons: rows of the index, those with chains, those with one to keep; chains, good ones."""


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    summary = Summary("filter_reasoning")
    judge = Judge(args)
    rows = Chunk(args.chunk_num, args.chunk_idx).of(read_rows(args))
    if args.verifier_model and not verify(judge, rows, args):
        return 1
    output = args.output_path
    if args.chunk_num > 1:
        output = output.with_name(f"{output.stem}-{args.chunk_idx}-of-{args.chunk_num}{output.suffix}")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with (
        atomic_path(output) as kept_path,
        atomic_path(output.with_suffix(".rejects.jsonl")) as rejects_path,
        kept_path.open("w", newline="", encoding="utf-8") as kept,
        rejects_path.open("w", encoding="utf-8") as rejects,
    ):
        writer = csv.writer(kept, lineterminator="\n")
        writer.writerow([*SAMPLE_COLUMNS, "reasoning"])
        for judged in progress(map(judge.row, rows), total=len(rows), desc="filter_reasoning", unit="row"):
            count(judged, counts[judged.columns["task"]])
            for chain in judged.chains:
                if chain.faults:
                    rejects.write(json.dumps(reject(judged, chain), ensure_ascii=False) + "\n")
            best = judged.best()
            if best:
                writer.writerow([*sample_cells(judged.columns), best.text])
    table = {task: {name: counts[task][name] for name in (*ROWS, *REASONS)} for task in counts}
    everything = {name: sum(row[name] for row in table.values()) for name in (*ROWS, *REASONS)}
    print_table(table | {"all": everything})
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    write_json(output.with_suffix(".reasons.json"), {
        "tasks": table, "all": everything, "reasons": REASONS, "arguments": options, "data_use": DATA_USE,
    })  # fmt: skip
    summary.print(f"{everything['kept']:,} of {len(rows):,} rows have a chain to train on → {output}", len(rows), "rows")
    if not everything["kept"]:
        print(f"no chain passed: the table and {output.with_suffix('.rejects.jsonl')} say why", file=sys.stderr)
    return 0 if everything["kept"] else 1


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cli = Parser(__doc__)
    cli.add_path("--data_index_dir", "--data_index_path", default="evidence_datas/evidence", help="evidence: folder or CSV")
    cli.add_path("--reasoning_path", default="evidence_datas/reasoning", help="folder of reasoning_generation.py")
    cli.add_path("--output_path", default="evidence_datas/kept/reasoning.csv", help="CSV to write")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_argument("--min_right", type=float, default=0.7, help="least share of the right answers (0.7)")
    cli.add_argument("--max_wrong", type=int, default=0, help="most wrong answers (0)")
    cli.add_chunks()
    reader = cli.add_argument_group("second reader")
    reader.add_argument("--verifier_model", help="as the server calls it; its replies are kept beside the chains")
    reader.add_argument("--prompts", type=Path, default=PROMPTS, help="folder with verifier.txt (ours)")
    reader.add_argument("--instructions", help="JSON, task → question, in place of ours")
    reader.add_argument("--max_new_tokens", type=int, default=1024, help="tokens of its answer at most (1024)")
    reader.add_argument("--max_seq_len", type=int, default=16384, help="tokens of prompt and answer at most (16384)")
    reader.add_argument("--tokenizer", help="counts them: Hub id or folder (an estimate of 3 bytes a token)")
    add_server_flags(reader, "--base_url")
    add_cost_flags(reader)
    args = cli.parse_args(argv)
    if not 0 <= args.min_right <= 1:
        raise UserError(f"--min_right {args.min_right:g}: wanted a share from 0 to 1")
    if args.max_wrong < 0:
        raise UserError(f"--max_wrong {args.max_wrong}: wanted a number ≥ 0")
    if not 0 < args.max_new_tokens < args.max_seq_len:
        raise UserError(f"--max_new_tokens {args.max_new_tokens}: wanted a number from 1 to below --max_seq_len "
                        f"{args.max_seq_len}")  # fmt: skip
    if args.verifier_model and args.base_url is None:
        raise UserError(NO_URL)
    return args


# --- judging


@dataclass
class Chain:
    """A chain, without a think block: the key of its line and its number there, what is wrong with it, how good it is."""

    key: str
    number: int
    text: str
    faults: list[Fault]
    right: int
    cited: int


@dataclass
class Judged:
    """A row of the index, its record, its question, and its chains."""

    columns: dict[str, Any]
    text: SampleText
    question: str
    chains: list[Chain]

    @property
    def target(self) -> list[str]:
        return label_list(self.columns["target"])

    def best(self) -> Chain | None:
        """The good chain with the most right answers; among equals the one that cites the most events, then the shortest."""
        good = [chain for chain in self.chains if not chain.faults]
        return min(good, key=lambda chain: (-chain.right, -chain.cited, len(chain.text), chain.text), default=None)


class Judge:
    """Judges the chains of rows.

    Attributes:
        verifier: a second reader who has read them; None: there is none.

    Raises:
        UserError: there are no chains.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.limits = Limits(args.min_right, args.max_wrong)
        self.verifier: Verifier | None = None
        fix = "run thinking_graph_preprocess/reasoning_generation.py"
        files = chunk_files(require(args.reasoning_path, "a folder of chains", fix), NAME)
        if not files:
            raise UserError(f"{args.reasoning_path}: wanted {NAME}.jsonl, found none; {fix}")
        # Where each row's replies are, not the replies: they can be larger than memory.
        self._lines: dict[tuple[Any, ...], list[tuple[Path, int]]] = defaultdict(list)
        for path in files:
            for offset, line in read_lines(path):
                if not {*PLACE, "choices", "finish_reasons"} <= line.keys():
                    raise UserError(f"{path}: wanted lines of reasoning_generation.py, found others; {fix}")
                if not line.get("error"):
                    self._lines[place(line)].append((path, offset))

    def row(self, row: Row) -> Judged:
        """A row with its chains judged."""
        dataset, index = row
        columns, text = dataset.row(index), dataset.text(index)
        judged, record = Judged(columns, text, dataset.instructions[columns["task"]], []), Record(text)
        for path, offset in self._lines.get(place(columns), ()):
            line = read_line(path, offset)
            sections = line.get("prompt") != WITHOUT_FORMAT
            for number, (reply, ended) in enumerate(zip(line["choices"], line["finish_reasons"], strict=True)):
                chain = split_reasoning(reply)[1] or ""  # a model that thinks first: what it writes then is the chain
                found = faults(chain, ended, record, judged.target, self.limits, sections)
                right = right_answers(conclusion(chain), judged.target)
                judged.chains.append(Chain(line["key"], number, chain, found, right, cited_events(chain)))
        if self.verifier:
            for chain in judged.chains:
                chain.faults += [] if chain.faults else self.verifier.faults(judged, chain, self.limits)
        return judged


# --- the second reader


class Verifier:
    """A model that does not see a chain's conclusion, and what it concluded.

    Attributes:
        said: its answers by `key`; "" where it did not finish, or the chain and its record were too long for it.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.template, self.fitter = args, read_prompt(args.prompts, VERIFIER), Fitter(args.tokenizer)
        self.said: dict[str, str] = {}

    def key(self, judged: Judged, chain: Chain) -> str:
        """Hash of all that decides the reply."""
        args = self.args
        settings = [args.verifier_model, args.max_new_tokens, args.max_seq_len, args.tokenizer]
        shown = [str(judged.text), judged.question, before_conclusion(chain.text), self.template]
        return sha256(json.dumps([place(judged.columns), shown, settings]))

    def ask(self, judged: Judged, chain: Chain) -> Ask | None:
        """The request for a chain; None if it does not fit."""
        args = self.args
        prompt, dropped = fit(
            self.fitter, self.template, judged.text, args.max_seq_len - args.max_new_tokens,
            question=judged.question, reasoning=before_conclusion(chain.text),
        )  # fmt: skip
        if dropped is not None and not dropped.fits:
            return None
        line = {"key": self.key(judged, chain), **{name: judged.columns[name] for name in PLACE}, "model": args.verifier_model}
        body = {
            "model": args.verifier_model, "messages": [{"role": "user", "content": prompt}], "temperature": 0,
            "max_completion_tokens": args.max_new_tokens,
        }  # fmt: skip
        return Ask(line, body, self.fitter.tokens(prompt), args.max_new_tokens)

    def faults(self, judged: Judged, chain: Chain, limits: Limits) -> list[Fault]:
        """`not_reached` where its answer is not good enough."""
        found = answer_faults(self.said[self.key(judged, chain)], judged.target, limits)
        return [Fault("not_reached", "; ".join(fault.detail for fault in found))] if found else []


def verify(judge: Judge, rows: Sequence[Row], args: argparse.Namespace) -> bool:
    """Have a second reader read every chain that is good so far, and tell the judge; False if it did not read all."""
    client = make_client(args.base_url, args)
    verifier, meter = Verifier(args), Meter.of(args)
    wanted: set[str] = set()

    def asks() -> Iterator[Ask]:
        for judged in map(judge.row, rows):
            for chain in judged.chains:
                key = verifier.key(judged, chain)
                if chain.faults or key in wanted:
                    continue
                wanted.add(key)
                if key not in finished:
                    ask = verifier.ask(judged, chain)
                    if ask:
                        yield ask
                    else:
                        verifier.said[key] = ""

    with appending(chunk_file(args.reasoning_path, VERIFIED, args.chunk_num, args.chunk_idx)) as write:
        finished = finished_keys(args.reasoning_path, VERIFIED, meter)
        with progress(total=None, desc="second reader", unit="chain") as bar:
            errors = ask_all(client, asks(), write, meter, bar)
    client.close()
    for path in chunk_files(args.reasoning_path, VERIFIED):
        for _, line in read_lines(path):
            if line["key"] in wanted and not line.get("error"):
                done = line["finish_reasons"][0] == "stop"
                verifier.said[line["key"]] = (split_reasoning(line["choices"][0])[1] or "") if done else ""
    for reason, number in errors.most_common():
        print(f"no reply on {number:,} chains: {reason}; the same command asks again", file=sys.stderr)
    if meter.stopped:
        print(f"stopped before --max_cost {args.max_cost:g}: not all chains are read", file=sys.stderr)
    print(f"second reader: {len(wanted):,} chains, {meter.status()}", flush=True)
    judge.verifier = verifier
    return not errors and not meter.stopped


# --- outputs


def sample_cells(columns: dict[str, Any]) -> list[Any]:
    """A row's cells of `SAMPLE_COLUMNS`.

    >>> sample_cells({"subject_id": "7", "task": "emar", "target": ["a"], "period_begin": 3, "period_end": 9})
    ['7', '', 'emar', '', 3, 9, '', '', '["a"]', '']
    """
    cells = columns | {"target": json.dumps(columns["target"], ensure_ascii=False)}
    return ["" if cells.get(name) is None else cells[name] for name in SAMPLE_COLUMNS]


def reject(judged: Judged, chain: Chain) -> dict[str, Any]:
    """The line of a rejected chain: where it is and what is wrong with it."""
    where = {name: judged.columns[name] for name in PLACE}
    return {"key": chain.key, **where, "choice": chain.number, "reasons": [fault._asdict() for fault in chain.faults]}


def count(judged: Judged, counts: Counter[str]) -> None:
    """Add a row to the counts of its task; a chain counts once under each of its reasons."""
    good = sum(not chain.faults for chain in judged.chains)
    counts.update(rows=1, answered=bool(judged.chains), kept=bool(good), chains=len(judged.chains), passed=good)
    for chain in judged.chains:
        counts.update({fault.reason for fault in chain.faults})


def print_table(table: dict[str, dict[str, int]]) -> None:
    """Print the counts of each task, with the reasons that there were."""
    names = [*ROWS, *(reason for reason in REASONS if table["all"][reason])]
    print(f"{'task':<24}" + "".join(f"{name:>{max(9, len(name) + 2)}}" for name in names))
    for task, row in table.items():
        print(f"{task:<24}" + "".join(f"{row[name]:>{max(9, len(name) + 2)},}" for name in names))
    for reason in names[len(ROWS) :]:
        print(f"  {reason}: {REASONS[reason]}")


if __name__ == "__main__":
    run(main)
