"""The dictionaries (d_* tables) and code maps of the synthetic MIMIC-IV."""

from __future__ import annotations

import polars as pl

from preprocess.synthetic import vocab


def dictionaries() -> dict[str, pl.DataFrame]:
    """The d_* tables, by paths below the folder of the raw tables."""
    is_text, is_drip = pl.col("values").list.len() > 0, pl.col("category").str.contains("Drips")
    kind = pl.when(is_text).then(pl.lit("Text")).otherwise(pl.lit("Numeric"))
    group = pl.when(is_drip).then(pl.lit("Medications")).otherwise(pl.lit("Fluids/Intake"))
    chart, inputs = vocab.ICU_ITEMS["chartevents"], vocab.ICU_ITEMS["inputevents"]
    chart = chart.with_columns(unitname=pl.col("unit").replace("", None), param_type=kind)
    tables = vocab.ICU_ITEMS | {"chartevents": chart, "inputevents": inputs.with_columns(category=group)}
    items = pl.concat([items.with_columns(linksto=pl.lit(name)) for name, items in tables.items()], how="diagonal")
    nothing = pl.lit(None, pl.String)
    limits = {"lownormalvalue": nothing, "highnormalvalue": nothing}
    items = items.with_columns(pl.col("param_type").fill_null("Solution"), abbreviation="label", **limits)
    columns = ("itemid", "label", "abbreviation", "linksto", "category", "unitname", "param_type", *limits)
    labs = vocab.LABS.join(vocab.PANELS, left_on="panel", right_on="name", maintain_order="left")
    return {
        "hosp/d_labitems": labs.select("itemid", "label", "fluid", "category"),
        "hosp/d_icd_diagnoses": _codes(vocab.DIAGNOSES, "title"),
        "hosp/d_icd_procedures": _codes(vocab.PROCEDURES, "title"),
        "hosp/d_hcpcs": vocab.HCPCS.select("code", category=nothing, long_description="long", short_description="short"),
        "icu/d_items": items.select(columns),
    }


def code_maps() -> dict[str, pl.DataFrame]:
    """CCS categories and ATC classes, which MIMIC-IV itself does not have, by paths below the folder of code maps."""
    drugs = vocab.DRUGS.filter(pl.col("atc") != "").select(ndc_code="ndc", atc_name="atc")
    return {
        "hosp/d_ccs_diagnoses": _codes(vocab.DIAGNOSES, "ccs"),
        "hosp/d_ccs_procedures": _codes(vocab.PROCEDURES, "ccs"),
        "hosp/d_atc_prescriptions": drugs.unique(maintain_order=True),
    }


def _codes(entries: pl.DataFrame, title: str) -> pl.DataFrame:
    """The ICD-9 and the ICD-10 code of each entry, without repeats."""
    entries = entries.select("icd9", "icd10", title)
    rows = [(code, version, name) for *codes, name in entries.rows() for code, version in zip(codes, (9, 10), strict=True)]
    return pl.DataFrame(rows, ("icd_code", "icd_version", "long_title"), orient="row").unique(maintain_order=True)
