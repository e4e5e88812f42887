"""The launchers of the reasoning synthesis: the steps in order, their chunks, and wrong use."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conftest import REPO, command
from scripted_server import ScriptedServer
from test_launchers import bash
from test_training_samples import index_of
from tiny_evidence import answer_of, chain, prompt_of, read_chains, record_of, write_evidence
from tiny_primekg import write_primekg

SYNTHESIS, ARRAY = "scripts/reasoning_synthesis/synthesis.sh", "scripts/reasoning_synthesis/array.slurm"


def data(small_root: Path, root: Path) -> Path:
    """A data folder with the evidence of five rows; trajectories are those of `small_root`."""
    root.mkdir()
    (root / "patients_ehr").symlink_to(small_root / "patients_ehr")
    write_evidence(small_root, root / "evidence_datas/evidence/emar.csv", rows=5)
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_from_evidence_to_chains(small_root: Path, tmp_path: Path) -> None:
    root = data(small_root, tmp_path / "datas")
    with ScriptedServer(lambda body, number: {"text": chain()}) as server:
        words = ("--root_dir", root, "--from", "reasoning", "--model", "m", "--base_url", server.url, "--", "--n", 1)
        done = bash(SYNTHESIS, *words)
        assert done.returncode == 0, done.stderr
        assert bash(SYNTHESIS, *words).returncode == 0 and len(server.asked) == 5, "a second time there is nothing to ask"
    assert len(rows(root / "evidence_datas/kept/reasoning.csv")) == 5


def test_the_kept_chains_train_stage_two(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Scripted server → filter → sft.py, which reads the kept rows as they are and trains on the chains."""
    root = data(small_root, tmp_path / "datas")
    with ScriptedServer(lambda body, number: {"text": chain(final=["Nothing"]) if number == 3 else chain()}) as server:
        done = bash(
            SYNTHESIS, "--root_dir", root, "--from", "reasoning", "--model", "m", "--base_url", server.url, "--", "--n", 1
        )
    assert done.returncode == 0, done.stderr
    kept = root / "evidence_datas/kept/reasoning.csv"
    assert len(rows(kept)) == 4, "the chain with the wrong answer is not kept"
    trained = command(
        "sft.py", "--root_dir", root, "--model_name_or_path", tiny_model, "--dataset_name", kept,
        "--output_dir", tmp_path / "out",
        "--max_length", 4096, "--max_steps", 2, "--per_device_train_batch_size", 2, "--bf16", "False", "--report_to", "none",
        "--save_strategy", "no")  # fmt: skip
    assert "mode think," in trained.stdout and "0 rows skipped" in trained.stdout
    assert (tmp_path / "out/model.safetensors").exists()


def whole_root(synthetic_root: Path, root: Path) -> Path:
    """A data folder with trajectories, dictionaries, index and split, before the first step of the synthesis."""
    (root / "patient_data").mkdir(parents=True)
    for name in ("patients_ehr", "index_mapping", "mimiciv"):
        (root / name).symlink_to(synthetic_root / name)
    (root / "task_index").mkdir()
    (root / "task_index/all").symlink_to(synthetic_root / "task_index/all")
    command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", root, "--output_path", root / "task_index/patient",
            "--group", "patient")  # fmt: skip
    command("preprocess/split_patients.py", "--root_dir", root, "--ehr_dir", root / "patients_ehr", "--test_ratio", 0.1)
    return root


def good(body: dict, number: int) -> dict:
    """A chain that is accepted, whatever the record."""
    event = record_of(body).split("## ")[1].splitlines()[0].strip()
    return {"text": chain(f"- **{event}**: seen", f"From **{event}** it follows.", answer_of(body))}


@pytest.mark.slow
def test_all_steps(synthetic_root: Path, tmp_path: Path) -> None:
    """From trajectories and an index to kept chains by one command, in two chunks, with a graph of free vocabularies."""
    root = whole_root(synthetic_root, tmp_path / "datas")
    index = index_of(synthetic_root, tmp_path, "emar", "labevents", rows=6)
    with ScriptedServer(good) as server:
        words = ("--root_dir", root, "--index", index, "--model", "m", "--base_url", server.url, "--chunks", 2, "--", "--n", 1)
        done = bash(SYNTHESIS, *words)
        assert done.returncode == 0, done.stderr
        again = bash(SYNTHESIS, *words)
        assert again.returncode == 0 and len(server.asked) == 12, "a second time nothing is asked"
    evidence = root / "evidence_datas"
    assert (evidence / "graph/about.json").exists() and len(list((evidence / "evidence").glob("*-of-2.csv"))) == 2
    assert len(rows(evidence / "kept/reasoning.csv")) == 12


@pytest.mark.slow
def test_all_steps_with_an_open_knowledge_graph(synthetic_root: Path, tmp_path: Path) -> None:
    """PrimeKG and its maps reach the graph, the recommended limit the paths, and the paths the prompts."""
    root = whole_root(synthetic_root, tmp_path / "datas")
    index = index_of(synthetic_root, tmp_path, "diagnoses_icd", "emar", rows=20)
    flags = ("--root_dir", root, "--index", index, "--model", "m", *write_primekg(tmp_path / "kg"))
    with ScriptedServer(good) as server:
        done = bash(SYNTHESIS, *flags, "--base_url", server.url, "--", "--n", 1)
    assert done.returncode == 0 and "ICD-10 diagnoses" in done.stdout, done.stderr
    paths = [path for row in rows(root / "evidence_datas/evidence" / Path(index).name) if row["graph"]
             for path in json.loads(row["graph"])["umls_graph"]]  # fmt: skip
    assert {"has_ingredient", "has_indication"} & {relation for path in paths for relation in path[1::2]}
    assert max(len(path) // 2 for path in paths) <= 5
    asked = [prompt_of(body) for _, _, body in server.asked]
    assert any("- " + " → ".join(path) in prompt for path in paths for prompt in asked)
    assert rows(root / "evidence_datas/kept/reasoning.csv")


def test_flags_of_the_graph_are_passed_on(tmp_path: Path) -> None:
    """To the steps that take them; the limit of the paths of an open knowledge graph can be another one."""
    (tmp_path / "index.csv").touch()
    flags = ("--index", tmp_path / "index.csv", "--model", "m", "--base_url", "http://127.0.0.1:1/v1", "--dry_run")
    maps = ("--primekg", "kg.csv", "--icd_map", "a b.tsv", "--loinc_map", "c.tsv", "--labitem_map", "d.csv")
    printed = bash(SYNTHESIS, *flags, *maps).stdout
    assert r"--free --primekg kg.csv --icd_map a\ b.tsv --loinc_map c.tsv --labitem_map d.csv" in printed
    assert "--max_hops 5" in printed and "--max_hops 7" in bash(SYNTHESIS, *flags, *maps, "--max_hops", 7).stdout
    printed = bash(SYNTHESIS, *flags, "--hetionet", "tsv", "--icd_map", "a.tsv").stdout
    assert "--free --hetionet tsv --icd_map a.tsv" in printed and "--max_hops 5" in printed
    printed = bash(SYNTHESIS, *flags, "--umls_dir", "META").stdout
    assert printed.count("--umls_dir META") == 2 and "--max_hops" not in printed


def test_a_failed_step_stops_the_run(small_root: Path, tmp_path: Path) -> None:
    root = data(small_root, tmp_path / "datas")
    with ScriptedServer(lambda body, number: {"status": 400}) as server:
        done = bash(SYNTHESIS, "--root_dir", root, "--from", "reasoning", "--model", "m", "--base_url", server.url)
    assert done.returncode == 1 and "== filter_reasoning.py" not in done.stdout


def test_a_job_array_covers_every_row(small_root: Path, tmp_path: Path) -> None:
    """The batch script's own body, with the variables that SLURM sets; array numbers need not begin at 0."""
    root = data(small_root, tmp_path / "datas")
    with ScriptedServer(lambda body, number: {"text": chain()}) as server:
        for number in (3, 4):
            done = bash(ARRAY, "reasoning_generation", "--root_dir", root, "--model", "m", "--base_url", server.url,
                        SLURM_ARRAY_TASK_COUNT="2", SLURM_ARRAY_TASK_MIN="3", SLURM_ARRAY_TASK_ID=str(number),
                        SLURM_SUBMIT_DIR=str(REPO))  # fmt: skip
            assert done.returncode == 0, done.stderr
    assert len(read_chains(root / "evidence_datas/reasoning")) == len(server.asked) == 5
    one = {
        "SLURM_ARRAY_TASK_COUNT": "1",
        "SLURM_ARRAY_TASK_MIN": "0",
        "SLURM_ARRAY_TASK_ID": "0",
        "SLURM_SUBMIT_DIR": str(REPO),
    }
    done = bash(ARRAY, "filter_reasoning", "--root_dir", root, **one)
    assert done.returncode == 0 and len(rows(root / "evidence_datas/kept/reasoning.csv")) == 5
    done = bash(ARRAY, "no_such_step", **one)
    assert done.returncode == 2 and "no_such_step.py: expected a script of the repository" in done.stderr
    alone = bash(ARRAY, "filter_reasoning", SLURM_SUBMIT_DIR=str(REPO))
    assert alone.returncode != 0 and "expected to run in a job array" in alone.stderr


def test_help_and_wrong_use() -> None:
    assert "usage: synthesis.sh" in bash(SYNTHESIS, "--help").stdout
    model = ("--model", "m", "--base_url", "http://127.0.0.1:1/v1")
    for words, message in (
        ((), "--model NAME: expected"),
        (("--model", "m"), "--base_url URL: expected"),
        (model, "--index FILE: expected an index CSV"),
        ((*model, "--from", "nowhere"), "--from nowhere: expected one of concepts"),
        ((*model, "--chunks", "0"), "--chunks 0: expected a whole number"),
        ((*model, "--umls_dir", "META", "--icd_map", "map.csv"), "--umls_dir and --icd_map: expected one of them, got both"),
        (("--model",), "--model: expected a value"),
        (("--modle", "m"), "unknown argument --modle"),
    ):
        done = bash(SYNTHESIS, *words)
        assert done.returncode == 2 and message in done.stderr, done.stderr
