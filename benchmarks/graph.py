"""The concept graph at UMLS's size: time to build, memory and time of a query, pairs found at the default limits and without.

Writes RRF files of a made-up, heavy-tailed graph (a few hubs with very many relations), builds the graph with the command, and
asks random pairs, names and relations of the path included, in a process of its own, whose own memory is measured apart from
the pages of the mapped files.

    python benchmarks/graph.py [--nodes 4000000] [--relations 40000000] [--pairs 5000]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import argparse
import re
import subprocess
import tempfile
import time

REPO = Path(__file__).resolve().parent.parent


def write_rrf(folder: Path, nodes: int, relations: int) -> None:
    """MRCONSO, three names a concept, MRREL and MRDOC; a concept's chance of a relation falls with its rank's power 0.6."""
    import numpy as np
    import polars as pl

    from thinking_graph_preprocess.umls_files import COLUMNS

    draw = np.random.default_rng(0)
    cuis = pl.select(pl.format("C{}", pl.int_range(nodes).cast(pl.String).str.zfill(7))).to_series()

    def save(name: str, **values: pl.Expr) -> None:
        columns = [values.get(column, pl.lit("")).alias(column) for column in COLUMNS[name]]
        frame = values.pop("frame").select(*columns, pl.lit("").alias("_"))
        frame.write_csv(folder / f"{name}.RRF", separator="|", include_header=False, quote_style="never")

    kinds = pl.DataFrame({"ts": ["P", "S", "S"], "str": ["Concept {}", "Concept, {}, unspecified", "{} (made-up concept)"]})
    text = pl.col("str").str.replace("{}", pl.col("c"), literal=True)
    save("MRCONSO", frame=pl.DataFrame({"c": cuis}).join(kinds, how="cross"), CUI=pl.col("c"), LAT=pl.lit("ENG"),
         TS=pl.col("ts"), STT=pl.lit("PF"), ISPREF=pl.lit("Y"), STR=text, SUPPRESS=pl.lit("N"))  # fmt: skip
    weight = np.cumsum(np.arange(1, nodes + 1, dtype=np.float64) ** -0.6)
    place = draw.permutation(nodes)
    ends = [place[np.searchsorted(weight, draw.random(relations) * weight[-1])] for _ in range(2)]
    labels = np.array(["isa", "has_finding_site", "may_treat", "part_of", "concept_in_subset"])[draw.choice(5, relations)]
    frame = pl.DataFrame({"a": cuis.gather(ends[0]), "b": cuis.gather(ends[1]), "l": labels})
    save("MRREL", frame=frame, CUI1=pl.col("a"), REL=pl.lit("RO"), CUI2=pl.col("b"), RELA=pl.col("l"), SUPPRESS=pl.lit("N"))
    (folder / "MRDOC.RRF").write_text("RELA|isa|rela_inverse|inverse_isa|\n", encoding="utf-8")


QUERY = """
import json, resource, sys, time
import numpy as np
from thinking_graph_preprocess.umls_graph import Graph, SearchLimits
def memory(name):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name))) / 1024
folder, pairs, nodes, hops, most = sys.argv[1], *map(int, sys.argv[2:6])
graph = Graph(folder, SearchLimits(hops, most))
asked = np.random.default_rng(1).integers(0, nodes, (pairs, 2))
graph.path_of_nodes(0, 1)
times, found = [], 0
for source, target in asked.tolist():
    start = time.perf_counter()
    found += bool(graph.path_of_nodes(source, target))
    times.append(1000 * (time.perf_counter() - start))
print(json.dumps({"mean": float(np.mean(times)), "p95": float(np.quantile(times, 0.95)), "found": found / pairs,
                  "own": memory("RssAnon:"), "resident": memory("VmRSS:")}))
"""


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--nodes", type=int, default=4_000_000)
    cli.add_argument("--relations", type=int, default=40_000_000)
    cli.add_argument("--pairs", type=int, default=5000)
    args = cli.parse_args()
    import json

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # in a process of its own: its memory is given back before anything is measured
        writing = f"import sys; sys.path.insert(0, {str(REPO / 'benchmarks')!r}); import graph; from pathlib import Path; " \
                  f"graph.write_rrf(Path({place!r}), {args.nodes}, {args.relations})"  # fmt: skip
        subprocess.run([sys.executable, "-c", writing], check=True)
        start = time.perf_counter()
        build = [
            sys.executable,
            REPO / "thinking_graph_preprocess/build_umls_graph.py",
            "--umls_dir",
            folder,
            "--output_path",
            folder / "g",
        ]
        done = subprocess.run(list(map(str, build)), check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        peak = re.search(r"peak memory ([\d,]+) MiB", done.stdout)[1]
        size = sum(path.stat().st_size for path in (folder / "g").iterdir()) / 2**20
        print(f"{args.nodes:,} concepts, {args.relations:,} relations: built in {seconds:,.0f} s, peak {peak} MiB, "
              f"{size:,.0f} MiB on disk\n")  # fmt: skip
        print("| limits | mean ms | p95 ms | pairs found | own memory MiB | with mapped pages MiB |\n|" + " --- |" * 6)
        for name, hops, most in (("10 hops, 2,000 concepts", 10, 2000), ("none", 1000, 10**9)):
            pairs = args.pairs if most == 2000 else min(args.pairs, 200)
            asked = [sys.executable, "-c", QUERY, folder / "g", pairs, args.nodes, hops, most]
            found = json.loads(subprocess.run(list(map(str, asked)), check=True, capture_output=True, text=True).stdout)
            print(f"| {name} | {found['mean']:.2f} | {found['p95']:.2f} | {found['found']:.1%} | {found['own']:,.0f} | "
                  f"{found['resident']:,.0f} |")  # fmt: skip


if __name__ == "__main__":
    main()
