"""The commands and programs of README and docs run as they are written, in order, in a fresh copy of the repository.

Differences from what a reader types, all in the tables below: placeholders, the size of sampled sets, and commands that need
a GPU, a cluster or hours. The comment of a command (at its end, or on the line above it) says if it needs such a thing.
"""

from __future__ import annotations

import csv
import http.server
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from conftest import REPO, command
from doc_blocks import Block, Command, apply_diff, blocks, commands, copy_repository
from scripted_server import ScriptedServer
from test_download_code_maps import QuietHandler
from test_external_cdm import write_pickles
from test_external_ehrshot import write_ehrshot
from test_index_mapping import write_sources
from tiny_eicu import write_eicu
from tiny_evidence import answer_of, chain, prompt_of, record_of
from tiny_hetionet import write_hetionet
from tiny_meds import ROWS, write_meds, write_mimiciv_meds
from tiny_mimic import write_mimic_with_ecg
from tiny_omop import write_omop
from tiny_primekg import write_primekg
from tiny_umls import write_umls

PAGES = (
    "README.md",
    "docs/data.md",
    "docs/own_data.md",
    "docs/provenance.md",
    "docs/tasks.md",
    "docs/evaluation.md",
    "docs/viewer.md",
    "docs/thinking_graph_concepts.md",
    "docs/thinking_graph.md",
    "docs/training.md",
    "docs/external.md",
    "docs/cluster.md",
    "docs/leaderboard.md",
    "docs/reproduce.md",
    "docs/synthetic.md",
    "docs/benchmarks.md",
    "docs/scale.md",
    "docs/differences.md",
    "docs/index.md",
    "docs/faq.md",
    "docs/glossary.md",
    "docs/cards.md",
    "docs/new_site.md",  # the last one, as it changes the code
)
FIRST_COMMANDS = ("bash scripts/quickstart.sh", "bash scripts/run_tests.sh")  # the only ones that are not run here
ACTIVATE = "source .venv/bin/activate"
NEEDS = re.compile(r"needs (GPUs|a GPU|a cluster)|takes hours")  # in comments: such a command is only checked
FLAGS = {  # command → more flags: smaller sets, and a site on loopback
    "bash scripts/build_datasets.sh": "--scale 0.004",
    "python -m evaluation.synthetic_benchmark make": "--patients 60 --samples 5",
    "python scripts/download_code_maps.py": "--base_url {AHRQ}",
    "scripts/slurm/test_array.slurm": "--limit 20",
    "bash scripts/reproduce/graph_ablation.sh": "--patients 150 --steps 2 --rows 40 --test_rows 12 -- --max_new_tokens 8",
}
CHECKED = (  # command → what runs where the machine or the time is missing
    (r"sbatch --nodes \d+ scripts/slurm/ray.slurm (.*)", r"python \1 --engine ray"),
    (r"(?:squeue|tail) .*", "true"),
    (r"(?:pip install|ray|export RAY_ADDRESS=).*", "true"),
    (r"(python test.py --engine ray) --data_parallel_size 16 (.*)", r"\1 \2 --limit 8"),
    (r"sbatch --nodes \d+ (.*)", r"bash \1 --dry_run"),
    (r"(bash scripts/.*)", r"\1 --dry_run"),
    (
        r"accelerate launch --config_file=\S+ --num_processes 8 sft.py (.*)",
        r"accelerate launch --config_file=scripts/accelerate_configs/cpu.yaml --num_processes 1 sft.py \1 --max_steps 2",
    ),
    (r"(python -m vllm\.\S+) .*", r"\1 --help"),
    (r"for .*(python benchmarks/learning.py) .*", r"\1 --help"),
)
SBATCH = """#!/usr/bin/env bash
# Stands in for SLURM: runs a job at once, with two array tasks, one after the other, unless there is --array=0.
set -euo pipefail
tasks="0 1"; [[ " $* " != *" --array=0 "* ]] || tasks=0
while [[ $1 == --* ]]; do
  if [ "$1" = --wrap ]; then bash -c "$2" >&2; echo 1; exit; fi
  shift
done
export SLURM_SUBMIT_DIR=$PWD SLURM_CPUS_PER_TASK=1 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_COUNT=$(wc -w <<< "$tasks")
for task in $tasks; do SLURM_ARRAY_TASK_ID=$task bash "$@" >&2; done
echo 1
"""


def test_every_block_is_run_or_a_sample_of_text() -> None:
    assert {"README.md", *(path.relative_to(REPO).as_posix() for path in (REPO / "docs").glob("*.md"))} == set(PAGES)
    for page in PAGES:
        for block in blocks(page):
            assert block.language in ("bash", "python", "diff", ""), (
                f"{page}, line {block.line}: the language {block.language} is not run"
            )
            if not block.language:
                typed = re.search(r"^(\$ |python|bash|sbatch|source|cd |import |from )", block.text, re.MULTILINE)
                assert not typed, f"{page}, line {block.line}: a block of commands or code needs its language"
    first = commands(blocks("README.md")[0])
    assert tuple(command.text for command in first) == FIRST_COMMANDS


def test_what_needs_a_machine_is_checked_in_another_way() -> None:
    checked = [
        c for page in PAGES for b in blocks(page) if b.language == "bash" for c in commands(b) if NEEDS.search(c.comment)
    ]
    assert len(checked) > 8
    for item in checked:
        assert any(re.fullmatch(pattern, item.text) for pattern, _ in CHECKED), item.text


# --- the world of the commands


def write_model(folder: Path, synthetic_root: Path) -> Path:
    """A tiny model that ends every reply at once: all its logits are equal, and token 0 ends a text."""
    from safetensors.torch import load_file, save_file

    index = synthetic_root / "task_index/all"
    files = [index / f"{task}.csv" for task in ("emar", "chartevents", "Inpatient_Mortality")]
    flags = ("--root_dir", synthetic_root, "--output_path", folder, "--long_tokens", "--samples", 60)
    command("scripts/make_tiny_model.py", *flags, "--dataset_name", *files)
    weights = load_file(folder / "model.safetensors")
    save_file(
        weights | {"model.norm.weight": weights["model.norm.weight"] * 0}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def write_downloads(folder: Path) -> Path:
    """Synthetic patients in three directories, as PhysioNet's downloads are."""
    command("preprocess/synthetic_mimic.py", "--root_dir", folder / "made", "--patients", 80)
    for module, release in (("hosp", "mimiciv/3.1"), ("icu", "mimiciv/3.1"), ("ed", "mimic-iv-ed/2.2"),
                            ("note", "mimic-iv-note/2.2")):  # fmt: skip
        (folder / release).mkdir(parents=True, exist_ok=True)
        (folder / "made/mimiciv" / module).rename(folder / release / module)
    return folder


def write_ahrq(folder: Path, maps: Path) -> Path:
    """The zip files of AHRQ with the code maps of the synthetic patients in its format."""
    zips = {
        "ccs/Single_Level_CCS_2015.zip": {"$dxref 2015.csv": ("diagnoses", "9"), "$prref 2015.csv": ("procedures", "9")},
        "ccs10/ccs_dx_icd10cm_2019_1.zip": {"ccs_dx_icd10cm_2019_1.csv": ("diagnoses", "10")},
        "ccs10/ccs_pr_icd10pcs_2020_1.zip": {"ccs_pr_icd10pcs_2020_1.csv": ("procedures", "10")},
    }
    for zip_name, tables in zips.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, (kind, version) in tables.items():
                with (maps / f"hosp/d_ccs_{kind}.csv").open(newline="") as file:
                    rows = [row for row in csv.DictReader(file) if row["icd_version"] == version]
                system = {"9": "ICD-9-CM", "10": "ICD-10-CM" if kind == "diagnoses" else "ICD-10-PCS"}[version]
                lines = [f"'{system} CODE','CCS CATEGORY','CCS CATEGORY DESCRIPTION'"]
                lines += [f"'{row['icd_code']}','{row['long_title']}','{row['long_title']}'" for row in rows]
                archive.writestr(name, "\n".join(lines) + "\n")
        (folder / zip_name).parent.mkdir(parents=True, exist_ok=True)
        (folder / zip_name).write_bytes(buffer.getvalue())
    return folder


def reply(body: dict, number: int) -> dict:
    """A correct chain, the items that a chain arrives at, or the answer "no"."""
    prompt = prompt_of(body) if "messages" in body else ""
    if "# The right answer" in prompt:
        event = record_of(body).split("## ")[1].splitlines()[0].strip()
        items = answer_of(body)
        reasoning = "\n".join([f"From **{event}** these follow:", *(f"- {item}" for item in items)])
        return {"text": chain(f"- **{event}**: seen", reasoning, items)}
    if "# The reasoning" in prompt:
        return {"text": re.search(r"these follow:\n((?:- .*\n)+)", prompt)[1]}
    return {"text": "no", "top": {"no": -0.1, "yes": -2.5}}


def write_release(folder: Path, root: Path) -> Path:
    """The files of a build as a release has them: one file per patient, in archives, without provenance."""
    folder.mkdir()
    command(
        "preprocess/combination.py", "--root_dir", root, "--layout", "patient", "--output_path", folder / "made/patients_ehr"
    )
    for name, path in (("patients_ehr", folder / "made/patients_ehr"), ("cache", root / "cache")):
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(path, name, filter=lambda member: None if member.name.endswith(".json") else member)
    shutil.rmtree(folder / "made")
    for name in ("ehr_bench", "index_mapping"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("*.json", "*.audit.csv"))
    return folder


def write_released_jsonl(repository: Path, index: Path) -> None:
    """Rows with their input, as in the released JSONL, and the input of the first one."""
    from mimiciv_dataset.mimiciv import MIMICIV

    data = MIMICIV(root_dir=repository / "datas", sample_info_path=index, lazzy_mode=True, shuffle=False)
    with (repository / "released.jsonl").open("w", encoding="utf-8") as file:
        for number in range(min(len(data), 12)):
            file.write(json.dumps({"idx": number, **data[number]}, default=str) + "\n")
    (repository / "record.md").write_text(data[0]["input"], encoding="utf-8")


@pytest.fixture
def server() -> Iterator[str]:
    with ScriptedServer(reply) as running:
        yield running.url


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[str]:
    """The URL of the directory `ahrq`."""
    handler = partial(QuietHandler, directory=tmp_path / "ahrq")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


# --- running them


def run(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash outside this environment."""
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != Path(sys.prefix) / "bin")
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = ["bash", "-euo", "pipefail", "-c", line]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    return subprocess.run(line, cwd=cwd, env=env, timeout=1800, **pipe)


@dataclass
class World:
    """A reader's machine: a copy of the repository, downloads, models, servers, and what the placeholders stand for."""

    folder: Path
    words: dict[str, object]
    activated: bool = False

    @property
    def repository(self) -> Path:
        return self.folder / "EHR-R1"

    def prepare(self, block: Block) -> Path:
        """Make what the text around a block assumes to be there; return the directory in which it is run."""
        bench = self.repository / "datas/ehr_bench/ehr_bench_decision_making.csv"
        if "--maps_from DIR" in block.text:
            shutil.copytree(self.repository / "datas/index_mapping", self.folder / "maps")
        if "RELEASED.jsonl" in block.text:
            write_released_jsonl(self.repository, bench)
        if "unpack_release.sh" in block.text:  # readers of this part have no other data
            write_release(self.folder / "download", self.repository / "datas")
            return copy_repository(self.folder / "release/EHR-R1")
        return self.repository

    def command_line(self, item: Command) -> str:
        """What is run for a command."""
        placeholder = re.compile("|".join(rf"(?<![\w.-]){re.escape(word)}(?![\w-])" for word in self.words))
        line = placeholder.sub(lambda match: shlex.quote(str(self.words[match.group()])), item.text)
        for text, flags in FLAGS.items():
            line = line.replace(text, f"{text} {flags}".format(**self.words))
        if NEEDS.search(item.comment):
            pattern, instead = next(pair for pair in CHECKED if re.fullmatch(pair[0], line))
            line = re.sub(pattern, instead, line)
        return f"{ACTIVATE}; {line}" if self.activated else line

    def run(self, block: Block) -> None:
        """Run a block, command by command, or apply it; the environment is active from the command that activates it."""
        cwd = self.prepare(block)
        if block.language == "diff":
            return apply_diff(block, cwd)
        if block.language == "python":
            (cwd / "program.py").write_text(block.text.replace("MODEL", str(self.words["MODEL"])), encoding="utf-8")
            items = [Command("python program.py", "")]
        else:
            items = [item for item in commands(block) if item.text not in FIRST_COMMANDS]
        for item in items:
            self.activated |= item.text == ACTIVATE
            line, start = self.command_line(item), time.monotonic()
            done = run(line, cwd)
            print(f"{time.monotonic() - start:5.1f} s  {line}", flush=True)
            missing = re.findall(r"^missing: (?!\./models/)", done.stdout, re.MULTILINE)  # of a dry run; no model was trained
            where = f"{block.page}, line {block.line}: {line}"
            assert done.returncode == 0 and not missing, f"{where}\nexited with {done.returncode}:\n{done.stdout[-4000:]}"


@pytest.mark.slow
def test_every_command_and_program_runs(
    synthetic_root: Path, tmp_path: Path, server: str, file_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text(SBATCH)
    (tmp_path / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    downloads, index = write_downloads(tmp_path / "physionet.org/files"), "./datas/ehr_bench/ehr_bench_risk_prediction.csv"
    write_ahrq(tmp_path / "ahrq", downloads / "made/index_mapping")
    model = write_model(tmp_path / "model", synthetic_root)
    names = [("C0000001", "Glucose"), ("C0000002", "Sodium"), ("C0000003", "Insulin")]
    write_primekg(tmp_path / "primekg")
    write_hetionet(tmp_path / "hetionet")
    world = World(tmp_path, {
        "DOWNLOADS": downloads,
        "RXNORM": write_sources(tmp_path / "RXNORM/rrf").parent,
        "META": write_umls(tmp_path / "META", names, [("C0000001", "isa", "C0000002"), ("C0000002", "isa", "C0000003")]),
        "kg.csv": tmp_path / "primekg/kg.csv",
        "mondo.sssom.tsv": tmp_path / "primekg/mondo.sssom.tsv",
        "HETIONET": tmp_path / "hetionet",
        "DIR": tmp_path / "maps",
        "DOWNLOAD_DIR": tmp_path / "download",
        "RELEASED.jsonl": "released.jsonl",
        "INDEX": index,
        "FILE": index,
        "MODEL": model,
        "MODEL_2": shutil.copytree(model, tmp_path / "model-2"),
        "NAME": "tiny",
        "http://127.0.0.1:8000/v1": server,
        "AHRQ": file_server,
        "EHRSHOT_ASSETS": write_ehrshot(tmp_path / "EHRSHOT_ASSETS"),
        "MEDS_DIR": write_mimiciv_meds(tmp_path / "meds"),
        "OMOP_DIR": write_omop(tmp_path / "omop"),
        "EICU_DIR": write_eicu(tmp_path / "eicu"),
        "MIMIC_WITH_ECG": write_mimic_with_ecg(tmp_path / "mimic_with_ecg"),
        "GENERAL_MEDS": write_meds(tmp_path / "general", [ROWS]),
        "CDM_DIR": write_pickles(tmp_path / "cdm"),
    })  # fmt: skip
    copy_repository(world.repository)
    for page in PAGES:
        for block in blocks(page):
            if block.language:
                world.run(block)
    for output in ("results/risk/report.html", "results/table", "datas/evidence_datas/kept/verified.csv", "models/published"):
        assert (world.repository / output).exists(), output
    with (world.repository / "datas/evidence_datas/kept/reasoning.csv").open(newline="", encoding="utf-8") as file:
        assert sum(1 for _ in csv.DictReader(file)) > 20, "chains were kept"
