"""The graph of a sample: the pairs that the rules choose, by a naive count, and paths that hold in the graph."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from conftest import command
from tiny_umls import write_umls

from mimiciv_dataset.tasks import TASKS
from pipeline.errors import UserError
from pipeline.files import sha256
from pipeline.records import digest_of, folder_record
from thinking_graph_preprocess.concept_files import GRAPH_TASKS, normalise
from thinking_graph_preprocess.evidence_generation import evidence_files
from thinking_graph_preprocess.umls_graph import Graph

PLACE = "thinking_graph_preprocess"
CHOSEN = ("prescriptions", "diagnoses_icd", "labevents", "pyxis")


@pytest.fixture(scope="module")
def built(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Concepts, co-occurrence and a UMLS-shaped graph in which all concepts are connected, and an index."""
    import pyarrow.parquet as pq

    from mimiciv_dataset.trajectory import Trajectories

    place = tmp_path_factory.mktemp("evidence")
    patients = place / "patients.csv"
    patients.write_text("\n".join(["subject_id", *Trajectories(synthetic_root / "patients_ehr").subject_ids()]) + "\n")
    by_patient = place / "by_patient"
    command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", synthetic_root, "--output_path", by_patient,
            "--group", "patient")  # fmt: skip
    command(f"{PLACE}/concept_extraction.py", "--root_dir", synthetic_root, "--output_path", place / "concepts",
            "--data_index_dir", by_patient)  # fmt: skip
    command(f"{PLACE}/coexistence_concept.py", "--root_dir", synthetic_root, "--output_path", place,
            "--subject_id_path", patients)  # fmt: skip
    names = sorted({name for path in (place / "concepts").glob("*.parquet")
                    for name in pq.read_table(path, columns=["concept"])["concept"].to_pylist()})  # fmt: skip
    cuis = {name: f"C{number:07}" for number, name in enumerate(names, 1)}
    relations = [(cuis[name], "isa", cuis[names[int(sha256(name)[:4], 16) % len(names)]]) for name in names]
    relations += [(cuis[name], "has_finding", cuis[other]) for name, other in zip(names, names[7:], strict=False)]
    write_umls(place / "META", [(cui, name.title()) for name, cui in cuis.items()],
               [row for row in relations if row[0] != row[2]])  # fmt: skip
    command(f"{PLACE}/build_umls_graph.py", "--umls_dir", place / "META", "--output_path", place / "graph")
    rows = []
    for task in (*CHOSEN, "next_event", "LengthOfStay_3day"):
        with (synthetic_root / f"task_index/all/{task}.csv").open(newline="", encoding="utf-8") as file:
            rows += list(csv.DictReader(file))[-6:]
    with (place / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return place


def flags(root: Path, built: Path, output: Path, *more: object) -> list[object]:
    return ["--root_dir", root, "--data_index_path", built / "index.csv", "--output_path", output, "--concept_dir",
            built / "concepts", "--coexistence_dir", built / "coexistence", "--graph", built / "graph", "--threshold", 1.2,
            "--min_support", 2, "--topk", 3, "--total_pair", 7, *more]  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def naive_pairs(root: Path, built: Path, row: dict[str, str]) -> list[tuple[str, str]]:
    """(history, target) pairs chosen by the rules, from the files alone."""
    import pyarrow.parquet as pq

    from mimiciv_dataset.trajectory import Trajectories

    task = TASKS[row["task"]]
    tables = [event.file_name for event in Trajectories(root / "patients_ehr").trajectory(row["subject_id"])]
    number = {name: int(float(row[name])) if row[name] else None
              for name in ("context_begin", "context_end", "admissions_id", "last_discharge_id")}  # fmt: skip
    window = range(number["context_begin"], number["context_end"])
    seen = {at for at in window if tables[at] not in ("admissions", *task.hidden)} | {number["last_discharge_id"]}
    seen |= {number["admissions_id"]} if task.name != "admissions" else set()
    history = set()
    for path in (built / "concepts").glob("*.parquet"):
        for concept in pq.read_table(path, filters=[("subject_id", "=", row["subject_id"])]).to_pylist():
            if concept["event_id"] in seen and not concept["negated"]:
                history.add(concept["concept"])
    counts = pq.read_table(built / f"coexistence/{task.name}.parquet").to_pylist()
    chosen = []
    for target in {normalise(name) for name in json.loads(row["target"])}:
        strong = [pair for pair in counts if pair["target"] == target and pair["lift"] > 1.2 and pair["n_history"] >= 2]
        pairs = [(-p["lift"], -p["n_history"], p["history"], target) for p in strong if p["history"] in history]
        chosen += sorted(pairs)[:3]
    return [(history, target) for _, _, history, target in sorted(chosen)[:7]]


def test_pairs_and_paths(synthetic_root: Path, built: Path, tmp_path: Path) -> None:
    done = command(f"{PLACE}/evidence_generation.py", *flags(synthetic_root, built, tmp_path / "out.csv"))
    rows, graph = read(tmp_path / "out.csv"), Graph(built / "graph")
    assert len(rows) == 36 and [row["task"] for row in rows] == [row["task"] for row in read(built / "index.csv")]
    found = Counter()
    for row in rows:
        if row["task"] not in GRAPH_TASKS:
            assert row["graph"] == ""
            continue
        paths = json.loads(row["graph"])["umls_graph"] if row["graph"] else []
        pairs = naive_pairs(synthetic_root, built, row)
        expected = [graph.path(history, target) for history, target in pairs]
        assert paths == [path for path in expected if path is not None]
        for path, (history, target) in zip(paths, [p for p, w in zip(pairs, expected, strict=True) if w], strict=True):
            assert history != target and normalise(path[0]) == history and normalise(path[-1]) == target
            assert len(path) % 2 == 1 and len(path) <= 21
        found[row["task"]] += bool(paths)
    assert sum(found.values()) > 6, "the test would show nothing without graphs"
    assert "with graph" in done.stdout and "rows," in done.stdout


def test_any_number_of_processes_gives_the_same_bytes(
    synthetic_root: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thinking_graph_preprocess import evidence_generation

    one, two, small = (tmp_path / name / "out.csv" for name in ("one", "two", "small"))
    command(f"{PLACE}/evidence_generation.py", *flags(synthetic_root, built, one))
    done = command(f"{PLACE}/evidence_generation.py", *flags(synthetic_root, built, two, "--num_workers", 2))
    monkeypatch.setattr(evidence_generation, "PART_ROWS", 5)
    evidence_generation.main([str(flag) for flag in flags(synthetic_root, built, small)])
    assert two.read_bytes() == one.read_bytes() == small.read_bytes() and "rows," in done.stdout
    records = [json.loads(path.with_suffix(".provenance.json").read_text()) for path in (one, two, small)]
    assert records[0]["tasks"] == records[1]["tasks"] == records[2]["tasks"] and records[0]["complete"]
    assert records[0]["inputs"]["graph"]["digest"] == digest_of(folder_record(built / "graph")) is not None
    assert {path.name for path in small.parent.iterdir()} == {".locks", "out.csv", "out.provenance.json"}, "parts are removed"


def test_an_interrupted_run_resumes(
    synthetic_root: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished parts are kept, whatever the number of processes; parts with other settings are not used."""
    from thinking_graph_preprocess import evidence_generation
    from thinking_graph_preprocess.evidence import Evidence

    monkeypatch.setattr(evidence_generation, "PART_ROWS", 5)
    graph_of, seen = Evidence.graph_of, []

    def interrupted(self: Evidence, row: dict, counts: dict) -> str:
        seen.append(row)
        if len(seen) == 13:
            raise KeyboardInterrupt
        return graph_of(self, row, counts)

    ask = [str(flag) for flag in flags(synthetic_root, built, tmp_path / "out.csv")]
    monkeypatch.setattr(Evidence, "graph_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evidence_generation.main(ask)
    assert not (tmp_path / "out.csv").exists()
    evidence_generation.main(ask)
    assert len(seen) == 13 + 36 - 10, "two parts of five rows were finished"
    evidence_generation.main([str(flag) for flag in flags(synthetic_root, built, tmp_path / "whole.csv")])
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_chunks_are_the_whole(synthetic_root: Path, built: Path, tmp_path: Path) -> None:
    command(f"{PLACE}/evidence_generation.py", *flags(synthetic_root, built, tmp_path / "out.csv"))
    for number in range(3):
        command(f"{PLACE}/evidence_generation.py",
                *flags(synthetic_root, built, tmp_path / "out.csv", "--chunk_num", 3, "--chunk_idx", number))  # fmt: skip
    parts = [row for number in range(3) for row in read(tmp_path / f"out-{number}-of-3.csv")]
    assert sorted(map(str, parts)) == sorted(map(str, read(tmp_path / "out.csv")))


def test_chunks_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").touch()
    for name in ("emar-0-of-3.csv", "emar-1-of-3.csv"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"expected all 3 chunks of emar, got 2\. .* --chunk_idx 2"):
        evidence_files(tmp_path)
    (tmp_path / "emar-2-of-3.csv").touch()
    assert len(evidence_files(tmp_path)) == 4 and evidence_files(tmp_path / "emar-1-of-3.csv") == [
        tmp_path / "emar-1-of-3.csv"
    ]
    (tmp_path / "emar.csv").touch()
    with pytest.raises(UserError, match="expected one number of chunks of emar, got 3 and 1"):
        evidence_files(tmp_path)


def test_bad_input_is_an_error(synthetic_root: Path, built: Path, tmp_path: Path) -> None:
    def refused(*more: object) -> str:
        done = command(
            f"{PLACE}/evidence_generation.py", *flags(synthetic_root, built, tmp_path / "out.csv", *more), check=False
        )
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert not (tmp_path / "out.csv").exists(), "nothing half-written"
        return done.stderr

    assert "expected a graph directory" in refused("--graph", tmp_path / "none")
    assert "expected co-occurrence of this task" in refused("--coexistence_dir", tmp_path)
    assert "expected an index CSV" in refused("--data_index_path", tmp_path / "none.csv")
    assert "expected a lexicon" in refused("--lexicon", tmp_path)
    assert "expected a QuickUMLS installation" in refused("--quickumls", tmp_path / "none")
    assert "--topk: expected" in refused("--topk", 0) and "--max_hops: expected" in refused("--max_hops", 0)
    whole = (built / "index.csv").read_text(encoding="utf-8")
    (tmp_path / "index.csv").write_text(whole[:-20], encoding="utf-8")
    assert "row 37: expected 11 fields" in refused("--data_index_path", tmp_path / "index.csv")
    (tmp_path / "index.csv").write_bytes(whole.encode() + b"\xff")
    assert "CSV in UTF-8" in refused("--data_index_path", tmp_path / "index.csv")
    for path in (built / "coexistence").glob("*.parquet"):
        (tmp_path / path.name).write_bytes(path.read_bytes()[:100])
    assert "got a malformed one" in refused("--coexistence_dir", tmp_path)


def test_a_finished_output_is_kept(synthetic_root: Path, built: Path, tmp_path: Path) -> None:
    """The same command keeps it; other settings do not overwrite it."""
    ask = [f"{PLACE}/evidence_generation.py", *flags(synthetic_root, built, tmp_path / "out.csv")]
    command(*ask)
    before = (tmp_path / "out.csv").stat()
    assert "up to date" in command(*ask).stdout and (tmp_path / "out.csv").stat() == before
    done = command(*ask, "--topk", 2, check=False)
    assert done.returncode == 2 and "expected the same topk" in done.stderr and (tmp_path / "out.csv").stat() == before
    (tmp_path / "other.csv").write_text("", encoding="utf-8")
    done = command(f"{PLACE}/evidence_generation.py", *flags(synthetic_root, built, tmp_path / "other.csv"), check=False)
    assert done.returncode == 2 and "files without a record" in done.stderr


# --- a sample made by hand

ITEMS = {"hypertension": "C0000001", "chest pain": "C0000002", "aspirin": "C0000003", "heparin": "C0000004",
         "sepsis": "C0000005", "fever": "C0000006"}  # fmt: skip
LINKS = [(f"C000000{a}", "has_finding", f"C000000{b}") for a, b in ((3, 1), (4, 3), (6, 4), (5, 6), (4, 2))]


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """A patient of five events, whose last one asks for drugs; concepts, co-occurrence and graph in the shared formats."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from thinking_graph_preprocess.concept_files import concept_schema

    ehr, concepts, counts = (tmp_path / name for name in ("patients_ehr", "concepts", "coexistence"))
    for folder in (ehr, concepts, counts):
        folder.mkdir()
    tables = ("patients", "discharge", "emar", "radiology", "emar")
    events = [(table, "2150-01-01 00:00:00", "2150-01-01 00:00:00", "1", "[{}]") for table in tables]
    names = ("file_name", "starttime", "endtime", "hadm_id", "items")
    pq.write_table(pa.table(dict(zip(names, zip(*events, strict=True), strict=True))), ehr / "7.parquet")
    rows = [
        ("7", 1, "text", "hypertension", None, False), ("7", 2, "emar", "heparin", None, False),
        ("7", 2, "emar", "aspirin", None, False), ("7", 3, "text", "fever", None, True),
        ("7", 3, "text", "sepsis", None, True), ("7", 3, "text", "chest pain", None, False),
        ("7", 3, "text", "hypertension", None, True),
        ("7", 4, "emar", "aspirin", None, False), ("7", 4, "emar", "sepsis", None, False),
    ]  # fmt: skip
    columns = dict(zip(concept_schema().names, zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table(columns, schema=concept_schema()), concepts / "7.parquet")
    write_umls(tmp_path / "META", [(cui, name) for name, cui in ITEMS.items()], LINKS)
    command(f"{PLACE}/build_umls_graph.py", "--umls_dir", tmp_path / "META", "--output_path", tmp_path / "graph")
    (tmp_path / "index.csv").write_text(
        "subject_id,hadm_id,task,event,period_begin,period_end,admissions_id,last_discharge_id,target\n"
        '7,1,emar,emar,2,4,,1,"[""Aspirin"", ""Sepsis""]"\n', encoding="utf-8",
    )  # fmt: skip
    return tmp_path


Count = tuple[str, str, float, int]


def paths_of(place: Path, counts: list[Count], *flags: object) -> tuple[list[list[str]], str]:
    """The paths of the one sample, given co-occurrence (target, history, lift, n_history), and what was printed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    target, history, lift, n_history = zip(*sorted(counts), strict=True)
    table = pa.table({
        "target": target, "history": history, "n_both": [1] * len(lift), "n_target": [1] * len(lift),
        "n_history": n_history, "lift": pa.array(lift, pa.float64()),
    })  # fmt: skip
    pq.write_table(table.replace_schema_metadata({"n_samples": "9"}), place / "coexistence/emar.parquet")
    output = place / f"out-{len(list(place.glob('out-*.csv')))}.csv"
    done = command(
        f"{PLACE}/evidence_generation.py", "--root_dir", place, "--data_index_path", place / "index.csv", "--output_path",
        output, "--concept_dir", place / "concepts", "--coexistence_dir", place / "coexistence", "--graph",
        place / "graph", *flags,
    )  # fmt: skip
    graph = read(output)[0]["graph"]
    return json.loads(graph)["umls_graph"] if graph else [], done.stdout


def test_what_a_graph_may_hold(by_hand: Path) -> None:
    """No negated concept, none with itself, none of the answers, nothing weak; limits distinguished from missing links."""
    counts = [
        ("aspirin", "hypertension", 9.0, 5), ("aspirin", "chest pain", 6.0, 5), ("aspirin", "heparin", 5.0, 9),
        ("aspirin", "fever", 99.0, 99), ("aspirin", "sepsis", 99.0, 99), ("sepsis", "aspirin", 7.0, 4),
        ("sepsis", "heparin", 8.0, 6), ("aspirin", "aspirin", 99.0, 99),
    ]  # fmt: skip
    paths, printed = paths_of(by_hand, counts)
    assert paths == [
        ["hypertension", "finding_of", "aspirin"],  # asserted in one note, negated in another: it is in the history
        ["heparin", "finding_of", "fever", "finding_of", "sepsis"],
        ["chest pain", "finding_of", "heparin", "has_finding", "aspirin"],
    ]
    assert "emar" in printed and "100.0%" in printed
    paths, printed = paths_of(by_hand, counts, "--max_hops", 1)
    assert len(paths) == 1 and "2 no path within the limits" in printed
    paths, _ = paths_of(by_hand, counts, "--threshold", 8, "--min_support", 1)
    assert [path[0] for path in paths] == ["hypertension"], "lift above the threshold, not at it"
    paths, _ = paths_of(by_hand, counts, "--threshold", 4, "--topk", 2, "--min_support", 1)
    assert [(path[0], path[-1]) for path in paths] == [
        ("hypertension", "aspirin"), ("heparin", "sepsis"), ("aspirin", "sepsis"), ("chest pain", "aspirin")]  # fmt: skip
    paths, _ = paths_of(by_hand, counts, "--total_pair", 1)
    assert [path[0] for path in paths] == ["hypertension"]


def test_ties_go_by_support_then_by_name(by_hand: Path) -> None:
    (by_hand / "graph/provenance.json").unlink()  # as in graphs of earlier versions
    even = [("aspirin", name, 6.0, support) for name, support in (("heparin", 5), ("chest pain", 5), ("hypertension", 6))]
    assert [path[0] for path in paths_of(by_hand, even)[0]] == ["hypertension", "chest pain", "heparin"]
    assert [path[0] for path in paths_of(by_hand, even, "--topk", 2)[0]] == ["hypertension", "chest pain"]


def test_a_matcher_finds_names_that_the_graph_lacks(by_hand: Path) -> None:
    """`Heparin (Porcine) Flush` is no name in the graph; the matcher finds heparin in it, but nothing that is denied."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from thinking_graph_preprocess.concept_files import concept_schema
    from thinking_graph_preprocess.concept_lexicon import write_lexicon

    names = ["aspirin", "heparin", "porcine", "fever"]
    write_lexicon(by_hand / "lexicon", [(name, ITEMS.get(name, "")) for name in names], zip(names, range(4), strict=True), {})
    rows = [("7", 2, "emar", name, None, False) for name in ("heparin (porcine) flush", "no fever", "porcine")]
    rows.append(("7", 4, "emar", "aspirin", None, False))
    columns = dict(zip(concept_schema().names, zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table(columns, schema=concept_schema()), by_hand / "concepts/7.parquet")
    counts = [("aspirin", name, 9.0, 9) for name in ("heparin (porcine) flush", "no fever", "porcine")]
    paths, printed = paths_of(by_hand, counts)
    assert paths == [] and "3 not in the graph" in printed
    paths, printed = paths_of(by_hand, counts, "--lexicon", by_hand / "lexicon")
    assert paths == [["heparin", "has_finding", "aspirin"]] and "2 not in the graph" in printed
