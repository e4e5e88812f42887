"""Concepts of events: search, negation, lexicons, both matchers, the command, and its errors."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import REPO, TEST_DATA, command
from hypothesis import given
from hypothesis import strategies as st
from test_resume import digests
from tiny_mimic import Tables, write_mimic
from tiny_rrf import CONCEPTS, write_rrf

from pipeline.errors import UserError
from thinking_graph_preprocess.concept_extraction import main
from thinking_graph_preprocess.concept_lexicon import Lexicon, find_or_build
from thinking_graph_preprocess.matchers import DictionaryMatcher, QuickUMLSMatcher
from thinking_graph_preprocess.term_search import PhraseTable, hashes, tokens

SCRIPT = "thinking_graph_preprocess/concept_extraction.py"

NOTE = """\
Service: MEDICINE

Chief Complaint:
Thoracic pain

History of Present Illness:
___ with type-2 diabetes and HYPERTENSION who denies fever, chills or chest pain, but has pneumonia on the film and was
given aspirin. Congestive heart failure was ruled out. Heart failure in the past. Return if pyrexia develops.

Family History:
Father had a stroke.
Asthma in many.

Discharge Diagnosis:
Urinary tract infection
"""

MENTIONS = {
    ("chest pain", "C0008031", False), ("chest pain", "C0008031", True), ("diabetes mellitus, type 2", "C0011860", False),
    ("hypertensive disease", "C0020538", False), ("fever", "C0015967", True), ("pneumonia", "C0032285", False),
    ("aspirin", "C0004057", False), ("congestive heart failure", "C0018802", True), ("heart failure", "C0018801", False),
    ("asthma", "C0004096", True), ("urinary tract infection", "C0042029", False),
}  # fmt: skip
"""The mentions in `NOTE` of terms of `tiny_rrf`: (concept, CUI, negated)."""


# --- search


words = st.lists(st.sampled_from("abcd"), min_size=1, max_size=4)


@given(st.lists(words, max_size=8), st.lists(st.sampled_from("abcd."), max_size=40))
def test_search_is_leftmost_longest(phrases: list[list[str]], text: list[str]) -> None:
    table = PhraseTable.build((phrase, i) for i, phrase in enumerate(phrases))
    expected, at = [], 0
    while at < len(text):
        length = max((len(p) for p in phrases if text[at : at + len(p)] == p), default=0)
        if length:
            expected.append((at, at + length, phrases.index(text[at : at + length])))
        at += length or 1
    assert table.find(hashes(text)) == expected
    assert [table.value(phrase) for phrase in phrases] == [phrases.index(phrase) for phrase in phrases]


@given(st.text(st.sampled_from("aZ9é ,.:;-\n")))
def test_tokens_begin_at_their_positions(text: str) -> None:
    found, starts = tokens(text)
    assert starts == sorted(set(starts))
    for word, start in zip(found, starts, strict=True):
        if word.isalnum():
            assert text.startswith(word, start)


# --- negation


@pytest.mark.parametrize(
    ("text", "asserted", "negated"),
    [
        ("No fever, chest pain or pneumonia.", [], ["fever", "chest pain", "pneumonia"]),
        ("No fever. Chest pain.", ["chest pain"], ["fever"]),
        ("no fever\nchest pain", ["chest pain"], ["fever"]),  # a short line is a sentence
        ("The film of the chest that was taken on admission shows no evidence of\npneumonia.", [], ["pneumonia"]),
        ("Denies fever but has chest pain", ["chest pain"], ["fever"]),
        ("Pneumonia was ruled out", [], ["pneumonia"]),
        ("Aspirin given; pneumonia unlikely", ["aspirin"], ["pneumonia"]),
        ("ROS: negative for fever", [], ["fever"]),
        ("Mother has asthma, father diabetes", [], ["asthma", "diabetes mellitus"]),
        ("FH: diabetes\nand asthma\n\nAspirin", ["aspirin"], ["diabetes mellitus", "asthma"]),
        ("Call for fever, return if chest pain", [], ["fever", "chest pain"]),
        ("insulin as needed for pain", ["insulin"], ["pain"]),
        ("Gram negative pneumonia", ["pneumonia"], []),
        ("Pneumonia, no change. Not only fever", ["pneumonia", "fever"], []),
        ("- no fever\n- asthma", ["asthma"], ["fever"]),
        ("fever; chest pain: none", ["fever"], ["chest pain"]),
    ],
)  # fmt: skip
def test_negation(umls: DictionaryMatcher, text: str, asserted: list[str], negated: list[str]) -> None:
    mentions = list(umls.mentions(text))
    assert [m.name for m in mentions if not m.negated] == asserted
    assert [m.name for m in mentions if m.negated] == negated


# --- lexicons


@pytest.fixture(scope="module")
def rrf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rrf(tmp_path_factory.mktemp("umls"))


@pytest.fixture(scope="module")
def umls(rrf: Path, tmp_path_factory: pytest.TempPathFactory) -> DictionaryMatcher:
    return DictionaryMatcher(Lexicon.read(find_or_build(tmp_path_factory.mktemp("lexicon"), rrf, Path("none"), Path("none"))))


def test_umls_lexicon(umls: DictionaryMatcher) -> None:
    lexicon = umls.lexicon
    assert len(lexicon) == len(CONCEPTS) - 1  # a patient is no finding
    for cui, (kind, preferred, *others) in CONCEPTS.items():
        for term in (preferred, *others):
            assert umls.cui_of(term.upper()) == (cui if kind != "T101" else None), term
        if kind != "T101":
            assert lexicon.name(lexicon.of_cui(cui)) == preferred.casefold()
    assert lexicon.of_term("Pump failure") is None and lexicon.of_term("Herzinsuffizienz") is None
    assert lexicon.of_cui("C0000000") is None and lexicon.of_cui("C0030705") is None


def test_every_span_is_found(umls: DictionaryMatcher) -> None:
    mentions = list(umls.mentions(NOTE))
    assert {(m.name, m.cui, m.negated) for m in mentions} == MENTIONS
    assert [m.name for m in umls.mentions("asthma, asthma; ASTHMA")] == ["asthma"] * 3
    assert list(umls.mentions("")) == []


def test_a_cue_inside_a_name_negates_nothing(tmp_path: Path) -> None:
    (tmp_path / "map/hosp").mkdir(parents=True)
    name = "Diabetes mellitus without mention of complication, not stated as uncontrolled"
    (tmp_path / "map/hosp/d_icd_diagnoses.csv").write_text(f'icd_code,icd_version,long_title\n25000,9,"{name}"\n401,9,No\n')
    matcher = DictionaryMatcher(Lexicon.read(find_or_build(tmp_path / "lexicon", None, tmp_path / "map", tmp_path)))
    assert [(m.name, m.cui, m.cue) for m in matcher.mentions(f"History of {name}.")] == [(name.casefold(), None, None)]
    assert [(m.name, m.cui, m.cue) for m in matcher.mentions(f"No {name}.")] == [(name.casefold(), None, "No")]


def test_free_lexicon(tmp_path: Path) -> None:
    (tmp_path / "map/icu").mkdir(parents=True)
    (tmp_path / "map/icu/d_items.csv").write_text("itemid,label\n1,Heart Rate\n2,24\n3,The\n4,heart-rate\n")
    (tmp_path / "cache/item_set").mkdir(parents=True)
    (tmp_path / "cache/item_set/emar.csv").write_text("item\nHeparin  Sodium\n")
    folder = find_or_build(tmp_path / "lexicon", None, tmp_path / "map", tmp_path / "cache")
    lexicon = Lexicon.read(folder)
    names = {lexicon.name(i) for i in range(len(lexicon)) if lexicon.of_term(lexicon.name(i)) == i}
    assert names == {"heart rate", "heparin sodium"} and lexicon.cui(0) is None
    built = digests(folder)
    assert find_or_build(tmp_path / "lexicon", None, tmp_path / "map", tmp_path / "cache") == folder
    assert digests(folder) == built
    (tmp_path / "cache/item_set/emar.csv").write_text("item\nWarfarin\n")
    assert find_or_build(tmp_path / "lexicon", None, tmp_path / "map", tmp_path / "cache") != folder


def test_terms_of_titles(tmp_path: Path) -> None:
    """Notes do not write titles: rules and a table give other terms; acronyms count in capitals; junk is no term."""
    (tmp_path / "map/hosp").mkdir(parents=True)
    (tmp_path / "map/icu").mkdir()
    titles = [
        "Pneumonia, unspecified organism", "Essential (primary) hypertension", "Diabetes mellitus, type 2", "Sepsis",
        "Unspecified asthma, uncomplicated", "Other ascites", "Pulmonary embolism", "Acute myocardial infarction", "Activity",
        "Human immunodeficiency virus [HIV] disease", "Malignant neoplasm of stomach, unspecified",
        "Sepsis, unspecified organism",
    ]  # fmt: skip
    lines = [f'{i},10,"{title}"\n' for i, title in enumerate(titles)]
    (tmp_path / "map/hosp/d_icd_diagnoses.csv").write_text(f"icd_code,icd_version,long_title\n{''.join(lines)}")
    (tmp_path / "map/icu/d_items.csv").write_text("itemid,label\n1,Behavior\n2,Foley\n")
    lexicon = Lexicon.read(find_or_build(tmp_path / "lexicon", None, tmp_path / "map", tmp_path))
    expected = {
        "pneumonia": 0, "PNA": 0, "hypertension": 1, "essential hypertension": 1, "htn": 1, "type 2 diabetes mellitus": 2,
        "T2DM": None, "sepsis": 3, "asthma": 4, "ascites": 5, "PE": 6, "myocardial infarction": 7, "MI": 7, "AIDS": 9,
        "stomach cancer": 10, "activity": None, "behavior": None, "foley": None,
    }  # fmt: skip
    for term, number in expected.items():
        concept = lexicon.of_term(term)
        assert (concept if concept is None else lexicon.name(concept)) == (
            None if number is None else titles[number].casefold()
        )
    found = [
        m.name for m in DictionaryMatcher(lexicon).mentions("PE and MI, hearing aids, pe class. PEs. Stable activity.\nPE: ok")
    ]
    assert found == ["pulmonary embolism", "acute myocardial infarction", "pulmonary embolism"]


def test_free_lexicon_knows_what_notes_say(tmp_path: Path) -> None:
    """At least 85 % of the mentions of the shared sentences, with the titles of the MIMIC-IV demo."""
    path, demo = TEST_DATA / "cases/graph/negation_sentences.py", TEST_DATA / "data/mimic-iv-demo/hosp/d_icd_diagnoses.csv.gz"
    if not (path.exists() and demo.exists()):
        pytest.skip(f"no sentences or demo in {TEST_DATA}: set EHR_TEST_DATA")
    (tmp_path / "map/hosp").mkdir(parents=True)
    shutil.copy(demo, tmp_path / "map/hosp")
    lexicon = Lexicon.read(find_or_build(tmp_path / "lexicon", None, tmp_path / "map", tmp_path))
    terms = [term for *_, gold in runpy.run_path(str(path))["S"] for term in gold]
    assert len(terms) == 152 and sum(lexicon.of_term(term) is not None for term in terms) >= 0.85 * 152


# --- the command


def notes_of(text: str, patients: int = 4) -> Tables:
    """The tables of patients who each have a radiology report and a note in an admission, and orders after them."""
    tables: Tables = {}

    def add(table: str, patient: int, **row: str) -> None:
        tables.setdefault(table, []).append({"subject_id": str(patient), "hadm_id": str(100 + patient), **row})

    for i in range(1, patients + 1):
        day = "2150-01-01"
        tables.setdefault("patients", []).append({"subject_id": str(i), "gender": "F", "anchor_age": "70"})
        add("admissions", i, admittime=f"{day} 10:00:00", dischtime="2150-01-05 12:00:00", admission_type="URGENT")
        add("radiology", i, note_id=f"{i}-RR-1", charttime=f"{day} 11:00:00", text="FINDINGS:\nNo pneumonia. Asthma.\n")
        add("discharge", i, note_id=f"{i}-DS-2", charttime=f"{day} 12:00:00", text=text)
        for hour, drug in ((13, " Aspirin"), (14, "nan"), (14, "INSULIN  Lispro")):
            add("emar", i, charttime=f"{day} {hour}:00:00", medication=drug)
        add("poe", i, ordertime=f"{day} 13:30:00", order_type="Lab")
    return tables


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datas/ folder of patients with notes, in several shards, with both kinds of index."""
    root = tmp_path_factory.mktemp("noted")
    write_mimic(root / "mimiciv", notes_of(NOTE))
    command("preprocess/merge_patient.py", "--root_dir", root, "--buckets", 3)
    command("preprocess/rank.py", "--root_dir", root)
    command("preprocess/combination.py", "--root_dir", root)
    command("preprocess/combination.py", "--root_dir", root, "--layout", "patient", "--output_path", root / "files")
    command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", root)
    command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", root, "--group", "patient",
            "--output_path", root / "task_index/patient")  # fmt: skip
    return root


def extract(root: Path, output: Path, *flags: object, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    quiet = {"QUICKUMLS": "", "QUICK_UMLS": ""}
    return command(SCRIPT, "--root_dir", root, "--output_path", output, *flags, check=check, **{**quiet, **env})


def rows(output: Path) -> list[dict]:
    return [row for path in sorted(output.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def extracted(noted: Path, rrf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("concepts") / "concepts"
    done = extract(noted, output, "--umls_dir", rrf)
    assert "concepts of 4 patients" in done.stdout
    return output


def test_concepts_of_events(extracted: Path, noted: Path) -> None:
    found = rows(extracted)
    assert {path.stem for path in extracted.glob("*.parquet")} <= {
        path.stem for path in (noted / "patients_ehr").glob("*.arrow")
    }
    assert {row["subject_id"] for row in found} == set("1234")
    mine = [row for row in found if row["subject_id"] == "2"]
    assert [row["event_id"] for row in mine] == sorted(row["event_id"] for row in mine)
    note = {(r["concept"], r["cui"], r["negated"]) for r in mine if r["key"] == "text"}
    assert note == MENTIONS | {("pneumonia", "C0032285", True), ("asthma", "C0004096", False)}
    fields = [(r["key"], r["concept"], r["cui"], r["negated"]) for r in mine if r["key"] != "text"]
    assert fields == [
        ("admissions", "urgent", None, False), ("emar", "aspirin", "C0004057", False), ("poe", "lab", None, False),
        ("emar", "insulin lispro", None, False),
    ]  # fmt: skip
    assert len({tuple(row.values()) for row in found}) == len(found)


def test_any_way_of_running_gives_the_same_bytes(extracted: Path, noted: Path, rrf: Path, tmp_path: Path) -> None:
    expected = digests(extracted)
    whole = {name: digest for name, digest in expected.items() if name.endswith(".parquet")}
    extract(noted, tmp_path / "two", "--umls_dir", rrf, "--num_workers", 2)
    assert digests(tmp_path / "two") == expected
    for i in range(2):
        extract(noted, tmp_path / "chunks", "--umls_dir", rrf, "--chunk_num", 2, "--chunk_idx", i)
    assert digests(tmp_path / "chunks") == expected
    extract(noted, tmp_path / "all", "--umls_dir", rrf, "--data_index_dir", noted / "task_index/all")
    assert {k: v for k, v in digests(tmp_path / "all").items() if k in whole} == whole
    lost = min((tmp_path / "two").glob("*.parquet"))
    lost.unlink()
    refused = extract(noted, tmp_path / "two", "--umls_dir", rrf, check=False)
    assert refused.returncode == 2 and f"missing ({lost.name})" in refused.stderr and "--overwrite" in refused.stderr
    extract(noted, tmp_path / "two", "--umls_dir", rrf, "--overwrite")
    assert digests(tmp_path / "two") == expected


def test_released_layout(extracted: Path, noted: Path, rrf: Path, tmp_path: Path) -> None:
    extract(noted, tmp_path / "files", "--umls_dir", rrf, "--ehr_dir", noted / "files")
    assert [path.name for path in (tmp_path / "files").glob("*.parquet")] == ["patients-00000.parquet"]

    def key(row: dict) -> tuple:
        return int(row["subject_id"]), row["event_id"]

    assert sorted(rows(tmp_path / "files"), key=key) == sorted(rows(extracted), key=key)


def test_admission_info_is_read(noted: Path, rrf: Path, tmp_path: Path) -> None:
    """A released admissions record may have parts of the note known on admission, as an object."""
    import json

    import pyarrow as pa

    (tmp_path / "ehr").mkdir()
    table = pq.read_table(noted / "files/1.parquet")
    events = table.to_pylist()
    for event in events:
        if event["file_name"] == "admissions":
            items = json.loads(event["items"])
            items[0]["admission_info"] = {"Chief Complaint": "fever", "History": "No asthma. nan"}
            event["items"] = json.dumps(items)
    pq.write_table(pa.Table.from_pylist(events, schema=table.schema), tmp_path / "ehr/1.parquet")
    index = noted / "task_index/patient/1.csv"
    extract(noted, tmp_path / "out", "--umls_dir", rrf, "--ehr_dir", tmp_path / "ehr", "--data_index_dir", index)
    found = [r for r in rows(tmp_path / "out") if r["event_id"] == 1 and r["key"] == "text"]
    assert [(r["concept"], r["negated"]) for r in found] == [("fever", False), ("asthma", True)]


def test_bad_input(noted: Path, rrf: Path, tmp_path: Path, extracted: Path) -> None:
    def refused(output: Path, *flags: object, **env: str) -> str:
        done = extract(noted, output, *flags, check=False, **env)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    out = tmp_path / "out"
    assert "--group patient" in refused(out, "--data_index_dir", tmp_path / "none")
    assert "dictionaries such as hosp/d_icd_diagnoses.csv" in refused(out)
    assert "MRCONSO.RRF: expected a file of the UMLS Metathesaurus" in refused(out, "--umls_dir", tmp_path)
    broken = write_rrf(tmp_path / "broken")
    (broken / "MRCONSO.RRF").write_text("C0004096|ENG|P\n")
    assert "MRCONSO.RRF: expected 18 columns, each ended by a bar, got 2" in refused(out, "--umls_dir", broken)
    with (write_rrf(tmp_path / "broken") / "MRCONSO.RRF").open("a") as file:
        file.write("C1|" * 30 + "\n")
    assert ": expected complete rows, got 1" in refused(out, "--umls_dir", broken)
    german = write_rrf(tmp_path / "german") / "MRCONSO.RRF"
    german.write_text(german.read_text().replace("|ENG|", "|GER|"))
    assert "expected English terms" in refused(out, "--umls_dir", german.parent)
    assert "expected an installation in $QUICKUMLS" in refused(out, "--matcher", "quickumls")
    assert "expected a QuickUMLS installation" in refused(out, QUICKUMLS=str(tmp_path / "none"))
    assert "expected this part of a QuickUMLS installation" in refused(out, QUICK_UMLS=str(tmp_path))
    assert "--num_worker: expected a whole number of at least 1" in refused(out, "--umls_dir", rrf, "--num_worker", 0)
    assert not list(out.glob("*.parquet"))
    index = tmp_path / "index"
    index.mkdir()
    (index / "77.csv").write_text((noted / "task_index/patient/1.csv").read_text())
    assert "got 1 without" in refused(out, "--umls_dir", rrf, "--data_index_dir", index)
    other = other_release(tmp_path)
    assert f"expected the same umls ({other}), lexicon (" in refused(extracted, "--umls_dir", other)


def other_release(folder: Path) -> Path:
    rrf = write_rrf(folder / "other")
    with (rrf / "MRCONSO.RRF").open("a") as file:
        file.write((rrf / "MRCONSO.RRF").read_text().splitlines()[0].replace("asthma", "asthma attack") + "\n")
    return rrf


# --- QuickUMLS, for real


@pytest.fixture(scope="module")
def quickumls(rrf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, str]]:
    """An index made by QuickUMLS' own installer: (installation, folder to work in, environment).

    The installer and the matcher need spaCy's English model and NLTK's stop words, which are downloads. Where they are not
    installed, stand-ins take their place: an empty English pipeline and spaCy's stop words.
    """
    import nltk
    import spacy

    folder = tmp_path_factory.mktemp("quickumls")
    work, env = folder / "work", {"NLTK_DATA": os.environ.get("NLTK_DATA", "")}
    work.mkdir()
    if not spacy.util.is_package("en_core_web_sm"):
        warnings.warn("QuickUMLS runs with a STAND-IN for spaCy's en_core_web_sm: an empty English pipeline", stacklevel=1)
        spacy.blank("en").to_disk(work / "en_core_web_sm")  # spacy.load takes a folder of that name where it runs
    try:
        nltk.data.find("corpora/stopwords")
    except LookupError:
        warnings.warn("QuickUMLS runs with a STAND-IN for NLTK's stop words: spaCy's", stacklevel=1)
        words = folder / "nltk/corpora/stopwords"
        words.mkdir(parents=True)
        (words / "english").write_text("\n".join(sorted(spacy.blank("en").Defaults.stop_words)) + "\n")
        env["NLTK_DATA"] = str(folder / "nltk")
    installed = folder / "installed"
    installed.mkdir()
    subprocess.run(
        [sys.executable, "-m", "quickumls.install", str(rrf), str(installed), "-L", "-d", "unqlite"],
        cwd=work, env={**os.environ, **env}, check=True, capture_output=True,
    )  # fmt: skip
    return installed, work, env


def with_quickumls(quickumls: tuple[Path, Path, dict[str, str]], *flags: object, **more: str) -> str:
    """What the command prints when QuickUMLS is where the environment says."""
    installed, work, env = quickumls
    plain = {**os.environ, "OMP_NUM_THREADS": "1", "QUICKUMLS": "", "QUICK_UMLS": "", **env}
    done = subprocess.run(
        [sys.executable, str(REPO / SCRIPT), *map(str, flags)],
        cwd=work, env={**plain, **(more or {"QUICKUMLS": str(installed)})}, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_quickumls(quickumls: tuple[Path, Path, dict[str, str]], noted: Path, rrf: Path, tmp_path: Path) -> None:
    """Every span of every note, near misses too, negation marked; names are preferred names where the release is given."""
    out = tmp_path / "named"
    printed = with_quickumls(quickumls, "--root_dir", noted, "--output_path", out, "--umls_dir", rrf, "--num_worker", 2)
    assert "concepts of 4 patients" in printed
    found = {(r["concept"], r["cui"], r["negated"]) for r in rows(out) if r["key"] == "text"}
    mentions = MENTIONS - {
        ("diabetes mellitus, type 2", "C0011860", False)
    }  # "type-2 diabetes" is not near enough for QuickUMLS
    mentions |= {("diabetes mellitus", "C0011849", False), ("pneumonia", "C0032285", True), ("asthma", "C0004096", False)}
    assert found == mentions
    fields = {(r["concept"], r["cui"]) for r in rows(out) if r["key"] == "emar"}
    assert fields == {("aspirin", "C0004057"), ("insulin lispro", None)}

    env = {"QUICK_UMLS": str(quickumls[0])}
    printed = with_quickumls(quickumls, "--root_dir", noted, "--output_path", tmp_path / "terms", **env)
    assert "concepts of 4 patients" in printed
    terms = {(r["concept"], r["cui"]) for r in rows(tmp_path / "terms") if r["key"] == "text"}
    assert terms >= {("thoracic pain", "C0008031"), ("pyrexia", "C0015967"), ("fever", "C0015967")}


@pytest.fixture
def inside(quickumls: tuple[Path, Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The installation, for use in this process."""
    import nltk

    installed, work, env = quickumls
    monkeypatch.chdir(work)
    monkeypatch.setattr(nltk.data, "path", [env["NLTK_DATA"], *nltk.data.path])
    return installed


def test_quickumls_finds_near_misses(inside: Path) -> None:
    matcher = QuickUMLSMatcher(inside)
    found = list(matcher.mentions("Pneumonias. No. Congestive heart failures without feverr."))
    assert [(m.cui, m.negated) for m in found] == [("C0032285", False), ("C0018802", False), ("C0015967", True)]
    assert matcher.cui_of("FEVER") == "C0015967" and matcher.cui_of("high fever") is None


def test_what_quickumls_lacks_is_an_error(
    inside: Path, noted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    import nltk
    from quickumls.constants import SPACY_LANGUAGE_MAP

    leveldb = tmp_path / "leveldb"
    shutil.copytree(inside, leveldb)
    (leveldb / "database_backend.flag").write_text("leveldb")
    flags = ["--root_dir", str(noted), "--output_path", str(tmp_path / "out"), "--num_worker", "2", "--quickumls"]
    with pytest.raises(UserError, match="Install it again with -d unqlite"):
        main([*flags, str(leveldb)])
    with monkeypatch.context() as patch:
        patch.setitem(SPACY_LANGUAGE_MAP, "ENG", "no_such_model")
        with pytest.raises(UserError, match="python -m spacy download no_such_model"):
            main([*flags, str(inside)])
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(UserError, match="python -m nltk.downloader stopwords"):
        main([*flags, str(inside)])
