"""Build the concept graph that umls_graph.py searches, from UMLS or from free vocabularies.

    build_umls_graph.py --umls_dir META --output_path DIR    # directory with MRCONSO.RRF, MRREL.RRF and MRDOC.RRF
    build_umls_graph.py --free --output_path DIR             # no licence needed: ICD, CCS, ATC, categories of items

Nodes are the concepts with an English name that is not suppressed. Edges are the relations between them, in both directions:
a row (CUI1, RELA, CUI2) of MRREL means "CUI2 RELA CUI1" (REL where RELA is empty); the inverse has its name from MRDOC, else
`inverse_` and the name. The graph is written as memory-mapped arrays. Relations are streamed; memory is that of the names of
the concepts, then 16 bytes for each relation.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections.abc import Sequence
from functools import partial

from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_dir, read_json, sha256_file
from pipeline.progress import Summary
from pipeline.provenance import Provenance, digest_lines
from pipeline.work import Tick, Unit, run_units


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    source = cli.add_mutually_exclusive_group(required=True)
    source.add_argument("--umls_dir", type=Path, help="directory with MRCONSO.RRF, MRREL.RRF and, optionally, MRDOC.RRF")
    source.add_argument("--free", action="store_true", help="use the free vocabularies of --index_mapping in place of UMLS")
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries and code maps, for --free")
    cli.add_path("--mimic_dir", default="mimiciv", help="raw MIMIC-IV, which links drugs to ATC classes, for --free")
    cli.add_path("--output_path", default="evidence_datas/graph", help="directory for the graph")
    args = cli.parse_args(argv)
    output: Path = args.output_path
    if output.exists():
        raise UserError(f"{output}: expected a new directory, got one that exists. Remove it or choose another --output_path.")
    summary = Summary("build_umls_graph")
    # a unit of work, so that of several processes that are started at once one builds the graph and the others wait for it
    build = partial(build_graph, output, args.umls_dir, args.index_mapping, args.mimic_dir)
    run_units([Unit(output.name, output.exists, build)], output.parent / ".locks", desc="build_umls_graph", unit="graph")
    about = read_json(output / "about.json")
    dropped = "".join(f"; {count:,} {reason}" for reason, count in about["dropped"].items() if count)
    summary.print(f"{about['nodes']:,} concepts, {about['edges']:,} directed relations{dropped} → {output}")


def build_graph(output: Path, umls_dir: Path | None, index_mapping: Path, mimic_dir: Path, tick: Tick) -> None:
    """Write the graph directory with its record, from UMLS if `umls_dir` is given, else from free vocabularies."""
    from thinking_graph_preprocess.graph_sources import read_free, read_umls
    from thinking_graph_preprocess.graph_writer import write_graph

    content = read_umls(umls_dir) if umls_dir else read_free(index_mapping, mimic_dir)
    source = "UMLS" if umls_dir else "free vocabularies"
    with atomic_dir(output) as folder:
        write_graph(folder, *content, source)
        digest = digest_lines([sha256_file(path) for path in folder.iterdir()])
        Provenance(folder, "thinking_graph_preprocess/build_umls_graph.py", settings={"source": source}).complete(digest)


if __name__ == "__main__":
    run(main)
