"""Reasoning chains → the chains to train on: checked against the patient's record and the right answer.

Reads the evidence rows and the replies of reasoning_generation.py. A chain is kept if it is finished, has its three sections
in order, names at least --min_right of the right answers and at most --max_wrong others under Final Results, mentions nothing
that its writer was given, cites only events that the record has at that time, and takes every number under Extraction from the
event it cites. With --verifier_model a verifier model, which sees record and reasoning without the conclusion, must reach the
answer too.

Writes OUTPUT.csv (rows of the index with the best chain as `reasoning`, ready for training on chains), OUTPUT.rejects.jsonl
(each rejected chain and why) and OUTPUT.reasons.json (the table that is printed).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import contextlib
import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from inference.answers import split_reasoning
from inference.chat_lines import chat_line, report_errors
from inference.costs import CostSettings, Meter
from inference.dialects import is_whole
from inference.generation import ID_COLUMNS, Prompt, finished_keys, generate_and_record
from inference.settings import (
    DecodingSettings,
    InferenceSettings,
    RequestSettings,
    ServerSettings,
    Settings,
    add_flags,
    as_json,
    flag,
)
from mimiciv_dataset.index_files import SAMPLE_COLUMNS, sample_id
from mimiciv_dataset.patients import DATA_USE
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.text import SampleText
from pipeline.cli import Chunk, Parser, at_least, between, chunk_paths, run
from pipeline.errors import UserError
from pipeline.files import Line, append_jsonl, atomic_path, read_jsonl, read_jsonl_line, require, sha256, write_json
from pipeline.progress import Summary, print_table, progress
from pipeline.provenance import Provenance
from pipeline.records import read_record
from pipeline.work import Workers, map_lines
from thinking_graph_preprocess import chains
from thinking_graph_preprocess.chain_prompts import (
    PROMPTS,
    VERIFIER,
    WITHOUT_FORMAT,
    ReplySettings,
    chat_prompt,
    read_prompt,
    token_counter,
)
from thinking_graph_preprocess.chain_replies import REPLIES, RepliesDirectory
from thinking_graph_preprocess.chains import REASONS, AnswerLimits, CitedEvents, Fault
from thinking_graph_preprocess.evidence_rows import EvidenceFiles, EvidenceFileSettings, EvidenceRow
from thinking_graph_preprocess.reasoning_generation import NO_URL, add_server_flags

STEP, RULES = "thinking_graph_preprocess/filter_reasoning.py", 5
VERDICTS = "verified.jsonl"
# Counts of the table before the reasons: rows of the index, those with chains, those with one to keep; chains, good ones.
COUNTS = ("rows", "answered", "kept", "chains", "passed")
ROWS_PER_PART = 200


@dataclass(frozen=True)
class FilterSettings(Settings):
    """What a chain must be, and the verifier model."""

    reasoning_path: Path
    min_right: float = flag(0.7, help="least share of the right answers", type=between(0, 1))
    max_wrong: int = flag(0, help="most wrong answers", type=at_least(0))
    verifier_model: str | None = flag(None, help="name of a verifier model on the server, whose replies are kept, too")
    prompts: Path = PROMPTS


def make_parser() -> Parser:
    cli = Parser(__doc__)
    cli.add_path("--data_index_dir", "--data_index_path", default="evidence_datas/evidence", help="evidence: directory or CSV")
    cli.add_path("--reasoning_path", default="evidence_datas/reasoning", help="directory of reasoning_generation.py")
    cli.add_path("--output_path", default="evidence_datas/kept/reasoning.csv", help="CSV to write")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    add_flags(cli, FilterSettings)
    cli.add_chunks()
    cli.add_num_workers()
    cli.add_rerun_flags()
    verifier = cli.add_argument_group("verifier model")
    verifier.add_argument("--prompts", type=Path, default=PROMPTS, help="directory with verifier.txt (this repository's)")
    add_flags(verifier, EvidenceFileSettings)
    verifier.add_argument("--max_new_tokens", type=at_least(1), default=1024, help="tokens of its answer at most (1024)")
    verifier.add_argument("--max_seq_len", type=at_least(1), default=16384, help="tokens of prompt and answer at most (16384)")
    add_server_flags(verifier)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    cli = make_parser()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    if args.verifier_model and args.base_url is None:
        raise UserError(NO_URL)
    server, decoding = ServerSettings.from_flags(vars(args), url=args.base_url), DecodingSettings(args.max_new_tokens, 0, None)
    inference = InferenceSettings.of_chat(args.verifier_model or "", server, args.max_seq_len, decoding)
    settings, evidence_settings = FilterSettings.from_flags(vars(args)), EvidenceFileSettings.from_flags(vars(args))
    costs, chunk = CostSettings.from_flags(vars(args)), Chunk(args.chunk_num, args.chunk_idx)
    summary = Summary("filter_reasoning")
    evidence, replies = EvidenceFiles(evidence_settings), RepliesDirectory(settings.reasoning_path)
    fix = "Run thinking_graph_preprocess/reasoning_generation.py"
    if not chunk_paths(require(replies.folder, "a directory of chains", fix) / REPLIES):
        raise UserError(f"{replies.folder}: expected {REPLIES}, got no such file. {fix}.")
    judge = Judge(settings, evidence, replies.settings)
    recorded = {"min_right": settings.min_right, "max_wrong": settings.max_wrong, "chunk": asdict(chunk)}
    recorded |= {"instructions": evidence.instructions, "verifier": None}
    if settings.verifier_model:
        judge.verifier = Verifier(settings, inference, RequestSettings.from_flags(vars(args)))
        recorded["verifier"] = judge.verifier.recorded
    output = chunk.path(args.output_path)
    sources = [*evidence.sources(args.verify), replies.source(args.verify)]
    provenance = Provenance(output, STEP, sources, recorded, RULES, cli.arguments, is_file=True)
    if not provenance.begin(args.overwrite, args.verify):
        return 0 if read_record(provenance.path)["kept"] else 1
    offsets = reply_offsets(replies)
    rows = [(row, offsets.get(sample_id(evidence.columns(row)), ())) for row in chunk.of(evidence.rows())]
    if judge.verifier and not verify(judge, rows, chunk, Meter(costs, inference.decoding.max_new_tokens)):
        return 1
    table, earlier = write_outputs(judge, rows, output, workers)
    total = {name: sum(counts[name] for counts in table.values()) for name in (*COUNTS, *REASONS)}
    names = [*COUNTS, *(reason for reason in REASONS if total[reason])]
    lines = [[task, *(counts[name] for name in names)] for task, counts in {**table, "all": total}.items()]
    print_table(["task", *names], lines)
    for reason in names[len(COUNTS) :]:
        print(f"  {reason}: {REASONS[reason]}")
    arguments = as_json(settings, evidence_settings, inference, costs, chunk) | {"output_path": str(args.output_path)}
    reasons = {"tasks": table, "all": total, "reasons": REASONS, "arguments": arguments, "data_use": DATA_USE}
    write_json(output.with_suffix(".reasons.json"), reasons)
    files = [output, *(output.with_suffix(suffix) for suffix in (".rejects.jsonl", ".reasons.json"))]
    provenance.complete(files=files, rows=total["rows"], kept=total["kept"], data_use=DATA_USE)
    if earlier:
        print(f"{earlier:,} replies of earlier inputs or settings are not used")
    summary.print(f"{total['kept']:,} of {len(rows):,} rows have a chain to train on → {output}", len(rows), "rows")
    if not total["kept"]:
        print(f"no chain passed: see the table and {output.with_suffix('.rejects.jsonl')}", file=sys.stderr)
    return 0 if total["kept"] else 1


# --- judging

Offsets = Sequence[tuple[Path, int]]  # where the replies to a row are: log, and offset of the line in bytes


def reply_offsets(replies: RepliesDirectory) -> dict[str, list[tuple[Path, int]]]:
    """Where the replies to each sample are, by `sample_id`. The replies themselves can be larger than the memory."""
    offsets: dict[str, list[tuple[Path, int]]] = defaultdict(list)
    for path in chunk_paths(replies.log):
        for offset, line in read_jsonl(path):
            if not {"key", *ID_COLUMNS, "choices", "finish_reasons"} <= line.keys():
                fix = "Run thinking_graph_preprocess/reasoning_generation.py"
                raise UserError(f"{path}: expected lines of reasoning_generation.py, got others. {fix}.")
            if not line.get("error"):
                offsets[sample_id(line)].append((path, offset))
    return offsets


@dataclass
class Chain:
    """A chain, without a think block: its line and position there, its faults, its right answers and cited events."""

    key: str
    number: int
    text: str
    faults: list[Fault]
    right: int
    cited: int


@dataclass
class JudgedRow:
    """A row of the index, its input, its question, and its chains."""

    columns: dict[str, Any]
    text: SampleText
    question: str
    chains: list[Chain]
    earlier: int = 0  # replies of earlier inputs or settings, whose chains are left out

    @property
    def target(self) -> list[str]:
        return label_list(self.columns["target"])

    def best(self) -> Chain | None:
        """The good chain with the most right answers; of several the one that cites the most events, then the shortest."""
        good = [chain for chain in self.chains if not chain.faults]
        return min(good, key=lambda chain: (-chain.right, -chain.cited, len(chain.text), chain.text), default=None)


class Judge:
    """Judges the chains of rows, by the verdicts of a verifier model too if there is one.

    `replies` are the settings of the present requests, whose replies alone count; None: all replies count.
    """

    def __init__(self, settings: FilterSettings, evidence: EvidenceFiles, replies: ReplySettings | None) -> None:
        self.evidence, self.replies = evidence, replies
        self.limits = AnswerLimits(settings.min_right, settings.max_wrong)
        self.verifier: Verifier | None = None

    def row(self, row: EvidenceRow, offsets: Offsets, with_verdicts: bool = True) -> JudgedRow:
        """A row with its chains judged."""
        columns, text = self.evidence.columns(row), self.evidence.text(row)
        judged, events = JudgedRow(columns, text, self.evidence.question(row), []), CitedEvents(text)
        key = self.replies and self.replies.key(columns, text, judged.question)
        numbers: Counter[str] = Counter()  # a server can send the chains of a row in several replies
        for path, offset in offsets:
            line = read_jsonl_line(path, offset)
            if key not in (None, line["key"]):
                judged.earlier += 1
                continue
            sections = line.get("prompt") != WITHOUT_FORMAT
            for reply, finish_reason in zip(line["choices"], line["finish_reasons"], strict=True):
                number, numbers[line["key"]] = numbers[line["key"]], numbers[line["key"]] + 1
                # after the think block of a model that thinks first
                chain = chains.normalised(split_reasoning(reply)[1] or "", sections)
                chain_faults = chains.faults(chain, finish_reason, events, judged.target, self.limits, sections)
                right = chains.right_answers(chains.split_conclusion(chain)[1], judged.target)
                judged.chains.append(Chain(line["key"], number, chain, chain_faults, right, chains.cited_events(chain)))
        if self.verifier and with_verdicts:
            for chain in judged.chains:
                chain.faults += [] if chain.faults else self.verifier.faults(judged, chain, self.limits)
        return judged

    def lines(self, rows: Sequence[tuple[EvidenceRow, Offsets]]) -> Iterator[Line]:
        """Yield for each row its task and counts, the lines of rejected chains, and the cells of a kept row."""
        for row, offsets in rows:
            judged = self.row(row, offsets)
            best, sample = judged.best(), {name: judged.columns[name] for name in ID_COLUMNS}
            rejected = [(chain, [fault._asdict() for fault in chain.faults]) for chain in judged.chains if chain.faults]
            rejects = [{"key": chain.key, **sample, "choice": chain.number, "reasons": faults} for chain, faults in rejected]
            kept = [*sample_cells(judged.columns), best.text] if best else None
            counts = count(judged)
            yield {"task": sample["task"], "counts": counts, "earlier": judged.earlier, "rejects": rejects, "kept": kept}


def write_outputs(
    judge: Judge, rows: Sequence[tuple[EvidenceRow, Offsets]], output: Path, workers: Workers
) -> tuple[dict[str, dict[str, int]], int]:
    """Judge rows and write OUTPUT.csv and OUTPUT.rejects.jsonl.

    Returns:
        The counts (`COUNTS`, `REASONS`) of each task, and the number of replies of earlier inputs or settings.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    earlier = 0
    parts = [rows[start : start + ROWS_PER_PART] for start in range(0, len(rows), ROWS_PER_PART)]
    with (
        atomic_path(output) as kept_path,
        atomic_path(output.with_suffix(".rejects.jsonl")) as rejects_path,
        kept_path.open("w", newline="", encoding="utf-8") as kept,
        rejects_path.open("w", encoding="utf-8") as rejects,
    ):
        writer = csv.writer(kept, lineterminator="\n")
        writer.writerow([*SAMPLE_COLUMNS, "reasoning"])
        options = {"workers": workers, "desc": "filter_reasoning", "unit": "part"}
        for line in map_lines(parts, judge.lines, output.parent, output.name, **options):
            counts[line["task"]].update(line["counts"])
            earlier += line["earlier"]
            rejects.writelines(json.dumps(rejected, ensure_ascii=False) + "\n" for rejected in line["rejects"])
            if line["kept"]:
                writer.writerow(line["kept"])
    return {task: {name: counts[task][name] for name in (*COUNTS, *REASONS)} for task in counts}, earlier


# --- the verifier


class Verifier:
    """A verifier model, which does not see the conclusion of a chain, and its verdicts."""

    def __init__(self, settings: FilterSettings, inference: InferenceSettings, requests: RequestSettings) -> None:
        self.inference, self.requests = inference, requests
        self.log = settings.reasoning_path / VERDICTS
        self.template = read_prompt(settings.prompts, VERIFIER)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("count", "answers")}

    @property
    def settings(self) -> list[Any]:
        """What decides a reply besides the prompt."""
        inference = self.inference
        settings: list[Any] = [inference.model.model_name_or_path, inference.decoding.max_new_tokens]
        extra = [self.requests.extra_body] if self.requests.extra_body else []
        return [*settings, inference.prompt.max_seq_len, inference.server.tokenizer, *extra]

    @property
    def recorded(self) -> list[Any]:
        """The settings and the prompt file, as the record of the output has them."""
        return [*self.settings, sha256(self.template)]

    @cached_property
    def count(self) -> Any:
        return token_counter(self.inference.server.tokenizer)

    @cached_property
    def answers(self) -> dict[str, str]:
        """The answers in the log by `key`; "" if an answer was cut off."""
        answers = {}
        for path in chunk_paths(self.log):
            for _, line in read_jsonl(path):
                if not line.get("error"):
                    finished = is_whole(line["finish_reasons"][0])
                    answers[line["key"]] = (finished and split_reasoning(line["choices"][0])[1]) or ""
        return answers

    def key(self, judged: JudgedRow, chain: Chain) -> str:
        """Hash of all that decides the reply."""
        shown = [str(judged.text), judged.question, chains.split_conclusion(chain.text)[0], self.template]
        return sha256(json.dumps([[judged.columns[name] for name in ID_COLUMNS], shown, self.settings]))

    def prompt(self, judged: JudgedRow, chain: Chain) -> Prompt:
        """The prompt about a chain."""
        max_tokens = self.inference.prompt.max_seq_len - self.inference.decoding.max_new_tokens
        line = {name: judged.columns[name] for name in ID_COLUMNS} | {"model": self.inference.model.model_name_or_path}
        values = {"question": judged.question, "reasoning": chains.split_conclusion(chain.text)[0]}
        return chat_prompt(self.template, judged.text, self.count, max_tokens, self.key(judged, chain), line, **values)

    def faults(self, judged: JudgedRow, chain: Chain, limits: AnswerLimits) -> list[Fault]:
        """`not_reached` if the answer of the verifier is not good enough, or the chain and its record were too long for it."""
        chain_faults = chains.answer_faults(self.answers.get(self.key(judged, chain), ""), judged.target, limits)
        return [Fault("not_reached", "; ".join(fault.detail for fault in chain_faults))] if chain_faults else []


def verify(judge: Judge, rows: Sequence[tuple[EvidenceRow, Offsets]], chunk: Chunk, meter: Meter) -> bool:
    """Have the verifier read every chain that is good so far, each once; returns whether it has read all."""
    from inference.openai_backend import OpenAIBackend

    verifier = judge.verifier
    backend = OpenAIBackend(verifier.inference, verifier.requests.extra_body)
    keys: set[str] = set()
    with append_jsonl(chunk.path(verifier.log)) as write, progress(desc="verifier", unit="chain") as bar:
        finished = finished_keys(verifier.log, meter, retry_refused=verifier.requests.retry_refused)

        def prompts() -> Iterator[Prompt]:
            for row, offsets in rows:
                judged = judge.row(row, offsets, with_verdicts=False)
                for chain in judged.chains:
                    key = verifier.key(judged, chain)
                    if not chain.faults and key not in keys:
                        keys.add(key)
                        if key not in finished:
                            yield verifier.prompt(judged, chain)

        with contextlib.closing(backend):
            tally = generate_and_record(prompts(), backend, write, chat_line, bar, meter)
    report_errors(tally, "chains")
    if meter.stopped:
        print(f"stopped before --max_cost {meter.costs.max_cost:g}: not all chains are verified", file=sys.stderr)
    print(f"verifier: {len(keys):,} chains, {meter.status()}", flush=True)
    return not tally.errors and not meter.stopped


# --- outputs


def sample_cells(columns: dict[str, Any]) -> list[Any]:
    """A row's cells of `SAMPLE_COLUMNS`.

    >>> sample_cells({"subject_id": "7", "task": "emar", "target": ["a"], "period_begin": 3, "period_end": 9})
    ['7', '', 'emar', '', 3, 9, '', '', '["a"]', '']
    """
    cells = columns | {"target": json.dumps(columns["target"], ensure_ascii=False)}
    return ["" if cells.get(name) is None else cells[name] for name in SAMPLE_COLUMNS]


def count(judged: JudgedRow) -> Counter[str]:
    """The counts of a row; a chain counts once under each of its reasons."""
    good = sum(not chain.faults for chain in judged.chains)
    counts = Counter(rows=1, answered=int(bool(judged.chains)), kept=int(good > 0), chains=len(judged.chains), passed=good)
    for chain in judged.chains:
        counts.update({fault.reason for fault in chain.faults})
    return counts


if __name__ == "__main__":
    run(main)
