"""Evidence rows → reasoning chains: a strong model writes how the input leads to the answer.

For each row a model behind an OpenAI-compatible API (--base_url, key in $OPENAI_API_KEY) gets the patient's record, the
question, the right answer and the paths of the row's graph, and writes --n chains. Several servers of the model (--base_url
repeated) share the rows. One line per row is appended to OUTPUT/reasoning.jsonl as its reply comes. The same command resumes
after any crash: it sends only requests without a reply, failed ones included. If record, graph, prompt, model or settings of a
row have changed, its request is sent again; replies are never removed, but filter_reasoning.py uses those to the present
requests only. There is no default server: data of MIMIC-IV patients may not be sent to third parties.

The prompt of a row is prompts/with_knowledge.txt, or prompts/without_knowledge.txt if it has no graph; --prompts names a
directory with your own wording. --dry_run prints the first prompt and sends nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from inference.checks import served_model
from inference.costs import CostSettings, Meter
from inference.generation import ID_COLUMNS, Prompt, chat_line, finished_keys, generate_and_record
from inference.prompts import TokenCounter, shorten
from inference.settings import URL_HELP, DecodingSettings, InferenceSettings, ServerSettings, Settings, add_flags, flag
from mimiciv_dataset.index_files import sample_id
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.sources import index_mapping_source, trajectories_source
from mimiciv_dataset.tasks import load_instructions
from pipeline.cli import Chunk, Parser, at_least, between, chunk_paths, run
from pipeline.digests import DIGESTS_CACHE, FileDigests
from pipeline.errors import UserError
from pipeline.files import append_jsonl, require, sha256
from pipeline.progress import Summary, progress
from pipeline.provenance import Provenance, Source, check_sources, output_of, unknown_origin
from pipeline.records import differences, folder_record, read_record

if TYPE_CHECKING:
    from mimiciv_dataset.mimiciv import MIMICIV
    from mimiciv_dataset.text import SampleText

STEP, RULES = "thinking_graph_preprocess/reasoning_generation.py", 1
PROMPTS = Path(__file__).parent / "prompts"
WITH_KNOWLEDGE, WITHOUT_KNOWLEDGE, WITHOUT_FORMAT = "with_knowledge", "without_knowledge", "without_format"
VERIFIER = "verifier"
# The prompt files, and the slots of each, written {record}.
SLOTS = {
    WITH_KNOWLEDGE: {"record", "question", "answer", "knowledge"},
    WITHOUT_KNOWLEDGE: {"record", "question", "answer"},
    WITHOUT_FORMAT: {"record", "question", "answer", "knowledge"},
    VERIFIER: {"record", "question", "reasoning"},
}
REPLIES = "reasoning.jsonl"
NO_URL = (
    "--base_url: expected the URL of an OpenAI-compatible API, got none. There is no default: data of MIMIC-IV patients may "
    "not be sent to a service unless PhysioNet's data use agreement allows it. Serve a model yourself, for example with "
    "python -m vllm.entrypoints.openai.api_server --model MODEL, and give --base_url http://127.0.0.1:8000/v1."
)


@dataclass(frozen=True)
class EvidenceFileSettings(Settings):
    """Where evidence rows (`data_index_dir`, a CSV or a directory of CSVs) and trajectories (`ehr_dir`) are."""

    root_dir: Path
    data_index_dir: Path
    ehr_dir: Path
    instructions: Path | None = flag(None, help="JSON, task → question, instead of this repository's instructions", type=Path)


@dataclass(frozen=True)
class ChainSettings(Settings):
    """Which prompt a row gets."""

    without_knowledge: bool = flag(False, help="do not show the graph (without_knowledge.txt)")
    without_format: bool = flag(False, help="ask for no sections (without_format.txt)")
    prompts: Path = PROMPTS


def make_parser() -> Parser:
    cli = Parser(__doc__)
    cli.add_path("--data_index_dir", "--data_index_path", default="evidence_datas/evidence", help="evidence: directory or CSV")
    cli.add_path("--output_path", default="evidence_datas/reasoning", help="directory for reasoning.jsonl")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_argument("--filter_nograph", action="store_true", help="only rows that have a graph")
    add_flags(cli.add_mutually_exclusive_group(), ChainSettings)
    cli.add_argument("--prompts", type=Path, default=PROMPTS, help="directory with the prompt files (this repository's)")
    add_flags(cli, EvidenceFileSettings)
    cli.add_argument("--limit", type=at_least(1), help="the first N rows of the chunk only")
    cli.add_argument("--dry_run", action="store_true", help="print the first prompt, with the patient's record, and stop")
    cli.add_chunks()
    cli.add_rerun_flags()
    model = cli.add_argument_group("model")
    model.add_argument("--model", required=True, help="name of the model on the server")
    model.add_argument("--temperature", type=between(0, 2), default=0.5, help="temperature of sampling (0.5)")
    model.add_argument("--n", type=at_least(1), default=3, help="chains for each row (3)")
    model.add_argument("--max_new_tokens", type=at_least(1), default=4096, help="tokens of a chain at most (4096)")
    text = "tokens of prompt and chain at most (12288, as in training on chains); longer inputs lose their oldest events"
    model.add_argument("--max_seq_len", type=at_least(1), default=12288, help=text)
    add_server_flags(cli.add_argument_group("server"))
    return cli


def add_server_flags(cli: Any) -> None:
    """Add the flags of the chat endpoint of a server."""
    cli.add_argument("--base_url", action="append", help=URL_HELP)
    cli.add_argument("--tokenizer", help="Hub id or folder, to count tokens (an estimate of 3 bytes per token)")
    add_flags(cli, ServerSettings, omit=("url", "chat", "tokenizer"))
    add_flags(cli, CostSettings)


def main(argv: Sequence[str] | None = None) -> int:
    cli = make_parser()
    args = cli.parse_args(argv)
    if args.base_url is None and not args.dry_run:
        raise UserError(NO_URL)
    server, decoding = (
        ServerSettings.from_flags(vars(args), url=args.base_url),
        DecodingSettings.from_flags(vars(args), seed=None),
    )
    settings = InferenceSettings.of_chat(args.model, server, args.max_seq_len, decoding)
    summary = Summary("reasoning_generation")
    evidence = EvidenceFiles(EvidenceFileSettings.from_flags(vars(args)))
    prompter = ChainPrompter(evidence, ChainSettings.from_flags(vars(args)), settings)
    backend = None
    if not args.dry_run:
        from inference.openai_backend import OpenAIBackend

        backend = OpenAIBackend(settings)  # refuses a remote host before anything is read
    meter = Meter(CostSettings.from_flags(vars(args)), settings.decoding.n * settings.decoding.max_new_tokens)
    chunk = Chunk(args.chunk_num, args.chunk_idx)
    replies = RepliesDirectory(args.output_path)
    if backend is not None:
        sources = evidence.sources(args.verify)
        rows_and_questions = {"filter_nograph": args.filter_nograph, "instructions": evidence.instructions}
        recorded = asdict(prompter.replies) | rows_and_questions
        provenance = Provenance(args.output_path, STEP, sources, recorded, RULES, cli.arguments)
        if not replies.begin(provenance, args.overwrite, args.verify):
            backend.close()
            return 0
        served_model(settings)
    rows = chunk.of(evidence.rows(args.filter_nograph))
    is_part = args.limit is not None and args.limit < len(rows)
    rows = rows[: args.limit]
    if not rows:
        omitted = "rows of discharge, which has no list of answers, and with --filter_nograph rows without a graph"
        raise UserError(f"{args.data_index_dir}: expected rows to write chains for, got none in this chunk besides {omitted}.")
    if backend is None:
        prompt = next((prompt for prompt in map(prompter, rows) if prompt.fits), None)
        if prompt is None:
            raise UserError(f"--max_seq_len {args.max_seq_len}: expected room for an input, got none for any row. Raise it.")
        print(json.loads(prompt.text)[0]["content"])
        return 0
    log = chunk.path(replies.log)
    with append_jsonl(log) as write:
        finished, pending = finished_keys(replies.log, meter), rows
        if finished:
            keys = {prompter.key(row): row for row in progress(rows, desc="compare with replies", unit="row")}
            pending = [row for key, row in keys.items() if key not in finished]
            if chunk.number == 1 and not is_part and (earlier := finished - keys.keys()):
                print(f"{len(earlier):,} replies of earlier inputs or settings are not used")
        with progress(total=len(pending), desc="reasoning_generation", unit="row") as bar:
            tally = generate_and_record(map(prompter, pending), backend, write, chat_line, bar, meter)
    backend.close()
    if not (tally.errors or meter.stopped or is_part):
        replies.complete(provenance, chunk)
    for reason, count in tally.errors.most_common():
        print(f"no reply to {count:,} rows: {reason}; the same command sends them again", file=sys.stderr)
    if tally.too_long:
        print(f"omitted {tally.too_long:,} rows that do not fit into --max_seq_len {args.max_seq_len}", file=sys.stderr)
    if meter.stopped:
        remaining = len(pending) - tally.too_long - meter.requests
        print(f"stopped before --max_cost {args.max_cost:g}: {remaining:,} rows remain", file=sys.stderr)
    done = f"{tally.answered:,} rows answered, {len(rows) - len(pending):,} already finished, {tally.truncated:,} truncated"
    summary.print(f"{done}; {meter.status()} → {log}", tally.answered, "rows")
    return 1 if tally.errors or meter.stopped else 0


# --- rows


class EvidenceRow(NamedTuple):
    """A row of an evidence file: the file, and the position of the row in it."""

    path: Path
    index: int


Paths = tuple[tuple[str, ...], ...]  # of a graph: term, relation, term, …


class EvidenceFiles:
    """Evidence files, which are opened when they are needed, and by each worker process anew."""

    def __init__(self, settings: EvidenceFileSettings) -> None:
        self.settings = settings
        self._datasets: dict[Path, MIMICIV] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings, "_datasets": {}}

    def dataset(self, path: Path) -> MIMICIV:
        """An evidence CSV as a dataset."""
        if path not in self._datasets:
            from mimiciv_dataset.mimiciv import MIMICIV

            if path.suffix != ".csv":
                raise UserError(f"{path}: expected a CSV of evidence_generation.py, got another kind of file.")
            options = {"instructions": self.settings.instructions, "ehr_dir": self.settings.ehr_dir}
            self._datasets[path] = MIMICIV(self.settings.root_dir, path, lazzy_mode=True, shuffle=False, **options)
        return self._datasets[path]

    def rows(self, only_graph: bool = False) -> list[EvidenceRow]:
        """The rows that can have chains (`only_graph`: and have a graph), each sample once, in the order of the files."""
        from thinking_graph_preprocess.evidence_generation import evidence_files

        rows: dict[str, EvidenceRow] = {}
        for path in evidence_files(self.settings.data_index_dir):
            dataset = self.dataset(path)
            if only_graph and "graph" not in dataset.rows.columns:
                fix = "Make it with thinking_graph_preprocess/evidence_generation.py"
                got = ", ".join(dataset.rows.columns)
                raise UserError(f"{path}: expected a column graph for --filter_nograph, got {got}. {fix}.")
            for index in range(len(dataset)):
                columns = dataset.row(index)
                with dataset.located(index):
                    task, paths = dataset.task(columns), read_graph(columns.get("graph"))
                    if None in [columns[name] for name in ID_COLUMNS] or not columns.get("target"):
                        raise UserError("expected a patient, a window and a target, got a row without one of them.")
                if task.kind != "generation" and (paths or not only_graph):
                    rows.setdefault(sample_id(columns), EvidenceRow(path, index))
        return list(rows.values())

    def sources(self, verify: bool = False) -> list[Source]:
        """What the rows and their texts are made from."""
        from thinking_graph_preprocess.evidence_generation import evidence_sources

        settings = self.settings
        trajectories = trajectories_source(settings.ehr_dir, verify)
        index_mapping = index_mapping_source(settings.root_dir / "index_mapping", verify)
        return [*evidence_sources(settings.data_index_dir, verify), trajectories, index_mapping]

    @property
    def instructions(self) -> str:
        """A digest of the questions."""
        return sha256(json.dumps(load_instructions(self.settings.instructions), sort_keys=True))

    def columns(self, row: EvidenceRow) -> dict[str, Any]:
        return self.dataset(row.path).row(row.index)

    def text(self, row: EvidenceRow) -> SampleText:
        return self.dataset(row.path).text(row.index)

    def question(self, row: EvidenceRow) -> str:
        return self.dataset(row.path).instructions[self.columns(row)["task"]]


def read_graph(text: str | None) -> Paths:
    """The paths of a row's `graph`; none if it is empty.

    >>> read_graph('{"umls_graph": [["Pain", "may be treated by", "Aspirin"]]}'), read_graph(None)
    ((('Pain', 'may be treated by', 'Aspirin'),), ())
    >>> read_graph("[1]")
    Traceback (most recent call last):
    pipeline.errors.UserError: graph: expected {"umls_graph": [[term, relation, term, ...], ...]}, got something else.
    """
    if not text:
        return ()
    try:
        paths = json.loads(text)["umls_graph"]
    except (ValueError, KeyError, TypeError):
        paths = None
    if isinstance(paths, list) and all(isinstance(path, list) and all(isinstance(s, str) for s in path) for path in paths):
        return tuple(map(tuple, paths))
    raise UserError('graph: expected {"umls_graph": [[term, relation, term, ...], ...]}, got something else.')


# --- prompts


def read_prompt(folder: Path, name: str) -> str:
    """Read a prompt file."""
    path = require(folder / f"{name}.txt", "a prompt", f"copy and change those in {PROMPTS}")
    text = path.read_text(encoding="utf-8").strip()
    slots = set(re.findall(r"\{(\w+)\}", text))
    if slots != SLOTS[name]:
        raise UserError(f"{path}: expected the slots {_braced(SLOTS[name])}, got {_braced(slots) or 'none'}.")
    return text


def _braced(names: set[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names))


def fill(template: str, **values: str) -> str:
    """A prompt with its slots filled, all at once: braces in a value are text.

    >>> fill("{a} and {b}", a="{b}", b="x")
    '{b} and x'
    """
    return re.sub(r"\{(\w+)\}", lambda slot: values[slot[1]], template)


def chat_prompt(
    template: str, text: SampleText, count: TokenCounter, max_tokens: int, key: str, line: dict[str, Any], **values: str
) -> Prompt:
    """A prompt to the chat endpoint: a template filled with `values` and the input of a row, which is shortened to fit."""
    prompt, truncation = shorten(text, lambda record: fill(template, record=record, **values), count, max_tokens)
    messages = json.dumps([{"role": "user", "content": prompt}], ensure_ascii=False)
    return Prompt(key, messages, {"key": key} | line, truncation, tokens=count(prompt))


def knowledge(paths: Paths) -> str:
    """Paths as the prompt shows them, one per line, each once.

    >>> knowledge((("Pain", "may be treated by", "Aspirin"), ("Pain", "is a", "Finding")))
    '- Pain → may be treated by → Aspirin\\n- Pain → is a → Finding'
    """
    return "\n".join(dict.fromkeys("- " + " → ".join(path) for path in paths)) or "(none)"


@dataclass(frozen=True)
class ReplySettings:
    """What decides a reply besides the row; the record of a directory of replies has it, so that filter_reasoning.py knows."""

    model: str
    temperature: float
    n: int
    max_new_tokens: int
    max_seq_len: int
    tokenizer: str | None
    without_knowledge: bool
    without_format: bool
    prompts: Mapping[str, str]  # name of the prompt file → SHA-256 of its text

    def variant(self, paths: Paths) -> str:
        """The prompt file for a row with these paths."""
        if self.without_format:
            return WITHOUT_FORMAT
        return WITH_KNOWLEDGE if paths and not self.without_knowledge else WITHOUT_KNOWLEDGE

    def key(self, columns: Mapping[str, Any], text: SampleText, question: str) -> str:
        """Hash of all that decides the reply: patient's record, question, answer, paths if shown, prompt file, settings."""
        paths = read_graph(columns.get("graph"))
        variant = self.variant(paths)
        sample = [*(columns[name] for name in ID_COLUMNS), str(text), question, label_list(columns["target"])]
        shown = paths if "knowledge" in SLOTS[variant] else ()
        settings = [self.model, self.temperature, self.n, self.max_new_tokens, self.max_seq_len, self.tokenizer]
        return sha256(json.dumps([sample, shown, self.prompts[variant], settings]))


class ChainPrompter:
    """Makes the prompts of evidence rows."""

    def __init__(self, evidence: EvidenceFiles, chains: ChainSettings, settings: InferenceSettings) -> None:
        self.evidence, self.settings = evidence, settings
        self.templates = {name: read_prompt(chains.prompts, name) for name in SLOTS if name != VERIFIER}
        self.count = token_counter(settings.server.tokenizer)
        model, decoding = settings.model.model_name_or_path, settings.decoding
        self.replies = ReplySettings(
            model,
            decoding.temperature,
            decoding.n,
            decoding.max_new_tokens,
            settings.prompt.max_seq_len,
            settings.server.tokenizer,
            chains.without_knowledge,
            chains.without_format,
            {name: sha256(text) for name, text in self.templates.items()},
        )

    def key(self, row: EvidenceRow) -> str:
        """The key of a row (`ReplySettings.key`)."""
        evidence = self.evidence
        return self.replies.key(evidence.columns(row), evidence.text(row), evidence.question(row))

    def __call__(self, row: EvidenceRow) -> Prompt:
        """The prompt of a row."""
        columns, text, question = self.evidence.columns(row), self.evidence.text(row), self.evidence.question(row)
        paths = read_graph(columns.get("graph"))
        variant, key = self.replies.variant(paths), self.replies.key(columns, text, question)
        max_tokens = self.settings.prompt.max_seq_len - self.settings.decoding.max_new_tokens
        line = {name: columns[name] for name in ID_COLUMNS}
        line |= {"model": self.settings.model.model_name_or_path, "prompt": variant}
        answer = "\n".join(f"- {name}" for name in label_list(columns["target"]))
        values = {"question": question, "knowledge": knowledge(paths), "answer": answer}
        return chat_prompt(self.templates[variant], text, self.count, max_tokens, key, line, **values)


def token_counter(tokenizer: str | None) -> TokenCounter:
    """Counts tokens with a tokenizer (Hub id or folder); None: an estimate."""
    from inference.backends import load_tokenizer

    return TokenCounter(load_tokenizer(tokenizer) if tokenizer else None)


# --- replies


class RepliesDirectory:
    """A directory of replies: logs, which only grow because replies are paid for, and the record of the present requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / REPLIES

    def begin(self, provenance: Provenance, overwrite: bool, verify: bool) -> bool:
        """As `Provenance.begin`; but if the inputs have changed, or with --overwrite, replies are kept and compared anew."""
        check_sources(provenance.sources)
        record = read_record(provenance.path)
        if record and (overwrite or differences(record, provenance.made_from)):
            for path in (provenance.path, *self.folder.glob(".finished-*")):
                path.unlink(missing_ok=True)
        return provenance.begin(verify=verify, used=False)

    def complete(self, provenance: Provenance, chunk: Chunk) -> None:
        """Note that all rows of a chunk have replies, and complete the record if those of all chunks have."""
        finished = [self.folder / f".finished-{index}-of-{chunk.number}" for index in range(chunk.number)]
        finished[chunk.index].touch()
        if all(path.exists() for path in finished):
            provenance.complete(files=chunk_paths(self.log))

    @property
    def settings(self) -> ReplySettings | None:
        """The settings of the present requests; None without a record."""
        recorded = (read_record(folder_record(self.folder)) or {}).get("settings")
        return recorded and ReplySettings(**{field.name: recorded[field.name] for field in fields(ReplySettings)})

    def source(self, verify: bool = False) -> Source:
        """The replies as an input, by the content of the logs; they can be unfinished."""
        digest = FileDigests(self.folder / DIGESTS_CACHE, verify).of_all(chunk_paths(self.log), self.folder)
        if (record := read_record(folder_record(self.folder))) is None:
            source = unknown_origin("chains", self.folder, is_ancestor=False)
        else:
            source = output_of("chains", self.folder, STEP, is_ancestor=False, verify=verify, unfinished=True)
            if not record.get("complete"):
                print(f"warning: {self.folder}: reasoning_generation.py has not finished, so some rows may have no chains.")
        return replace(source, digest=digest, by="replies")


if __name__ == "__main__":
    run(main)
