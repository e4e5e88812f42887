"""Figures that the paper publishes, and runs beside them: `python -m evaluation.published DIR [DIR …]` prints the difference.

EHR-Bench, all of its samples: macro F1 over the decision-making tasks and macro AUROC over the risk prediction tasks
(Liao et al., "EHR-R1: A Reasoning-Enhanced Foundational Language Model for Electronic Health Record Analysis", 2025,
arXiv:2510.25628).
None: no figure is published.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.cli import Parser, run
from pipeline.files import read_json, require


class Published(NamedTuple):
    """Macro figures of one model, as fractions."""

    decision_f1: float
    risk_auroc: float | None


PUBLISHED: dict[str, Published] = {
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
    """The name under which the paper has a model; None if it has none like it.

    >>> published_name("meta-llama/Llama-3.3-70B-Instruct"), published_name("./models/ehr-r1-1.7b"), published_name("gpt2")
    ('Llama3.3-70B', 'EHR-R1-1.7B', None)
    """
    ours = _plain(model)
    return max((name for name in PUBLISHED if _plain(name) in ours), key=len, default=None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def compare_with_published(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of runs (folder → result.json): our figure and interval, the published one, the difference."""
    rows = [("run", "figure", "ours", "95 % interval", "published", "difference", "tasks")]
    for folder, result in results.items():
        name = published_name(result.get("arguments", {}).get("model_name_or_path", folder)) or published_name(folder)
        macro = result["macro"]["paper"]
        for kind, figure in (("decision", "decision_f1"), ("risk", "risk_auroc")):
            ours, ci = macro[figure], macro[f"{figure}_ci"]
            theirs = getattr(PUBLISHED[name], figure) if name else None
            rows.append((
                f"{folder} ({name or 'not in the paper'})", figure, "–" if ours is None else f"{ours:.4f}",
                f"[{ci[0]:.4f}, {ci[1]:.4f}]" if ci else "–", "–" if theirs is None else f"{theirs:.4f}",
                "–" if None in (ours, theirs) else f"{ours - theirs:+.4f}", f"{macro[f'{kind}_tasks']}",
            ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="a run's folder, with result.json")
    args = cli.parse_args(argv)
    how = "run test.py, or python -m evaluation.score, on it first"
    print(compare_with_published({path.name: read_json(require(path / "result.json", "a result", how)) for path in args.dirs}))


if __name__ == "__main__":
    run(main)
