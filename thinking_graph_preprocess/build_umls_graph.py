"""Build the concept graph that umls_graph.py searches, from UMLS or from free vocabularies.

    build_umls_graph.py --umls_dir META --output_path DIR    # directory with MRCONSO, MRREL, MRSTY and MRDOC
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

from mimiciv_dataset.sources import index_mapping_source
from pipeline.cli import Parser, run
from pipeline.digests import DIGESTS_CACHE, FileDigests
from pipeline.files import read_json
from pipeline.progress import Summary
from pipeline.provenance import Provenance, Source
from pipeline.work import Tick, Unit, run_units
from thinking_graph_preprocess.sources import drug_tables_source, umls_source
from thinking_graph_preprocess.umls_files import rrf_path

STEP, RULES = "thinking_graph_preprocess/build_umls_graph.py", 2


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    source = cli.add_mutually_exclusive_group(required=True)
    source.add_argument("--umls_dir", type=Path, help="directory with MRCONSO.RRF, MRREL.RRF, MRSTY.RRF, MRDOC.RRF")
    source.add_argument("--free", action="store_true", help="use the free vocabularies of --index_mapping in place of UMLS")
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries and code maps, for --free")
    cli.add_path("--mimic_dir", default="mimiciv", help="raw MIMIC-IV, which links drugs to ATC classes, for --free")
    cli.add_path("--output_path", default="evidence_datas/graph", help="directory for the graph")
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    summary = Summary("build_umls_graph")
    output: Path = args.output_path
    digests = FileDigests(output.parent / DIGESTS_CACHE, args.verify)
    sources = graph_sources(args.umls_dir, args.index_mapping, args.mimic_dir, digests, args.verify)
    settings = {"source": "UMLS" if args.umls_dir else "free vocabularies"}
    provenance = Provenance(output, STEP, sources, settings, RULES, cli.arguments)
    if not provenance.begin(args.overwrite, args.verify):
        return
    # a unit of work, so that of several processes that are started at once one builds the graph and the others wait for it
    build = partial(build_graph, provenance, args.umls_dir, args.index_mapping, args.mimic_dir)
    unit = Unit(output.name, lambda: provenance.is_complete, build)
    run_units([unit], output.parent / ".locks", desc="build_umls_graph", unit="graph")
    about = read_json(output / "about.json")
    dropped = "".join(f"; {count:,} {reason}" for reason, count in about["dropped"].items() if count)
    summary.print(f"{about['nodes']:,} concepts, {about['edges']:,} directed relations{dropped} → {output}")


def graph_sources(
    umls_dir: Path | None, index_mapping: Path, mimic_dir: Path, digests: FileDigests, verify: bool
) -> list[Source]:
    """What the graph is made from: UMLS if `umls_dir` is given, else free vocabularies."""
    if umls_dir is None:
        return [index_mapping_source(index_mapping, verify), drug_tables_source(mimic_dir, digests)]
    files = [rrf_path(umls_dir, name) for name in ("MRCONSO", "MRREL")]
    files += [path for name in ("MRSTY", "MRDOC") if (path := umls_dir / f"{name}.RRF").exists()]
    return [umls_source(umls_dir, files, digests)]


def build_graph(provenance: Provenance, umls_dir: Path | None, index_mapping: Path, mimic_dir: Path, tick: Tick) -> None:
    """Write the graph directory and complete its record."""
    from thinking_graph_preprocess.graph_sources import read_free, read_umls
    from thinking_graph_preprocess.graph_writer import write_graph

    content = read_umls(umls_dir) if umls_dir else read_free(index_mapping, mimic_dir)
    write_graph(provenance.output, *content[:-1], made_from=provenance.settings["source"], **content.about)
    provenance.complete()


if __name__ == "__main__":
    run(main)
