"""The event registry: every MIMIC-IV table that is read, declared once.

To add an event type, add an entry to `_TABLES` below: preprocessing, text, index generation and docs follow it. Names from a
new dictionary also need an entry in `lookups.DICTIONARIES`. docs/new_site.md has an example. docs/data.md explains the order
and times of events and the columns of floats, docs/tasks.md the targets.
"""

from __future__ import annotations

from dataclasses import dataclass

MODULES = ("hosp", "note", "ed", "icu")  # in the order that breaks ties between records of the same time
MISSING = "nan"  # how records spell a missing value
# Texts in raw files that mean a missing value: the defaults of pandas.read_csv, with which the release was made, and the
# NULL of database dumps. Ids, codes and times have further spellings (`values.py`).
MISSING_TEXTS = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null", r"\N",
)  # fmt: skip

# What the columns hold that order, join or label records, in every table. Their values are checked, and brought to MIMIC-IV's
# form, where they are read (`values.py`); other columns are any text. The time of an event (`EventType.time`) is checked, too.
CHECKED_COLUMNS = {
    "number": (
        "subject_id", "hadm_id", "stay_id", "itemid", "icd_version", "seq_num", "note_seq", "hospital_expire_flag",
    ),
    "icd": ("icd_code",),
    "ndc": ("ndc", "ndc_code"),
    "text": ("note_id",),
    "time": (
        "admittime", "dischtime", "deathtime", "dod", "intime", "outtime", "charttime", "chartdate", "starttime", "entertime",
        "ordertime", "transfertime",
    ),
    "storetime": ("storetime", "storedate"),
}  # fmt: skip


@dataclass(frozen=True)
class Lookup:
    """How a key is looked up: the dictionary (see `lookups.py`), and the columns of the record that form its key."""

    source: str
    by: tuple[str, ...]


@dataclass(frozen=True)
class Stored:
    """When the values of a record were stored, which can be long after its time: a laboratory result, or the text of a note.

    `time` is the column of that time, and `keys` are the shown keys whose values it dates; the others (what was ordered or
    done) are known at the record's own time. `time_fallback` is the column used if `time` is missing.
    """

    time: str
    keys: tuple[str, ...]
    time_fallback: str | None = None


@dataclass(frozen=True)
class EventType:
    """A MIMIC-IV table and the event that its records become.

    Attributes:
        name: the table, and the `file_name` of its events.
        module: the module of MIMIC-IV that the table belongs to.
        title: heading of the event in the text; None if the event is not rendered.
        shown: keys shown in the text, in order: those in `lookups` are looked up, the others are columns.
        time: column of the record's time; None if records have no time of their own (see `stay_time`).
        time_fallback: column used if `time` is missing.
        stay_time: column of edstays that gives the time of records, for ED tables without a time.
        stay_offset_s: seconds added to `stay_time`.
        floats: columns formatted as Python formats a float.
        lookups: how the shown keys that are not columns are looked up.
        tie: at most two columns that order records of the same time within the module, as numbers, missing values first.
        tie_rank: order of records with equal `tie`; then the name of the table decides.
        stored: when values were stored; None if MIMIC-IV does not say. Raw files need not have the column.
        untimed_rank: order among the untimed records of an admission, for tables without a time.
        needs: further columns that index generation and labels read.
        identical: share of rows that may be identical to an earlier row without a warning.
        optional: whether a module may lack the table, as is so with tables that MIMIC-IV does not have.
    """

    name: str
    module: str
    title: str | None = None
    shown: tuple[str, ...] = ()
    time: str | None = None
    time_fallback: str | None = None
    stay_time: str | None = None
    stay_offset_s: int = 0
    floats: tuple[str, ...] = ()
    lookups: tuple[tuple[str, Lookup], ...] = ()
    tie: tuple[str, ...] = ()
    tie_rank: int = 0
    stored: Stored | None = None
    untimed_rank: int = 0
    needs: tuple[str, ...] = ()
    identical: float = 0.0
    optional: bool = False

    @property
    def timed(self) -> bool:
        """Whether records have a time, of their own or that of their ED stay."""
        return self.time is not None or self.stay_time is not None

    @property
    def added_columns(self) -> tuple[str, ...]:
        """The keys of records that are no columns of the raw file."""
        return ("file_name", "charttime") if self.stay_time else ("file_name",)

    @property
    def rendered(self) -> bool:
        """Whether events appear in the input of samples."""
        return self.title is not None

    def lookup(self, key: str) -> Lookup | None:
        """How to look up a key, or None if it is a column."""
        return dict(self.lookups).get(key)

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The columns that a raw file must have; other columns are kept as they are.

        >>> EVENTS["omr"].required_columns
        ('subject_id', 'chartdate', 'result_name', 'result_value')
        """
        looked_up = dict(self.lookups)
        columns = ["subject_id", self.time, self.time_fallback, *self.tie, self.stay_time and "stay_id"]
        columns += [key for key in self.shown if key not in looked_up]
        columns += [column for lookup in looked_up.values() for column in lookup.by]
        return tuple(dict.fromkeys(filter(None, (*columns, *self.needs))))


def _item_name(table: str) -> tuple[tuple[str, Lookup], ...]:
    return (("item_name", Lookup(table, ("itemid",))),)


def _coded(key: str) -> tuple[tuple[str, Lookup], ...]:
    by = ("icd_code", "icd_version")
    return (key, Lookup(f"d_icd_{key}", by)), ("CCS Type", Lookup(f"d_ccs_{key}", by))


_ATC = (("ATC Type", Lookup("d_atc_prescriptions", ("ndc",))),)
_VITALS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp")
_RATES = ("amount", "rate", "originalamount", "originalrate")
_ICU = {"module": "icu", "tie": ("hadm_id", "stay_id"), "tie_rank": 1}
_HADM = ("hadm_id",)
_NOTE_STORED = Stored("storetime", ("text",))
_DOSE_STORED = Stored("storetime", ("amount", "amountuom", "rate", "rateuom"))

_TABLES = (
    # --- hosp
    EventType("patients", "hosp", "Patient Demographics", ("anchor_age", "gender"), needs=("dod",)),
    EventType("admissions", "hosp", "Admissions", ("admission_type", "admission_location", "admission_info"),
              time="admittime", needs=("hadm_id", "dischtime", "hospital_expire_flag")),
    EventType("diagnoses_icd", "hosp", "Diagnoses on International Classification of Diseases", ("diagnoses", "CCS Type"),
              lookups=_coded("diagnoses"), untimed_rank=1, needs=_HADM),
    EventType("drgcodes", "hosp", untimed_rank=2, needs=_HADM),
    EventType("emar", "hosp", "Electronic Medicine Administration Record", ("medication", "event_txt"), time="charttime",
              stored=Stored("storetime", ("event_txt",)), needs=_HADM),
    EventType("hcpcsevents", "hosp", time="chartdate", needs=_HADM),
    # "Labotary": as in the released data
    EventType("labevents", "hosp", "Labotary Test Events",
              ("item_name", "valuenum", "valueuom", "ref_range_lower", "ref_range_upper", "flag", "comments"),
              time="charttime", floats=("valuenum", "ref_range_lower", "ref_range_upper"), lookups=_item_name("d_labitems"),
              stored=Stored("storetime", ("valuenum", "valueuom", "ref_range_lower", "ref_range_upper", "flag", "comments")),
              needs=_HADM),
    EventType("microbiologyevents", "hosp", "Microbiology Test Events",
              ("test_name", "dilution_text", "interpretation", "comments", "ab_name"), time="charttime",
              time_fallback="chartdate", floats=("dilution_value",),
              stored=Stored("storetime", ("dilution_text", "interpretation", "comments", "ab_name"), "storedate"),
              needs=_HADM),
    EventType("omr", "hosp", "Online Medical Record", ("result_name", "result_value"), time="chartdate"),
    EventType("pharmacy", "hosp", "Pharmacy", ("medication", "proc_type", "status"), time="entertime",
              floats=("doses_per_24_hrs",), needs=_HADM),
    EventType("poe", "hosp", "Provider Order Entry", ("order_type", "order_subtype"), time="ordertime", needs=_HADM),
    EventType("prescriptions", "hosp", "Prescriptions", ("drug", "ATC Type", "prod_strength", "dose_val_rx", "dose_unit_rx"),
              time="starttime", floats=("doses_per_24_hrs",), lookups=_ATC, needs=_HADM),
    EventType("procedures_icd", "hosp", "Procedures on International Classification of Diseases", ("procedures", "CCS Type"),
              time="chartdate", lookups=_coded("procedures"), needs=_HADM),
    EventType("services", "hosp", "Services", ("curr_service",), time="transfertime", needs=_HADM),
    EventType("transfers", "hosp", "Transfers", ("eventtype", "careunit"), time="intime", needs=_HADM),
    # --- note
    EventType("discharge", "note", "Discharge", ("note_type", "text"), time="charttime", tie=("note_seq",),
              stored=_NOTE_STORED, needs=_HADM),
    EventType("radiology", "note", "Radiology Examinations", ("note_type", "exam_name", "text"), time="charttime",
              tie=("note_seq",), lookups=(("exam_name", Lookup("radiology_detail", ("note_id",))),),
              stored=_NOTE_STORED, needs=_HADM),
    # --- ed
    EventType("edstays", "ed", "EDstays", ("gender", "race"), time="intime", tie=("stay_id",), tie_rank=0,
              needs=("hadm_id", "outtime")),
    EventType("triage", "ed", "Triage", (*_VITALS, "pain", "acuity", "chiefcomplaint"), stay_time="intime", stay_offset_s=1,
              floats=(*_VITALS, "acuity"), tie=("stay_id",), tie_rank=1),
    EventType("medrecon", "ed", "Medrecon", ("name", "ATC Type"), time="charttime", lookups=_ATC, tie=("stay_id",),
              tie_rank=2, identical=0.25),  # a drug listed twice
    EventType("pyxis", "ed", "Pyxis", ("name",), time="charttime", tie=("stay_id",), tie_rank=3),
    EventType("vitalsign", "ed", "Vitalsign", (*_VITALS, "pain", "rhythm"), time="charttime", floats=_VITALS,
              tie=("stay_id",), tie_rank=4),
    EventType("diagnosis", "ed", "ED Diagnoses on International Classification of Diseases", ("icd_title", "CCS Type"),
              stay_time="outtime", lookups=_coded("diagnoses")[1:], tie=("stay_id",), tie_rank=5),
    # --- icu
    EventType("icustays", title="ICUstays", time="intime", floats=("los",), **{**_ICU, "tie_rank": 0},
              needs=("outtime",)),
    EventType("chartevents", title="Chart Events", shown=("item_name", "valuenum", "valueuom", "warning"), time="charttime",
              floats=("valuenum",), lookups=_item_name("d_items"),
              stored=Stored("storetime", ("valuenum", "valueuom", "warning")), identical=0.25,  # 12 % in the demo
              **_ICU),
    EventType("datetimeevents", title="Datetime Events", shown=("item_name",), time="charttime",
              lookups=_item_name("d_items"), stored=Stored("storetime", ("item_name",)), **_ICU),
    EventType("ingredientevents", title="Ingredient Events", shown=("item_name", "amount", "amountuom", "rate", "rateuom"),
              time="starttime", floats=_RATES, lookups=_item_name("d_items"), stored=_DOSE_STORED, **_ICU),
    EventType("inputevents", title="Input Events", shown=("item_name", "amount", "amountuom", "rate", "rateuom"),
              time="starttime", floats=(*_RATES, "patientweight", "totalamount"), lookups=_item_name("d_items"),
              stored=_DOSE_STORED, **_ICU),
    EventType("outputevents", title="Output Events", shown=("item_name", "value", "valueuom"), time="charttime",
              floats=("value",), lookups=_item_name("d_items"), stored=Stored("storetime", ("value", "valueuom")), **_ICU),
    EventType("procedureevents", title="Procedure Events",
              shown=("item_name", "value", "valueuom", "location", "locationcategory"), time="starttime",
              floats=("value", "patientweight", "ORIGINALAMOUNT", "ORIGINALRATE"), lookups=_item_name("d_items"),
              stored=Stored("storetime", ("value", "valueuom", "location", "locationcategory")), **_ICU),
)  # fmt: skip

EVENTS: dict[str, EventType] = {event.name: event for event in _TABLES}  # every table that is read, by name
COLUMN_KINDS = {event.time: "time" for event in _TABLES if event.time}
COLUMN_KINDS |= {column: kind for kind, columns in CHECKED_COLUMNS.items() for column in columns}

DICTIONARY_TABLES = {  # raw tables that are copied to `index_mapping/`, by module
    "hosp": ("d_hcpcs", "d_icd_diagnoses", "d_icd_procedures", "d_labitems"),
    "icu": ("d_items",),
    "note": ("radiology_detail", "discharge_detail"),
}
