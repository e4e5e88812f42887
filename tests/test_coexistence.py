"""Co-occurrence against a naive count over the text of samples; errors."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import command
from test_resume import digests
from tiny_mimic import write_mimic
from tiny_rrf import write_rrf

from mimiciv_dataset.mimiciv import MIMICIV
from thinking_graph_preprocess.concept_files import GRAPH_TASKS, normalise

EXTRACT, COUNT = "thinking_graph_preprocess/concept_extraction.py", "thinking_graph_preprocess/coexistence_concept.py"


def rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def concepts(folder: Path) -> dict[tuple[str, int], list[dict]]:
    """The rows of a concepts folder by patient and event."""
    found: dict[tuple[str, int], list[dict]] = {}
    for path in sorted(folder.glob("*.parquet")):
        for row in rows(path):
            found.setdefault((row["subject_id"], row["event_id"]), []).append(row)
    return found


def naive(
    root: Path, index: Path, subjects: set[str], known: dict[tuple[str, int], list[dict]]
) -> dict[str, tuple[int, dict]]:
    """N, and {(target, history): (n_both, n_target, n_history)}, of each task, from the text of its samples.

    An event counts if its text stands in the sample's input.
    """
    mine = []
    for task in GRAPH_TASKS:
        with (index / f"{task}.csv").open(newline="", encoding="utf-8") as file:
            mine += [row for row in csv.DictReader(file) if row["subject_id"] in subjects]
    ds = MIMICIV(root, sample_info=mine, lazzy_mode=True, shuffle=False)
    text_of: dict[tuple[str, int], str] = {}
    samples, single, pairs = Counter(), defaultdict(Counter), defaultdict(Counter)
    for i in range(len(ds)):
        row, parts = ds.row(i), ds.text(i)
        shown = {parts.last_discharge, parts.admission, *parts.window} - {""}
        who, task = row["subject_id"], row["task"]
        history: set[str] = set()
        for place in (*range(row["period_begin"], row["period_end"]), row["last_discharge_id"], row["admissions_id"]):
            if place is not None and (who, place) in known:
                if (who, place) not in text_of:
                    text_of[who, place] = ds.renderer.event(ds.trajectories.events(who, [place])[0])
                if text_of[who, place] in shown:
                    history |= {concept["concept"] for concept in known[who, place] if not concept["negated"]}
        target = {normalise(name) for name in row["target"]}
        samples[task] += 1
        single[task].update(target | history)
        pairs[task].update((t, h) for t in target for h in history if t != h)
    return {
        task: (samples[task], {(t, h): (n, single[task][t], single[task][h]) for (t, h), n in pairs[task].items()})
        for task in GRAPH_TASKS
    }


def check(root: Path, output: Path, subjects: set[str], index: Path) -> dict[str, int]:
    """Compare the file of each task with the naive count; return the number of samples of each task."""
    expected = naive(root, index, subjects, concepts(output / "concepts"))
    for task, (n, pairs) in expected.items():
        path = output / "coexistence" / f"{task}.parquet"
        found = rows(path)
        assert int(pq.read_schema(path).metadata[b"n_samples"]) == n, task
        assert [(r["target"], r["history"]) for r in found] == sorted(pairs), task
        for r in found:
            both, n_target, n_history = pairs[r["target"], r["history"]]
            assert (r["n_both"], r["n_target"], r["n_history"]) == (both, n_target, n_history), task
            assert r["lift"] == pytest.approx(both * n / (n_target * n_history)), task
    return {task: n for task, (n, _) in expected.items()}


def few_samples(index: Path, number: int) -> set[str]:
    """The patients with fewest samples, among those with an earlier discharge note: a naive count is slow."""
    samples, noted = Counter(), set()
    for task in GRAPH_TASKS:
        with (index / f"{task}.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                samples[row["subject_id"]] += 1
                noted |= {row["subject_id"]} if row["last_discharge_id"] else set()
    return set(sorted(noted, key=lambda subject: (samples[subject], subject))[:number])


def write_ids(path: Path, subjects: set[str]) -> Path:
    path.write_text("\n".join(["subject_id", *sorted(subjects)]) + "\n")
    return path


def test_equals_a_naive_count_on_the_demo(demo: Path, tmp_path: Path) -> None:
    index = demo / "task_index/all"
    subjects = few_samples(index, 8)
    ids = write_ids(tmp_path / "train.csv", subjects)
    command(EXTRACT, "--root_dir", demo, "--data_index_dir", index, "--output_path", tmp_path / "concepts",
            "--lexicon_dir", tmp_path / "lexicon")  # fmt: skip
    done = command(COUNT, "--root_dir", demo, "--data_index_dir", index, "--subject_id_path", ids, "--output_path", tmp_path)
    assert "pairs of 26 tasks" in done.stdout
    samples = check(demo, tmp_path, subjects, index)
    assert sum(n > 0 for n in samples.values()) >= 24, samples
    # a concept that is always negated is in no history
    known = [row for rows in concepts(tmp_path / "concepts").values() for row in rows]
    denied = {row["concept"] for row in known if row["negated"]} - {row["concept"] for row in known if not row["negated"]}
    assert "fever" in denied
    counted = {row[side] for path in (tmp_path / "coexistence").glob("*.parquet") for row in rows(path)
               for side in ("target", "history")}  # fmt: skip
    assert counted and not counted & denied


@pytest.fixture(scope="module")
def counted(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Concepts and co-occurrence of the hand-made patients: (output folder, training ids)."""
    output = tmp_path_factory.mktemp("coexistence")
    rrf = write_rrf(output / "rrf")
    index = small_root / "task_index/all"
    command(EXTRACT, "--root_dir", small_root, "--data_index_dir", index, "--output_path", output / "concepts",
            "--lexicon_dir", output / "lexicon", "--umls_dir", rrf)  # fmt: skip
    with (index / "emar.csv").open(newline="") as file:
        subjects = sorted({row["subject_id"] for row in csv.DictReader(file)})
    ids = write_ids(output / "train.csv", set(subjects[1:]))
    count(small_root, output, "--subject_id_path", ids)
    return output, ids


def count(root: Path, output: Path, *flags: object, check: bool = True):
    flags = ("--data_index_dir", root / "task_index/all", *flags)
    return command(COUNT, "--root_dir", root, "--output_path", output, *flags, check=check)


def test_equals_a_naive_count_on_hand_made_patients(counted: tuple[Path, Path], small_root: Path) -> None:
    output, ids = counted
    subjects = set(ids.read_text().split()[1:])
    samples = check(small_root, output, subjects, small_root / "task_index/all")
    assert samples["emar"] == len(subjects) > 0


def test_any_way_of_running_gives_the_same_bytes(counted: tuple[Path, Path], small_root: Path, tmp_path: Path) -> None:
    output, ids = counted
    expected = digests(output / "coexistence")
    shutil.copytree(output / "concepts", tmp_path / "two/concepts")
    count(small_root, tmp_path / "two", "--subject_id_path", ids, "--num_workers", 2)
    assert digests(tmp_path / "two/coexistence") == expected
    # by patient, and in pieces of few samples and pairs
    by_patient = tmp_path / "patient"
    command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", small_root, "--group", "patient",
            "--output_path", by_patient)  # fmt: skip
    shutil.copytree(output / "concepts", tmp_path / "three/concepts")
    count(small_root, tmp_path / "three", "--subject_id_path", ids, "--data_index_dir", by_patient)
    record = {"provenance.json": expected["provenance.json"]}  # names another index
    assert digests(tmp_path / "three/coexistence") | record == expected
    (tmp_path / "two/coexistence/emar.parquet").unlink()
    again = tmp_path / "two/coexistence/admissions.parquet"
    before = again.stat().st_mtime_ns
    lost = count(small_root, tmp_path / "two", "--subject_id_path", ids, check=False)
    assert lost.returncode == 2 and "1 of 26 missing (emar.parquet)" in lost.stderr and "--overwrite" in lost.stderr
    count(small_root, tmp_path / "two", "--subject_id_path", ids, "--overwrite")
    assert digests(tmp_path / "two/coexistence") == expected and again.stat().st_mtime_ns != before


def test_pieces_make_no_difference(
    counted: tuple[Path, Path], small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thinking_graph_preprocess import coexistence_concept, pair_counter

    output, ids = counted
    monkeypatch.setattr(coexistence_concept, "READ_SAMPLES", 3)
    for name, value in (("COUNT_CONCEPTS", 2), ("WRITE_PAIRS", 1)):
        monkeypatch.setattr(pair_counter, name, value)
    shutil.copytree(output / "concepts", tmp_path / "concepts")
    index = str(small_root / "task_index/all")
    coexistence_concept.main(["--root_dir", str(small_root), "--output_path", str(tmp_path), "--subject_id_path", str(ids),
                              "--data_index_dir", index])  # fmt: skip
    for task in GRAPH_TASKS:
        assert rows(tmp_path / f"coexistence/{task}.parquet") == rows(output / f"coexistence/{task}.parquet")


def test_what_the_input_hides_is_not_counted(tmp_path: Path) -> None:
    """A discharge note is hidden from the diagnosis tasks, shown to others; what is negated never counts."""
    from test_concepts import notes_of

    tables = notes_of("Hypertension. No fever.\n", patients=3)
    for i in (1, 2, 3):
        who = {"subject_id": str(i), "hadm_id": str(100 + i)}
        tables.setdefault("diagnoses_icd", []).append({**who, "icd_code": "J189", "icd_version": "10"})
    tables["emar"][-1]["medication"] = "Aspirin 81"  # of patient 3, who does not count
    write_mimic(tmp_path / "mimiciv", tables)
    (tmp_path / "index_mapping/hosp").mkdir(parents=True)
    (tmp_path / "index_mapping/hosp/d_icd_diagnoses.csv").write_text("icd_code,icd_version,long_title\nJ189,10,Pneumonia\n")
    for script in ("preprocess/merge_patient.py", "preprocess/rank.py", "preprocess/combination.py",
                   "mimiciv_dataset/task_sample_info_gen.py"):  # fmt: skip
        command(script, "--root_dir", tmp_path)
    ids = write_ids(tmp_path / "train.csv", {"1", "2"})
    index = tmp_path / "task_index/all"
    command(EXTRACT, "--root_dir", tmp_path, "--data_index_dir", index, "--umls_dir", write_rrf(tmp_path / "rrf"))
    command(COUNT, "--root_dir", tmp_path, "--subject_id_path", ids)

    def history(task: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for row in rows(tmp_path / f"evidence_datas/coexistence/{task}.parquet"):
            found.setdefault(row["target"], set()).add(row["history"])
        return found

    assert history("diagnoses_icd") == {"pneumonia": {"asthma", "urgent", "aspirin", "lab", "insulin lispro"}}
    assert history("poe") == {"lab": {"asthma", "urgent", "hypertensive disease", "aspirin"}}
    everything = {name for task in GRAPH_TASKS for pair in history(task).items() for name in (pair[0], *pair[1])}
    assert "fever" not in everything and "aspirin 81" not in everything
    check(tmp_path, tmp_path / "evidence_datas", {"1", "2"}, index)


def test_an_admission_is_not_its_own_history(counted: tuple[Path, Path], small_root: Path, tmp_path: Path) -> None:
    """The admissions task's input has no admission: what admission_info says of the one asked for must not count."""
    output, ids = counted
    subjects = set(ids.read_text().split()[1:])
    with (small_root / "task_index/all/admissions.csv").open(newline="") as file:
        admissions = {r["subject_id"]: int(r["context_end"]) for r in csv.DictReader(file) if r["subject_id"] in subjects}
    assert admissions
    for path in (output / "concepts").glob("*.parquet"):
        table = pq.read_table(path)
        mentions = [
            {"subject_id": subject, "event_id": event, "key": "text", "concept": "known on admission", "negated": False}
            for subject, event in admissions.items()
        ]
        (tmp_path / "concepts").mkdir(exist_ok=True)
        pq.write_table(
            pa.concat_tables([table, pa.Table.from_pylist(mentions, table.schema)]), tmp_path / "concepts" / path.name
        )
    count(small_root, tmp_path, "--subject_id_path", ids, "--task", "admissions", "emar")

    def histories(task: str) -> set[str]:
        return {row["history"] for row in rows(tmp_path / f"coexistence/{task}.parquet")}

    assert "known on admission" in histories("emar") and "known on admission" not in histories("admissions")


def test_bad_input(counted: tuple[Path, Path], small_root: Path, tmp_path: Path) -> None:
    output, ids = counted

    def refused(folder: Path, *flags: object) -> str:
        done = count(small_root, folder, "--subject_id_path", ids, *flags, check=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    assert "concept_extraction.py" in refused(tmp_path / "none")
    assert "expected a CSV with a column subject_id" in refused(output, "--subject_id_path", tmp_path / "none.csv")
    other = write_ids(tmp_path / "other.csv", {"99999"})
    assert f"expected the same patients ({other}) as when" in refused(output, "--subject_id_path", other)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(output / "concepts", unfinished / "concepts")
    assert "expected samples of decision tasks" in refused(unfinished, "--subject_id_path", other)
    shutil.rmtree(unfinished / "coexistence")
    for path in (unfinished / "concepts").glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.slice(0, table.num_rows // 3), path)
    assert "expected the files that thinking_graph_preprocess/concept_extraction.py wrote" in refused(unfinished)
    (unfinished / "concepts/provenance.json").unlink()
    error = refused(unfinished)
    assert "expected concepts of every patient of the index" in error and not re.search(r"patient \d", error)
    for path in (unfinished / "concepts").glob("*.parquet"):
        path.unlink()
    assert "expected the concepts of trajectories, got no Parquet files" in refused(unfinished)
    strangers = tmp_path / "index"
    shutil.copytree(small_root / "task_index/all", strangers, ignore=shutil.ignore_patterns("provenance.json"))
    emar = strangers / "emar.csv"
    emar.write_text(emar.read_text().replace("Sodium Chloride", "Plain Water"))
    shutil.copytree(output / "concepts", tmp_path / "three/concepts")
    error = refused(tmp_path / "three", "--data_index_dir", strangers)
    assert "emar: expected every answer of the index among the concepts" in error and "Water" not in error
