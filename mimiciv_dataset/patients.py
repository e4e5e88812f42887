"""Lists of patients, and the terms under which files about them may be used."""

from __future__ import annotations

import csv
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import require

DATA_USE = "Made from MIMIC-IV data: use and sharing fall under the PhysioNet data use agreement of its source."


def read_subject_ids(path: Path | str) -> list[str]:
    """Read the column subject_id of a CSV, as text, in file order.

    Raises:
        UserError: the file or the column does not exist.
    """
    path = require(path, "a CSV with a column subject_id", "make it with preprocess/split_patients.py")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if "subject_id" not in (reader.fieldnames or []):
            columns = ", ".join(reader.fieldnames or []) or "an empty file"
            raise UserError(f"{path}: expected a column subject_id, got {columns}.")
        return [row["subject_id"] for row in reader]
