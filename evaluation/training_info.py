"""What a model's directory records of its training, and the warnings this gives for an evaluation of the model."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from inference.families import TRAINING_FILE
from mimiciv_dataset.patients import read_subject_ids
from pipeline.digests import digest_lines
from pipeline.files import atomic_path, read_json


def patient_list(root_dir: Path, run: str, digest: str) -> Path:
    """Where the training patients of a run are listed: beside the data, as a model's directory may be shared.

    Hashes of single patients do not belong in a model's directory either: subject_ids have eight digits, so that trying all of
    them takes seconds.
    """
    return root_dir / "patient_data" / f"training-{run}-{digest[:16]}.csv"


def write_patient_list(root_dir: Path, run: str, patients: Iterable[str]) -> dict[str, Any]:
    """List the training patients of a run; returns what its model's directory records of them: digest and count.

    Where ROOT_DIR/patient_data cannot be written, a warning says that test.py will not find the list.
    """
    subject_ids = sorted(set(patients))
    digest = digest_lines(subject_ids)
    path = patient_list(root_dir, run, digest)
    try:
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([["subject_id"], *([subject_id] for subject_id in subject_ids)])
    except OSError as error:
        reason = f"expected to write the list of training patients, got: {error.strerror}"
        print(f"warning: {path}: {reason}. test.py will not find it to check for overlap.", file=sys.stderr)
    return {"digest": digest, "count": len(subject_ids)}


def training_warnings(
    model: str, instructions_sha256: str, custom_instructions: bool, patients: Iterable[str], root_dir: Path
) -> list[str]:
    """Reasons why the scores of an evaluation may be misleading: other instruction wording, patients seen in training.

    Args:
        model: local directory or Hub id.
        custom_instructions: the wording is the user's choice (`--instructions`).
        patients: subject_ids of the evaluation.
        root_dir: where the lists of training patients are.
    """
    file, warnings = Path(model) / TRAINING_FILE, []
    if file.exists():
        trained_with = read_json(file)["data"]["instructions_sha256"]
        if trained_with != instructions_sha256:
            hashes = f"{trained_with[:12]}, now {instructions_sha256[:12]}"
            text = f"{model}: other instruction wording in training ({hashes}), so its scores may suffer."
            warnings.append(f"{text} Pass the wording of its training with --instructions.")
        warnings += _overlap(model, set(map(str, patients)), root_dir)
    elif "ehr-r1" in model.lower() and not custom_instructions:
        text = f"{model}: looks like a released EHR-R1 checkpoint, which was trained with other instruction wording than ours."
        fix = "Extract its wording from a released JSONL with scripts/extract_instructions.py and pass it with --instructions."
        warnings.append(f"{text} {fix}")
    return warnings


def patient_lists_of(model: str) -> list[dict[str, Any]]:
    """What a model's directory records of the patients it was trained on: digest and count, for each stage of its training."""
    file = Path(model) / TRAINING_FILE
    return read_json(file).get("training_patients", []) if file.exists() else []


def _overlap(model: str, evaluated: set[str], root_dir: Path) -> list[str]:
    """Whether the model was trained on some of the evaluated patients, or that this could not be checked."""
    trained_on: set[str] = set()
    for recorded in patient_lists_of(model):
        pattern = patient_list(root_dir, "*", recorded["digest"])
        lists = (read_subject_ids(path) for path in sorted(pattern.parent.glob(pattern.name)))
        patients = next((patients for patients in lists if digest_lines(patients) == recorded["digest"]), None)
        if patients is None:
            wrong = f"expected the list of its training patients at {pattern}, got none"
            return [f"{model}: {wrong}, so overlap with the patients of this evaluation was not checked."]
        trained_on.update(patients)
    if overlap := len(evaluated & trained_on):
        text = f"{overlap:,} of the {len(evaluated):,} patients of this evaluation are in its training data"
        return [f"{model}: {text}, scores overestimate its performance on new patients."]
    return []
