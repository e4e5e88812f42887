"""The vocabularies of the free graph: nodes of one name are different nodes where their vocabulary differs."""

from __future__ import annotations

DIAGNOSIS, PROCEDURE = "diagnosis", "procedure"
DIAGNOSIS_CATEGORY, PROCEDURE_CATEGORY, DRUG_CLASS = "diagnosis category", "procedure category", "drug class"
DRUG, LAB_ITEM, CHARTED_ITEM = "drug", "laboratory item", "charted item"

# A term of several vocabularies without one that is preferred means the first of these.
ORDER = (DIAGNOSIS, DIAGNOSIS_CATEGORY, PROCEDURE, PROCEDURE_CATEGORY, DRUG, DRUG_CLASS, LAB_ITEM, CHARTED_ITEM)

# Decision task → the vocabulary of its answers.
OF_TASK = {
    "diagnoses_icd": DIAGNOSIS,
    "diagnosis": DIAGNOSIS,
    "diagnoses_ccs": DIAGNOSIS_CATEGORY,
    "diagnosis_ccs": DIAGNOSIS_CATEGORY,
    "procedures_icd": PROCEDURE,
    "procedures_ccs": PROCEDURE_CATEGORY,
    "labevents": LAB_ITEM,
    "prescriptions_atc": DRUG_CLASS,
    "medrecon_atc": DRUG_CLASS,
    **dict.fromkeys(("emar", "prescriptions", "medrecon", "pyxis"), DRUG),
    **dict.fromkeys(("chartevents", "datetimeevents", "ingredientevents", "inputevents", "outputevents"), CHARTED_ITEM),
    "procedureevents": CHARTED_ITEM,
}


def qualified(vocabulary: str, term: str) -> str:
    """A term of one vocabulary, as a graph lists it beside the plain term.

    >>> qualified(LAB_ITEM, "Vancomycin")
    'laboratory item: Vancomycin'
    """
    return f"{vocabulary}: {term}"
