"""Build the concept graph that umls_graph.py searches, from UMLS, or from free vocabularies and PrimeKG or Hetionet.

    build_umls_graph.py --umls_dir META --output_path DIR    # directory with MRCONSO, MRREL, MRSTY and MRDOC
    build_umls_graph.py --free --output_path DIR             # no licence needed: ICD, CCS, ATC, categories of items
    build_umls_graph.py --primekg kg.csv --icd_map mondo.sssom.tsv --loinc_map loinc2hpo-annotations.tsv \\
      --labitem_map d_labitems_to_loinc.csv --output_path DIR    # the same and PrimeKG
    build_umls_graph.py --hetionet HETIONET --icd_map mondo.sssom.tsv --output_path DIR    # or Hetionet

Nodes are the concepts with an English name that is not suppressed. Edges are the relations between them, in both directions:
a row (CUI1, RELA, CUI2) of MRREL means "CUI2 RELA CUI1" (REL where RELA is empty); the inverse has its name from MRDOC, else
`inverse_` and the name. The graph is written as memory-mapped arrays. Relations are streamed; memory is that of the names of
the concepts, then 16 bytes for each relation.

Diagnoses reach the diseases of PrimeKG or Hetionet by code where --icd_map has it, drugs by ingredient, laboratory items those
of PrimeKG by LOINC and HPO, and what has no code by its name. A table shows how many names of each vocabulary do.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections.abc import Mapping, Sequence
from functools import partial

from mimiciv_dataset.sources import index_mapping_source
from pipeline.cli import Parser, run
from pipeline.digests import DIGESTS_CACHE, FileDigests
from pipeline.errors import UserError
from pipeline.files import read_json, require
from pipeline.progress import Summary, print_table
from pipeline.provenance import Provenance, Source
from pipeline.work import Tick, Unit, run_units
from thinking_graph_preprocess.sources import (
    drug_tables_source,
    emergency_diagnoses,
    file_source,
    hetionet_source,
    umls_source,
)
from thinking_graph_preprocess.umls_files import find_rrf, rrf_path

STEP, RULES = "thinking_graph_preprocess/build_umls_graph.py", 8
OPEN_GRAPHS = {"primekg": "PrimeKG", "hetionet": "Hetionet"}  # flag → open knowledge graph
NEEDS = {"icd_map": tuple(OPEN_GRAPHS), "loinc_map": ("primekg",), "labitem_map": ("loinc_map",)}  # map → flags, one with it


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--umls_dir", type=Path, help="directory with MRCONSO.RRF, MRREL.RRF, MRSTY.RRF, MRDOC.RRF")
    cli.add_argument("--free", action="store_true", help="use the free vocabularies of --index_mapping in place of UMLS")
    cli.add_argument("--primekg", type=Path, help="kg.csv of PrimeKG, to which the free vocabularies are linked")
    cli.add_argument(
        "--hetionet", type=Path, help="directory with nodes.tsv and edges.sif.gz of Hetionet, in place of PrimeKG"
    )
    cli.add_argument(
        "--icd_map", type=Path, help="ICD codes → MONDO: an SSSOM file, or a table (with --primekg or --hetionet)"
    )
    cli.add_argument("--loinc_map", type=Path, help="LOINC codes → HPO: annotations of loinc2hpo, or a table (with --primekg)")
    cli.add_argument("--labitem_map", type=Path, help="items of d_labitems → LOINC codes (with --loinc_map)")
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries and code maps, without UMLS")
    cli.add_path("--mimic_dir", default="mimiciv", help="raw MIMIC-IV, which links drugs to ATC classes, without UMLS")
    cli.add_path("--output_path", default="evidence_datas/graph", help="directory for the graph")
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    summary = Summary("build_umls_graph")
    maps = {name: path for name in (*OPEN_GRAPHS, *NEEDS) if (path := getattr(args, name))}
    check_sources(args.umls_dir, args.free, maps)
    output: Path = args.output_path
    digests = FileDigests(output.parent / DIGESTS_CACHE, args.verify)
    sources = graph_sources(args.umls_dir, args.index_mapping, args.mimic_dir, maps, digests, args.verify)
    free = " and ".join(["free vocabularies", *(title for name, title in OPEN_GRAPHS.items() if name in maps)])
    settings = {"source": "UMLS" if args.umls_dir else free}
    provenance = Provenance(output, STEP, sources, settings, RULES, cli.arguments)
    if not provenance.begin(args.overwrite, args.verify):
        return
    # a unit of work, so that of several processes that are started at once one builds the graph and the others wait for it
    build = partial(build_graph, provenance, args.umls_dir, args.index_mapping, args.mimic_dir, maps)
    unit = Unit(output.name, lambda: provenance.is_complete, build)
    run_units([unit], output.parent / ".locks", desc="build_umls_graph", unit="graph")
    about = read_json(output / "about.json")
    if coverage := about.get("coverage"):
        print_coverage(coverage)
    if not about["edges"]:
        print(f"warning: {output}: no relations, so there are no paths. Check the files it is made from.", file=sys.stderr)
    dropped = "".join(f"; {count:,} {reason}" for reason, count in about["dropped"].items() if count)
    summary.print(f"{about['nodes']:,} concepts, {about['edges']:,} directed relations{dropped} → {output}")


def check_sources(umls_dir: Path | None, free: bool, maps: Mapping[str, Path]) -> None:
    """Check that the flags name one kind of graph, and the files that belong to it."""
    if bool(umls_dir) == bool(free or maps):
        got = "both" if umls_dir else "none of them"
        raise UserError(
            f"build_umls_graph.py: expected --umls_dir, or --free, --primekg or --hetionet, got {got}. Choose one."
        )
    if maps.keys() >= OPEN_GRAPHS.keys():
        raise UserError("--primekg and --hetionet: expected one open knowledge graph, got both. Build one graph of each.")
    for name, needed in NEEDS.items():
        if name in maps and maps.keys().isdisjoint(needed):
            flags = " or ".join(f"--{flag}" for flag in needed)
            raise UserError(f"--{name}: expected {flags} with it, got none. Set both, or none.")
    for name, path in maps.items():
        if name == "hetionet":  # a directory, which `hetionet_files` checks
            continue
        if not require(path, f"the file of --{name}", "download it as docs/thinking_graph.md says").is_file():
            raise UserError(f"{path}: expected the file of --{name}, got a directory. Name the file in it.")


def graph_sources(
    umls_dir: Path | None, index_mapping: Path, mimic_dir: Path, maps: Mapping[str, Path], digests: FileDigests, verify: bool
) -> list[Source]:
    """What the graph is made from: UMLS if `umls_dir` is given, else free vocabularies and `maps` (flag → path)."""
    if umls_dir is None:
        files = [file_source(path, name, digests) for name, path in maps.items() if name != "hetionet"]
        files += [hetionet_source(maps["hetionet"], digests)] if "hetionet" in maps else []
        if (path := emergency_diagnoses(mimic_dir)) is not None:
            files.append(file_source(path, "emergency_diagnoses", digests))
        return [index_mapping_source(index_mapping, verify), drug_tables_source(mimic_dir, digests), *files]
    files = [rrf_path(umls_dir, name) for name in ("MRCONSO", "MRREL")]
    files += [path for name in ("MRSTY", "MRDOC") if (path := find_rrf(umls_dir, name)).exists()]
    return [umls_source(umls_dir, files, digests)]


def build_graph(
    provenance: Provenance, umls_dir: Path | None, index_mapping: Path, mimic_dir: Path, maps: Mapping[str, Path], tick: Tick
) -> None:
    """Write the graph directory and complete its record."""
    from thinking_graph_preprocess.free_graph import FreeSources, read_free
    from thinking_graph_preprocess.graph_sources import read_umls
    from thinking_graph_preprocess.graph_writer import write_graph

    content = read_umls(umls_dir) if umls_dir else read_free(FreeSources(index_mapping, mimic_dir, **maps))
    write_graph(provenance.output, *content[:-1], made_from=provenance.settings["source"], **content.about)
    provenance.complete()


def print_coverage(coverage: Mapping[str, Mapping[str, int]]) -> None:
    """Print how many names of each vocabulary of MIMIC-IV are linked to the open knowledge graph."""
    rows = []
    for vocabulary, counts in coverage.items():
        linked = counts["by code"] + counts["by name"]
        rows.append([vocabulary, *counts.values(), f"{linked / max(counts['names'], 1):.1%}"])
    print_table(["vocabulary", "names", "by code", "by name", "linked"], rows)


if __name__ == "__main__":
    run(main)
