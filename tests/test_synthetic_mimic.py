"""The synthetic MIMIC-IV: shape, keys, reproducibility, and labels that the records explain."""

from __future__ import annotations

import csv
import gzip
import math
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import REPO, command

from mimiciv_dataset.events import DICTIONARY_TABLES, EVENTS
from mimiciv_dataset.tasks import TASKS
from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError
from pipeline.work import Workers
from preprocess import synthetic_mimic
from preprocess.synthetic import vocab
from preprocess.synthetic.batch import Batch
from preprocess.synthetic.outcomes import drawn_outcomes
from preprocess.synthetic.visits import simulate
from preprocess.synthetic.vocab import CONDITIONS, INDICATORS, OUTCOMES, SIGNS, TABLES, Sign
from preprocess.synthetic_mimic import Settings, batch_tables, write_tables

BATCH = Settings.batch_size
RARE = {"ICU_Stay_14day": 0.05}


def make(root: Path, *flags: object) -> Path:
    synthetic_mimic.main(["--root_dir", str(root), *map(str, flags)])
    return root / "mimiciv"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with gzip.open(folder / f"{name}.csv.gz", "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def truth(root: Path) -> list[dict[str, str]]:
    with (root / "mimiciv/synthetic_truth.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 patients taken through the real commands."""
    root = tmp_path_factory.mktemp("synthetic")
    for script in ("synthetic_mimic", "merge_patient", "rank", "combination", "build_index_mapping", "split_patients"):
        command(f"preprocess/{script}.py", "--root_dir", root)
    command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", root)
    return root


@pytest.fixture(scope="module")
def index(root: Path) -> dict[str, list[dict[str, str]]]:
    tables = {}
    for task in TASKS:
        with (root / f"task_index/all/{task}.csv").open(newline="", encoding="utf-8") as file:
            tables[task] = list(csv.DictReader(file))
    return tables


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first, again, other = (contents(make(tmp_path / name, "--patients", 3, "--seed", seed)) for name, seed in
                           (("a", 5), ("b", 5), ("c", 6)))  # fmt: skip
    assert first == again
    assert first["hosp/patients.csv.gz"] != other["hosp/patients.csv.gz"]


def test_more_patients_and_more_workers_keep_the_first(tmp_path: Path) -> None:
    """Also where the shorter set ends inside a batch that the longer one goes beyond."""
    counts = [write_tables(tmp_path / "few", Settings(11, compress=False, batch_size=8))]
    counts.append(write_tables(tmp_path / "many", Settings(20, compress=False, batch_size=8), workers=Workers(2)))
    assert all(0 < counts[0][name] <= counts[1][name] for name in TABLES)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert few.keys() == many.keys()
    in_full = [name for name in few if name != "synthetic_truth.csv"]
    for name in in_full:
        assert many[name].startswith(few[name]), name
    assert sum(len(many[name]) > len(few[name]) for name in in_full) > 28
    assert set(few["synthetic_truth.csv"].splitlines()) < set(many["synthetic_truth.csv"].splitlines())


def test_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "mimiciv"
    folder.mkdir()
    make(tmp_path, "--patients", 1)
    with pytest.raises(UserError, match="empty"):
        make(tmp_path, "--patients", 1)
    maps = tmp_path / "index_mapping/hosp/d_ccs_diagnoses.csv"
    maps.write_text("icd_code,icd_version,long_title\n0010,9,from elsewhere\n")
    with pytest.raises(UserError, match="another"):
        make(tmp_path, "--patients", 1, "--output_path", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("flags", [("--patients", 0), ("--patients", 10**7), ("--seed", -1)])
def test_refuses_bad_numbers(tmp_path: Path, flags: tuple) -> None:
    done = command("preprocess/synthetic_mimic.py", "--root_dir", tmp_path, *flags, check=False)
    assert done.returncode == 2 and flags[0] in done.stderr
    assert not any(tmp_path.iterdir())


def test_vocabulary_columns_and_values_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocab, "FOLDER", tmp_path)
    path = tmp_path / "labs.csv"
    types = {"itemid": int, "label": str, "low": float, "limits": list[float]}
    good = "itemid,label,low,limits\n1,a,0.5,1|2\n"
    path.write_text(good)
    assert vocab.read_vocabulary("labs", **types).rows() == [(1, "a", 0.5, [1.0, 2.0])]
    for text, problem in (
        ("itemid,label\n1,a\n", "columns"),
        (good.replace("0.5", "x"), "line 2"),
        (good + "2,a\n", "line 3"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"labs.csv.*{problem}"):
            vocab.read_vocabulary("labs", **types)


def test_vocabulary_is_packaged() -> None:
    packaged = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert packaged["preprocess.synthetic"] == ["vocabulary/*.csv"]


def test_all_tables_and_columns(root: Path) -> None:
    assert set(TABLES) == set(EVENTS)
    for name, table in TABLES.items():
        assert table.module == EVENTS[name].module
        with gzip.open(root / f"mimiciv/{table.module}/{name}.csv.gz", "rt", encoding="utf-8") as file:
            assert file.readline().strip().split(",") == list(table.columns)
            assert file.readline()
    for module, names in DICTIONARY_TABLES.items():
        for name in names:
            assert len(rows(root / "mimiciv" / module, name)) > 4


def test_shape_is_the_demos(tmp_path: Path) -> None:
    """Shares and sizes of rows near those of the open demo, over enough patients for the long ICU stays to even out."""
    count, size = dict.fromkeys(TABLES, 0), dict.fromkeys(TABLES, 0)
    for k in range(3):
        tables = batch_tables(Settings(BATCH), k, BATCH)
        for name in TABLES:
            count[name] += tables[name].height
            text = tables[name].write_csv(include_header=False, datetime_format="%Y-%m-%d %H:%M:%S")
            size[name] += len(text.encode())
    total = sum(count.values())
    assert 1900 < total / (3 * BATCH) < 3000
    expected = sum(t.share * t.row_bytes for t in TABLES.values()) / 100
    assert sum(size.values()) / total == pytest.approx(expected, rel=0.2)
    for name, table in TABLES.items():
        if table.share > 0.5:
            assert 100 * count[name] / total == pytest.approx(table.share, rel=0.2), name
            assert size[name] / count[name] == pytest.approx(table.row_bytes, rel=0.2), name


def test_trajectories_are_of_usual_length(root: Path) -> None:
    reader = Trajectories(root / "patients_ehr")
    lengths = [reader.length(subject) for subject in reader.subject_ids()]
    assert len(lengths) == 200
    assert 200 < sum(lengths) / 200 < 420
    assert sum(20 <= n <= 1200 for n in lengths) > 0.93 * 200


def test_keys_agree(root: Path) -> None:
    mimic = root / "mimiciv"
    subjects = {r["subject_id"] for r in rows(mimic / "hosp", "patients")}
    admissions = {(r["subject_id"], r["hadm_id"]) for r in rows(mimic / "hosp", "admissions")}
    ed_rows, icu_rows = rows(mimic / "ed", "edstays"), rows(mimic / "icu", "icustays")
    stays = {(r["subject_id"], r["stay_id"]) for r in [*ed_rows, *icu_rows]}
    assert len({hadm for _, hadm in admissions}) == len(admissions)
    assert len({stay for _, stay in stays}) == len(ed_rows) + len(icu_rows)
    orders = {r["poe_id"] for r in rows(mimic / "hosp", "poe")}
    for name, table in TABLES.items():
        records = rows(mimic / table.module, name)
        assert {r["subject_id"] for r in records} <= subjects, name
        if "hadm_id" in table.columns:
            assert {(r["subject_id"], r["hadm_id"]) for r in records if r["hadm_id"]} <= admissions, name
        if "stay_id" in table.columns:
            assert {(r["subject_id"], r["stay_id"]) for r in records} <= stays, name
        if "poe_id" in table.columns:
            assert {r["poe_id"] for r in records if r["poe_id"]} <= orders, name
        if "itemid" in table.columns:
            items = ("hosp", "d_labitems") if name == "labevents" else ("icu", "d_items")
            known = {r["itemid"] for r in rows(mimic / items[0], items[1])}
            assert {r["itemid"] for r in records} <= known, name
    for name, dictionary in (("diagnoses_icd", "d_icd_diagnoses"), ("procedures_icd", "d_icd_procedures")):
        known = {(r["icd_code"], r["icd_version"]) for r in rows(mimic / "hosp", dictionary)}
        assert {(r["icd_code"], r["icd_version"]) for r in rows(mimic / "hosp", name)} <= known
    notes = {r["note_id"] for r in rows(mimic / "note", "radiology")}
    assert {r["note_id"] for r in rows(mimic / "note", "radiology_detail")} == notes


def test_quirks_are_there(root: Path) -> None:
    mimic = root / "mimiciv"
    prescriptions, ed = rows(mimic / "hosp", "prescriptions"), rows(mimic / "ed", "edstays")
    assert any(r["ndc"] == "0" for r in prescriptions) and any(r["ndc"].startswith("00") for r in prescriptions)
    assert {"0.9% Sodium Chloride", "*NF* Bosentan"} <= {r["drug"] for r in prescriptions}
    with gzip.open(mimic / "hosp/prescriptions.csv.gz", "rt", encoding="utf-8") as file:
        assert ',"",' in file.read()
    assert any(not r["hadm_id"] for r in ed) and any(r["hadm_id"] for r in ed)
    assert any(not r["hadm_id"] for r in rows(mimic / "note", "radiology"))
    assert any(not r["entertime"] for r in rows(mimic / "hosp", "pharmacy"))
    codes = {(r["icd_code"], r["icd_version"]) for r in rows(mimic / "hosp", "diagnoses_icd")}
    assert any(code.startswith("0") and version == "9" for code, version in codes)
    assert any(version == "10" for _, version in codes)
    assert all(len(r["dod"]) in (0, 10) for r in rows(mimic / "hosp", "patients"))
    by_hadm = {r["hadm_id"]: r for r in ed if r["hadm_id"]}
    started = [r for r in rows(mimic / "hosp", "admissions") if r["hadm_id"] in by_hadm]
    assert started
    for r in started:
        assert by_hadm[r["hadm_id"]]["intime"] <= r["admittime"]
    early = sum(r["admittime"] <= by_hadm[r["hadm_id"]]["outtime"] for r in started)
    assert 0.2 < early / len(started) < 0.6, "some admissions are entered while the patient is still in the ED, some later"


def test_death_ends_a_record(root: Path) -> None:
    mimic = root / "mimiciv"
    dod = {r["subject_id"]: r["dod"] for r in rows(mimic / "hosp", "patients")}
    dead = 0
    for r in rows(mimic / "hosp", "admissions"):
        died = r["hospital_expire_flag"] == "1"
        assert died == bool(r["deathtime"])
        if died:
            assert r["deathtime"] == r["dischtime"] and dod[r["subject_id"]] == r["dischtime"][:10]
            dead += 1
        elif dod[r["subject_id"]]:
            assert r["dischtime"][:10] < dod[r["subject_id"]]
    assert dead


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_rows(index: dict[str, list[dict[str, str]]], task: str) -> None:
    """Enough rows, windows of the length the benchmark samples, and both labels of each risk task."""
    samples = index[task]
    assert len(samples) > 40
    usual = [r for r in samples if 10 < int(r["context_end"]) - int(r["context_begin"]) < 100]
    assert len(usual) > 0.3 * len(samples)
    if TASKS[task].kind == "risk":
        yes = sum("yes" in r["target"].lower() for r in usual) / len(usual)
        assert RARE.get(task, 0.1) <= min(yes, 1 - yes), yes


def auroc(pairs: list[tuple[float, bool]]) -> float:
    """Chance that a yes has the higher score.

    >>> auroc([(0.1, False), (0.9, True), (0.1, True)])
    0.75
    """
    yes, no = [p for p, y in pairs if y], [p for p, y in pairs if not y]
    return sum((a > b) + 0.5 * (a == b) for a in yes for b in no) / (len(yes) * len(no))


def test_drawn_outcomes_are_the_labels(root: Path, index: dict[str, list[dict[str, str]]]) -> None:
    """The outcomes drawn are the labels that the rules read from the records."""
    drawn: dict[str, dict[tuple[str, str], list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for r in truth(root):
        key = (r["subject_id"], "" if r["task"].startswith("ED_") else r["hadm_id"])
        drawn[r["task"]][key].append(r)
    assert set(drawn) == {name for name, task in TASKS.items() if task.kind == "risk"}
    for task, by_key in drawn.items():
        read = defaultdict(list)
        for r in index[task]:
            read[r["subject_id"], "" if task.startswith("ED_") else r["hadm_id"]].append("yes" in r["target"].lower())
        seen = same = 0
        for key, rows_ in by_key.items():
            if len(read[key]) >= len(rows_):  # a second ICU stay of an admission has no truth
                for r, label in zip(rows_, read[key], strict=False):
                    seen += 1
                    same += label == (r["outcome"] == "1")
        assert seen > 0.7 * sum(map(len, by_key.values())), task
        assert same >= 0.98 * seen, task


KEY = ("subject_id", "hadm_id", "stay_id", "task")


def test_causes_give_the_probabilities(root: Path) -> None:
    """Each probability is the sum of its terms: coefficient × product of the events' sigmoid(sum of log-odds)."""
    log_odds: dict[tuple, dict[tuple, dict[str, float]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(float)))
    for r in rows(root / "mimiciv", "synthetic_causes"):
        key = tuple(r[name] for name in KEY)
        log_odds[key][r["term"], float(r["coefficient"])][r["event"]] += float(r["log_odds"])
    drawn = {tuple(r[name] for name in KEY): float(r["probability"]) for r in truth(root)}
    assert log_odds.keys() == drawn.keys()
    for key, probability in drawn.items():
        terms = (
            coefficient * math.prod(1 / (1 + math.exp(-total)) for total in events.values())
            for (_, coefficient), events in log_odds[key].items()
        )
        assert sum(terms) == pytest.approx(probability, abs=1e-6), key


def test_causes_are_the_indicators_and_the_condition_of_the_visit(root: Path) -> None:
    batch = Batch(0, 0, BATCH, 200)
    indicators, conditions = defaultdict(set), {}
    for visit in range(len(batch.visits.start)):
        names = {name for name, has in zip(INDICATORS, batch.visits.indicators[visit], strict=True) if has}
        subject = str(batch.subject[batch.visits.patient[visit]])
        for key in {(subject, str(batch.hadm[visit])), (subject, str(batch.ed_stay[visit]))}:
            indicators[key], conditions[key] = names, CONDITIONS[batch.visits.condition[visit]].name
    places = {(sign.indicator, sign.table, sign.item, sign.value) for sign in SIGNS}
    acting = 0
    for r in rows(root / "mimiciv", "synthetic_causes"):
        key = (r["subject_id"], r["hadm_id"] or r["stay_id"])
        assert r["condition"] == conditions[key]
        if r["cause"] in INDICATORS:
            acting += 1
            assert r["cause"] in indicators[key]
            assert (r["cause"], r["table"], r["item"], r["value"]) in places, "every cause has a sign in the task's window"
    assert acting > 1000


def test_a_perfect_model_does_well_but_not_too_well() -> None:
    """AUROC of the probabilities themselves; that many patients make chance small."""
    pairs = defaultdict(list)
    for k in range(10):
        for drawn in drawn_outcomes(simulate(0, k, BATCH).visits):
            pairs[drawn.task] += zip(drawn.probability[::2].tolist(), drawn.outcome[::2].tolist(), strict=True)
    optimum = {task: auroc(drawn_pairs) for task, drawn_pairs in pairs.items()}
    assert all(0.83 < value < 0.97 for value in optimum.values()), optimum
    assert sum(0.85 <= value <= 0.93 for value in optimum.values()) >= 12, optimum


WINDOWS = {
    "hospital": ("ED_Hospitalization", "ed"), "transfer": ("ED_ICU_Tranfer_12hour", "ed"),
    "stay": ("LengthOfStay_7day", "adm"),
    "death": ("ICU_Mortality_7day", "icu"), "icu return": ("ICU_Readmission", "icu"),
    "readmission": ("Readmission_60day", "end"),
}  # fmt: skip


@pytest.mark.parametrize("outcome", WINDOWS)
def test_windows_show_the_indicators(root: Path, index: dict[str, list[dict[str, str]]], outcome: str) -> None:
    """A window has the sign of each indicator that the outcome was drawn from, and of no other."""
    task, window = WINDOWS[outcome]
    signs = [s for s in SIGNS if s.window == window and s.indicator in OUTCOMES[outcome].indicators]
    assert {s.indicator for s in signs} == set(OUTCOMES[outcome].indicators)
    assert len({s.table for s in signs}) >= 3
    items = {(r["linksto"], r["label"]): r["itemid"] for r in rows(root / "mimiciv/icu", "d_items")}
    items |= {("labevents", r["label"]): r["itemid"] for r in rows(root / "mimiciv/hosp", "d_labitems")}
    reader = Trajectories(root / "patients_ehr")
    batch = Batch(0, 0, BATCH, 200)
    visits = defaultdict(list)
    for visit in batch.ed if window == "ed" else batch.adm:
        subject = str(batch.subject[batch.visits.patient[visit]])
        visits[subject, "" if window == "ed" else str(batch.hadm[visit])].append(visit)
    agreed = compared = 0
    for r in index[task]:
        remaining = visits[r["subject_id"], "" if window == "ed" else r["hadm_id"]]
        if not remaining:  # an admission's second ICU stay
            continue
        visit = remaining.pop(0)
        end = int(r["context_end"]) + (window == "end" and reader.length(r["subject_id"]) > int(r["context_end"]))
        records = defaultdict(list)
        for event in reader.events(r["subject_id"], range(int(r["context_begin"]), end)):
            records[event.file_name] += event.records().dicts()
        for sign in signs:
            drawn = bool(batch.visits.indicators[visit, INDICATORS.index(sign.indicator)])
            agreed += drawn == any(_shows(sign, record, items) for record in records[sign.table])
            compared += 1
    assert compared > 300
    assert agreed > 0.97 * compared


def _shows(sign: Sign, record: dict[str, str], items: dict[tuple[str, str], str]) -> bool:
    """Whether a record carries the sign."""
    cells = {key: value.removesuffix(".0") for key, value in record.items() if isinstance(value, str)}
    if sign.table in ("vitalsign", "triage"):
        return cells[sign.item] == sign.value
    if sign.table == "discharge":
        return sign.item in cells["text"]
    names = {"0DN80ZZ", "5459"} if sign.table == "procedures_icd" else {items.get((sign.table, sign.item), sign.item)}
    values = set(cells.values())
    return bool(names & values) and (not sign.value or sign.value in values)
