"""A site: what a data set says that its format does not, as one YAML file (docs/own_data.md).

MEDS and OMOP say when something happened to whom. A site says which codes begin and end admissions and stays, which event of
`mimiciv_dataset/events.py` each code becomes, where the values of its record come from, and which tasks make no sense. The
importers (`from_meds.py`) read the file, and nothing else of them is about a particular hospital.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.events import EVENTS, EventType
from mimiciv_dataset.patients import DATA_USE
from mimiciv_dataset.tasks import TASKS
from pipeline.errors import UserError
from pipeline.files import require

if TYPE_CHECKING:
    import yaml

# What a value of a record can be, besides a column of the data: the name of the code, the code itself, the time of the row.
DESCRIPTION, CODE, TIME_OF_ROW = "description", "code", "time"
SPECIAL = (DESCRIPTION, CODE, TIME_OF_ROW)
PATIENTS = "patients"
MISSPELT = 0.9  # similarity from which an unknown column is taken for a misspelt one; those of MIMIC-IV are below
VISIT = "visit_occurrence_id"  # column of OMOP tables with the visit of a row


@dataclass(frozen=True)
class Rule:
    """Codes, and the values that their rows give to a record.

    Attributes:
        where: its place in the site file, for messages.
        code: pattern that the whole code must match. Its named groups are columns of the record.
        columns: column of the record → column of the data, `column.key` (see `json_column`), or one of `SPECIAL`.
    """

    where: str
    code: re.Pattern[str]
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def groups(self) -> tuple[str, ...]:
        """The columns of the record that are parts of the code."""
        return tuple(self.code.groupindex)


@dataclass(frozen=True)
class EventRule(Rule):
    """Codes whose rows become records of an event.

    Attributes:
        event: the event type.
        available: column of the data, or `time`, with the time at which the values of the row were stored; None: unknown.
        end: the rows that end what the row begins, such as a discharge; their values become columns of the same record.
        key: columns of the data, or groups of both codes, in which beginning and end agree. The first beginning with a key
            belongs to the first end with it, and so on. Without a key, an end is the next row of the patient of either rule.
        joined: the column with the end of the stay, and further columns that its last row gives: rows of an admission each of
            which begins when the one before ends are one record, as the wards of one ICU stay. Empty: each row is a record.
    """

    event: EventType = EVENTS[PATIENTS]
    available: str | None = None
    end: Rule | None = None
    key: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        return (self,) if self.end is None else (self, self.end)

    @property
    def named_sources(self) -> list[tuple[str, str]]:
        """The columns of the data that the rule reads, after the place that names each; `SPECIAL` among them."""
        named = [(f"{each.where}.columns.{name}", source) for each in self.rules for name, source in each.columns.items()]
        named += [(f"{self.where}.available", self.available)] if self.available else []
        return named + [(f"{self.where}.end.key", key) for key in self.key if key not in self.groups]


@dataclass(frozen=True)
class Patients:
    """How the record of a patient is made from rows: codes of sex (whose first group is the value), birth and death.

    `death_is_date`: whether the time of death counts as a date, as in MIMIC-IV, whose label rules compare dates of death.
    """

    gender: re.Pattern[str] | None = None
    birth: re.Pattern[str] | None = None
    death: re.Pattern[str] | None = None
    death_is_date: bool = False


@dataclass(frozen=True)
class Omop:
    """How patients, visits and codes are read from OMOP tables.

    Attributes:
        subject: column of person with the ids of the patients, whole numbers from 0.
        visit: column of visit_occurrence with the ids of the visits, whole numbers from 0.
        visit_pattern: pattern of the whole value of that column, whose first group is the id; other visits have none. None:
            the value is the id.
        codes: columns that make up the code of a row, by table; by default its concept.
    """

    subject: str = "person_id"
    visit: str = VISIT
    visit_pattern: re.Pattern[str] | None = None
    codes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """A site file.

    Attributes:
        name: the data, for people.
        encounter: column of the data with the admission of a row; None if it has none.
        missing: texts that mean a missing value, besides those that mean it everywhere.
        patients: None if records of patients are made by a rule as others are.
        events: the rules, of which the first whose pattern matches a code applies.
        ignored: patterns of codes that are left out on purpose.
        left_out: tasks that make no sense for the data, and why.
        data_use: the terms under which the data may be used.
        omop: how OMOP tables are read.
    """

    name: str
    events: tuple[EventRule, ...]
    encounter: str | None = None
    missing: tuple[str, ...] = ()
    patients: Patients | None = None
    ignored: tuple[re.Pattern[str], ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    data_use: str = DATA_USE
    omop: Omop = field(default_factory=Omop)

    @property
    def sources(self) -> dict[str, str]:
        """The columns of the data that the site reads, and where in the file it names them first."""
        named = [("encounter", self.encounter)] if self.encounter else []
        named += [pair for rule in self.events for pair in rule.named_sources]
        sources: dict[str, str] = {}
        for where, source in named:
            if source not in SPECIAL:
                sources.setdefault(json_column(source) or source, where)
        return sources

    def columns(self, table: str) -> tuple[str, ...]:
        """The columns of the records of an event, in order."""
        if table == PATIENTS and self.patients:
            return ("subject_id", "gender", "anchor_age", "dod")
        columns: dict[str, None] = {}
        for rule in self.events:
            if rule.event.name == table:
                columns |= dict.fromkeys(record_columns(self, rule))
        return tuple(columns)

    @property
    def tables(self) -> tuple[str, ...]:
        """The events that the site has, in the order of the registry."""
        names = {rule.event.name for rule in self.events} | ({PATIENTS} if self.patients else set())
        return tuple(name for name in EVENTS if name in names)


def json_column(source: str) -> str | None:
    """The column of JSON objects that a source `column.key` reads its key from; None for other sources.

    >>> json_column("record.itemid"), json_column("itemid")
    ('record', None)
    """
    column, dot, _ = source.partition(".")
    return column if dot else None


def record_columns(site: Site, rule: EventRule) -> dict[str, str | None]:
    """The columns of the records of a rule, and the column of the data that each is read from; None for groups of codes.

    Whatever the rule does not say: the patient, the encounter of the site, the time of the row, and the columns that order
    records of the same time.
    """
    own: dict[str, str | None] = dict(rule.columns) | dict.fromkeys(rule.groups)
    if rule.end:
        own |= dict(rule.end.columns) | dict.fromkeys(rule.end.groups)
    default = {"subject_id": "subject_id"} | ({"hadm_id": site.encounter} if site.encounter else {})
    event = rule.event
    if event.time and not {event.time, event.time_fallback} & {*own}:
        default[event.time] = TIME_OF_ROW
    if rule.available:
        own[event.stored.time] = rule.available
    columns = {name: source for name, source in default.items() if name not in own} | own
    return columns | {name: None for name in event.tie if name not in columns}


# --- the file


def read_site(path: Path) -> Site:
    """Read a site file.

    Raises:
        UserError: something in it is unknown, missing or of the wrong kind; the message has its place in the file.
    """
    import yaml

    fix = "choose one of scripts/sites/, or write one (docs/own_data.md)"
    if require(path, "a site file", fix).is_dir():
        raise UserError(f"{path}: expected a site file, got a directory. {fix[:1].upper()}{fix[1:]}.")
    try:
        text = path.read_text(encoding="utf-8")
        _check_distinct(path, yaml.compose(text, yaml.SafeLoader))
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{at}: expected YAML, got something else. Fix the file.") from None
    try:
        return _site(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _check_distinct(path: Path, node: yaml.Node | None) -> None:
    """Check that no mapping has a key twice, of which PyYAML would take the last one."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        keys: list[object] = []  # of texts, or of the nodes of a key that is none
        for key, value in node.value:
            if key.value in keys:
                where = f"{path}, line {key.start_mark.line + 1}"
                raise UserError(f"{where}: expected each key once, got {key.value} again. Remove or rename one of them.")
            keys.append(key.value)
            _check_distinct(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_distinct(path, item)


def _site(content: Any) -> Site:
    keys = ("name", "events", "encounter", "missing", "patients", "ignored", "left_out", "data_use", "omop")
    _check_keys("the file", content, keys, ("name", "events"))
    rules = tuple(_event_rules("events", content["events"]))
    if not rules:
        raise UserError("events: expected a list of rules, got an empty one. Add a rule (docs/own_data.md).")
    patients = None
    if "patients" in content:
        patients = _patients(content["patients"])
        if made := next((rule.where for rule in rules if rule.event.name == PATIENTS), None):
            raise UserError(f"{made}: expected no rule for patients beside the section patients, got one. Remove either.")
    left_out = _check("left_out", content.get("left_out", {}), dict, "tasks and reasons")
    for name, reason in left_out.items():
        check_name(f"left_out.{name}", name, TASKS, "a task")
        _check(f"left_out.{name}", reason, str, "a reason")
    missing = _check("missing", content.get("missing", []), list, "a list of texts")
    ignored = _check("ignored", content.get("ignored", []), list, "a list of patterns")
    return Site(
        name=_check("name", content["name"], str, "a text"),
        events=rules,
        encounter=_text("encounter", content.get("encounter")),
        missing=tuple(_check(f"missing[{number}]", text, str, "a text") for number, text in enumerate(missing)),
        patients=patients,
        ignored=tuple(_pattern(f"ignored[{number}]", text) for number, text in enumerate(ignored)),
        left_out=left_out,
        data_use=_check("data_use", content.get("data_use", DATA_USE), str, "a text"),
        omop=_omop(content.get("omop", {})),
    )


def _omop(content: Any) -> Omop:
    _check_keys("omop", content, ("subject", "visit", "visit_pattern", "codes"))
    values = {key: _text(f"omop.{key}", content[key]) for key in ("subject", "visit") if key in content}
    if "visit_pattern" in content:
        values["visit_pattern"] = _pattern_with_group("omop.visit_pattern", content["visit_pattern"])
    codes = _check("omop.codes", content.get("codes", {}), dict, "tables and columns")
    for table, columns in codes.items():
        _check(f"omop.codes.{table}", columns, list, "a list of columns")
    return Omop(**values, codes={table: tuple(map(str, columns)) for table, columns in codes.items()})


def _patients(content: Any) -> Patients:
    _check_keys("patients", content, ("gender", "birth", "death", "death_is_date"))
    patterns = {key: _pattern(f"patients.{key}", content[key]) for key in ("birth", "death") if key in content}
    if "gender" in content:
        patterns["gender"] = _pattern_with_group("patients.gender", content["gender"])
    is_date = _check("patients.death_is_date", content.get("death_is_date", False), bool, "true or false")
    return Patients(**patterns, death_is_date=is_date)


def _event_rules(where: str, content: Any) -> Iterator[EventRule]:
    for number, entry in enumerate(_check(where, content, list, "a list of rules")):
        place = f"{where}[{number}]"
        _check_keys(place, entry, ("event", "code", "columns", "available", "end", "joined"), ("event", "code"))
        check_name(f"{place}.event", _check(f"{place}.event", entry["event"], str, "an event"), EVENTS, "an event")
        event = EVENTS[entry["event"]]
        place = f"{place} ({event.name})"
        available = _text(f"{place}.available", entry.get("available"))
        if available and event.stored is None:
            raise UserError(
                f"{place}.available: expected it for events whose values have a store time, got {event.name}. Remove it."
            )
        rule = {"event": event, "available": available, **_rule(place, entry)}
        if "end" in entry:
            of_end = f"{place}.end"
            _check_keys(of_end, entry["end"], ("code", "columns", "key"), ("code",))
            keys = _check(f"{of_end}.key", entry["end"].get("key", []), list, "a list of columns")
            rule |= {"end": Rule(**_rule(of_end, entry["end"])), "key": tuple(map(str, keys))}
        joined = _check(f"{place}.joined", entry.get("joined", []), list, "a list of columns")
        yield _check_columns(EventRule(**rule, joined=tuple(map(str, joined))))


def _rule(where: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    columns = _check(f"{where}.columns", entry.get("columns", {}), dict, "columns and their sources")
    for name, source in columns.items():
        _check(f"{where}.columns.{name}", source, str, "a column of the data")
    return {"where": where, "code": _pattern(f"{where}.code", entry["code"]), "columns": columns}


def _check_columns(rule: EventRule) -> EventRule:
    """Check the columns of the record: each is given once, none is a misspelt one, and what places the event is there."""
    names = [name for each in rule.rules for name in (*each.groups, *each.columns)]
    shared = {name for name in names if names.count(name) > 1} - set(rule.key)
    if shared:
        raise UserError(f"{rule.where}: expected each column once, got {min(shared)} twice. Remove one of them.")
    event = rule.event
    used = {*event.required_columns, *event.shown} | ({event.stored.time} if event.stored else set())
    for name in set(names) - used:  # other columns are kept as they are
        if close := difflib.get_close_matches(name, used, n=1, cutoff=MISSPELT):
            raise UserError(f"{rule.where}.columns: expected a column of {event.name}, got {name}. Write {close[0]}.")
    for name in rule.joined:
        check_name(f"{rule.where}.joined", name, names, "a column of the record")
    if rule.event.stay_time and "stay_id" not in names:
        got = "none"
        raise UserError(f"{rule.where}: expected the column stay_id, by which edstays gives the time, got {got}. Add it.")
    if reserved := set(names) & ({"charttime"} if rule.event.stay_time else set()) | set(names) & {"file_name"}:
        raise UserError(f"{rule.where}: expected no column {min(reserved)}, which is added later, got one. Remove it.")
    return rule


def _check(where: str, value: Any, kind: type, expected: str) -> Any:
    if not isinstance(value, kind):
        raise UserError(f"{where}: expected {expected}, got {_kind(value)}. Fix it.")
    return value


def _text(where: str, value: Any) -> str | None:
    return None if value is None else _check(where, value, str, "a column of the data")


def _kind(value: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number")


def _pattern(where: str, text: Any) -> re.Pattern[str]:
    try:
        return re.compile(_check(where, text, str, "a pattern"))
    except re.error as error:
        raise UserError(f"{where}: expected a regular expression, got one with an error ({error.msg}). Fix it.") from None


def _pattern_with_group(where: str, text: Any) -> re.Pattern[str]:
    pattern = _pattern(where, text)
    if not pattern.groups:
        raise UserError(f"{where}: expected a pattern with a group, got none. Write (...) around the value.")
    return pattern


def _check_keys(where: str, value: Any, allowed: Collection[str], needed: Collection[str] = ()) -> None:
    _check(where, value, dict, "a mapping")
    for key in value:
        check_name(where, str(key), allowed, "a key")
    if missing := [key for key in needed if key not in value]:
        raise UserError(f"{where}: expected {missing[0]}, got {', '.join(map(str, value)) or 'nothing'}. Add it.")


def check_name(where: str, name: Any, known: Collection[str], what: str) -> None:
    """Check that a name is one of the known ones, and suggest the closest if it is not."""
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        fix = f"Write {close[0]}" if close else f"Choose one of {', '.join(list(known)[:8])}{', ...' * (len(known) > 8)}"
        raise UserError(f"{where}: expected {what}, got {name}. {fix}.")
