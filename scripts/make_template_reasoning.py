"""Add reasoning chains from a template to an index, to try stage 2 of training without a language model.

The chains have the form of real ones (extraction, reasoning, final results) but contain no reasoning: some events of the
input and the answer, between fixed sentences. Each says that a template wrote it. For chains worth training on see
thinking_graph_preprocess/. Rows of risk tasks get an empty chain, as in the published data.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
from collections.abc import Sequence

from mimiciv_dataset.cells import read_cells
from mimiciv_dataset.index_tables import read_header
from mimiciv_dataset.sources import index_mapping_source, index_sources, trajectories_source
from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.progress import Summary, progress
from pipeline.provenance import Provenance

STEP, RULES = "scripts/make_template_reasoning.py", 1
LABEL = "(Written by a template, not by a model.)"


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("index", type=Path, help="index CSV")
    cli.add_argument("--output_path", required=True, type=Path, help="CSV for the same rows with the column reasoning")
    cli.add_argument("--events", type=at_least(1), default=4, help="number of events that a chain names (4)")
    cli.add_argument("--first", action="store_true", help="name the first events of the window instead of the last")
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    summary = Summary("make_template_reasoning")
    sources = [
        *index_sources(args.index, verify=args.verify),
        trajectories_source(args.root_dir / "patients_ehr", args.verify),
    ]
    sources.append(index_mapping_source(args.root_dir / "index_mapping", args.verify))
    settings = {"events": args.events, "first": args.first}
    provenance = Provenance(args.output_path, STEP, sources, settings, RULES, cli.arguments, is_file=True)
    if not provenance.begin(args.overwrite, args.verify, keep=True):
        return

    from mimiciv_dataset.mimiciv import MIMICIV

    dataset = MIMICIV(args.root_dir, args.index, lazzy_mode=True, shuffle=False)
    if not dataset.rows.columns:
        raise UserError(f"{args.index}: expected an index CSV, got JSONL. Give the CSV.")
    chains = 0
    header, rows = read_header(args.index), read_cells(args.index)
    next(rows)  # the header
    with atomic_path(args.output_path) as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(dict.fromkeys([*filter(None, header), "reasoning"])))
        writer.writeheader()
        for number, (_, cells) in enumerate(progress(rows, total=len(dataset), desc="template", unit="row")):
            row = {name: cell for name, cell in zip(header, cells, strict=True) if name}
            sample, text = dataset.with_text(number)
            is_decision = sample["task_info"]["task_type"] == "decision"
            rendered = [event for event in text.window if event]  # some tables have no text
            events = rendered[: args.events] if args.first else rendered[-args.events :]
            writer.writerow(row | {"reasoning": chain(events, sample["output"]) if is_decision else ""})
            chains += is_decision
        provenance.claim()  # at the end of the block the file is replaced
    provenance.complete(rows=len(dataset), chains=chains)
    summary.print(f"{len(dataset):,} rows, {chains:,} template chains → {args.output_path}", len(dataset), "rows")


def chain(events: Sequence[str], answer: str) -> str:
    """A chain that names these rendered events and the answer.

    >>> print(chain(["## Pyxis [2100-01-01 05:30:00]\\n- Name: Aspirin"], "Heparin"))
    (Written by a template, not by a model.)
    ## Extraction
    - **Pyxis [2100-01-01 05:30:00]**: Name: Aspirin
    ## Reasoning
    What comes next follows from these events.
    ## Final Results
    Heparin
    """
    extracted = []
    for event in events:
        title, *lines = event.splitlines()
        values = [line.strip("| -") for line in lines if line.strip("| -")]
        extracted.append(f"- **{title.removeprefix('## ')}**: {values[-1] if values else 'recorded'}")
    reasoning = "What comes next follows from these events."
    return "\n".join([LABEL, "## Extraction", *extracted, "## Reasoning", reasoning, "## Final Results", answer])


if __name__ == "__main__":
    run(main)
