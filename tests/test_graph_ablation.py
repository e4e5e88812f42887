"""From graph to score: true causes beside the raw tables, the scripted writer, the arms, and a tiny run of it all."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from test_launchers import bash
from written_runs import write_ablation, write_run

from evaluation.report import main as report
from evaluation.synthetic_causes import true_causes
from evaluation.synthetic_truth import rows_of
from mimiciv_dataset.index_files import sample_id
from mimiciv_dataset.index_rows import normalise_row
from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.text import SampleText
from pipeline.errors import UserError
from pipeline.files import read_json
from preprocess.split_patients import main as split_patients
from preprocess.synthetic.knowledge import statements, synonyms
from preprocess.synthetic.vocab import CONDITIONS, LABS
from scripts.graph_ablation import (
    ARMS,
    RowSettings,
    citations_of,
    difference,
    held_out,
    of_several_seeds,
    share_of_causes,
    write_arms,
    write_csv,
    write_knowledge,
    write_rows,
)
from scripts.scripted_writer import MISTAKES, MODEL, Handler, Writer
from thinking_graph_preprocess.build_umls_graph import main as build_graph
from thinking_graph_preprocess.chain_prompts import PROMPTS, fill, knowledge
from thinking_graph_preprocess.chains import AnswerLimits, CitedEvents, faults
from thinking_graph_preprocess.umls_graph import Graph

QUESTION = "What are the diagnoses?"


@pytest.fixture(scope="module")
def root(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of 40 synthetic patients, of whom 12 are test patients."""
    root = tmp_path_factory.mktemp("root")
    for path in synthetic_root.iterdir():
        (root / path.name).symlink_to(path)
    split_patients(["--root_dir", str(root), "--ehr_dir", str(root / "patients_ehr"), "--test_ratio", "0.3"])
    return root


@pytest.fixture(scope="module")
def ablation(root: Path) -> Path:
    """The directory of an ablation with its rows."""
    write_rows(root, root / "graph_ablation", RowSettings(train_rows=100, test_rows=100))
    return root / "graph_ablation"


def prompt_of(text: SampleText, answer: list[str], paths: tuple[tuple[str, ...], ...] = ()) -> str:
    """The prompt of reasoning_generation.py."""
    template = (PROMPTS / f"{'with' if paths else 'without'}_knowledge.txt").read_text(encoding="utf-8").strip()
    listed = "\n".join(f"- {item}" for item in answer)
    return fill(template, record=str(text), question=QUESTION, answer=listed, knowledge=knowledge(paths))


# --- true causes

COMPARED = ("Triage", "Pyxis", "Labotary Test Events", "Radiology Examinations")  # titles that `causes_in_tables` knows


def causes_in_tables(root: Path) -> dict[str, set[tuple[str, str]]]:
    """The naive twin: by stay_id, title and time of each cause, from the raw tables and the condition of the stay."""
    mimic = root / "mimiciv"
    conditions = {condition.name: condition for condition in CONDITIONS}
    drawn = rows_of(mimic / "synthetic_causes.csv.gz")
    of_stay = {row["stay_id"]: conditions[row["condition"]] for row in drawn if row["task"] == "ED_Hospitalization"}
    causes: dict[str, set[tuple[str, str]]] = {stay: set() for stay in of_stay}
    stays = {row["stay_id"]: row for row in rows_of(mimic / "ed/edstays.csv.gz")}
    for row in rows_of(mimic / "ed/triage.csv.gz"):
        if row["chiefcomplaint"] == of_stay[row["stay_id"]].complaint:
            causes[row["stay_id"]].add(("Triage", ""))
    for row in rows_of(mimic / "ed/pyxis.csv.gz"):
        if any(re.fullmatch(re.escape(drug) + r" [^ ]+ [A-Z]+", row["name"]) for drug in of_stay[row["stay_id"]].drugs):
            causes[row["stay_id"]].add(("Pyxis", row["charttime"]))
    labels = {row["itemid"]: row["label"] for row in rows_of(mimic / "hosp/d_labitems.csv.gz")}
    ranges = {label: (low, high) for label, low, high in LABS.select("label", "low", "high").iter_rows()}
    by_patient: dict[str, list[tuple[str, str]]] = {}
    for row in stays.values():
        by_patient.setdefault(row["subject_id"], []).append((row["intime"], row["stay_id"]))
    for table in ("hosp/labevents", "note/radiology"):
        for row in rows_of(mimic / f"{table}.csv.gz"):
            begun = [(begin, stay) for begin, stay in by_patient.get(row["subject_id"], []) if begin <= row["charttime"]]
            if not begun:
                continue
            stay = max(begun)[1]
            condition = of_stay[stay]
            if table == "note/radiology":
                if f"in keeping with {condition.name}." in row["text"]:
                    causes[stay].add(("Radiology Examinations", row["charttime"]))
            elif row["valuenum"]:
                label, value = labels[row["itemid"]], float(row["valuenum"])
                low, high = ranges[label]
                if (label in condition.raised_labs and value > high) or (label in condition.lowered_labs and value < low):
                    causes[stay].add(("Labotary Test Events", row["charttime"]))
    return causes


def test_too_few_patients_are_an_error(root: Path, tmp_path: Path) -> None:
    for path in root.iterdir():
        if path.name != "patient_data":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "patient_data").mkdir()
    (tmp_path / "patient_data/test.csv").write_text("subject_id\n1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"got \d+ for training, 0 for testing\. Make more --patients"):
        write_rows(tmp_path, tmp_path / "out", RowSettings(5, 5))


def test_causes_and_shares_are_those_of_the_raw_tables(root: Path, ablation: Path) -> None:
    """A chain that cites everything has the share of causes that the tables say."""
    conditions, twin = read_json(ablation / "conditions.json"), causes_in_tables(root)
    stays: dict[str, list[tuple[str, str]]] = {}
    for row in rows_of(root / "mimiciv/ed/edstays.csv.gz"):
        stays.setdefault(row["subject_id"], []).append((row["intime"], row["stay_id"]))
    dataset = MIMICIV(root, ablation / "train.csv", lazzy_mode=True, shuffle=False)
    chains, number_of_causes, cited = {}, 0, 0
    for index in range(len(dataset)):
        row, text = dataset.row(index), dataset.text(index)
        causes = true_causes(text, conditions[sample_id(row)])
        triage = [re.search(r"\[(.*?)\]", event)[1] for event in text.window if event.startswith("## Triage [")][-1]
        stay = max((begin, stay) for begin, stay in stays[row["subject_id"]] if begin <= triage)[1]
        headings = [re.match(r"## (.+?) \[(.*?)\]", event).groups() for event in text.window]
        # records of a table that nothing separates are one event, with the time of the first
        ends = [*(time for _, time in headings[1:]), "9999"]
        expected = {
            number
            for number, ((title, begin), end) in enumerate(zip(headings, ends, strict=True), 3)
            if begin >= triage and any(t == title and (not at or begin <= at < end or at == begin) for t, at in twin[stay])
        }
        compared = {number for number, (title, _) in enumerate(headings, 3) if title in COMPARED}
        assert causes & compared == expected
        keys = {heading for heading in headings if heading[0] in COMPARED}
        chains[sample_id(row)] = "\n".join(f"- **{title} [{time}]**" for title, time in sorted(keys))
        cited += len(keys)
        number_of_causes += len({headings[number - 3] for number in expected})
    shares = share_of_causes(citations_of(dataset, chains, conditions))
    assert number_of_causes > 50
    assert (shares["cited"], shares["in_record"], shares["causes"]) == (cited, cited, number_of_causes)
    assert shares["share"] == pytest.approx(number_of_causes / cited)
    assert shares["too_few"] and shares["share_ci"] is None, "fewer than 30 patients"


def test_citations_by_time_and_by_content(root: Path, ablation: Path) -> None:
    dataset = MIMICIV(root, ablation / "test.csv", lazzy_mode=True, shuffle=False)
    chains = {sample_id(dataset.row(0)): "- **Pyxis [1999-01-01 00:00:00]**: x", "another sample": "- **Pyxis [x]**"}
    shares = share_of_causes(citations_of(dataset, chains, read_json(ablation / "conditions.json")))
    assert (shares["cited"], shares["in_record"], shares["causes"], shares["share"]) == (1, 0, 0, 0.0)
    drug = re.search(r"## Pyxis \[.*?\]\n- (Name: .+)", str(dataset.text(0)))[1]
    chains = {sample_id(dataset.row(0)): f"- **Pyxis [1999-01-01 00:00:00]**: {drug}\n- **Pyxis [x]**: Name: Unknown"}
    by_content = citations_of(dataset, chains, read_json(ablation / "conditions.json"), by_content=True)
    assert [known for _, known, _ in by_content] == [True, False]
    assert share_of_causes([]) == {"cited": 0, "in_record": 0, "causes": 0, "share": None}


def test_the_interval_of_a_share_resamples_patients() -> None:
    """Beside a bootstrap that draws patients one by one."""
    rng = np.random.default_rng(3)
    patients = {str(n): rng.random(rng.integers(1, 9)) < rng.random() for n in range(60)}
    shares = share_of_causes([(patient, True, bool(cause)) for patient, causes in patients.items() for cause in causes])
    names, draws = list(patients), []
    for _ in range(2000):
        drawn = np.concatenate([patients[name] for name in rng.choice(names, len(names))])
        draws.append(drawn.mean())
    assert shares["share_ci"] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01) and shares["patients"] == 60


# --- the graph of the synthetic world


def test_the_graph_builder_reads_the_medicine_of_the_world(tmp_path: Path) -> None:
    write_knowledge(tmp_path / "META")
    build_graph(["--umls_dir", str(tmp_path / "META"), "--output_path", str(tmp_path / "graph")])
    graph = Graph(tmp_path / "graph")
    for fact in set(statements()):
        if fact.subject.name == fact.object.name:  # a category can have the name of its only diagnosis
            continue
        ends = [graph.node_of_term(concept.name) for concept in (fact.subject, fact.object)]
        path = graph.path_of_nodes(*ends)
        assert len(path) == 3 and path[1] == fact.relation, "each statement is an edge"
    named = {label: graph.node_of_term(label) for label in synonyms()}
    assert named["Octreotide Acetate 500mcg/mL VIAL"] == graph.node_of_term("Octreotide Acetate") is not None


# --- the writer


@pytest.fixture(scope="module")
def sample(root: Path, ablation: Path) -> SampleText:
    dataset = MIMICIV(root, ablation / "train.csv", lazzy_mode=True, shuffle=False)
    return next(text for text in map(dataset.text, range(len(dataset))) if str(text).count("## Pyxis [") > 3)


def test_the_writer_cites_what_the_paths_name(sample: SampleText) -> None:
    drug = re.findall(r"## Pyxis \[(.*?)\]\n- Name: (\w+)", str(sample))[-1]
    paths = ((drug[1], "may_treat", "Pain", "isa", "Finding"), ("Nothing of the record", "may_treat", "Pain"))
    writer = Writer(events=2, mistakes=0)
    with_paths = writer.chain(prompt_of(sample, ["Pain"], paths), 0)
    without = writer.chain(prompt_of(sample, ["Pain"]), 0)
    headings = [event.heading for event in with_paths.events]
    assert any(event.heading.startswith("Pyxis [") and drug[1] in event.statement for event in with_paths.events)
    assert with_paths.reasoning == [f"{drug[1]} may treat Pain, which isa Finding."]
    assert len(headings) == len(without.events) == 2 and without.events[0].heading.split(" [")[0] in str(sample)
    assert without.reasoning != with_paths.reasoning and with_paths.answer == without.answer == ["Pain"]
    assert writer.chain(prompt_of(sample, ["Pain"]), 0) == without != writer.chain(prompt_of(sample, ["Pain"]), 1)


def test_the_filter_finds_every_mistake_and_nothing_else(sample: SampleText) -> None:
    events, limits, answer = CitedEvents(sample), AnswerLimits(), ["Pain", "Fever"]
    for number in range(30):
        good = Writer(mistakes=0).chain(prompt_of(sample, answer), number)
        assert not faults(str(good), good.finish_reason, events, answer, limits)
        for reason, mistake in MISTAKES.items():
            bad = mistake(good)
            assert reason in {fault.reason for fault in faults(str(bad), bad.finish_reason, events, answer, limits)}


def test_both_arms_have_the_same_mistakes(sample: SampleText) -> None:
    writer, paths = Writer(mistakes=0.5), (("Ondansetron", "may_treat", "Pain"),)
    drafts = [[writer.chain(prompt_of(sample, ["Pain"], shown), k) for k in range(200)] for shown in ((), paths)]
    events = CitedEvents(sample)
    rejected = [[bool(faults(str(d), d.finish_reason, events, ["Pain"], AnswerLimits())) for d in of_arm] for of_arm in drafts]
    assert rejected[0] == rejected[1] and 70 < sum(rejected[0]) < 130


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, Writer())) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/v1"
        listening.shutdown()
        thread.join()


def test_the_server_speaks_the_api(server: str, sample: SampleText) -> None:
    assert [model["id"] for model in httpx.get(f"{server}/models").json()["data"]] == [MODEL]
    messages = [{"role": "user", "content": prompt_of(sample, ["Pain"])}]
    reply = httpx.post(f"{server}/chat/completions", json={"model": MODEL, "messages": messages, "n": 3})
    texts = [choice["message"]["content"] for choice in reply.json()["choices"]]
    assert texts == [str(Writer().chain(messages[0]["content"], number)) for number in range(3)]
    other = httpx.post(f"{server}/chat/completions", json={"messages": [{"role": "user", "content": "Who are you?"}]})
    assert other.status_code == 400 and "expected a prompt" in other.json()["error"]["message"]


# --- arms and result


def test_the_arms_have_the_same_rows(ablation: Path, tmp_path: Path) -> None:
    rows = list(rows_of(ablation / "train.csv"))
    index = [{name.replace("context_", "period_"): value for name, value in row.items()} for row in rows]
    for arm, kept in (("without_graph", index[:8]), ("with_graph", index[2:])):
        write_csv(tmp_path / f"chains/{arm}/kept.csv", [row | {"reasoning": f"{arm} {n}"} for n, row in enumerate(kept)])
    assert write_arms(tmp_path) == dict.fromkeys(ARMS, 6)
    arms = {arm: list(rows_of(tmp_path / f"arms/{arm}.csv")) for arm in ARMS}
    ids = {arm: [sample_id(normalise_row(row)) for row in of_arm] for arm, of_arm in arms.items()}
    assert ids["without_chains"] == ids["without_graph"] == ids["with_graph"]
    assert "reasoning" not in arms["without_chains"][0] and arms["with_graph"][0]["reasoning"].startswith("with_graph")


def test_seeds_are_averaged(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{skill}", f"m{skill}", skill, ("diagnosis", "diagnosis_ccs"), n=80) for skill in (0.3, 0.9)]
    f1 = [read_json(run / "result.json")["tasks"]["diagnosis"]["f1"] for run in runs]
    both, better = of_several_seeds(runs), of_several_seeds(runs[1:])
    scores = held_out(both)
    assert scores["tasks"]["diagnosis"]["f1"] == pytest.approx(np.mean(f1)) and scores["macro"]["f1_ci"]
    gain = difference("a", "b", {"a": better, "b": both})
    assert gain["diagnosis"]["difference"] == pytest.approx(f1[1] - np.mean(f1)) and gain["macro"]["ci"][0] > 0


# --- the page


@pytest.mark.parametrize("with_intervals", [True, False])
def test_the_report_shows_the_ablation(tmp_path: Path, with_intervals: bool) -> None:
    run = write_run(tmp_path / "run", tasks=["diagnosis"])
    result = write_ablation(tmp_path / "result.json", with_intervals)
    report([str(run), "--resamples", "20", "--graph_ablation", str(result)])
    page = (run / "report.html").read_text(encoding="utf-8")
    section = page[page.index('id="from-graph-to-score"') : page.index('id="tasks"')]
    assert "A script wrote the chains" in section and "0.870" in section and "1,880 rows" in section
    assert ("[0.830, 0.920]" in section) == with_intervals == ("too few" not in section.replace("Too few", ""))
    report([str(run), "--resamples", "20"])
    assert "From graph to score" not in (run / "report.html").read_text(encoding="utf-8")


def test_another_result_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tasks=["diagnosis"])
    with pytest.raises(UserError, match=r"result\.json: expected the result of a graph ablation, got other JSON\. Name"):
        report([str(run), "--graph_ablation", str(run / "result.json")])


# --- the whole ablation


@pytest.mark.slow
def test_the_ablation_from_patients_to_the_page(tmp_path: Path) -> None:
    sizes = ("--patients", 150, "--steps", 2, "--rows", 40, "--test_rows", 12, "--seeds", 2)
    words = (*sizes, "--root_dir", tmp_path / "root", "--", "--max_new_tokens", 8)
    done = bash("scripts/reproduce/graph_ablation.sh", *words)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = read_json(tmp_path / "root/graph_ablation/result.json")
    without, with_graph = (result["arms"][arm]["chains"] for arm in ARMS[1:])
    assert result["seeds"] == 2 and result["writer"] == MODEL and without["rows"] == 80
    assert with_graph["passed"] == without["passed"] and with_graph["kept"] == without["kept"] >= result["trained_on"] > 60
    assert with_graph["share"] > without["share"] + 0.2
    assert result["arms"]["with_graph"]["tasks"].keys() == {"diagnosis", "diagnosis_ccs"}
    assert "From graph to score" in (tmp_path / "root/report.html").read_text(encoding="utf-8")
    again = bash("scripts/reproduce/graph_ablation.sh", *words)
    assert again.returncode == 0 and again.stdout.count(" 0 samples answered, ") == 6, again.stdout[-2000:]
    assert read_json(tmp_path / "root/graph_ablation/result.json") == result
    assert "origin is unknown" not in done.stdout + again.stdout, "each step knows what its input was made from"
    other = bash("scripts/reproduce/graph_ablation.sh", "--root_dir", tmp_path / "root", "--steps", 3)
    assert other.returncode == 2 and "expected the flags that it was begun with (--patients 150 " in other.stderr


def test_wrong_flags_are_one_line(tmp_path: Path) -> None:
    for words, message in (
        (("--seed", "0"), "--seed 0: expected a whole number from 1."),
        (("--seeds", "0"), "--seeds 0: expected a whole number from 1."),
        (("--patients", "1.5"), "--patients 1.5: expected a whole number from 1."),
        (("--steps", "x"), "--steps x: expected a whole number from 1."),
        (("--model", "none"), "--model none: expected the directory of a model, got none."),
        (("model",), "expected flags, got model."),
        (("--output_path", "x"), "Everything is below --root_dir."),
    ):
        done = bash("scripts/reproduce/graph_ablation.sh", "--root_dir", tmp_path, *words)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
