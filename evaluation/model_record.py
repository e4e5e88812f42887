"""What is known of a model's training, and what that says of an evaluation: other wording, patients it has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipeline.files import read_json

SETTINGS = "ehr_training.json"
"""In a model's folder: data, stage and hashes of its training (sft.py, grpo.py)."""

PATIENTS = "train_patients.sha256"
"""In a model's folder: a hash of each patient it was trained on, one a line."""


def patient_hash(subject_id: str) -> str:
    """16 hexadecimal digits of the sha256 of a subject_id."""
    return hashlib.sha256(str(subject_id).encode()).hexdigest()[:16]


def warnings_for(model: str, instructions_sha256: str, own_wording: bool, patients: Iterable[str]) -> list[str]:
    """Reasons to doubt an evaluation, in words.

    Args:
        model: local folder or Hub id.
        instructions_sha256: of the instruction set in use.
        own_wording: `--instructions` was given, so that the wording is the user's choice.
        patients: subject_ids to be evaluated.
    """
    folder, found = Path(model), []
    if (folder / SETTINGS).exists():
        trained_on = read_json(folder / SETTINGS)["data"]["instructions_sha256"]
        if trained_on != instructions_sha256:
            found.append(
                f"{model} was trained on other instruction wording ({trained_on[:12]}, now {instructions_sha256[:12]}): its "
                "scores will suffer; give its wording with --instructions"
            )
    elif "ehr-r1" in model.lower() and not own_wording:
        found.append(
            f"{model} looks like a released EHR-R1 checkpoint, which was trained on its makers' instruction wording, not "
            "ours: take it from a released JSONL with scripts/extract_instructions.py and give it with --instructions"
        )
    if (folder / PATIENTS).exists():
        seen = set((folder / PATIENTS).read_text(encoding="utf-8").split())
        asked = {str(patient) for patient in patients}
        both = sum(patient_hash(patient) in seen for patient in asked)
        if both:
            found.append(f"{both:,} of {len(asked):,} patients of this evaluation were trained on: its scores say how well "
                         "the model remembers, not how well it judges")  # fmt: skip
    return found
