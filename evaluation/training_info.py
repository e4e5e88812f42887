"""What a model's directory records of its training, and the warnings this gives for an evaluation of the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.files import read_json, sha256

# Files in a model's directory, written by sft.py and grpo.py:
TRAINING_FILE = "ehr_training.json"  # data, stage and hashes of its training
PATIENTS_FILE = "train_patients.sha256"  # `patient_hash` of each training patient, one per line


def patient_hash(subject_id: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a subject_id."""
    return sha256(str(subject_id))[:16]


def training_warnings(model: str, instructions_sha256: str, custom_instructions: bool, patients: Iterable[str]) -> list[str]:
    """Reasons why the scores of an evaluation may be misleading: other instruction wording, patients seen in training.

    `model` is a local directory or Hub id. With `custom_instructions` (`--instructions`) the wording is the user's choice.
    """
    folder, warnings = Path(model), []
    if (folder / TRAINING_FILE).exists():
        trained_with = read_json(folder / TRAINING_FILE)["data"]["instructions_sha256"]
        if trained_with != instructions_sha256:
            hashes = f"{trained_with[:12]}, now {instructions_sha256[:12]}"
            text = f"{model}: other instruction wording in training ({hashes}), so its scores may suffer."
            warnings.append(f"{text} Pass the wording of its training with --instructions.")
    elif "ehr-r1" in model.lower() and not custom_instructions:
        text = f"{model}: looks like a released EHR-R1 checkpoint, which was trained with other instruction wording than ours."
        fix = "Extract its wording from a released JSONL with scripts/extract_instructions.py and pass it with --instructions."
        warnings.append(f"{text} {fix}")
    if (folder / PATIENTS_FILE).exists():
        trained_on = set((folder / PATIENTS_FILE).read_text(encoding="utf-8").split())
        evaluated = set(map(str, patients))
        if overlap := sum(patient_hash(patient) in trained_on for patient in evaluated):
            text = f"{overlap:,} of the {len(evaluated):,} patients of this evaluation are in its training data"
            warnings.append(f"{model}: {text}, scores overestimate its performance on new patients.")
    return warnings
