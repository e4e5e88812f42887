"""Small samples: how often equally good models differ significantly, and how often intervals contain the true value.

Simulates studies of two equally good models, with few samples of a task, and counts p < 0.05: by a paired bootstrap alone, by
the permutation test alone, and by the rule of `evaluation.comparisons` (the larger p, and none for too few samples). Then it
counts the 95 % intervals of one model that contain the true value, without regard to the fewest samples. Prints two markdown
tables.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections.abc import Sequence

from pipeline.cli import Parser, at_least, run
from pipeline.progress import progress

SIZES = (2, 4, 6, 10, 20, 30, 40, 50)  # samples of a task


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--studies", type=at_least(1), default=2000, help="simulated studies of each kind and size (2000)")
    cli.add_argument("--resamples", type=at_least(1), default=1000, help="bootstrap resamples, and random swaps (1000)")
    args = cli.parse_args(argv)
    from benchmarks.small_studies import COVERAGE, KINDS, PATIENTS, POSITIVES, coverage, false_positives

    rows = []
    for kind in progress(KINDS, desc="false positives", unit="kind"):
        rates = [false_positives(kind, n, args.studies, args.resamples) for n in SIZES]
        rows.append([kind, *(" / ".join(f"{100 * rate:.1f}" for rate in of_size) for of_size in rates)])
    print_markdown(["bootstrap / permutation / rule", *(f"n = {n}" for n in SIZES)], rows)
    for heading, kind_of, sizes in (("patients", "mean", PATIENTS), ("patients with yes", "AUROC", POSITIVES)):
        rows = []
        for kind in progress([kind for kind in COVERAGE if kind.startswith(kind_of)], desc="coverage", unit="kind"):
            rows.append([kind, *(f"{100 * coverage(kind, size, args.studies, args.resamples):.0f}" for size in sizes)])
        print_markdown([heading, *map(str, sizes)], rows)


def print_markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (headers, ["---", *["---:"] * (len(headers) - 1)], *rows):
        print(f"| {' | '.join(row)} |")
    print()


if __name__ == "__main__":
    run(main)
