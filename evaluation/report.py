"""Compare runs on a self-contained HTML page with charts, tables and confidence intervals.

Reads the outputs and result.json of each DIR (the --output_path of test.py) and of the baselines below it
(`python -m evaluation.baselines DIR`), and writes report.html in the first DIR. The page holds names of tasks and models,
settings and scores, and no text of inputs or replies.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections.abc import Sequence

from pipeline.cli import Parser, at_least
from pipeline.cli import run as run_command
from pipeline.files import atomic_path
from pipeline.progress import Summary, counted


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="directories of finished runs of test.py")
    cli.add_argument("--output_path", type=Path, help="the page (report.html in the first DIR)")
    cli.add_argument("--figure", type=Path, help="also write the main figure for a paper, as .pdf, .svg or .png")
    cli.add_argument("--png", action="store_true", help="also write the main figure as an image, beside the page")
    cli.add_argument("--markdown", action="store_true", help="also write tables for a paper, beside the page")
    cli.add_argument("--resamples", type=at_least(1), default=5000, help="bootstrap resamples of the comparison (5000)")
    text = "also show the result.json of scripts/reproduce/graph_ablation.sh"
    cli.add_argument("--graph_ablation", type=Path, metavar="FILE", help=text)
    args = cli.parse_args(argv)
    from evaluation.finished_runs import read_runs
    from evaluation.pages.charts import check_suffix, save
    from evaluation.report_ablation import read_ablation
    from evaluation.report_data import Report
    from evaluation.report_page import build
    from evaluation.report_paper import main_figure, markdown

    summary = Summary("report")
    target = args.output_path or args.dirs[0] / "report.html"
    figures = [*([args.figure] if args.figure else []), *([target.with_suffix(".png")] if args.png else [])]
    for path in figures:
        check_suffix(path)
    ablation = read_ablation(args.graph_ablation) if args.graph_ablation else None
    report = Report(read_runs(args.dirs), args.resamples, ablation)
    texts = {target: build(report)}
    if args.markdown:
        texts[target.with_suffix(".md")] = markdown(report.runs)
    for path, text in texts.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for path in figures:
        save(main_figure(report), path)
    summary.print(f"{counted(len(report.runs), 'model')} → {', '.join(map(str, [*texts, *figures]))}")
    return 0


if __name__ == "__main__":
    run_command(main)
