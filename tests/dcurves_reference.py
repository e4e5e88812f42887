"""Writes dcurves_reference.json: net benefit by `dcurves`, on made-up predictions with ties.

dcurves requires an older pandas than this repository, so that it needs an environment of its own:
python -m venv ENV && ENV/bin/pip install dcurves==1.1.7 && ENV/bin/python tests/dcurves_reference.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".json")
THRESHOLDS = [0.01, 0.05, 0.1, 0.2, 0.25, 0.5, 0.75, 0.9, 0.95]


def main() -> None:
    import pandas as pd
    from dcurves import dca

    rng = np.random.default_rng(0)
    labels = rng.random(120) < 0.25
    p = np.round(np.clip(rng.beta(2, 5, 120) + 0.25 * labels, 0, 1), 2)
    table = dca(pd.DataFrame({"label": labels.astype(int), "p": p}), "label", ["p"], thresholds=THRESHOLDS)
    curves = {name: of_model["net_benefit"].round(12).tolist() for name, of_model in table.groupby("model")}
    values = {"labels": labels.astype(int).tolist(), "p": p.tolist(), "thresholds": THRESHOLDS, "net_benefit": curves}
    FILE.write_text(json.dumps(values) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
