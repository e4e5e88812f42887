"""The graph of vocabularies that need no licence, and of an open knowledge graph, which MIMIC-IV reaches by code or by name.

ICD codes belong to shorter codes and to CCS categories, drugs to ATC classes, laboratory and charted items to categories. A
node is a name in one vocabulary: the fluid "Ascites" of a laboratory item is not the diagnosis.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import polars as pl

from mimiciv_dataset.csv_checks import read_raw_header
from mimiciv_dataset.events import MISSING
from mimiciv_dataset.lookups import Lookups, ndc_key, read_text_csv
from pipeline.errors import UserError
from thinking_graph_preprocess import code_maps, open_graphs
from thinking_graph_preprocess.code_maps import DIGITS
from thinking_graph_preprocess.graph_sources import GraphContent
from thinking_graph_preprocess.graph_writer import Edges, term_table
from thinking_graph_preprocess.sources import drug_tables, emergency_diagnoses, warn_of_missing
from thinking_graph_preprocess.term_search import words_of
from thinking_graph_preprocess.umls_graph import simplify_term
from thinking_graph_preprocess.vocabularies import (
    CHARTED_ITEM,
    DIAGNOSIS,
    DIAGNOSIS_CATEGORY,
    DRUG,
    DRUG_CLASS,
    LAB_ITEM,
    ORDER,
    PROCEDURE,
    PROCEDURE_CATEGORY,
    qualified,
)

MAX_DEGREE = 200  # relations of a concept that a path passes through: a class or side effect that more share says little

# Relations between the vocabularies of MIMIC-IV and towards an open knowledge graph, and their inverses.
INVERSES = {
    "isa": "inverse_isa",
    "same_as": "same_as",
    "has_ingredient": "ingredient_of",
    "has_abnormal_result": "abnormal_result_of",
    "in_ccs_category": "ccs_category_of",
    "in_atc_class": "atc_class_of",
    "has_category": "category_of",
}

# Dictionary of items, the vocabulary of its labels, and that of the values of other columns, which only list items.
ITEMS = (
    ("d_labitems", LAB_ITEM, {"fluid": "laboratory fluid", "category": "laboratory category"}),
    ("d_items", CHARTED_ITEM, {"category": "chart category"}),
)

# Brands and other names of drugs → the name of the ingredient in DrugBank.
SYNONYMS = {
    "aspirin": "acetylsalicylic acid", "albuterol": "salbutamol", "vitamin d": "cholecalciferol", "vitamin c": "ascorbic acid",
    "vitamin b 12": "cyanocobalamin", "phytonadione": "phylloquinone", "insulin": "insulin human", "senna": "sennosides",
    "epoetin alfa": "erythropoietin", "dextrose": "d glucose", "glucose": "d glucose", "lasix": "furosemide",
    "lovenox": "enoxaparin", "coumadin": "warfarin", "plavix": "clopidogrel", "lopressor": "metoprolol",
    "zofran": "ondansetron", "tylenol": "acetaminophen", "protonix": "pantoprazole", "zosyn": "piperacillin",
    "colace": "docusate", "dilaudid": "hydromorphone", "ativan": "lorazepam", "percocet": "oxycodone",
    "keppra": "levetiracetam", "prograf": "tacrolimus", "cellcept": "mycophenolate mofetil", "lantus": "insulin glargine",
    "humalog": "insulin lispro",
}  # fmt: skip
NOT_ALONE = frozenset(words_of("sodium potassium calcium water oxygen alcohol acid"))  # ingredients only as a complete name

# Names of what is left over in a classification: its members have nothing in common, so no path passes through it.
_RESIDUAL = re.compile(r"^(other|residual|miscellaneous)\b|ill-defined|unclassified", re.IGNORECASE)

# What the title of a diagnosis adds to the name of a disease.
_PARENTHESES = re.compile(r"\([^)]*\)|\[[^]]*\]")
_UNSPECIFIED = re.compile(r",?\s*\b(unspecified|not otherwise specified|not elsewhere classified|nos)\b.*$", re.IGNORECASE)
_PREFIX = re.compile(r"^(other and unspecified|unspecified|other)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class FreeSources:
    """The files of the free graph."""

    index_mapping: Path
    mimic_dir: Path
    primekg: Path | None = None  # this or Hetionet
    hetionet: Path | None = None  # directory
    icd_map: Path | None = None
    loinc_map: Path | None = None
    labitem_map: Path | None = None


class Nodes:
    """Nodes by vocabulary and simplified name, numbered as they are added, and statements between them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.terms: dict[str, list[tuple[str, int]]] = {vocabulary: [] for vocabulary in ORDER}
        self.closed: list[int] = []  # nodes that a path does not pass through
        self.statements: dict[tuple[int, int, str], None] = {}
        self._number: dict[tuple[str, str], int] = {}

    def add(self, vocabulary: str, name: str) -> int | None:
        """The number of a node, which is added if it is new; None for a missing name."""
        key = vocabulary, simplify_term(name)
        if key[1] in ("", MISSING):
            return None
        if key not in self._number:
            self._number[key] = len(self.names)
            self.closed += [len(self.names)] if _RESIDUAL.search(name) else []
            self.names.append(name := name.strip())
            # in lower case, too: of several vocabularies the first counts, not the one that has this spelling
            terms = self.terms.setdefault(vocabulary, [])
            terms += [(term, self._number[key]) for term in (name, name.casefold(), qualified(vocabulary, name))]
        return self._number[key]

    def add_list(self, vocabulary: str, name: str) -> int | None:
        """The number of a node that lists others; its name contains its vocabulary, so that it has no other meaning."""
        if simplify_term(name) in ("", MISSING):
            return None
        size, number = len(self.names), self.add(vocabulary, f"{name.strip()} ({vocabulary})")
        self.closed += [number] if number == size else []
        return number

    def state(self, source: int | None, relation: str, target: int | None) -> None:
        """Add a statement, unless an end is missing or both are the same."""
        if source is not None and target is not None and source != target:
            self.statements[source, target, relation] = None

    def of_vocabulary(self, vocabulary: str) -> list[int]:
        """The nodes of a vocabulary."""
        return [number for (kind, _), number in self._number.items() if kind == vocabulary]

    def edges(self) -> tuple[np.ndarray, ...]:
        """Sources, targets and indices into `INVERSES`."""
        relation = {name: number for number, name in enumerate(INVERSES)}
        rows = [(source, target, relation[name]) for source, target, name in self.statements]
        return tuple(np.array(rows, np.int32).reshape(-1, 3).T)


def read_free(sources: FreeSources) -> GraphContent:
    """The graph of the free vocabularies and, if one is given, an open knowledge graph."""
    nodes, lookups = Nodes(), Lookups(sources.index_mapping)
    warn_of_missing(lookups)
    codes = add_diagnoses_and_procedures(nodes, lookups)
    add_emergency_titles(nodes, codes, sources.mimic_dir)
    drugs = add_drugs(nodes, lookups, sources.mimic_dir)
    items = add_items(nodes, lookups)
    batches, relations, inverses = [], list(INVERSES), dict(INVERSES)
    coverage: dict[str, dict[str, int]] = {}
    for name, release in open_graphs.OPEN_GRAPHS.items():  # of which at most one is given
        if (path := getattr(sources, name)) is None:
            continue
        graph = open_graphs.read_open_graph(path, release)
        first = len(nodes.names)
        coverage = Links(nodes, graph, sources.icd_map).link(codes, drugs, items, sources)
        nodes.closed += (first + graph.groupings()).tolist()
        batches.append((first + graph.source, first + graph.target, len(relations) + graph.label))
        relations += [relation.name for relation in release.relations.values()]
        inverses |= {relation.name: relation.inverse for relation in release.relations.values()}
    batches.append(nodes.edges())
    if not nodes.names:
        raise UserError(f"{sources.index_mapping}: expected dictionaries, got none. Run preprocess/build_index_mapping.py.")
    transit = np.ones(len(nodes.names), bool)
    transit[nodes.closed] = False
    frame = pl.DataFrame({"cui": [f"F{at:08}" for at in range(len(nodes.names))], "name": nodes.names})
    edges = Edges(sum(len(batch[0]) for batch in batches), batches, relations, inverses)
    return GraphContent(
        frame, term_table(chain.from_iterable(nodes.terms.values())), edges, transit, MAX_DEGREE, {"coverage": coverage}
    )


# --- vocabularies of MIMIC-IV


def add_diagnoses_and_procedures(nodes: Nodes, lookups: Lookups) -> dict[tuple[str, str], int]:
    """Add ICD titles and CCS categories; return the node of each diagnosis code."""
    diagnoses: dict[tuple[str, str], int] = {}
    kinds = {"diagnoses": (DIAGNOSIS, DIAGNOSIS_CATEGORY), "procedures": (PROCEDURE, PROCEDURE_CATEGORY)}
    for kind, (vocabulary, category) in kinds.items():
        titles, categories = lookups.dictionary(f"d_icd_{kind}"), lookups.dictionary(f"d_ccs_{kind}")
        for (code, version), title in titles.items():
            node = nodes.add(vocabulary, title)
            if node is None:
                continue
            if kind == "diagnoses":
                diagnoses[code, version] = node
            nodes.state(node, "in_ccs_category", nodes.add(category, categories.get((code, version), "")))
            shorter = (titles.get((code[:size], version)) for size in range(len(code) - 1, 2, -1))
            if (parent := next(filter(None, shorter), None)) is not None:
                nodes.state(node, "isa", nodes.add(vocabulary, parent))
    return diagnoses


def add_emergency_titles(nodes: Nodes, codes: dict[tuple[str, str], int], mimic_dir: Path) -> None:
    """Add the titles that the emergency department gives to codes, as other terms of their nodes."""
    if (path := emergency_diagnoses(mimic_dir)) is not None:
        columns = ("icd_code", "icd_version", "icd_title")
        rows = sorted({row for row in zip(*read_text_csv(path, columns).to_pydict().values(), strict=True) if all(row)})
        known = [(title.strip(), codes[code, version]) for code, version, title in rows if (code, version) in codes]
        nodes.terms[DIAGNOSIS] += [
            (term, node) for title, node in known for term in (title.casefold(), qualified(DIAGNOSIS, title))
        ]


def add_drugs(nodes: Nodes, lookups: Lookups, mimic_dir: Path) -> dict[int, list[str]]:
    """Add the drugs of `DRUG_TABLES` and their ATC classes; return each drug's names of substances: its own, its classes."""
    substances: dict[int, list[str]] = {}
    classes = lookups.dictionary("d_atc_prescriptions")
    for column, path in drug_tables(mimic_dir).items():
        try:
            drugs = pl.scan_csv(path, infer_schema=False).select(column, "ndc").unique()
            rows = drugs.collect(engine="streaming").sort(column, "ndc").rows()
        except pl.exceptions.PolarsError:  # its text can quote values
            expected = f"expected a CSV with columns {column} and ndc, got another file"
            raise UserError(f"{path}: {expected}. Download it again.") from None
        for drug, ndc in rows:
            if (node := nodes.add(DRUG, drug or "")) is None:
                continue
            names = substances.setdefault(node, [drug])
            if name := classes.get(ndc_key(ndc or "")):
                nodes.state(node, "in_atc_class", nodes.add(DRUG_CLASS, name))
                names += [name] if name not in names else []
    return substances


@dataclass(frozen=True)
class Item:
    """An item of d_labitems or d_items."""

    itemid: str
    node: int
    label: str
    fluid: str  # "" in d_items
    loinc: str  # of d_labitems, in the releases that have the column
    is_test: bool  # of d_labitems
    is_drug: bool  # of d_items: given to the patient


def add_items(nodes: Nodes, lookups: Lookups) -> list[Item]:
    """Add laboratory and charted items, their categories and fluids."""
    items = []
    for source, vocabulary, lists in ITEMS:
        if (path := lookups.path(source)) is None:
            continue
        optional = [name for name in ("loinc_code", "linksto") if name in read_raw_header(path)]
        for row in read_text_csv(path, ("itemid", "label", *lists, *optional)).to_pylist():
            if (node := nodes.add(vocabulary, row["label"] or "")) is None:
                continue
            for column, kind in lists.items():
                nodes.state(node, "has_category", nodes.add_list(kind, row[column] or ""))
            kinds = source == "d_labitems", row.get("linksto") in ("inputevents", "ingredientevents")
            items.append(Item(row["itemid"], node, row["label"], row.get("fluid") or "", row.get("loinc_code") or "", *kinds))
    nodes.closed += nodes.of_vocabulary(LAB_ITEM)  # a path through a test would join its low and its high results
    return items


# --- links to an open knowledge graph


class Links:
    """Links the names of MIMIC-IV to the nodes of a graph: by code where a map has it, then by name. Adds these nodes."""

    def __init__(self, nodes: Nodes, graph: open_graphs.OpenGraph, icd_map: Path | None) -> None:
        self._nodes, self._closed, first = nodes, set(nodes.closed), len(nodes.names)
        ontologies = graph.release.ontologies
        doid_map = code_maps.read_doid_map(icd_map) if icd_map and "DOID" in ontologies.values() else {}
        self._by_code: dict[tuple[str, int], int] = {}  # type and number in MONDO or HPO
        self._by_name: dict[tuple[str, str], int] = {}  # type and simplified name
        for number, (kind, code, name) in enumerate(graph.nodes.iter_rows(), first):
            nodes.names.append(name)
            self._by_name.setdefault((kind, simplify_term(name.removesuffix(" (disease)"))), number)  # as MONDO marks some
            # a grouped disease has the codes of all its diseases
            numbers = [int(term) for part in code.split("_") for term in DIGITS.findall(part)] if kind in ontologies else []
            if ontologies.get(kind) == "DOID":
                numbers = [mondo for doid in numbers for mondo in doid_map.get(doid, ())]
            for term in numbers:
                self._by_code.setdefault((kind, term), number)
        for kind in (*open_graphs.FINDINGS, open_graphs.DRUG):
            of_kind = enumerate(graph.nodes["type"], first)
            terms = [(nodes.names[number], number) for number, name in of_kind if name == kind]
            nodes.terms[f"{kind} of {graph.release.name}"] = terms
        for (kind, name), number in self._by_name.items():
            for other, later in combinations(open_graphs.FINDINGS, 2):
                if kind == later:
                    nodes.state(number, "same_as", self._by_name.get((other, name)))

    def link(
        self, codes: dict[tuple[str, str], int], drugs: dict[int, list[str]], items: Sequence[Item], sources: FreeSources
    ) -> dict[str, dict[str, int]]:
        """Link all vocabularies; return for each the number of its names, and of those that are linked by code and by name."""
        icd9 = [code for code, version in codes if version == "9"]
        icd_map = code_maps.read_icd_map(sources.icd_map, icd9) if sources.icd_map else {}
        loinc_map = code_maps.read_loinc_map(sources.loinc_map) if sources.loinc_map else {}
        labitem_map = code_maps.read_labitem_map(sources.labitem_map) if sources.labitem_map else {}
        for name, codes_of in (("icd_map", icd_map), ("loinc_map", loinc_map), ("labitem_map", labitem_map)):
            if (path := getattr(sources, name)) and not codes_of:
                raise UserError(
                    f"{path}: expected a map with codes, got none that can be read. Choose another file for --{name}."
                )
        coverage = {}
        for version in ("9", "10"):
            of_version = {code: node for (code, version_of), node in codes.items() if version_of == version}
            by_code = {node for code, node in of_version.items() if self._link_code(code, version, of_version, icd_map)}
            names = set(of_version.values())
            coverage[f"ICD-{version} diagnoses"] = self._count(names, by_code, self._link_names(names - by_code))
        categories = self._nodes.of_vocabulary(DIAGNOSIS_CATEGORY)
        coverage["CCS categories of diagnoses"] = self._count(categories, (), self._link_names(categories))
        coverage["drugs"] = self._count(drugs, (), self._link_drugs(drugs))
        given = {item.node: [item.label] for item in items if item.is_drug}
        coverage["ICU inputs"] = self._count(given, (), self._link_drugs(given))
        tests = [item for item in items if item.is_test]
        by_code = self._link_tests(tests, loinc_map, labitem_map)
        labels = {item.node for item in tests}
        by_name = self._link_names(labels - by_code, "has_abnormal_result")
        coverage["laboratory items"] = self._count(labels, by_code, by_name)
        return coverage

    @staticmethod
    def _count(names: Iterable[int], by_code: Iterable[int], by_name: Iterable[int]) -> dict[str, int]:
        return {"names": len(set(names)), "by code": len(set(by_code)), "by name": len(set(by_name))}

    def _link_code(
        self, code: str, version: str, codes: dict[str, int], icd_map: dict[tuple[str, str], list[code_maps.Disease]]
    ) -> bool:
        """Link a diagnosis code to the diseases of the longest prefix of it that the map has.

        A shorter code has these links, too: a longer one reaches them through it, if a path can pass through it.
        """
        for size in range(len(code), 2, -1):
            diseases = icd_map.get((code[:size], version), ())
            known = [each for each in diseases if (open_graphs.DISEASE, each.mondo) in self._by_code]
            shorter = [codes[code[:length]] for length in range(size, len(code)) if code[:length] in codes]
            is_reached = bool(shorter) and shorter[-1] not in self._closed
            for disease in known if not is_reached else ():
                relation = disease.relation if size == len(code) else code_maps.BROADER
                self._nodes.state(codes[code], relation, self._by_code[open_graphs.DISEASE, disease.mondo])
            if known:
                return True
        return False

    def _link_names(self, numbers: Iterable[int], relation: str | None = None) -> set[int]:
        """Link nodes to the disease, phenotype or side effect with their name; return those that are."""
        linked = set()
        for number in sorted(numbers):
            for variant, default in title_variants(self._nodes.names[number]):
                keys = ((kind, simplify_term(variant)) for kind in open_graphs.FINDINGS)
                target = next((self._by_name[key] for key in keys if key in self._by_name), None)
                if target is not None:
                    self._nodes.state(number, relation or default, target)
                    linked.add(number)
                    break
        return linked

    def _link_drugs(self, substances: dict[int, list[str]]) -> set[int]:
        """Link drugs to the drug of the graph that their own name contains, or else that their ATC class is."""
        linked = set()
        for number, names in substances.items():
            own, *classes = names
            targets = [self._ingredient(own), *(self._drug(simplify_term(name)) for name in classes)]
            target = next((each for each in targets if each is not None), None)
            if target is not None:
                self._nodes.state(number, "has_ingredient", target)
                linked.add(number)
        return linked

    def _drug(self, term: str) -> int | None:
        """The drug of the graph with a simplified name, or with that of its ingredient.

        The name of an ATC class has to be one as a whole: folic acid analogues do not contain folic acid.
        """
        found = (self._by_name.get((open_graphs.DRUG, name)) for name in (term, SYNONYMS.get(term, "")))
        return next((number for number in found if number is not None), None)

    def _ingredient(self, name: str) -> int | None:
        """The drug that a name contains as words, of several the longest, then the first."""
        words = words_of(name.casefold())
        for size in range(min(len(words), 6), 0, -1):
            for begin in range(len(words) - size + 1):
                part = " ".join(words[begin : begin + size])
                if len(part) < 4 or (part in NOT_ALONE and len(words) > 1):
                    continue
                if (target := self._drug(part)) is not None:
                    return target
        return None

    def _link_tests(self, tests: Sequence[Item], loinc_map: dict[str, list[int]], labitem_map: dict[str, str]) -> set[int]:
        """Link laboratory items to the phenotypes of abnormal results; a label that a test of blood has means that test."""
        of_blood = {item.node for item in tests if item.fluid == "Blood"}
        linked = set()
        for item in tests:
            if item.node in of_blood and item.fluid != "Blood":
                continue
            for term in loinc_map.get(labitem_map.get(item.itemid, item.loinc), ()):
                if (target := self._by_code.get((open_graphs.PHENOTYPE, term))) is not None:
                    self._nodes.state(item.node, "has_abnormal_result", target)
                    linked.add(item.node)
        return linked


def title_variants(title: str) -> Iterator[tuple[str, str]]:
    """Yield names of diseases that the title of a diagnosis can mean, and how it is related to them.

    >>> list(title_variants("Pneumonia, unspecified organism"))
    [('Pneumonia, unspecified organism', 'same_as'), ('Pneumonia', 'isa')]
    >>> list(title_variants("Essential (primary) hypertension"))[1]
    ('Essential  hypertension', 'isa')
    """
    yield title, code_maps.EXACT
    short = _UNSPECIFIED.sub("", _PREFIX.sub("", _PARENTHESES.sub("", title).strip())).strip()
    if short != title:
        yield short, code_maps.BROADER
