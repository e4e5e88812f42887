"""Writes files in the format of PrimeKG, of MONDO's map to ICD, and of the maps from laboratory items to LOINC to HPO.

The statements are a few hundred of those that any textbook has. Codes of nodes are made up; ICD and LOINC codes are real, so
that the names of MIMIC-IV reach the nodes.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

HEADER = ("relation", "display_relation", "x_index", "x_id", "x_type", "x_name", "x_source",
          "y_index", "y_id", "y_type", "y_name", "y_source")  # fmt: skip
DISPLAY = {"disease_phenotype_positive": "phenotype present", "disease_phenotype_negative": "phenotype absent",
           "drug_effect": "side effect", "drug_drug": "synergistic interaction", "disease_disease": "parent-child",
           "phenotype_phenotype": "parent-child", "disease_protein": "associated with", "drug_protein": "target",
           "phenotype_protein": "associated with"}  # fmt: skip
SOURCE = {"drug": "DrugBank", "disease": "MONDO", "effect/phenotype": "HPO", "gene/protein": "NCBI"}

# Disease | ICD codes, those of version 10 first | phenotypes | drugs with this indication | parent
DISEASES = """
hypertension | I10 4019 401 | Headache, Left ventricular hypertrophy, Chronic kidney disease | Metoprolol, Amlodipine, Felodipine, Losartan, Lisinopril, Hydrochlorothiazide, Carvedilol, Labetalol, Atenolol, Irbesartan, Clonidine, Diltiazem, Nifedipine, Enalaprilat | cardiovascular disorder
heart failure | I50 4280 428 | Dyspnea, Edema, Pulmonary edema, Increased NT-proBNP, Fatigue, Hyponatremia | Furosemide, Carvedilol, Metoprolol, Spironolactone, Torsemide, Lisinopril, Digoxin | cardiovascular disorder
diastolic heart failure | I503 42830 42832 42833 | Dyspnea, Edema, Left ventricular hypertrophy | Furosemide | heart failure
coronary artery disorder | I251 41401 4140 41400 | Angina pectoris, Chest pain, Hypercholesterolemia | Acetylsalicylic acid, Clopidogrel, Atorvastatin, Metoprolol, Rosuvastatin, Simvastatin, Ticagrelor, Isosorbide mononitrate, Nitroglycerin | cardiovascular disorder
myocardial infarction | I21 410 41071 | Chest pain, Increased troponin T, Diaphoresis, Arrhythmia | Acetylsalicylic acid, Heparin, Metoprolol, Clopidogrel, Alteplase, Morphine | coronary artery disorder
atrial fibrillation | I48 42731 | Palpitations, Arrhythmia, Stroke | Metoprolol, Apixaban, Warfarin, Amiodarone, Diltiazem, Sotalol, Digoxin | cardiovascular disorder
hypercholesterolemia | E780 2720 | Hypercholesterolemia, Xanthelasma | Atorvastatin, Rosuvastatin, Simvastatin, Ezetimibe | metabolic disease
hyperlipidemia | E785 2724 | Hypercholesterolemia, Hypertriglyceridemia | Atorvastatin, Rosuvastatin, Simvastatin, Gemfibrozil | metabolic disease
type 2 diabetes mellitus | E11 25000 2500 | Hyperglycemia, Elevated hemoglobin A1c, Polyuria, Neuropathy, Nephropathy | Metformin, Insulin human, Insulin glargine, Insulin lispro | diabetes mellitus
type 1 diabetes mellitus | E10 25001 25011 | Hyperglycemia, Elevated hemoglobin A1c, Ketosis, Polyuria | Insulin human, Insulin glargine, Insulin lispro | diabetes mellitus
diabetes mellitus | E08 250 | Hyperglycemia, Polyuria | Insulin human | metabolic disease
hypoglycemia | E162 2512 | Hypoglycemia, Confusion, Diaphoresis | Glucagon, D-glucose | metabolic disease
hypothyroidism | E039 2449 | Elevated thyroid stimulating hormone, Decreased free thyroxine, Fatigue, Constipation, Weight gain | Levothyroxine | endocrine disorder
hyponatremia | E871 2761 | Hyponatremia, Confusion, Seizure | Sodium chloride, Tolvaptan | metabolic disease
hyperkalemia | E875 2767 | Hyperkalemia, Arrhythmia | Calcium gluconate, Insulin human, D-glucose | metabolic disease
alkalosis | E873 2763 | Increased bicarbonate, Hypokalemia | Acetazolamide | metabolic disease
acute kidney injury | N17 5849 584 | Elevated creatinine, Oliguria, Hyperkalemia, Increased urea nitrogen, Metabolic acidosis | Furosemide | kidney disorder
chronic kidney disease | N18 585 5859 | Elevated creatinine, Anemia, Hyperphosphatemia, Hyperparathyroidism, Increased urea nitrogen | Calcium acetate, Cinacalcet, Erythropoietin, Sevelamer | kidney disorder
end stage renal disease | N186 5856 | Elevated creatinine, Anemia, Hyperphosphatemia, Edema | Calcium acetate, Cinacalcet, Erythropoietin | chronic kidney disease
pyelonephritis | N10 59010 | Fever, Flank pain, Leukocytosis | Ceftriaxone, Ciprofloxacin | urinary tract infection
urinary tract infection | N390 5990 | Dysuria, Fever, Leukocytosis | Ciprofloxacin, Nitrofurantoin, Trimethoprim | infectious disease
pneumonia | J189 486 J18 | Cough, Fever, Dyspnea, Leukocytosis, Hypoxemia, Elevated C-reactive protein | Ceftriaxone, Levofloxacin, Cefepime, Vancomycin, Azithromycin, Piperacillin, Doxycycline | infectious disease
ventilator associated pneumonia | J95851 99731 | Fever, Hypoxemia, Leukocytosis | Tobramycin, Ceftazidime, Cefepime, Meropenem | pneumonia
sepsis | A419 99591 0389 | Fever, Hypotension, Elevated lactate, Leukocytosis, Thrombocytopenia, Elevated C-reactive protein | Vancomycin, Piperacillin, Meropenem, Cefepime, Norepinephrine, Micafungin | infectious disease
septic shock | R6521 78552 | Hypotension, Elevated lactate, Oliguria | Norepinephrine, Vasopressin, Hydrocortisone | sepsis
respiratory failure | J96 51881 51884 | Hypoxemia, Dyspnea, Hypercapnia | Rocuronium, Midazolam, Propofol | respiratory disorder
chronic obstructive pulmonary disease | J44 496 49121 | Dyspnea, Cough, Hypercapnia, Hypoxemia | Tiotropium, Salbutamol, Ipratropium, Prednisone, Fluticasone | respiratory disorder
asthma | J45 49390 493 | Wheezing, Dyspnea, Eosinophilia, Cough | Salbutamol, Fluticasone, Prednisone, Montelukast | respiratory disorder
pulmonary embolism | I26 41519 | Dyspnea, Chest pain, Hypoxemia, Increased D-dimer | Heparin, Enoxaparin, Apixaban, Warfarin, Alteplase | cardiovascular disorder
deep vein thrombosis | I82 45340 | Edema, Limb pain, Increased D-dimer | Heparin, Enoxaparin, Apixaban, Warfarin | cardiovascular disorder
cerebral infarction | I63 43491 434 | Hemiparesis, Aphasia, Dysarthria | Alteplase, Acetylsalicylic acid, Clopidogrel, Atorvastatin | cerebrovascular disorder
intracerebral hemorrhage | I61 431 | Headache, Hemiparesis, Increased intracranial pressure, Vomiting | Labetalol, Mannitol, Levetiracetam | cerebrovascular disorder
obstructive hydrocephalus | G911 3314 | Increased intracranial pressure, Headache, Vomiting | Acetazolamide, Mannitol | cerebrovascular disorder
epilepsy | G40 34590 345 | Seizure | Levetiracetam, Phenytoin, Lamotrigine, Carbamazepine, Phenobarbital, Lorazepam | nervous system disorder
amyotrophic lateral sclerosis | G1221 33520 | Muscle weakness, Dysphagia, Respiratory insufficiency, Dysarthria | Riluzole | nervous system disorder
Alzheimer disease | G30 3310 | Memory impairment, Confusion | Donepezil, Memantine | nervous system disorder
depressive disorder | F329 311 3004 F341 | Depressivity, Fatigue, Suicidal ideation | Sertraline, Citalopram, Mirtazapine, Duloxetine, Fluoxetine, Trazodone | mental disorder
anxiety disorder | F419 30000 | Anxiety, Palpitations | Alprazolam, Lorazepam, Clonazepam, Sertraline | mental disorder
psychotic disorder | F29 2989 | Hallucinations, Delusion | Haloperidol, Olanzapine, Quetiapine, Aripiprazole | mental disorder
alcohol use disorder | F10 30500 30301 303 | Tremor, Confusion, Elevated alanine aminotransferase, Macrocytic anemia | Thiamine, Folic acid, Phenobarbital, Lorazepam, Diazepam | mental disorder
alcohol withdrawal | F1023 29181 | Tremor, Seizure, Hallucinations, Diaphoresis | Phenobarbital, Diazepam, Lorazepam, Thiamine | alcohol use disorder
opioid use disorder | F11 30550 | Miosis, Constipation | Methadone, Buprenorphine | mental disorder
cirrhosis of liver | K746 5715 K7030 5712 | Ascites, Elevated bilirubin, Hypoalbuminemia, Thrombocytopenia, Esophageal varices, Prolonged prothrombin time | Spironolactone, Furosemide, Lactulose, Phylloquinone | liver disorder
hepatic encephalopathy | K7290 5722 K7682 | Confusion, Hyperammonemia | Lactulose, Rifaximin | liver disorder
hepatitis C virus infection | B1920 07054 07070 | Elevated alanine aminotransferase, Elevated aspartate aminotransferase, Fatigue | Sofosbuvir, Ribavirin | liver disorder
esophageal varices | I8511 45620 I850 | Hematemesis, Anemia | Octreotide, Nadolol | liver disorder
gastroesophageal reflux disease | K219 53081 | Heartburn, Dysphagia, Chronic cough | Pantoprazole, Omeprazole, Lansoprazole, Famotidine, Esomeprazole | digestive system disorder
gastrointestinal hemorrhage | K922 5789 | Melena, Anemia, Hypotension | Pantoprazole, Octreotide | digestive system disorder
acute pancreatitis | K85 5770 | Abdominal pain, Elevated lipase, Elevated amylase, Vomiting, Hypocalcemia | Morphine, Hydromorphone | digestive system disorder
constipation | K5900 56400 | Constipation, Abdominal pain | Docusate, Sennosides, Bisacodyl, Polyethylene glycol, Lactulose | digestive system disorder
iron deficiency anemia | D50 2809 | Anemia, Decreased ferritin, Decreased iron, Increased transferrin, Microcytosis, Fatigue | Ferrous sulfate, Ferric gluconate | blood disorder
posthemorrhagic anemia | D62 2851 | Anemia, Hypotension, Tachycardia | Ferrous sulfate | blood disorder
anemia | D649 2859 | Anemia, Fatigue | Folic acid, Cyanocobalamin, Ferrous sulfate | blood disorder
vitamin B12 deficiency | E538 2662 | Macrocytic anemia, Decreased vitamin B12, Neuropathy | Cyanocobalamin | blood disorder
hemolytic anemia | D59 2839 | Anemia, Decreased haptoglobin, Schistocytosis, Elevated bilirubin, Reticulocytosis | Prednisone, Folic acid | blood disorder
thrombocytopenia | D696 2875 | Thrombocytopenia, Petechiae | Prednisone | blood disorder
human immunodeficiency virus infection | B20 042 Z21 V08 | Lymphopenia, Weight loss, Fever | Tenofovir, Emtricitabine, Darunavir, Ritonavir | infectious disease
gout | M109 2749 | Hyperuricemia, Arthritis | Allopurinol, Colchicine, Prednisone | musculoskeletal disorder
benign prostatic hyperplasia | N400 60000 N401 | Urinary retention, Dysuria | Tamsulosin, Finasteride | urogenital disorder
sarcoidosis | D869 135 D86 | Cough, Hypercalcemia, Dyspnea, Lymphadenopathy | Prednisone | immune system disorder
ulcerative colitis | K51 5569 | Diarrhea, Hematochezia, Abdominal pain, Elevated C-reactive protein | Sulfasalazine, Mesalamine, Prednisone | digestive system disorder
aortic valve stenosis | I350 4241 | Syncope, Dyspnea, Angina pectoris | Furosemide | cardiovascular disorder
mitral valve disorder | I340 4240 | Dyspnea, Arrhythmia, Pulmonary edema | Furosemide | cardiovascular disorder
pulmonary hypertension | I272 4168 4160 | Dyspnea, Edema, Syncope | Sildenafil | cardiovascular disorder
pericarditis | I319 4239 I30 | Chest pain, Fever, Elevated C-reactive protein | Colchicine, Ibuprofen | cardiovascular disorder
pressure ulcer | L89 70700 | Skin ulcer, Immobility | Miconazole | skin disorder
malignant neoplasm of breast | C50 1749 | Breast mass, Lymphadenopathy | Tamoxifen | neoplasm
secondary malignant neoplasm of brain | C7931 1983 | Seizure, Headache, Increased intracranial pressure | Dexamethasone, Levetiracetam | neoplasm
"""  # noqa: E501

# Drug | side effects
SIDE_EFFECTS = """
Furosemide | Hypokalemia, Hyponatremia, Dehydration, Hypotension
Hydrochlorothiazide | Hyponatremia, Hypokalemia, Hyperuricemia
Lisinopril | Cough, Hyperkalemia, Hypotension
Losartan | Hyperkalemia, Hypotension
Spironolactone | Hyperkalemia
Metoprolol | Bradycardia, Fatigue, Hypotension
Amlodipine | Edema
Atorvastatin | Myalgia, Elevated alanine aminotransferase
Amiodarone | Bradycardia, Elevated thyroid stimulating hormone
Vancomycin | Elevated creatinine, Eosinophilia
Tobramycin | Elevated creatinine, Hearing impairment
Heparin | Thrombocytopenia, Hyperkalemia
Warfarin | Prolonged prothrombin time, Bruising
Insulin human | Hypoglycemia, Hypokalemia
Metformin | Diarrhea, Elevated lactate
Prednisone | Hyperglycemia, Leukocytosis, Hypokalemia
Dexamethasone | Hyperglycemia, Insomnia
Hydrocortisone | Hyperglycemia
Morphine | Constipation, Nausea, Respiratory depression
Hydromorphone | Constipation, Nausea
Oxycodone | Constipation, Nausea
Methadone | Constipation, Prolonged QT interval
Haloperidol | Prolonged QT interval, Tremor
Ondansetron | Prolonged QT interval, Constipation
Citalopram | Hyponatremia, Prolonged QT interval
Sertraline | Hyponatremia, Diarrhea
Olanzapine | Hyperglycemia, Weight gain
Phenytoin | Ataxia, Macrocytic anemia
Carbamazepine | Hyponatremia
Levetiracetam | Drowsiness
Lorazepam | Drowsiness, Confusion
Piperacillin | Thrombocytopenia, Diarrhea
Trimethoprim | Hyperkalemia
Ferrous sulfate | Constipation
Sodium chloride | Edema
Allopurinol | Rash
Tamsulosin | Hypotension
"""

# Laboratory item | LOINC | finding if it is low | finding if it is high
TESTS = """
Glucose | 2345-7 | Hypoglycemia | Hyperglycemia
% Hemoglobin A1c | 4548-4 | | Elevated hemoglobin A1c
Sodium | 2951-2 | Hyponatremia | Hypernatremia
Potassium | 2823-3 | Hypokalemia | Hyperkalemia
Bicarbonate | 1963-8 | Metabolic acidosis | Increased bicarbonate
Creatinine | 2160-0 | | Elevated creatinine
Urea Nitrogen | 3094-0 | | Increased urea nitrogen
Phosphate | 2777-1 | Hypophosphatemia | Hyperphosphatemia
Calcium, Total | 17861-6 | Hypocalcemia | Hypercalcemia
Magnesium | 19123-9 | Hypomagnesemia | Hypermagnesemia
Lactate | 2524-7 | | Elevated lactate
Hemoglobin | 718-7 | Anemia | Polycythemia
MCV | 787-2 | Microcytosis | Macrocytic anemia
White Blood Cells | 6690-2 | Leukopenia | Leukocytosis
Eosinophils | 713-8 | | Eosinophilia
Lymphocytes | 736-9 | Lymphopenia |
Platelet Count | 777-3 | Thrombocytopenia | Thrombocytosis
Schistocytes | 800-3 | | Schistocytosis
Haptoglobin | 4542-7 | Decreased haptoglobin |
Reticulocyte Count, Automated | 17849-1 | | Reticulocytosis
Ferritin | 2276-4 | Decreased ferritin | Increased ferritin
Iron | 2498-4 | Decreased iron |
Transferrin | 3034-6 | | Increased transferrin
Vitamin B12 | 2132-9 | Decreased vitamin B12 |
C-Reactive Protein | 1988-5 | | Elevated C-reactive protein
Bilirubin, Total | 1975-2 | | Elevated bilirubin
Albumin | 1751-7 | Hypoalbuminemia |
Alanine Aminotransferase (ALT) | 1742-6 | | Elevated alanine aminotransferase
Asparate Aminotransferase (AST) | 1920-8 | | Elevated aspartate aminotransferase
Ammonia | 16362-6 | | Hyperammonemia
Lipase | 3040-3 | | Elevated lipase
Amylase | 1798-8 | | Elevated amylase
PT | 5902-2 | | Prolonged prothrombin time
INR(PT) | 6301-6 | | Prolonged prothrombin time
D-Dimer | 48065-7 | | Increased D-dimer
Troponin T | 6598-7 | | Increased troponin T
NTproBNP | 33762-6 | | Increased NT-proBNP
Thyroid Stimulating Hormone | 3016-3 | | Elevated thyroid stimulating hormone
Thyroxine (T4), Free | 3024-7 | Decreased free thyroxine |
Parathyroid Hormone | 2731-8 | | Hyperparathyroidism
Cholesterol, Total | 2093-3 | | Hypercholesterolemia
Cholesterol, LDL, Calculated | 13457-7 | | Hypercholesterolemia
Triglycerides | 2571-8 | | Hypertriglyceridemia
Uric Acid | 3084-1 | | Hyperuricemia
pCO2 | 2019-8 | | Hypercapnia
pO2 | 2703-7 | Hypoxemia |
"""

OTHERS = [
    ("contraindication", ("drug", "Metoprolol"), ("disease", "asthma")),
    ("contraindication", ("drug", "Ibuprofen"), ("disease", "chronic kidney disease")),
    ("disease_phenotype_negative", ("disease", "gout"), ("effect/phenotype", "Fever")),
    ("drug_drug", ("drug", "Warfarin"), ("drug", "Amiodarone")),
    ("drug_protein", ("drug", "Metoprolol"), ("gene/protein", "ADRB1")),
    ("drug_protein", ("drug", "Tamoxifen"), ("gene/protein", "ADRB1")),
    ("disease_protein", ("disease", "asthma"), ("gene/protein", "ADRB1")),
    ("off-label use", ("drug", "Prednisone"), ("disease", "pericarditis")),
    ("off-label use", ("drug", "Gabapentin"), ("disease", "alcohol withdrawal")),
    ("off-label use", ("drug", "Clonidine"), ("disease", "opioid use disorder")),
    ("phenotype_phenotype", ("effect/phenotype", "Microcytosis"), ("effect/phenotype", "Anemia")),
    ("phenotype_phenotype", ("effect/phenotype", "Pulmonary edema"), ("effect/phenotype", "Edema")),
]


def table(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


def names(cell: str) -> list[str]:
    return [name.strip() for name in cell.split(",") if name.strip()]


def statements() -> list[tuple[str, tuple[str, str], tuple[str, str]]]:
    """(relation, source, target) of the fixture, in one direction."""
    rows = list(OTHERS)
    for disease, _, phenotypes, drugs, parent in table(DISEASES):
        node = "disease", disease
        rows += [("disease_phenotype_positive", node, ("effect/phenotype", name)) for name in names(phenotypes)]
        rows += [("indication", ("drug", name), node) for name in names(drugs)]
        rows.append(("disease_disease", ("disease", parent), node))
    for drug, effects in table(SIDE_EFFECTS):
        rows += [("drug_effect", ("drug", drug), ("effect/phenotype", name)) for name in names(effects)]
    return rows


def icd_rows(disease: str, mondo: int) -> list[str]:
    """The rows of MONDO's SSSOM file that map a disease of `DISEASES` to its ICD codes."""
    (codes,) = [codes for name, codes, *_ in table(DISEASES) if name == disease]
    rows = []
    for icd in codes.split():
        system, dotted = ("ICD10CM" if icd[0].isalpha() and icd != "V08" else "ICD9CM"), f"{icd[:3]}.{icd[3:]}".rstrip(".")
        rows.append(f"MONDO:{mondo:07}\t{disease}\tskos:exactMatch\t{system}:{dotted}\t")
    return rows


def write_primekg(folder: Path, itemids: Mapping[str, str] | None = None) -> list[str]:
    """Write kg.csv, mondo.sssom.tsv, loinc2hpo-annotations.tsv and d_labitems_to_loinc.csv; return the flags that name them.

    Args:
        itemids: label of d_labitems → itemid of the test of blood (900,000 and the position in `TESTS`).
    """
    rows, tests = statements(), table(TESTS)
    findings = [("effect/phenotype", name) for _, _, *ends in tests for name in ends if name]
    rows += [("phenotype_phenotype", ("effect/phenotype", "Abnormality of blood chemistry"), finding) for finding in findings]
    nodes = list(dict.fromkeys(end for _, *ends in rows for end in ends))
    code = {node: f"DB{at:05}" if node[0] == "drug" else str(at + 1) for at, node in enumerate(nodes)}
    grouped = "disease", "heart failure"
    code[grouped] = f"99001_{code[grouped]}_99002"
    cells = {
        node: (str(at), code[node], *node, "MONDO_grouped" if node == grouped else SOURCE[node[0]])
        for at, node in enumerate(nodes)
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "kg.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for relation, source, target in rows:
            for ends in ((source, target), (target, source)):  # the release has every statement in both directions
                writer.writerow([relation, DISPLAY.get(relation, relation), *cells[ends[0]], *cells[ends[1]]])
    lines = ["# mapping_set_id: made up", "subject_id\tsubject_label\tpredicate_id\tobject_id\tobject_label"]
    for disease, *_ in table(DISEASES):
        lines += icd_rows(disease, int(code["disease", disease].split("_")[-1 if disease != "heart failure" else 1]))
    (folder / "mondo.sssom.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = ["loincId\tloincScale\toutcome\thpoTermId\tsupplementalTermId\tcuration\tcomment"]
    for _, loinc, *ends in tests:
        for outcome, name in zip("LH", ends, strict=True):
            lines += [f"{loinc}\tQn\t{outcome}\tHP:{code['effect/phenotype', name].zfill(7)}\t.\t.\t."] if name else []
        lines.append(f"{loinc}\tQn\tN\tHP:{code['effect/phenotype', 'Seizure'].zfill(7)}\t.\t.\t.")  # normal: never a finding
    (folder / "loinc2hpo-annotations.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = ["itemid (omop_source_code),label,omop_concept_id,omop_vocabulary_id,omop_concept_code"]
    for at, (label, loinc, *_) in enumerate(tests):
        lines.append(f'{(itemids or {}).get(label, 900_000 + at)},"{label}",0,LOINC,{loinc}')
    (folder / "d_labitems_to_loinc.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = {"primekg": "kg.csv", "icd_map": "mondo.sssom.tsv", "loinc_map": "loinc2hpo-annotations.tsv"}
    files["labitem_map"] = "d_labitems_to_loinc.csv"
    return [str(part) for flag, name in files.items() for part in (f"--{flag}", folder / name)]
