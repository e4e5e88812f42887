"""Patients and samples on one page: timeline, the exact prompt with its events, answers of models, chains, thinking graph.

INDEX is an index CSV or JSONL, or several, comma-separated. The page is one file that needs no network and sends nothing; it
shows patient data. On it are the samples of --subject_id, at most --limit, those with outputs in --results first, one of each
task in turn, as many as fit into 5 MB; and the texts of the events in their windows.

The graphs of samples are read from the column `graph` of the index, or from --evidence; their chains from the column
`reasoning` and from the outputs. --save writes the input of --sample as a file for scripts/infer.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections.abc import Sequence

from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.progress import Summary

EVIDENCE = "evidence_datas/evidence"


def make_parser() -> Parser:
    cli = Parser(__doc__)
    cli.add_argument("--dataset_name", metavar="INDEX", required=True, help="index CSV or JSONL; several, comma-separated")
    text = "directories of test.py or of baselines, whose answers are shown"
    cli.add_argument("--results", type=Path, nargs="+", default=[], metavar="DIR", help=text)
    cli.add_argument("--subject_id", metavar="ID", help="show this patient's samples only")
    cli.add_argument("--sample", metavar="SAMPLE_ID", help="open the page at this sample, as outputs.jsonl names it")
    cli.add_argument("--limit", type=at_least(1), default=200, metavar="N", help="samples on the page at most (200)")
    text = f"output of evidence_generation.py (ROOT_DIR/{EVIDENCE}, if it is there)"
    cli.add_argument("--evidence", type=Path, metavar="PATH", help=text)
    cli.add_argument("--output_path", type=Path, default=Path("view.html"), metavar="HTML", help="page to write (view.html)")
    text = "also write the input of --sample, for scripts/infer.py"
    cli.add_argument("--save", type=Path, metavar="MD", help=text)
    return cli


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    if args.save and not args.sample:
        raise UserError("--save: expected --sample, whose input is written, got none. Give a sample_id.")
    summary = Summary("view.py")

    from viewer.page import make_page
    from viewer.runs import read_runs
    from viewer.samples import Benchmark, choose_samples, evidence_graphs

    benchmark = Benchmark(args.root_dir, args.dataset_name)
    runs = read_runs(args.results, benchmark.rows().keys(), args.dataset_name)
    identities = choose_samples(benchmark, runs, args.subject_id, args.sample, args.limit)
    folder = args.evidence or args.root_dir / EVIDENCE
    graphs = evidence_graphs(folder, set(identities)) if args.evidence or folder.exists() else {}
    page = make_page(benchmark, identities, runs, graphs, args.sample)
    for name, changed in page.changed.items():
        if changed:
            why = "The trajectories, code maps, instructions or chat template differ from those of the run"
            print(f"warning: {name}: {changed:,} prompts are not those that were run. {why}.", file=sys.stderr)
    for path, text in ((args.output_path, page.text), (args.save, args.save and benchmark.input(args.sample) + "\n")):
        if path:
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="")
    of = f"{page.samples:,} of {len(benchmark.rows()):,} samples, {page.patients:,} patients, {len(runs)} runs"
    summary.print(f"{of}, {len(page.text.encode()) / 1e6:.1f} MB → {args.output_path}", page.samples, "samples")


if __name__ == "__main__":
    run(main, resume="Run the same command again.")
