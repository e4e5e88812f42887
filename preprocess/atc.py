"""RxNorm's full monthly release: National Drug Code (NDC) → ingredients → class of ATC level 4."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import require

# Columns of RXNCONSO, RXNREL and RXNSAT (RxNorm technical documentation, section 12).
_CONSO = (0, 11, 12, 13, 14)  # RXCUI, SAB, TTY, CODE, STR
_REL = (0, 4, 7, 10)  # RXCUI1, RXCUI2, RELA, SAB
_SAT = (0, 8, 9, 10)  # RXCUI, ATN, SAB, ATV

# Relations from a drug or pack towards its ingredients. A row of RXNREL reads "RXCUI2 is RELA to RXCUI1".
TOWARDS_INGREDIENT = {
    *("contains", "consists_of", "tradename_of", "quantified_form_of", "has_part", "form_of"),
    *("has_ingredient", "has_ingredients", "has_precise_ingredient"),
}
# RxNorm's types of substances: a combination as a whole, then precise ingredients (salts), then plain ingredients.
SPECIFIC_FIRST = ("MIN", "PIN", "IN")


def rxnorm_files(folder: Path) -> list[Path]:
    """The files of RxNorm that `atc_rows` reads."""
    return [folder / f"RXN{name}.RRF" for name in ("CONSO", "REL", "SAT")]


def atc_rows(folder: Path) -> tuple[list[tuple[str, str]], int]:
    """Map the NDCs of RxNorm, in its rrf/ directory, to ATC classes.

    RxNorm's own NDC attributes come first; those of its other sources add codes that RxNorm has dropped as obsolete.

    Returns:
        rows (NDC, name of the ATC level-4 class); number of all NDCs.
    """
    conso, rel, sat = rxnorm_files(folder)
    names, classes, types = read_atc(read_rrf(conso, _CONSO))
    if not names or not classes:
        raise UserError(f"{conso}: expected ATC (SAB=ATC), got none. Use RxNorm's full release, not the prescribable subset.")
    edges: dict[str, list[str]] = defaultdict(list)
    for rxcui1, rxcui2, relation, source in read_rrf(rel, _REL):
        if source == "RXNORM" and relation in TOWARDS_INGREDIENT and rxcui1 and rxcui2:
            edges[rxcui2].append(rxcui1)
    drugs: dict[str, dict[bool, set[str]]] = defaultdict(lambda: defaultdict(set))
    for rxcui, attribute, source, value in read_rrf(sat, _SAT):
        if attribute == "NDC" and (ndc := ndc11(value)) is not None:
            drugs[ndc][source == "RXNORM"].add(rxcui)
    known: dict[str, str | None] = {}
    rows = []
    for ndc, by_source in sorted(drugs.items()):
        for from_rxnorm in (True, False):
            for rxcui in by_source[from_rxnorm] - known.keys():
                known[rxcui] = find_class(rxcui, edges, classes, types)
            codes = {known[rxcui] for rxcui in by_source[from_rxnorm]} & names.keys()
            if codes:
                rows.append((ndc, names[min(codes)]))
                break
    return rows, len(drugs)


def ndc11(text: str) -> str | None:
    """A National Drug Code as 11 digits, or None if that is ambiguous.

    On the package a code has ten digits in three parts, one of which lacks its leading zero (4-4-2, 5-3-2, 5-4-1); the
    form of 11 digits pads them to 5-4-2. Codes of twelve digits (the VA's 6-4-2) have another zero in front. Ten digits
    without dashes can be read in three ways: None.

    >>> [ndc11(code) for code in ("0002-1433-61", "00021-433-61", "00021-4336-1", "00002143361", "000002143361")]
    ['00002143361', '00021043361', '00021433601', '00002143361', '00002143361']
    >>> ndc11("0002143361"), ndc11("no code"), ndc11("1-2-3-4")
    (None, None, None)
    """
    parts = text.strip().replace("*", "0").split("-")
    if not all(part.isdecimal() for part in parts):
        return None
    if len(parts) == 3:
        lengths = tuple(map(len, parts))
        if lengths in ((4, 4, 2), (5, 3, 2), (5, 4, 1), (5, 4, 2)):
            return parts[0].zfill(5) + parts[1].zfill(4) + parts[2].zfill(2)
        return (parts[0][1:] + parts[1] + parts[2]) if lengths == (6, 4, 2) and parts[0][0] == "0" else None
    if len(parts) != 1:
        return None
    if len(text.strip()) == 12 and parts[0][0] == "0":
        return parts[0][1:]
    return parts[0] if len(parts[0]) == 11 else None


def read_rrf(path: Path, columns: tuple[int, ...]) -> Iterator[list[str]]:
    """Yield some columns of each row of a Rich Release Format file: values between bars, one row per line, no quotes."""
    require(path, "an RxNorm file", "download RxNorm's full monthly release and set --rxnorm_dir to its rrf/ directory")
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            fields = line.rstrip("\r\n").split("|")
            if len(fields) <= max(columns):
                expected = f"at least {max(columns) + 1} columns separated by |"
                raise UserError(f"{path}, line {number}: expected {expected}, got {len(fields)}. Download the file again.")
            yield [fields[column] for column in columns]


def read_atc(conso: Iterable[Sequence[str]]) -> tuple[dict[str, str], dict[str, set[str]], dict[str, str]]:
    """Read the ATC classes of RXNCONSO.

    An ATC code of 5 characters is a class of level 4. One of 7 characters is a substance of level 5 and begins with the
    code of its class.

    Returns:
        names of level-4 classes by code; codes of level-4 classes by RXCUI of a substance; RxNorm's type of each RXCUI.
    """
    names: dict[str, tuple[bool, str]] = {}
    classes: dict[str, set[str]] = defaultdict(set)
    types: dict[str, str] = {}
    for rxcui, source, kind, code, text in conso:
        if source == "RXNORM" and kind in (*SPECIFIC_FIRST, "BN"):
            types[rxcui] = kind
        elif source == "ATC" and len(code) == 5:
            # PT is ATC's own name; RxNorm adds atoms of other types with names of its own.
            names[code] = min(names.get(code, (True, text)), (kind != "PT", text))
        elif source == "ATC" and len(code) == 7:
            classes[rxcui].add(code[:5])
    return {code: name for code, (_, name) in names.items()}, classes, types


def find_class(rxcui: str, edges: dict[str, list[str]], classes: dict[str, set[str]], types: dict[str, str]) -> str | None:
    """The ATC level-4 code of a drug: the first code of its combination, else of its salts, else of its ingredients.

    A substance may have several classes by use (aspirin: A01AD, B01AC, N02BA), and RxNorm does not record the use of a
    product. The released data have the first code.

    A branded tablet (SBD) of a generic one (SCD) whose component (SCDC) has the ingredient (IN) aspirin:

    >>> edges = {"SBD": ["SCD"], "SCD": ["SCDC"], "SCDC": ["1191"]}
    >>> find_class("SBD", edges, {"1191": {"N02BA", "A01AD", "B01AC"}}, {"1191": "IN"})
    'A01AD'
    """
    codes: dict[str, set[str]] = defaultdict(set)
    seen, queue = {rxcui}, [rxcui]
    while queue:
        concept = queue.pop()
        if types.get(concept) == "BN":  # a brand covers several products, whose ingredients this drug need not have
            continue
        codes[types.get(concept, "")] |= classes.get(concept, set())
        new = [other for other in edges.get(concept, ()) if other not in seen]
        seen.update(new)
        queue += new
    return next((min(codes[kind]) for kind in SPECIFIC_FIRST if codes[kind]), None)
