"""Compare runs with the published results: `python -m evaluation.published DIR [DIR …]` prints the differences.

The published results are macro F1 over the decision-making tasks and macro AUROC over the risk prediction tasks of all
samples of EHR-Bench (Liao et al., "EHR-R1: A Reasoning-Enhanced Foundational Language Model for Electronic Health Record
Analysis", 2025, arXiv:2510.25628).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from evaluation.score import MACRO, TOO_FEW
from pipeline.cli import Parser, run
from pipeline.files import read_json, require
from pipeline.progress import format_table


class Published(NamedTuple):
    """Macro averages of a model as fractions; None if not published."""

    decision_f1: float
    risk_auroc: float | None


PUBLISHED_TASKS = (24, 18)  # numbers of decision-making and risk prediction tasks that are averaged
PUBLISHED = {
    "Llama3.3-70B": Published(0.2758, 0.8251),
    "GPT-4o": Published(0.3155, None),
    "Qwen2.5-72B": Published(0.3535, 0.8234),
    "OpenBioLLM-70B": Published(0.1621, 0.7737),
    "Baichuan-M2-32B": Published(0.2108, 0.5689),
    "MedGemma-27B": Published(0.3157, 0.8061),
    "GPT-OSS-120B": Published(0.2365, 0.7516),
    "DeepSeek-R1": Published(0.2974, None),
    "Qwen3-235B": Published(0.3418, 0.8316),
    "EHR-R1-1.7B": Published(0.5528, 0.8860),
    "EHR-R1-8B": Published(0.6006, 0.9188),
    "EHR-R1-72B": Published(0.6744, 0.9328),
}


def published_name(model: str) -> str | None:
    """The name of a model in the paper; None if the paper does not have it.

    >>> published_name("meta-llama/Llama-3.3-70B-Instruct"), published_name("./models/ehr-r1-1.7b"), published_name("gpt2")
    ('Llama3.3-70B', 'EHR-R1-1.7B', None)
    """
    normalised = {name: re.sub(r"[^a-z0-9]", "", name.lower()) for name in (model, *PUBLISHED)}
    return max((name for name in PUBLISHED if normalised[name] in normalised[model]), key=len, default=None)


def compare_with_published(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of macro averages, intervals, published values and differences from directory name → content of result.json."""
    rows = []
    for folder, result in results.items():
        name = published_name(result.get("arguments", {}).get("model_name_or_path", folder)) or published_name(folder)
        macro = result["macro"]["paper"]
        for kind, metric in MACRO.items():
            value, ci = macro[metric], macro[f"{metric}_ci"]
            published = getattr(PUBLISHED[name], metric) if name else None
            difference = None if None in (value, published) else f"{value - published:+.4f}"
            interval = None if value is None else f"[{ci[0]:.4f}, {ci[1]:.4f}]" if ci else TOO_FEW
            value, published = (None if number is None else f"{number:.4f}" for number in (value, published))
            sizes = macro[f"{kind}_tasks"], macro.get(f"{kind}_n"), macro.get("risk_positives") if kind == "risk" else None
            cells = metric, value, interval, published, difference, *sizes
            rows.append([f"{folder} ({name or 'not in the paper'})", *cells])
    return format_table(("run", "metric", "value", "95 % interval", "published", "difference", "tasks", "n", "yes"), rows)


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="directory of a run, with result.json")
    args = cli.parse_args(argv)
    fix = "run test.py, or python -m evaluation.score, on it first"
    print(compare_with_published({path.name: read_json(require(path / "result.json", "a result", fix)) for path in args.dirs}))


if __name__ == "__main__":
    run(main)
