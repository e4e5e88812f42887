"""The concept graph at the size of UMLS: time to build, memory and time of a query, and pairs with a path.

Writes RRF files of a random, heavy-tailed graph (a few hubs with very many relations, one concept in twenty a qualifier),
builds the graph with the command, and queries random pairs, names and relations of the path included, with several limits of
the search and of the degree of concepts inside a path. Times are CPU times. Queries run in a process of its own, whose own
memory is measured apart from the pages of mapped files.

    python benchmarks/graph.py [--nodes 4000000] [--relations 40000000] [--pairs 5000]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import multiprocessing
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from pipeline.cli import Parser, at_least, run

REPO = Path(__file__).resolve().parent.parent
NO_LIMIT = 10**9


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--nodes", type=at_least(2), default=4_000_000, help="concepts (4,000,000)")
    cli.add_argument("--relations", type=at_least(1), default=40_000_000, help="relations (40,000,000)")
    cli.add_argument("--pairs", type=at_least(1), default=5000, help="pairs to query (5000); at most 200 without limits")
    args = cli.parse_args(argv)
    context = multiprocessing.get_context("spawn")  # so that memory of one step is not counted in another
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with ProcessPoolExecutor(1, context) as pool:
            pool.submit(write_rrf, folder, args.nodes, args.relations).result()
        build = [sys.executable, str(REPO / "thinking_graph_preprocess/build_umls_graph.py"), "--umls_dir", temporary]
        start = time.perf_counter()
        done = subprocess.run([*build, "--output_path", str(folder / "g")], check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        peak = re.search(r"peak memory ([\d,]+) MiB", done.stdout)[1]
        size = sum(path.stat().st_size for path in (folder / "g").iterdir()) / 2**20
        built = f"built in {seconds:,.0f} s, peak {peak} MiB, {size:,.0f} MiB on disk"
        print(f"{args.nodes:,} concepts, {args.relations:,} relations: {built}\n")
        headers = ("hops, concepts", "degree inside a path", "mean ms", "p95 ms", "with a path", "own MiB", "with mapped MiB")
        print(f"| {' | '.join(headers)} |")
        print("|" + " --- |" * 7)
        for hops, concepts, degree in ((10, 2000, NO_LIMIT), (10, 2000, 2000), (10, 2000, 200), (1000, NO_LIMIT, 2000)):
            pairs = min(args.pairs, 200) if concepts == NO_LIMIT else args.pairs
            limits = (folder / "g", pairs, args.nodes, hops, concepts, degree)
            with ProcessPoolExecutor(1, context) as pool:
                mean, p95, share, own, resident = pool.submit(query, *limits).result()
            cells = [
                "no limit" if concepts == NO_LIMIT else f"{hops}, {concepts:,}",
                f"{degree:,}".replace(f"{NO_LIMIT:,}", "any"),
            ]
            print(f"| {' | '.join(cells)} | {mean:.2f} | {p95:.2f} | {share:.1%} | {own:,.0f} | {resident:,.0f} |", flush=True)


def write_rrf(folder: Path, nodes: int, relations: int) -> None:
    """Write MRCONSO with three names per concept, MRREL, MRSTY and MRDOC; relations fall with rank^-0.6."""
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
    node_of_rank = draw.permutation(nodes)
    ends = [node_of_rank[np.searchsorted(weight, draw.random(relations) * weight[-1])] for _ in range(2)]
    labels = np.array(["isa", "has_finding_site", "may_treat", "part_of", "concept_in_subset"])[draw.choice(5, relations)]
    frame = pl.DataFrame({"a": cuis.gather(ends[0]), "b": cuis.gather(ends[1]), "l": labels})
    save("MRREL", frame=frame, CUI1=pl.col("a"), REL=pl.lit("RO"), CUI2=pl.col("b"), RELA=pl.col("l"), SUPPRESS=pl.lit("N"))
    kind = pl.when(pl.int_range(pl.len()) % 20 == 0).then(pl.lit("T080")).otherwise(pl.lit("T047"))
    save("MRSTY", frame=pl.DataFrame({"c": cuis}), CUI=pl.col("c"), TUI=kind)
    (folder / "MRDOC.RRF").write_text("RELA|isa|rela_inverse|inverse_isa|\n", encoding="utf-8")


def query(folder: Path, pairs: int, nodes: int, hops: int, concepts: int, degree: int) -> tuple[float, ...]:
    """Query paths of random pairs with limits on hops, concepts and the degree of concepts inside a path.

    Returns:
        Mean and 95th percentile in ms, share of pairs with a path, and memory in MiB: the process's own, and resident.
    """
    import numpy as np

    from thinking_graph_preprocess.umls_graph import Graph, SearchLimits

    graph = Graph(folder, SearchLimits(hops, concepts, degree))
    sources_and_targets = np.random.default_rng(1).integers(0, nodes, (pairs, 2))
    graph.path_of_nodes(0, 1)
    times, with_path = [], 0
    for source, target in sources_and_targets.tolist():
        start = time.process_time()
        with_path += bool(graph.path_of_nodes(source, target))
        times.append(1000 * (time.process_time() - start))
    kib = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    own, resident = (int(kib[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS"))
    return float(np.mean(times)), float(np.quantile(times, 0.95)), with_path / pairs, own, resident


if __name__ == "__main__":
    run(main)
