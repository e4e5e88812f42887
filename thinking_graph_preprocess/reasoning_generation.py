"""Evidence rows → reasoning chains: a strong model writes how the input leads to the answer.

For each row a model behind an OpenAI-compatible API (--base_url, key in $OPENAI_API_KEY) gets the patient's record, the
question, the right answer and the paths of the row's graph, and writes --n chains. Several servers of the model (--base_url
repeated) share the rows. One line per row is appended to OUTPUT/reasoning.jsonl as its reply comes. The same command resumes
after any crash: it sends only requests without a reply, failed ones included. If record, graph, prompt, model or settings of a
row have changed, its request is sent again; replies are never removed, but filter_reasoning.py uses those to the present
requests only. There is no default server: data of MIMIC-IV patients may not be sent to third parties.

The prompt of a row is prompts/with_knowledge.txt, or prompts/without_knowledge.txt if it has no graph; --prompts names a
directory with your own wording. --dry_run prints the first prompt and sends nothing.

Exit codes: 1 if rows are left without a reply, refused ones aside, or if no row has a whole chain; 2 if the run cannot go on.
After Ctrl-C or SIGTERM, no more requests are sent, replies on their way are recorded, and the codes are 130 and 143.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import contextlib
import itertools
import json
from collections.abc import Sequence
from typing import Any

from inference.chat_lines import chat_line, report_errors
from inference.checks import served_model
from inference.costs import CostSettings, Meter
from inference.generation import generate_and_record
from inference.settings import URL_HELP, DecodingSettings, InferenceSettings, RequestSettings, ServerSettings, add_flags
from pipeline.cli import Chunk, Parser, at_least, between, run
from pipeline.errors import UserError
from pipeline.files import append_jsonl
from pipeline.progress import Summary, progress
from pipeline.provenance import Provenance
from thinking_graph_preprocess.chain_prompts import PROMPTS, ChainPrompter, ChainSettings
from thinking_graph_preprocess.chain_replies import STEP, RepliesDirectory
from thinking_graph_preprocess.evidence_rows import EvidenceFiles, EvidenceFileSettings

RULES = 1
NO_URL = (
    "--base_url: expected the URL of an OpenAI-compatible API, got none. There is no default: data of MIMIC-IV patients may "
    "not be sent to a service unless PhysioNet's data use agreement allows it. Serve a model yourself, for example with "
    "python -m vllm.entrypoints.openai.api_server --model MODEL, and give --base_url http://127.0.0.1:8000/v1."
)


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
    add_flags(cli, RequestSettings)
    add_flags(cli, CostSettings)


def main(argv: Sequence[str] | None = None) -> int:
    cli = make_parser()
    args = cli.parse_args(argv)
    if args.base_url is None and not args.dry_run:
        raise UserError(NO_URL)
    server, requests = ServerSettings.from_flags(vars(args), url=args.base_url), RequestSettings.from_flags(vars(args))
    decoding = DecodingSettings.from_flags(vars(args), seed=None)
    settings = InferenceSettings.of_chat(args.model, server, args.max_seq_len, decoding)
    summary = Summary("reasoning_generation")
    evidence = EvidenceFiles(EvidenceFileSettings.from_flags(vars(args)))
    prompter = ChainPrompter(evidence, ChainSettings.from_flags(vars(args)), settings, requests.extra_body)
    backend = None
    if not args.dry_run:
        from inference.openai_backend import OpenAIBackend

        backend = OpenAIBackend(settings, requests.extra_body)  # refuses a remote host before anything is read
    meter = Meter(CostSettings.from_flags(vars(args)), settings.decoding.n * settings.decoding.max_new_tokens)
    chunk = Chunk(args.chunk_num, args.chunk_idx)
    replies = RepliesDirectory(args.output_path)
    if backend is not None:
        sources = evidence.sources(args.verify)
        rows_and_questions = {"filter_nograph": args.filter_nograph, "instructions": evidence.instructions}
        recorded = prompter.replies.recorded | rows_and_questions
        provenance = Provenance(args.output_path, STEP, sources, recorded, RULES, cli.arguments)
        if not replies.begin(provenance, args.overwrite or args.retry_refused, args.verify):
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
        prompt = next((prompt for prompt in (prompter(row, args.n) for row in rows) if prompt.fits), None)
        if prompt is None:
            raise UserError(f"--max_seq_len {args.max_seq_len}: expected room for an input, got none for any row. Raise it.")
        print(json.loads(prompt.text)[0]["content"])
        return 0
    log = chunk.path(replies.log)
    with append_jsonl(log) as write:
        received, keys, pending = replies.received(meter, args.retry_refused), {}, [(row, args.n) for row in rows]
        if received.chains:
            keys = {prompter.key(row): row for row in progress(rows, desc="compare with replies", unit="row")}
            pending = [(row, number) for key, row in keys.items() if (number := received.missing(key, args.n))]
            earlier = sum(number > 0 for key, number in received.chains.items() if key not in keys)
            if chunk.number == 1 and not is_part and earlier:
                print(f"{earlier:,} replies of earlier inputs or settings are not used")
        with contextlib.closing(backend), progress(total=len(pending), desc="reasoning_generation", unit="row") as bar:
            try:
                tally = generate_and_record(itertools.starmap(prompter, pending), backend, write, chat_line, bar, meter)
            except (UserError, KeyboardInterrupt):
                print(f"ended after {bar.n:,} of {len(pending):,} rows; {meter.status()} → {log}", file=sys.stderr)
                raise
    has_chains = tally.useful > 0 or not received.whole.isdisjoint(keys)
    if has_chains and not (tally.errors or meter.stopped or is_part):
        replies.complete(provenance, chunk)
    report_errors(tally, "rows")
    if tally.cut_off:
        reasons = ", ".join(f"{count:,} by {reason}" for reason, count in tally.cut_off.most_common())
        fix = f"If it is their length, raise --max_new_tokens {args.max_new_tokens}"
        print(f"warning: {tally.cut_off.total():,} chains were cut off ({reasons}). {fix}.", file=sys.stderr)
    if tally.too_long:
        print(f"omitted {tally.too_long:,} rows that do not fit into --max_seq_len {args.max_seq_len}", file=sys.stderr)
    if meter.stopped:
        remaining = len(pending) - tally.too_long - tally.answered - tally.errors.total() - tally.refused.total()
        print(f"stopped before --max_cost {args.max_cost:g}: {remaining:,} rows remain", file=sys.stderr)
    refused = len(received.refused & keys.keys())
    done = f"{tally.answered:,} rows answered, {len(rows) - len(pending) - refused:,} already finished"
    if refused + tally.refused.total():
        done += f", {refused + tally.refused.total():,} refused (--retry_refused sends them again)"
    summary.print(f"{done}, {tally.truncated:,} truncated; {meter.status()} → {log}", tally.answered, "rows")
    if not has_chains:
        print(f"none of {len(rows):,} rows has a whole chain: see the messages above, and `error` in {log}", file=sys.stderr)
    return 1 if tally.errors or meter.stopped or not has_chains else 0


if __name__ == "__main__":
    run(main)
