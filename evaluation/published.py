"""Figures that the paper publishes, for reports to stand beside.

EHR-Bench, all of its samples: macro F1 over the decision-making tasks and macro AUROC over the risk prediction tasks
(Liao et al., "EHR-R1: A Reasoning-Enhanced Foundational Language Model for Electronic Health Record Analysis", 2025,
arXiv:2510.25628).
None: no figure is published.
"""

from __future__ import annotations

from typing import NamedTuple


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
