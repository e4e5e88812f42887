"""Share of samples that get a graph, per task, on the MIMIC-IV demo: the free graph, one linked to PrimeKG, a UMLS-shaped one.

The samples are all decision samples of the demo's patients, who are the training patients as well, since chains are written
for training patients. PrimeKG and the maps to it are the test fixture: a few hundred textbook statements in their formats. The
UMLS-shaped graph is random: RRF files in which every concept of the demo is a name, in a random hierarchy with random other
relations. It has no medical meaning; it shows how many paths the lift and support thresholds leave if every name is known and
linked. Printed are also the share of paths through a list of items (none), and paths drawn at random.

    python benchmarks/evidence.py --mimic_dir mimic-iv-demo [--maps_from DIR] [--work_dir DIR]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import gzip
import json
import random
import subprocess
import tempfile
from collections.abc import Sequence

from pipeline.cli import Parser, run

REPO = Path(__file__).resolve().parent.parent
MEASURES = ("with a graph", "paths each", "relations per path")
RUNS = (("free", "free", 10), ("linked", "linked", 10), ("linked, 5 relations", "linked", 5), ("shaped", "shaped", 10))
SHOWN = "linked, 5 relations"  # the run whose paths are shown
LISTS = {"has_category", "category_of"}  # relations of items with their fluids and categories


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
        flags = write_linked(root)
        build, mimic = "thinking_graph_preprocess/build_umls_graph.py", ("--mimic_dir", args.mimic_dir)
        script(build, root, "--free", *mimic, "--output_path", root / "free")
        script(build, root, *flags, *mimic, "--output_path", root / "linked")
        script(build, root, "--umls_dir", root / "META", "--output_path", root / "shaped")
        outputs = {name: add_graphs(root, graph, hops) for name, graph, hops in RUNS}
        print_tables(outputs)
    print(f"\n{concepts:,} concepts")


def print_tables(outputs: dict[str, Path]) -> None:
    """Print the measures of each task, the share of paths through lists, and some paths of the run `SHOWN`."""
    results = {name: measure(path) for name, path in outputs.items()}
    print("| task | samples |" + "".join(f" {name}: {value} |" for name in results for value in MEASURES))
    print("|---|---:|" + "---:|" * len(results) * len(MEASURES))
    for task, (samples, *_) in next(iter(results.values())).items():
        cells = [f"{share:.1%} | {paths:.1f} | {hops:.1f}" for _, share, paths, hops in (r[task] for r in results.values())]
        print(f"| {task} | {samples:,} | " + " | ".join(cells) + " |")
    for name, path in outputs.items():
        paths = [each for graphs in read_graphs(path).values() for graph in graphs for each in graph]
        through = sum(not LISTS.isdisjoint(each[1::2]) for each in paths)
        print(f"\n{name}: {through:,} of {len(paths):,} paths through a list of items")
    paths = sorted({tuple(each) for graphs in read_graphs(outputs[SHOWN]).values() for graph in graphs for each in graph})
    for each in random.Random(0).sample(paths, min(20, len(paths))):
        print(" → ".join(each))


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


def write_linked(root: Path) -> list[str]:
    """Write the fixture of PrimeKG to `root/kg`, and return the flags that name its files."""
    from tiny_primekg import write_primekg

    with gzip.open(root / "index_mapping/hosp/d_labitems.csv.gz", "rt", encoding="utf-8", newline="") as file:
        itemids = {row["label"].strip(): row["itemid"] for row in csv.DictReader(file) if row["fluid"] == "Blood"}
    return write_primekg(root / "kg", itemids)


def add_graphs(root: Path, graph: str, hops: int) -> Path:
    """Add a column `graph` to the index, from the graph in a directory of `root`, and return the file."""
    output = root / f"evidence-{graph}-{hops}.csv"
    flags = ("--data_index_path", root / "index.csv", "--graph", root / graph, "--output_path", output, "--max_hops", hops)
    script("thinking_graph_preprocess/evidence_generation.py", root, *flags)
    return output


def read_graphs(path: Path) -> dict[str, list[list[list[str]]]]:
    """By task, the paths of each sample."""
    graphs: dict[str, list[list[list[str]]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            graphs.setdefault(row["task"], []).append(json.loads(row["graph"])["umls_graph"] if row["graph"] else [])
    return graphs


def measure(path: Path) -> dict[str, tuple[int, float, float, float]]:
    """By task: samples, share with a graph, paths per sample, relations per path."""
    results = {}
    for task, samples in read_graphs(path).items():
        paths = [each for sample in samples for each in sample]
        hops = sum(len(each) // 2 for each in paths) / max(len(paths), 1)
        results[task] = (len(samples), sum(map(bool, samples)) / len(samples), len(paths) / len(samples), hops)
    return results


if __name__ == "__main__":
    run(main)
