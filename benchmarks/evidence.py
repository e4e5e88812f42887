"""Share of samples that get a graph, per task, on the MIMIC-IV demo, with the free graph and with a UMLS-shaped one.

The samples are all decision samples of the demo's patients, who are the training patients as well, since chains are written
for training patients. The UMLS-shaped graph is random: RRF files in which every concept of the demo is a name, in a random
hierarchy with random other relations. It has no medical meaning; it shows how many paths the lift and support thresholds
leave if every name is known and linked.

    python benchmarks/evidence.py --mimic_dir mimic-iv-demo [--maps_from DIR] [--work_dir DIR]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import json
import random
import subprocess
import tempfile
from collections.abc import Sequence

from pipeline.cli import Parser, run

REPO = Path(__file__).resolve().parent.parent
MEASURES = ("with a graph", "paths each", "relations per path")


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--mimic_dir", type=Path, required=True, help="directory of the demo, with hosp/, icu/, ed/ and note/")
    cli.add_argument("--maps_from", type=Path, help="directory with CCS and ATC maps")
    cli.add_argument("--work_dir", type=Path, help="directory for intermediate files (temporary)")
    args = cli.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        root = args.work_dir or Path(temporary)
        prepare(root, args.mimic_dir, args.maps_from)
        concepts = write_shaped(root)
        build = "thinking_graph_preprocess/build_umls_graph.py"
        script(build, root, "--free", "--mimic_dir", args.mimic_dir, "--output_path", root / "free")
        script(build, root, "--umls_dir", root / "META", "--output_path", root / "shaped")
        results = {graph: measure(root, graph) for graph in ("free", "shaped")}
    print(f"{concepts:,} concepts, {sum(row[0] for row in results['free'].values()):,} samples\n")
    print("| task | samples |" + "".join(f" {graph}: {measure} |" for graph in results for measure in MEASURES))
    print("|---|---:|" + "---:|" * 2 * len(MEASURES))
    for task, (samples, *_) in results["free"].items():
        measured = (by_task[task] for by_task in results.values())
        cells = [f"{share:.1%} | {paths:.1f} | {hops:.1f}" for _, share, paths, hops in measured]
        print(f"| {task} | {samples:,} | " + " | ".join(cells) + " |")


def script(path: str, root: Path, *flags: object) -> None:
    """Run one of our commands, without its standard output."""
    command = [sys.executable, str(REPO / path), "--root_dir", str(root), *map(str, flags)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def prepare(root: Path, mimic: Path, maps: Path | None) -> None:
    """Make trajectories, index, concepts and co-occurrence of all patients, and `root/index.csv` with all decision samples."""
    from mimiciv_dataset.trajectory import Trajectories
    from thinking_graph_preprocess.concept_files import GRAPH_TASKS

    script("preprocess/merge_patient.py", root, "--mimic_dir", mimic)
    script("preprocess/rank.py", root)
    script("preprocess/combination.py", root)
    script("preprocess/build_index_mapping.py", root, "--mimic_dir", mimic, *(["--maps_from", maps] if maps else []))
    script("mimiciv_dataset/task_sample_info_gen.py", root)
    (root / "patient_data").mkdir(exist_ok=True)
    subjects = Trajectories(root / "patients_ehr").subject_ids()
    (root / "patient_data/train.csv").write_text("\n".join(["subject_id", *subjects]) + "\n", encoding="utf-8")
    by_patient = root / "task_index/patient"
    script("mimiciv_dataset/task_sample_info_gen.py", root, "--output_path", by_patient, "--group", "patient")
    script("thinking_graph_preprocess/concept_extraction.py", root)
    script("thinking_graph_preprocess/coexistence_concept.py", root)
    with (root / "index.csv").open("w", encoding="utf-8") as out:
        for number, task in enumerate(GRAPH_TASKS):
            text = (root / f"task_index/all/{task}.csv").read_text(encoding="utf-8")
            out.write(text if number == 0 else text.partition("\n")[2])


def write_shaped(root: Path) -> int:
    """Write the RRF files `root/META` with every concept as a name, and return the number of concepts."""
    import pyarrow.parquet as pq

    sys.path.insert(0, str(REPO / "tests"))
    from tiny_umls import write_umls

    files = (root / "evidence_datas/concepts").glob("*.parquet")
    names = sorted({name for path in files for name in pq.read_table(path, columns=["concept"])["concept"].to_pylist()})
    cuis = [f"C{number:07}" for number in range(len(names))]
    draw = random.Random(0)
    relations = [(cui, "isa", cuis[draw.randrange(number)]) for number, cui in enumerate(cuis) if number]
    relations += [(*draw.sample(cuis, 2), kind) for kind in ("has_finding", "may_treat") for _ in cuis]
    relations = [row if row[1] == "isa" else (row[0], row[2], row[1]) for row in relations]
    rrf_names = [name.replace("|", " ") for name in names]  # the separator of RRF files
    write_umls(root / "META", list(zip(cuis, rrf_names, strict=True)), relations)
    return len(names)


def measure(root: Path, graph: str) -> dict[str, tuple[int, float, float, float]]:
    """By task: samples, share with a graph, paths per sample, relations per path."""
    output = root / f"evidence-{graph}.csv"
    flags = ("--data_index_path", root / "index.csv", "--graph", root / graph, "--output_path", output)
    script("thinking_graph_preprocess/evidence_generation.py", root, *flags)
    graphs: dict[str, list[list[list[str]]]] = {}
    with output.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            graphs.setdefault(row["task"], []).append(json.loads(row["graph"])["umls_graph"] if row["graph"] else [])
    results = {}
    for task, samples in graphs.items():
        paths = [path for sample in samples for path in sample]
        hops = sum(len(path) // 2 for path in paths) / max(len(paths), 1)
        results[task] = (len(samples), sum(map(bool, samples)) / len(samples), len(paths) / len(samples), hops)
    return results


if __name__ == "__main__":
    run(main)
