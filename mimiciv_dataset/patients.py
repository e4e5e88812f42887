"""Lists of patients, and the terms under which files about them may be used."""

from __future__ import annotations

from pathlib import Path

from mimiciv_dataset.cells import cell_error, read_cells, read_known_header, whole_number
from pipeline.errors import UserError
from pipeline.files import require

DATA_USE = "Made from MIMIC-IV data: use and sharing fall under the PhysioNet data use agreement of its source."
HOW_TO_GET_PATIENTS = "make it with preprocess/split_patients.py"


def read_subject_ids(path: Path | str, fix: str = HOW_TO_GET_PATIENTS, may_repeat: bool = False) -> list[str]:
    """The distinct ids in column subject_id of a CSV or CSV.gz, as text, in file order.

    Ids can be written in any way that `whole_number` reads. Empty rows and other columns are ignored. Repeated ids are
    counted in a warning, unless they `may_repeat`, as those of an index do.

    Raises:
        UserError: the file does not exist or is no CSV in UTF-8 with commas, the column is missing, a cell of it is not an
            id, or there is no id. `fix` says how to get such a file.
    """
    path = require(path, "a CSV with a column subject_id", fix)
    column = read_known_header(path, ("subject_id",), "Add the header subject_id, or choose another file").index("subject_id")
    rows = read_cells(path)
    next(rows)  # the header
    numbers: list[int] = []
    for row, cells in rows:
        try:
            number = whole_number(cells[column] if column < len(cells) else None)
            if number is None:
                raise ValueError("an empty cell")
        except ValueError as error:
            raise cell_error(path, row, "subject_id", "a whole number", str(error)) from None
        numbers.append(number)
    if not numbers:
        raise UserError(f"{path}: expected patients, got none. Choose another file.")
    distinct = list(dict.fromkeys(map(str, numbers)))
    if len(distinct) < len(numbers) and not may_repeat:
        print(f"warning: {path}: {len(numbers) - len(distinct):,} rows repeat a subject_id; each patient counts once.")
    return distinct
