"""The thinking graph run a second time, after one input or setting changed: made again or refused, never silently kept.

docs/provenance.md has the table of what each change affects; a test here holds it to `CHANGES`.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO
from scripted_server import ScriptedServer
from test_second_run import Change, edit, remove, truncate
from tiny_evidence import answer_of, chain, record_of
from tiny_primekg import write_primekg

from pipeline.errors import UserError
from pipeline.files import read_json

GRAPH = "thinking_graph_preprocess"
# Name of a step, its script, and its flags besides --root_dir.
CHAIN = {
    "merge": ("preprocess/merge_patient.py", ""),
    "rank": ("preprocess/rank.py", ""),
    "combination": ("preprocess/combination.py", ""),
    "index": ("mimiciv_dataset/task_sample_info_gen.py", ""),
    "by_patient": ("mimiciv_dataset/task_sample_info_gen.py", "--group patient --output_path {root}/task_index/patient"),
    "set": (
        "mimiciv_dataset/data_index_gen.py",
        "--data_config {repo}/scripts/data_configs/decision_making.json --force_task_num 1 --output_path {root}/sets/set.csv",
    ),
    "concepts": (f"{GRAPH}/concept_extraction.py", ""),
    "coexistence": (f"{GRAPH}/coexistence_concept.py", ""),
    "graph": (f"{GRAPH}/build_umls_graph.py", "--primekg {root}/kg/kg.csv --icd_map {root}/kg/mondo.sssom.tsv"),
    "evidence": (f"{GRAPH}/evidence_generation.py", "--data_index_path {root}/sets/set.csv --threshold 1 --min_support 1"),
    "chains": (f"{GRAPH}/reasoning_generation.py", "--model m --n 1 --base_url {url}"),
    "kept": (f"{GRAPH}/filter_reasoning.py", ""),
    "template": ("scripts/make_template_reasoning.py", "{root}/sets/set.csv --output_path {root}/sets/template.csv"),
}
FILES = ("concepts", "coexistence", "graph", "evidence", "kept")  # directories whose files are compared with a first run's

FROM_EVIDENCE = "evidence chains kept"
FROM_CONCEPTS = f"concepts coexistence {FROM_EVIDENCE}"
FROM_INDEX = f"index by_patient set template {FROM_CONCEPTS}"
ALL = f"merge rank combination {FROM_INDEX}"
PATIENTS = "patient_data/train.csv"


def write_prompts(root: Path) -> None:
    """Other prompts and another question, which the steps read with the flags of a change only."""
    shutil.copytree(REPO / GRAPH / "prompts", root / "prompts")
    path = root / "prompts/without_knowledge.txt"
    path.write_text("Be brief.\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    (root / "questions.json").write_text(json.dumps({"emar": "And now?"}))


def drop_line(name: str):
    def change(root: Path) -> None:
        path = root / name
        path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")

    return change


QUESTIONS = ["--instructions", "{root}/questions.json"]
CHANGES = {
    "a raw laboratory value": Change(ALL, edit("mimiciv/hosp/labevents.csv.gz", ",mg/dL,", ",mg/dl,")),
    "a raw name of a drug": Change(f"{ALL} graph", edit("mimiciv/hosp/prescriptions.csv.gz", "spirin", "spirIn")),
    "an entry of a code map": Change(f"{FROM_INDEX} graph", edit("index_mapping/*/d_ccs_diagnoses.csv", "ension", "ENSION")),
    "a map to the knowledge graph": Change(f"graph {FROM_EVIDENCE}", edit("kg/mondo.sssom.tsv", "ICD10CM:I10", "ICD10CM:I15")),
    "a drug of the vocabularies": Change(FROM_CONCEPTS, edit("cache/item_set/emar.csv", "a", "A")),
    "a training patient less": Change(f"coexistence {FROM_EVIDENCE}", drop_line(PATIENTS)),
    "the seed of the sampled set": Change(f"set template {FROM_EVIDENCE}", flags={"set": ["--seed", "1"]}),
    "--matcher of the concepts": Change("", flags={"concepts": ["--matcher", "dictionary"]}),
    "--threshold of the pairs": Change(FROM_EVIDENCE, flags={"evidence": ["--threshold", "1.1"]}),
    "--max_hops of the paths": Change(FROM_EVIDENCE, flags={"evidence": ["--max_hops", "3"]}),
    "--temperature of the writer": Change("chains kept", flags={"chains": ["--temperature", "0.7"]}),
    "the model that writes": Change("chains kept", flags={"chains": ["--model", "other"]}),
    "the wording of a prompt": Change("chains kept", write_prompts, {"chains": ["--prompts", "{root}/prompts"]}),
    "a question": Change("chains kept", write_prompts, {"chains": QUESTIONS, "kept": QUESTIONS}),
    "--min_right of the filter": Change("kept", flags={"kept": ["--min_right", "0.9"]}),
    "--events of the template": Change("template", flags={"template": ["--events", "2"]}),
    "truncated concepts": Change("concepts", truncate("evidence_datas/concepts/*.parquet")),
    "missing co-occurrence": Change("coexistence", remove("evidence_datas/coexistence/emar.parquet")),
    "a truncated graph": Change("graph", truncate("evidence_datas/graph/labels.npy")),
    "truncated evidence": Change("evidence", truncate("evidence_datas/evidence/set.csv")),
    "truncated replies": Change("chains", truncate("evidence_datas/reasoning/reasoning.jsonl")),
    "truncated kept chains": Change("kept", truncate("evidence_datas/kept/reasoning.csv")),
    "missing rejects": Change("kept", remove("evidence_datas/kept/reasoning.rejects.jsonl")),
    "the rules of concept_extraction.py": Change(FROM_CONCEPTS, rules="concepts"),
    "the rules of coexistence_concept.py": Change(f"coexistence {FROM_EVIDENCE}", rules="coexistence"),
    "the rules of build_umls_graph.py": Change(f"graph {FROM_EVIDENCE}", rules="graph"),
    "the rules of evidence_generation.py": Change(FROM_EVIDENCE, rules="evidence"),
    "the rules of reasoning_generation.py": Change("chains", rules="chains"),
    "the rules of filter_reasoning.py": Change("kept", rules="kept"),
    "the rules of make_template_reasoning.py": Change("template", rules="template"),
}  # fmt: skip
FAST = ("an entry of a code map", "a training patient less", "truncated replies", "the wording of a prompt")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    def write_chain(body: dict, number: int) -> dict:
        event = record_of(body).split("## ")[1].splitlines()[0].strip()
        return {"text": chain(f"- **{event}**: seen", f"From **{event}** it follows.", answer_of(body))}

    with ScriptedServer(write_chain) as server:
        yield server.url


def run_chain(root: Path, url: str, flags: dict[str, list[str]] = {}) -> Iterator[str]:  # noqa: B006
    """Run the steps as a user who adds --overwrite where a step asks for it; yields the steps that were made again."""
    replies = root / "evidence_datas/reasoning/provenance.json"

    def requests() -> list | None:
        return [read_json(replies)[key] for key in ("rules", "inputs", "settings")] if replies.exists() else None

    for name, (script, words) in CHAIN.items():
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        every = [*words.split(), *flags.get(name, [])]
        arguments = ["--root_dir", str(root), *(word.format(root=root, repo=REPO, url=url) for word in every)]
        before = requests()
        try:
            assert not module.main(arguments), script
        except UserError as error:
            assert "--overwrite" in str(error), error
            assert not module.main([*arguments, "--overwrite"]), script
            yield name
        else:
            if before not in (None, requests()):  # not refused, as no reply is lost
                yield name


def contents(root: Path) -> dict[str, bytes]:
    """The files of the outputs, without records, which name replies whose order is not fixed."""
    folders = [root / "evidence_datas" / name for name in FILES]
    files = [*(path for folder in folders for path in sorted(folder.iterdir())), root / "sets/template.csv"]
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in files
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith((".json", ".jsonl"))
    }


@pytest.fixture(scope="module")
def made(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mimiciv_dataset import similar_item_gen
    from preprocess import build_index_mapping, split_patients, synthetic_mimic

    root = tmp_path_factory.mktemp("second_run_graph")
    synthetic_mimic.main(["--root_dir", str(root), "--patients", "12"])
    words = ["--root_dir", str(root)]
    for name in ("merge", "rank", "combination"):
        importlib.import_module(CHAIN[name][0].removesuffix(".py").replace("/", ".")).main(words)
    split_patients.main([*words, "--test_ratio", "0.4"])
    build_index_mapping.main(words)
    importlib.import_module("mimiciv_dataset.task_sample_info_gen").main(words)
    similar_item_gen.main(words)
    write_primekg(root / "kg")
    assert list(run_chain(root, url)) == []
    kept = (root / "evidence_datas/kept/reasoning.csv").read_text(encoding="utf-8")
    evidence = (root / "evidence_datas/evidence/set.csv").read_text(encoding="utf-8")
    assert kept.count("## Final Results") > 5 and "umls_graph" in evidence, "the tests would show nothing"
    return root


def test_with_nothing_changed_nothing_is_written(made: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    def stamps() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in made.rglob("*") if path.is_file()}

    before = stamps()
    assert list(run_chain(made, url)) == []
    assert capsys.readouterr().out.count("is up to date") == len(CHAIN) and stamps() == before


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in CHANGES])
def test_after_a_change(name: str, made: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps that the change affects refuse and are made again; the result is that of a first run."""
    change, root = CHANGES[name], tmp_path / "root"
    shutil.copytree(made, root)
    if change.rules:
        module = importlib.import_module(CHAIN[change.rules][0].removesuffix(".py").replace("/", "."))
        monkeypatch.setattr(module, "RULES", module.RULES + 1)
    change.change(root)
    replies = (root / "evidence_datas/reasoning/reasoning.jsonl").read_bytes()
    assert sorted(run_chain(root, url, change.flags)) == sorted(change.affects.split())
    assert list(run_chain(root, url, change.flags)) == []
    log = (root / "evidence_datas/reasoning/reasoning.jsonl").read_bytes()
    assert log.startswith(replies[: replies.rindex(b"\n")]), "replies are never removed"
    again = contents(root)
    shutil.rmtree(root / "evidence_datas")
    (root / "sets/template.csv").unlink()
    (root / "sets/template.provenance.json").unlink()
    assert list(run_chain(root, url, change.flags)) == []
    assert contents(root) == again


def test_the_docs_have_the_table() -> None:
    text = (REPO / "docs/provenance.md").read_text(encoding="utf-8")
    for name, change in CHANGES.items():
        assert f"| {name} | {', '.join(change.affects.split()) or 'none'} |" in text
