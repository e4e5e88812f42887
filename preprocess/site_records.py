"""Rows of a data set → records of events, as a site says. Used by the importers, whatever their format.

A row has a patient, a time, a code, and any further columns. The rows of a patient are mapped together, because a stay is made
of the row that begins it and the row that ends it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mimiciv_dataset.events import COLUMN_KINDS, EVENTS, MISSING_TEXTS, EventType
from mimiciv_dataset.values import KINDS, canonical
from pipeline.errors import UserError
from preprocess.raw_tables import ROW, TIME, TIME_FORMAT, parse_times, python_float
from preprocess.raw_values import STAY, times_of_stays
from preprocess.sites import DESCRIPTION, PATIENTS, EventRule, Rule, Site, json_column, record_columns

if TYPE_CHECKING:
    import polars as pl

DATE_FORMAT = "%Y-%m-%d"
UNMAPPED, IGNORED = "unmapped", "ignored"
ROLE, ORDINAL = " role", " ordinal"  # columns of rows while they are mapped; see `raw_tables.ROW`
_OF_END = " end "  # prefix of the columns that come from the row that ends a stay


@dataclass
class Counts:
    """What `map_rows` counts.

    Attributes:
        rows: rows in all.
        without_code: rows whose code is missing.
        codes: rows of each code.
        unpaired: rows that begin a stay whose end is missing, or the other way round, by the place of the rule.
        values: values that are not missing, by event and column; ROW counts the records.
    """

    rows: int = 0
    without_code: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    unpaired: Counter[str] = field(default_factory=Counter)
    values: dict[str, Counter[str]] = field(default_factory=dict)


class Codes:
    """What becomes of each code. Codes are matched once, in Python: there are few of them compared with rows.

    A role is a rule, the end of a rule, or what a code says about the patient (`gender`, `birth`, `death`).
    """

    def __init__(self, site: Site, names: Mapping[str, str]) -> None:
        patients = vars(site.patients) if site.patients else {}
        self.names = names
        self.roles: dict[str, re.Pattern[str]] = {
            key: pattern for key, pattern in patients.items() if isinstance(pattern, re.Pattern)
        }
        self.roles |= {rule.where: rule.code for event_rule in site.events for rule in event_rule.rules}
        self._ignored = site.ignored
        self._roles: dict[str, str] = {}
        self._groups: dict[str, dict[str, str | None]] = {}

    def role(self, code: str) -> str:
        """The first role whose pattern matches the whole code; `IGNORED` or `UNMAPPED` if there is none."""
        if code not in self._roles:
            matches = ((role, pattern.fullmatch(code)) for role, pattern in self.roles.items())
            role, match = next(((role, match) for role, match in matches if match), (None, None))
            if match:
                self._groups[code] = {"gender": match[1]} if role == "gender" else match.groupdict()
            self._roles[code] = role or (IGNORED if any(p.fullmatch(code) for p in self._ignored) else UNMAPPED)
        return self._roles[code]

    def groups(self, codes: Sequence[str], name: str) -> list[str | None]:
        """The values of a group of some codes."""
        return [self._groups[code].get(name) for code in codes]


def map_rows(site: Site, rows: pl.DataFrame, codes: Codes, counts: Counts) -> dict[str, pl.DataFrame]:
    """The records of all rows of some patients, by event, with the columns `Site.columns`, `ROW` and `TIME`.

    Args:
        rows: subject_id (Int64), time (Datetime, may be null), code (String), `ROW`, and the columns `Site.sources`;
            description (String), if rows of a code have different ones.
        counts: is updated.

    Raises:
        UserError: a column of times has other values.
    """
    import polars as pl

    of_code = rows["code"].drop_nulls().value_counts()
    counts.rows += len(rows)
    counts.without_code += rows["code"].null_count()
    counts.codes.update(dict(of_code.iter_rows()))
    roles = {code: codes.role(code) for code in of_code["code"]}
    rows = rows.with_columns(pl.col("code").replace_strict(roles, default=UNMAPPED, return_dtype=pl.String).alias(ROLE))
    by_role = {key[0]: frame for key, frame in rows.partition_by(ROLE, as_dict=True).items()}
    frames: dict[str, list[pl.DataFrame]] = {name: [] for name in site.tables}
    if site.patients:
        frames[PATIENTS].append(patient_records(site, rows, by_role, codes))
    for rule in site.events:
        if rule.where in by_role:
            frames[rule.event.name].append(rule_records(site, rule, by_role, codes, counts))
        elif rule.end and rule.end.where in by_role:
            counts.unpaired[rule.where] += len(by_role[rule.end.where])
    tables = {}
    for name, of_table in frames.items():
        if of_table:
            tables[name] = finish(site, name, pl.concat(of_table, how="diagonal"))
            values = {
                column: len(tables[name]) - nulls for column, nulls in tables[name].null_count().row(0, named=True).items()
            }
            counts.values.setdefault(name, Counter()).update(values)
    return {name: with_stay_time(EVENTS[name], records, tables.get("edstays")) for name, records in tables.items()}


def with_stay_time(event: EventType, records: pl.DataFrame, edstays: pl.DataFrame | None) -> pl.DataFrame:
    """Give records of an ED table without a time the time of their ED stay, also as `charttime`; null if there is none."""

    if not event.stay_time:
        return records
    stays = None if edstays is None else edstays.select(*STAY, parse_times(edstays[event.stay_time]).alias(TIME))
    times = times_of_stays(event, records, stays)
    return records.with_columns(times.alias(TIME), times.dt.to_string(TIME_FORMAT).alias("charttime"))


def rule_records(
    site: Site, rule: EventRule, by_role: Mapping[str, pl.DataFrame], codes: Codes, counts: Counts
) -> pl.DataFrame:
    """The records of one rule, all text, with `ROW`."""
    import polars as pl

    columns = record_columns(site, rule)
    named = [*filter(None, columns.values()), *rule.key]
    begins = with_json_keys(rule.where, by_role[rule.where], named)
    values = {
        name: value_of(site, name, source, begins, codes)
        for name, source in columns.items()
        if source and not (rule.end and name in rule.end.columns)
    }
    values |= {name: value_of(site, name, None, begins, codes) for name in rule.groups}
    records = pl.DataFrame({**values, ROW: begins[ROW]})
    if rule.end:
        ends = with_json_keys(rule.end.where, by_role.get(rule.end.where, by_role[rule.where].clear()), named)
        of_end = {name: value_of(site, name, source, ends, codes) for name, source in rule.end.columns.items()}
        of_end |= {name: value_of(site, name, None, ends, codes) for name in rule.end.groups if name not in rule.groups}
        pairs = pair(rule, begins, ends, codes)
        counts.unpaired[rule.where] += len(begins) + len(ends) - 2 * len(pairs)
        ended = pl.DataFrame({**of_end, _OF_END: ends[ROW]}).join(pairs, on=_OF_END).drop(_OF_END)
        records = records.join(ended, on=ROW, how="left", maintain_order="left")
    return join_rows(rule, records) if rule.joined else records


def join_rows(rule: EventRule, records: pl.DataFrame) -> pl.DataFrame:
    """Records of a stay each of which begins when the one before ends, as one record; see `EventRule.joined`."""
    import polars as pl

    keys = [key for key in ("subject_id", "hadm_id") if key in records.columns]
    begin, end = rule.event.time, rule.joined[0]
    starts_anew = pl.col(begin) != pl.col(end).shift(1).over(keys)
    runs = records.sort(*keys, begin, ROW).with_columns(starts_anew.fill_null(True).cum_sum().alias(ORDINAL))
    names = [name for name in records.columns if name not in (*rule.joined, ROW)]
    joined = runs.group_by(ORDINAL, maintain_order=True).agg(pl.col(*names, ROW).first(), pl.col(*rule.joined).last())
    return joined.select(records.columns).sort(ROW)


def with_json_keys(where: str, rows: pl.DataFrame, sources: Sequence[str]) -> pl.DataFrame:
    """Rows with a column of texts for each source `column.key`: the value of that key of the JSON objects in the column.

    Raises:
        UserError: the column has something else.
    """
    import polars as pl

    keys: dict[str, dict[str, str]] = {}  # column → key → source
    for source in sources:
        if column := json_column(source):
            keys.setdefault(column, {})[source.removeprefix(f"{column}.")] = source
    for column, names in keys.items():
        try:
            decoded = rows[column].cast(pl.String).str.json_decode(pl.Struct(dict.fromkeys(names, pl.String)))
        except pl.exceptions.ComputeError:
            fix = "Fix the site file or the data"
            raise UserError(
                f"{where}: expected JSON objects in the column {column} of the data, got other texts. {fix}."
            ) from None
        rows = rows.with_columns(decoded.struct.unnest().rename(names))
    return rows


def pair(rule: EventRule, begins: pl.DataFrame, ends: pl.DataFrame, codes: Codes) -> pl.DataFrame:
    """Which row ends what a row begins: `ROW` of both, that of the end called `_OF_END`; see `EventRule.key`."""
    import polars as pl

    def keyed(rows: pl.DataFrame, rule_of_rows: Rule) -> pl.DataFrame:
        groups = [key for key in rule.key if key in rule_of_rows.groups]
        columns = [pl.Series(key, codes.groups(rows["code"].to_list(), key), pl.String) for key in groups]
        return rows.with_columns(columns).sort("subject_id", "time", ROW)

    begins, ends = keyed(begins, rule), keyed(ends, rule.end)
    if rule.key:
        keys = ["subject_id", *rule.key]
        first, last = (rows.select(*keys, ROW, pl.int_range(pl.len()).over(keys).alias(ORDINAL)) for rows in (begins, ends))
        pairs = first.join(last.rename({ROW: _OF_END}), on=[*keys, ORDINAL])
    else:
        both = pl.concat(
            [
                rows.select("subject_id", "time", ROW, pl.lit(ends_it).alias("ends"))
                for rows, ends_it in ((begins, False), (ends, True))
            ]
        ).sort("subject_id", "time", ROW)
        following = pl.col(ROW, "ends").shift(-1).over("subject_id")
        both = both.with_columns(following.name.prefix(_OF_END))
        pairs = both.filter(~pl.col("ends") & pl.col(f"{_OF_END}ends")).rename({f"{_OF_END}{ROW}": _OF_END})
    return pairs.select(ROW, _OF_END)


def value_of(site: Site, name: str, source: str | None, rows: pl.DataFrame, codes: Codes) -> pl.Series:
    """The values of a column of records, as text: those of a column of the rows, or of what a group of the code matched."""
    import polars as pl

    if source is None or (source == DESCRIPTION and DESCRIPTION not in rows.columns):
        distinct = rows["code"].unique().to_list()
        values = codes.groups(distinct, name) if source is None else map(codes.names.get, distinct)
        series = rows["code"].replace_strict(dict(zip(distinct, values, strict=True)), return_dtype=pl.String)
    else:
        series = rows[source]
        if series.dtype.is_float() and COLUMN_KINDS.get(name) == "number":
            series = series.cast(pl.Int64, strict=False)  # ids of a tool that cannot have missing integers
        if series.dtype.is_temporal():
            series = series.dt.to_string(DATE_FORMAT if series.dtype == pl.Date else TIME_FORMAT)
    series = series.cast(pl.String).alias(name)
    return series.set(series.is_in([*MISSING_TEXTS, *site.missing]).fill_null(False), None)


def patient_records(site: Site, rows: pl.DataFrame, by_role: Mapping[str, pl.DataFrame], codes: Codes) -> pl.DataFrame:
    """A record for each patient: sex, age in years at the first row with a time that is neither birth nor death, and death."""
    import polars as pl

    patients = rows.group_by("subject_id", maintain_order=True).agg(pl.col(ROW).first())
    none = rows.clear()
    gender = by_role.get("gender", none)
    gender = gender.with_columns(value_of(site, "gender", None, gender, codes))
    birth, death = (by_role.get(role, none) for role in ("birth", "death"))
    seen = rows.filter(~pl.col(ROLE).is_in(["birth", "death"]))
    firsts = {"birth": (birth, "time"), "death": (death, "time"), "seen": (seen, "time"), "gender": (gender, "gender")}
    for name, (frame, column) in firsts.items():
        first = pl.col(column).drop_nulls()
        first = first.first() if name == "gender" else first.min()
        patients = patients.join(frame.group_by("subject_id").agg(first.alias(name)), on="subject_id", how="left")
    before = pl.col("seen").dt.strftime("%m-%d") < pl.col("birth").dt.strftime("%m-%d")
    age = pl.col("seen").dt.year() - pl.col("birth").dt.year() - before.cast(pl.Int32)
    return patients.select(
        pl.col("subject_id").cast(pl.String),
        "gender",
        age.cast(pl.String).alias("anchor_age"),
        pl.col("death").dt.to_string(DATE_FORMAT if site.patients.death_is_date else TIME_FORMAT).alias("dod"),
        ROW,
    )


def finish(site: Site, table: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Records with all columns of their event in order, FLOAT columns as Python formats them, and `TIME`."""
    import polars as pl

    event, columns = EVENTS[table], site.columns(table)
    missing = [pl.lit(None, pl.String).alias(name) for name in columns if name not in frame.columns]
    frame = frame.with_columns(missing).select(*columns, ROW)
    for name in set(event.floats) & set(columns):
        formatted = {text: python_float(text) for text in frame[name].drop_nulls().unique()}
        frame = frame.with_columns(pl.col(name).replace(formatted))
    for name in columns:
        if COLUMN_KINDS.get(name) in ("time", "storetime"):
            frame = frame.with_columns(clean_times(table, frame[name]))
    times = [parse_times(frame[name]) for name in (event.time, event.time_fallback) if name in columns]
    return frame.with_columns((pl.coalesce(times) if times else pl.lit(None, pl.Datetime("ms"))).alias(TIME))


def clean_times(table: str, times: pl.Series) -> pl.Series:
    """A column of times of records, all in MIMIC-IV's form.

    Raises:
        UserError: a text is no time, or has a time zone.
    """
    kind, cleaned = COLUMN_KINDS[times.name], {}
    for text in times.filter(~times.str.contains(KINDS[kind].pattern)).unique():
        try:
            cleaned[text] = canonical(kind, text)
        except ValueError:
            got = "another text in the column of the data that it is read from"
            where = f"{table}.{times.name}: expected {KINDS[kind].expected}"
            raise UserError(f"{where}, got {got}. Fix the site file or the data.") from None
    return times.replace(cleaned) if cleaned else times
