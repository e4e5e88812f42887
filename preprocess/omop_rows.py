"""Rows of OMOP tables → rows with a patient, a time, a code and a name, as `site_records.map_rows` takes them.

First `distributed_rows` selects what is needed of a table while it is read; then `coded_rows` gives the rows of some patients
their codes and names, once it is known which concepts there are.
"""

from __future__ import annotations

from collections import Counter
from datetime import time
from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset.values import KINDS
from pipeline.errors import UserError
from pipeline.progress import counted
from preprocess.omop_tables import END, OF_CONCEPT, PERSON, TABLES, VALUE, VALUES
from preprocess.sites import CODE, DESCRIPTION, TIME_OF_ROW, VISIT, Site

if TYPE_CHECKING:
    import polars as pl

PERSON_COLUMNS = (
    "person_id", "gender_concept_id", "gender_source_value", "birth_datetime", "year_of_birth", "month_of_birth",
    "day_of_birth",
)  # fmt: skip
SEXES = {8507: "M", 8532: "F"}  # concepts of the vocabulary Gender; for others, the value of the source counts
GENDER, BIRTH = "gender", "birth"  # the codes of the two rows of a person are person//gender//M and person//birth
VISIT_ID = " visit"  # column of visit_occurrence with the ids of its visits, as the site says


def names_of(table: str) -> list[str]:
    """The columns with the names of the concepts of a row, of which the first that is not missing counts."""
    return [f"{name.removesuffix('_id')}_name" for name in TABLES[table].concepts]


def wanted_columns(site: Site, table: str) -> list[str]:
    """The columns of a clinical table, or of its concepts, that the site reads or that make up code and name of a row."""
    concepts = TABLES[table].concepts
    return list(dict.fromkeys([*site.sources, *site.omop.codes.get(table, concepts[:1]), *concepts, *names_of(table)]))


def columns_to_read(site: Site, table: str) -> set[str]:
    """The columns that are read of the files of a table."""
    if table == PERSON:
        return {*PERSON_COLUMNS}
    names, wanted = TABLES[table], wanted_columns(site, table)
    of_concept = [f"{match[1]}_id" for match in map(OF_CONCEPT.fullmatch, wanted) if match]
    values = VALUES if VALUE in site.sources else ()
    visit = {site.omop.visit} if table == "visit_occurrence" else {}
    return {"person_id", VISIT, *names.times, *of_concept, *values, *visit, *wanted}


# --- while a file is read


def distributed_rows(site: Site, table: str, path: Path, frame: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Rows of a table with the column `time`, and all that `coded_rows` needs.

    Args:
        frame: rows of the file `path`, with those of `columns_to_read` that it has.
        counts: `rows`; `dates`: those that have a date and no time, or persons without a date of birth; `midnight`: those at
            00:00:00, those with a date only included.

    Raises:
        UserError: the id of a visit is no whole number from 0.
    """
    import polars as pl

    counts["rows"] += len(frame)
    if table == PERSON:
        return _persons(frame, counts)
    names = TABLES[table]
    times = names.times
    missing = [pl.lit(None, pl.Datetime("ms")).alias(name) for name in times if name not in frame.columns]
    frame = frame.with_columns(missing)
    exact, date, end, end_date = map(pl.col, times)
    counts["dates"] += frame.select((exact.is_null() & date.is_not_null()).sum()).item()
    frame = frame.with_columns(pl.coalesce(exact, date).alias(TIME_OF_ROW), pl.coalesce(end, end_date).alias(END))
    counts["midnight"] += int((frame[TIME_OF_ROW].dt.time() == time()).sum())
    if table == "visit_occurrence":
        frame = frame.with_columns(visit_ids(site, path, frame[site.omop.visit]).alias(VISIT_ID))
    return frame.drop([name for name in times if name not in site.sources])


def _persons(frame: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """A row for sex, and one for birth, of each person. Without month or day of birth, January or the first day counts."""
    import polars as pl

    types = {"gender_source_value": pl.String, "birth_datetime": pl.Datetime("ms")}
    types |= dict.fromkeys(("month_of_birth", "day_of_birth"), pl.Int64)
    frame = frame.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in types.items() if name not in frame.columns)
    given, year, month, day = map(pl.col, ("birth_datetime", "year_of_birth", "month_of_birth", "day_of_birth"))
    text = pl.concat_str(year, month.fill_null(1), day.fill_null(1), separator="-")
    birth = text.str.to_datetime("%Y-%m-%d", time_unit="ms", strict=False)  # none if there is no such day
    counts["dates"] += frame.select((given.is_null() & (month.is_null() | day.is_null())).sum()).item()
    sex = pl.col("gender_concept_id").replace_strict(SEXES, default=None, return_dtype=pl.String)
    sex = sex.fill_null(pl.col("gender_source_value"))
    births = frame.select("person_id", pl.coalesce(given, birth).alias(TIME_OF_ROW), pl.lit(f"{PERSON}//{BIRTH}").alias(CODE))
    genders = frame.select(
        "person_id", pl.lit(None, pl.Datetime("ms")).alias(TIME_OF_ROW), (pl.lit(f"{PERSON}//{GENDER}//") + sex).alias(CODE)
    )
    return pl.concat([genders.drop_nulls(CODE), births.drop_nulls(TIME_OF_ROW)])


def visit_ids(site: Site, path: Path, values: pl.Series) -> pl.Series:
    """The ids of visits from the column `Omop.visit`, null where the pattern does not match.

    Raises:
        UserError: an id is no whole number from 0.
    """
    import polars as pl

    texts, pattern = values.cast(pl.String), site.omop.visit_pattern
    if pattern:
        matches = {text: pattern.fullmatch(text) for text in texts.drop_nulls().unique()}
        ids = {text: match and match[1] for text, match in matches.items()}
        texts = texts.replace_strict(ids, default=None, return_dtype=pl.String)
    if wrong := int((~texts.drop_nulls().str.contains(KINDS["number"].pattern)).sum()):
        expected = f"whole numbers from 0, of at most 18 digits, in column {site.omop.visit}"
        fix = "Name a column with such ids in the site file (omop.visit, omop.visit_pattern)"
        raise UserError(f"{path}: expected {expected}, got others in {counted(wrong, 'row')}. {fix}.")
    return texts


# --- when all are read


def with_visits(frame: pl.DataFrame, visits: pl.DataFrame | None) -> pl.DataFrame:
    """Rows whose `VISIT` is the id of the visit as the site says; null if there is no such visit.

    Args:
        visits: the rows of visit_occurrence of the same patients; None: there are none.
    """
    import polars as pl

    if VISIT not in frame.columns:
        return frame
    if visits is None:
        return frame.with_columns(pl.lit(None, pl.String).alias(VISIT))
    visits = visits.drop_nulls(VISIT).unique(VISIT, keep="first", maintain_order=True)
    ids = frame[VISIT].replace_strict(visits[VISIT], visits[VISIT_ID], default=None, return_dtype=pl.String)
    return frame.with_columns(ids.alias(VISIT))


def coded_rows(site: Site, table: str, frame: pl.DataFrame, concepts: pl.DataFrame) -> pl.DataFrame:
    """Rows with a code, a name, and the columns that the site reads.

    The code is the table and the columns of `Omop.codes`, such as `measurement//3023103//Lab Test`. The name is that of the
    concept, or of the concept in the vocabulary of the source.
    """
    import polars as pl

    wanted = wanted_columns(site, table)
    frame = frame.with_columns(
        concept_values(frame[f"{match[1]}_id"], match[2], concepts).alias(match[0])
        for match in map(OF_CONCEPT.fullmatch, wanted)
        if match and f"{match[1]}_id" in frame.columns
    )
    if VALUE in site.sources and (values := [name for name in VALUES if name in frame.columns]):
        texts = [
            concept_values(frame[name], "name", concepts) if name.endswith("_concept_id") else frame[name] for name in values
        ]
        frame = frame.with_columns(pl.coalesce(texts).alias(VALUE))
    parts = site.omop.codes.get(table, TABLES[table].concepts[:1])
    code = [pl.lit(table), *(pl.col(name).cast(pl.String).fill_null("") for name in parts)]
    names = [name for name in names_of(table) if name in frame.columns]
    frame = frame.with_columns(
        pl.concat_str(code, separator="//").alias(CODE),
        (pl.coalesce(names) if names else pl.lit(None, pl.String)).alias(DESCRIPTION),
    )
    own = [name for name in site.sources if name in frame.columns]
    texts = [pl.col(name).cast(pl.String) for name in own if not frame[name].dtype.is_temporal()]
    return frame.select("subject_id", TIME_OF_ROW, CODE, DESCRIPTION, *own).with_columns(texts)


def concept_values(ids: pl.Series, column: str, concepts: pl.DataFrame) -> pl.Series:
    """What the concepts with these ids have in a column of `CONCEPT_COLUMNS`; null for ids without a concept."""
    import polars as pl

    return ids.replace_strict(concepts["concept_id"], concepts[column], default=None, return_dtype=pl.String)


def count_missing(table: str, frame: pl.DataFrame, visits: pl.DataFrame | None, concepts: pl.DataFrame) -> dict[str, int]:
    """How many rows have no concept (0), a concept that concept lacks, and a visit that visit_occurrence lacks."""
    ids = frame[TABLES[table].concepts[0]]
    mapped, known = ids.is_not_null() & (ids != 0), ids.is_in(concepts["concept_id"].implode())
    counts = {"without_concept": int((~mapped).sum()), "unknown_concept": int((mapped & ~known).sum()), "unknown_visit": 0}
    if VISIT in frame.columns:
        of_visits, known_visits = frame[VISIT].drop_nulls(), [] if visits is None else visits[VISIT].to_list()
        counts["unknown_visit"] = int((~of_visits.is_in(known_visits)).sum())
    return counts
