"""Vocabularies of the synthetic MIMIC-IV: what its patients can have, be given and be measured by.

All of it is chosen by us from public facts (item and code names, usual ranges); nothing is taken from patient data. Item
numbers follow MIMIC-IV's public dictionaries where we know them; NDC numbers are made up. Tables are written as text,
one entry a line, fields separated by `|`.
"""

# ruff: noqa: E501 (entries of text tables stay on one line)

from __future__ import annotations

from typing import NamedTuple


def table(text: str) -> list[tuple[str, ...]]:
    """The entries of a text table, fields stripped.

    >>> table("a | b\\n  c | d")
    [('a', 'b'), ('c', 'd')]
    """
    return [tuple(field.strip() for field in line.split("|")) for line in text.strip().splitlines()]


class Lab(NamedTuple):
    itemid: int
    label: str
    panel: str
    unit: str
    low: float
    high: float
    decimals: int


LABS = [
    Lab(int(i), label, panel, unit, float(low), float(high), int(d))
    for i, label, panel, unit, low, high, d in table("""
50912 | Creatinine | chem | mg/dL | 0.5 | 1.2 | 1
51006 | Urea Nitrogen | chem | mg/dL | 6 | 20 | 0
50983 | Sodium | chem | mEq/L | 133 | 145 | 0
50971 | Potassium | chem | mEq/L | 3.3 | 5.1 | 1
50902 | Chloride | chem | mEq/L | 96 | 108 | 0
50882 | Bicarbonate | chem | mEq/L | 22 | 32 | 0
50868 | Anion Gap | chem | mEq/L | 8 | 20 | 0
50931 | Glucose | chem | mg/dL | 70 | 105 | 0
50893 | Calcium, Total | chem | mg/dL | 8.4 | 10.3 | 1
50960 | Magnesium | chem | mg/dL | 1.6 | 2.6 | 1
50970 | Phosphate | chem | mg/dL | 2.7 | 4.5 | 1
50934 | H | chem |  | 0 | 30 | 0
50947 | I | chem |  | 0 | 4 | 0
51678 | L | chem |  | 0 | 30 | 0
50920 | Estimated GFR (MDRD equation) | chem |  | 60 | 120 | 0
51301 | White Blood Cells | cbc | K/uL | 4 | 11 | 1
51222 | Hemoglobin | cbc | g/dL | 12 | 16 | 1
51221 | Hematocrit | cbc | % | 36 | 48 | 1
51265 | Platelet Count | cbc | K/uL | 150 | 440 | 0
51279 | Red Blood Cells | cbc | m/uL | 4.2 | 5.4 | 2
51250 | MCV | cbc | fL | 82 | 98 | 0
51248 | MCH | cbc | pg | 27 | 32 | 1
51249 | MCHC | cbc | % | 31 | 35 | 1
51277 | RDW | cbc | % | 10.5 | 15.5 | 1
52172 | RDW-SD | cbc | fL | 35.1 | 46.3 | 1
51256 | Neutrophils | diff | % | 50 | 70 | 1
51244 | Lymphocytes | diff | % | 18 | 42 | 1
51254 | Monocytes | diff | % | 2 | 11 | 1
51200 | Eosinophils | diff | % | 0 | 4 | 1
51146 | Basophils | diff | % | 0 | 2 | 1
52075 | Absolute Neutrophil Count | diff | K/uL | 1.6 | 6.1 | 2
51133 | Absolute Lymphocyte Count | diff | K/uL | 1.2 | 3.7 | 2
52074 | Absolute Monocyte Count | diff | K/uL | 0.2 | 0.8 | 2
52073 | Absolute Eosinophil Count | diff | K/uL | 0.04 | 0.54 | 2
52069 | Absolute Basophil Count | diff | K/uL | 0.01 | 0.08 | 2
52135 | Immature Granulocytes | diff | % | 0 | 0.6 | 1
51237 | INR(PT) | coag |  | 0.9 | 1.1 | 1
51274 | PT | coag | sec | 9.4 | 12.5 | 1
51275 | PTT | coag | sec | 25 | 36.5 | 1
51214 | Fibrinogen, Functional | coag | mg/dL | 180 | 400 | 0
50861 | Alanine Aminotransferase (ALT) | liver | IU/L | 0 | 40 | 0
50878 | Asparate Aminotransferase (AST) | liver | IU/L | 0 | 40 | 0
50863 | Alkaline Phosphatase | liver | IU/L | 35 | 105 | 0
50885 | Bilirubin, Total | liver | mg/dL | 0 | 1.5 | 1
50862 | Albumin | liver | g/dL | 3.5 | 5.2 | 1
50954 | Lactate Dehydrogenase (LD) | liver | IU/L | 94 | 250 | 0
50956 | Lipase | liver | IU/L | 0 | 60 | 0
50820 | pH | gas | units | 7.35 | 7.45 | 2
50818 | pCO2 | gas | mm Hg | 35 | 45 | 0
50821 | pO2 | gas | mm Hg | 85 | 105 | 0
50802 | Base Excess | gas | mEq/L | 0 | 4 | 0
50804 | Calculated Total CO2 | gas | mEq/L | 21 | 30 | 0
50813 | Lactate | gas | mmol/L | 0.5 | 2 | 1
50808 | Free Calcium | gas | mmol/L | 1.12 | 1.32 | 2
50809 | Glucose, Whole Blood | gas | mg/dL | 70 | 105 | 0
50822 | Potassium, Whole Blood | gas | mEq/L | 3.3 | 5.1 | 1
50824 | Sodium, Whole Blood | gas | mEq/L | 133 | 145 | 0
50817 | Oxygen Saturation | gas | % | 93 | 99 | 0
51003 | Troponin T | cardiac | ng/mL | 0 | 0.01 | 2
50911 | Creatine Kinase, MB Isoenzyme | cardiac | ng/mL | 0 | 10 | 0
50910 | Creatine Kinase (CK) | cardiac | IU/L | 29 | 201 | 0
50963 | NTproBNP | cardiac | pg/mL | 0 | 353 | 0
51491 | pH, Urine | urine | units | 5 | 8 | 1
51498 | Specific Gravity | urine |  | 1 | 1.04 | 2
51492 | Protein, Urine | urine | mg/dL | 0 | 30 | 0
51516 | WBC, Urine | urine | #/hpf | 0 | 5 | 0
51493 | RBC, Urine | urine | #/hpf | 0 | 2 | 0
51463 | Bacteria, Urine | urine |  | 0 | 1 | 0
51484 | Ketone, Urine | urine | mg/dL | 0 | 10 | 0
50852 | Hemoglobin A1c | metabolic | % | 4 | 6 | 1
50904 | Cholesterol, HDL | metabolic | mg/dL | 40 | 90 | 0
50905 | Cholesterol, LDL, Calculated | metabolic | mg/dL | 0 | 129 | 0
51000 | Triglycerides | metabolic | mg/dL | 0 | 149 | 0
50993 | Thyroid Stimulating Hormone | metabolic | uIU/mL | 0.27 | 4.2 | 2
51010 | Vitamin B12 | metabolic | pg/mL | 240 | 900 | 0
50924 | Ferritin | metabolic | ng/mL | 13 | 400 | 0
50952 | Iron | metabolic | ug/dL | 30 | 160 | 0
50889 | C-Reactive Protein | metabolic | mg/L | 0 | 5 | 1
51009 | Vancomycin | levels | ug/mL | 10 | 20 | 1
50965 | Digoxin | levels | ng/mL | 0.5 | 2 | 1
51288 | Sedimentation Rate | levels | mm/hr | 0 | 20 | 0
50915 | D-Dimer | levels | ng/mL | 0 | 500 | 0
""")
]

PANELS = {
    "chem": 0.32, "cbc": 0.27, "diff": 0.06, "coag": 0.09, "liver": 0.08, "gas": 0.08, "cardiac": 0.03, "urine": 0.04,
    "metabolic": 0.02, "levels": 0.01,
}  # fmt: skip
"""Lab panels and how often each is drawn; a panel's tests share one specimen."""


class Item(NamedTuple):
    itemid: int
    label: str
    category: str
    unit: str
    mean: float
    sd: float
    values: tuple[str, ...]
    """Texts the item takes; empty where it is a number."""
    scores: tuple[str, ...]
    """The number that goes with each text, empty where there is none."""


def _items(text: str) -> list[Item]:
    rows = []
    for itemid, label, category, unit, value in table(text):
        texts, _, scores = (
            zip(*(v.strip().partition("=") for v in value.split(";")), strict=True) if ";" in value else ((),) * 3
        )
        mean, sd = (0.0, 0.0) if texts else map(float, value.split())
        rows.append(Item(int(itemid), label, category, unit, mean, sd, texts, scores))
    return rows


CHART_ITEMS = _items("""
220045 | Heart Rate | Routine Vital Signs | bpm | 86 14
220179 | Non Invasive Blood Pressure systolic | Routine Vital Signs | mmHg | 120 16
220180 | Non Invasive Blood Pressure diastolic | Routine Vital Signs | mmHg | 64 11
220181 | Non Invasive Blood Pressure mean | Routine Vital Signs | mmHg | 78 11
220210 | Respiratory Rate | Respiratory | insp/min | 19 4
220277 | O2 saturation pulseoxymetry | Respiratory | % | 96 2
220048 | Heart Rhythm | Routine Vital Signs | | SR (Sinus Rhythm);ST (Sinus Tachycardia);AF (Atrial Fibrillation);SB (Sinus Bradycardia)
223761 | Temperature Fahrenheit | Routine Vital Signs | °F | 98 1
220739 | GCS - Eye Opening | Neurological | | Spontaneously=4;To Speech=3;To Pain=2;None=1
223900 | GCS - Verbal Response | Neurological | | Oriented=5;Confused=4;Inappropriate Words=3;No Response=1
223901 | GCS - Motor Response | Neurological | | Obeys Commands=6;Localizes Pain=5;Flex-withdraws=4;No response=1
228096 | Richmond-RAS Scale | Pain/Sedation | | 0 Alert=0;-1 Drowsy=-1;+1 Restless=1;+3 Agitated=3
228332 | Delirium assessment | Neurological | | Negative;Positive;UTA;Not done
220050 | Arterial Blood Pressure systolic | Routine Vital Signs | mmHg | 118 17
220051 | Arterial Blood Pressure diastolic | Routine Vital Signs | mmHg | 58 10
220052 | Arterial Blood Pressure mean | Routine Vital Signs | mmHg | 77 12
220074 | Central Venous Pressure | Hemodynamics | mmHg | 11 4
223834 | O2 Flow | Respiratory | L/min | 4 2
223835 | Inspired O2 Fraction | Respiratory | | 45 10
220339 | PEEP set | Respiratory | cmH2O | 6 2
224684 | Tidal Volume (set) | Respiratory | mL | 450 50
224685 | Tidal Volume (observed) | Respiratory | mL | 460 60
224688 | Respiratory Rate (Set) | Respiratory | insp/min | 16 3
224690 | Respiratory Rate (Total) | Respiratory | insp/min | 19 4
224695 | Peak Insp. Pressure | Respiratory | cmH2O | 20 5
224696 | Plateau Pressure | Respiratory | cmH2O | 17 4
224697 | Mean Airway Pressure | Respiratory | cmH2O | 9 2
224687 | Minute Volume | Respiratory | L/min | 8 2
223849 | Ventilator Mode | Respiratory | | CMV/ASSIST;CPAP/PSV;PSV/SBT;MMV
226732 | O2 Delivery Device(s) | Respiratory | | None;Nasal cannula;Face tent;Endotracheal tube
223986 | RUL Lung Sounds | Respiratory | | Clear;Diminished;Rhonchi;Crackles
223987 | RLL Lung Sounds | Respiratory | | Clear;Diminished;Rhonchi;Crackles
223988 | LUL Lung Sounds | Respiratory | | Clear;Diminished;Rhonchi;Crackles
223989 | LLL Lung Sounds | Respiratory | | Clear;Diminished;Rhonchi;Crackles
223990 | Respiratory Pattern | Respiratory | | Regular;Labored;Shallow;Tachypneic
223991 | Cough Effort | Respiratory | | Strong;Weak;Impaired;None
223992 | Cough Type | Respiratory | | Non-productive;Productive;Congested;None
224370 | Sputum Color | Respiratory | | White;Yellow;Tan;Clear
224372 | Sputum Consistency | Respiratory | | Thin;Thick;Frothy;Tenacious
224373 | Sputum Amount | Respiratory | | Scant;Small;Moderate;Large
229321 | Activity Tolerance | Treatments | | Good;Fair;Poor;Unable to assess
224080 | Turn | Treatments | | Side to side;Back;Self;Up in chair
224082 | Activity | Treatments | | Bedrest;Chair;Ambulate;Dangle
224084 | Position | Treatments | | Supine;Head of bed 30;Left side;Right side
224085 | Position Change | Treatments | | Done;Refused;Self;Deferred
224086 | Head of Bed | Treatments | | 30 Degrees;45 Degrees;Flat;60 Degrees
224093 | Assistance | Treatments | | 1 person;2 person;Independent;Lift
224168 | Skin Care | Treatments | | Done;Lotion;Barrier cream;Deferred
225187 | Oral Care | Treatments | | Done;Self;Swab;Deferred
225184 | Eye Care | Treatments | | Done;Lubricant;Self;Deferred
225185 | Bath | Treatments | | Bed bath;Partial;Self;Deferred
224004 | Abdominal Assessment | GI/GU | | Soft;Distended;Firm;Obese
224001 | Bowel Sounds | GI/GU | | Present;Hypoactive;Hyperactive;Absent
224003 | Stool Color | GI/GU | | Brown;Black;Green;Red
224002 | Stool Consistency | GI/GU | | Formed;Soft;Loose;Liquid
224015 | Urine Color | GI/GU | | Yellow;Amber;Clear;Pink
224016 | Urine Appearance | GI/GU | | Clear;Cloudy;Sediment;Bloody
224026 | Skin Color | Skin - Assessment | | Normal for Race;Pale;Flushed;Jaundiced
224027 | Skin Temperature | Skin - Assessment | | Warm;Cool;Cold;Hot
224028 | Skin Condition | Skin - Assessment | | Dry;Moist;Diaphoretic;Clammy
224029 | Skin Integrity | Skin - Assessment | | Intact;Impaired;Fragile;Bruised
224054 | Braden Sensory Perception | Skin - Assessment | | No Impairment=4;Slight Impairment=3;Very Limited=2;Completely Limited=1
224055 | Braden Moisture | Skin - Assessment | | Rarely Moist=4;Occasionally Moist=3;Moist=2;Constantly Moist=1
224056 | Braden Activity | Skin - Assessment | | Bedfast=1;Chairfast=2;Walks Occasionally=3;Walks Frequently=4
224057 | Braden Mobility | Skin - Assessment | | No Limitations=4;Slight Limitations=3;Very Limited=2;Immobile=1
224058 | Braden Nutrition | Skin - Assessment | | Adequate=3;Probably Inadequate=2;Excellent=4;Very Poor=1
224059 | Braden Friction/Shear | Skin - Assessment | | No Problem=3;Potential Problem=2;Problem=1
223781 | Pain Present | Pain/Sedation | | No;Yes;Unable to assess;Asleep
223791 | Pain Level | Pain/Sedation | | None to Mild;Mild;Moderate;Severe
223782 | Pain Location | Pain/Sedation | | Abdomen;Chest;Back;Head
223783 | Pain Type | Pain/Sedation | | Acute;Chronic;Incisional;Radiating
223784 | Pain Management | Pain/Sedation | | Medication;Repositioned;Rest;Ice
224409 | Pain Level Response | Pain/Sedation | | None to Mild;Mild;Moderate;Severe
223795 | Sedation Goal | Pain/Sedation | | 0;-1;-2;-3
223907 | Pupil Size Right | Neurological | | 2 mm;3 mm;4 mm;5 mm
224733 | Pupil Size Left | Neurological | | 2 mm;3 mm;4 mm;5 mm
227121 | Pupil Response Right | Neurological | | Brisk;Sluggish;Nonreactive;Unable to assess
227288 | Pupil Response Left | Neurological | | Brisk;Sluggish;Nonreactive;Unable to assess
223898 | Orientation | Neurological | | Oriented x 3;Oriented x 2;Oriented x 1;Disoriented
223902 | Speech | Neurological | | Normal;Slurred;Aphasic;Intubated
223903 | Facial Droop | Neurological | | Absent;Left;Right;Both
223904 | Strength R Arm | Neurological | | Normal;Lifts and holds;Moves on bed;No movement
223905 | Strength L Arm | Neurological | | Normal;Lifts and holds;Moves on bed;No movement
223906 | Strength R Leg | Neurological | | Normal;Lifts and holds;Moves on bed;No movement
224416 | Strength L Leg | Neurological | | Normal;Lifts and holds;Moves on bed;No movement
223934 | Radial Pulse R | Cardiovascular (Pulses) | | Palpable;Doppler;Absent;Weak
223936 | Radial Pulse L | Cardiovascular (Pulses) | | Palpable;Doppler;Absent;Weak
223943 | Dorsal PedPulse R | Cardiovascular (Pulses) | | Palpable;Doppler;Absent;Weak
223939 | Dorsal PedPulse L | Cardiovascular (Pulses) | | Palpable;Doppler;Absent;Weak
223951 | Capillary Refill R | Cardiovascular | | Normal <3 secs;Abnormal >3 secs;Brisk;Delayed
224308 | Capillary Refill L | Cardiovascular | | Normal <3 secs;Abnormal >3 secs;Brisk;Delayed
224642 | Temperature Site | Routine Vital Signs | | Oral;Axillary;Rectal;Blood
224650 | Ectopy Type 1 | Routine Vital Signs | | None;PVC's;PAC's;Nod/Junc Escape
224651 | Ectopy Frequency 1 | Routine Vital Signs | | Rare;Occasional;Frequent;None
223767 | Edema Location | Cardiovascular | | None;Generalized;Lower extremities;Upper extremities
223768 | Edema Amount | Cardiovascular | | None;Trace;1+;2+
224665 | Alarms On | Alarms | | 1;1
220046 | Heart rate Alarm - High | Alarms | bpm | 125 8
220047 | Heart Rate Alarm - Low | Alarms | bpm | 55 5
223751 | Non-Invasive Blood Pressure Alarm - High | Alarms | mmHg | 160 9
223752 | Non-Invasive Blood Pressure Alarm - Low | Alarms | mmHg | 90 6
223769 | O2 Saturation Pulseoxymetry Alarm - High | Alarms | % | 100 0.1
223770 | O2 Saturation Pulseoxymetry Alarm - Low | Alarms | % | 88 2
224161 | Resp Alarm - High | Alarms | insp/min | 33 3
224162 | Resp Alarm - Low | Alarms | insp/min | 8 1
225664 | Glucose finger stick (range 70-100) | Labs | mg/dL | 140 35
227442 | Potassium (serum) | Labs | mEq/L | 4.1 0.5
220645 | Sodium (serum) | Labs | mEq/L | 139 4
220602 | Chloride (serum) | Labs | mEq/L | 103 5
227443 | HCO3 (serum) | Labs | mEq/L | 24 4
220615 | Creatinine (serum) | Labs | mg/dL | 1.2 0.5
225624 | BUN | Labs | mg/dL | 26 12
227457 | Platelet Count | Labs | K/uL | 205 80
220228 | Hemoglobin | Labs | g/dl | 9.8 1.6
220546 | WBC | Labs | K/uL | 11 4
227465 | Prothrombin time | Labs | sec | 15 3
224639 | Daily Weight | General | kg | 82 16
227944 | Safety Measures | Restraint/Support Systems | | Bed alarm;Side rails;Call light;Sitter
225059 | Isolation Precautions | General | | Standard;Contact;Droplet;None
228686 | Therapeutic Bed | Restraint/Support Systems | | Yes;No
""")
"""Rows of a chartevents run; the first twelve are the vital signs and scores that every full run starts with."""


class Drug(NamedTuple):
    name: str
    atc: str
    strength: str
    dose: str
    unit: str
    form: str
    route: str
    ndc: str
    """Eleven digits, made up, some with leading zeros; `0` where the source has no code."""


DRUGS = [
    Drug(*fields[:7], "0" if fields[1] == "" else f"{(index + 3) * 7919 * 1000070 % (10**8 if index % 3 else 10**11):011d}")
    for index, fields in enumerate(table("""
0.9% Sodium Chloride | Solutions affecting the electrolyte balance | 1000mL Bag | 1000 | mL | BAG | IV
Lactated Ringers | Solutions affecting the electrolyte balance | 1000mL Bag | 1000 | mL | BAG | IV
5% Dextrose | Solutions for parenteral nutrition | 250mL Bag | 250 | mL | BAG | IV
Sodium Chloride 0.9%  Flush | | 10mL Syringe | 3 | mL | SYR | IV
Iso-Osmotic Dextrose | | 50mL Bag | 50 | mL | BAG | IV
Sterile Water | | 10mL Vial | 10 | mL | VIAL | IV
Acetaminophen | Anilides | 325mg Tablet | 650 | mg | TAB | PO/NG
Aspirin | Platelet aggregation inhibitors excl. heparin | 81mg Tab | 81 | mg | TAB | PO/NG
Clopidogrel | Platelet aggregation inhibitors excl. heparin | 75mg Tab | 75 | mg | TAB | PO/NG
Heparin | Heparin group | 5000 Units / mL- 1mL Vial | 5000 | UNIT | mL | SC
Enoxaparin Sodium | Heparin group | 40mg Syringe | 40 | mg | SYR | SC
Warfarin | Vitamin K antagonists | 5mg Tab | 5 | mg | TAB | PO/NG
Apixaban | Direct factor Xa inhibitors | 5mg Tab | 5 | mg | TAB | PO/NG
Atorvastatin | HMG CoA reductase inhibitors | 80mg Tab | 80 | mg | TAB | PO/NG
Simvastatin | HMG CoA reductase inhibitors | 20mg Tab | 20 | mg | TAB | PO/NG
Metoprolol Tartrate | Beta blocking agents, selective | 25mg Tab | 25 | mg | TAB | PO/NG
Metoprolol Succinate XL | Beta blocking agents, selective | 50mg ER Tab | 50 | mg | TAB | PO
Carvedilol | Alpha and beta blocking agents | 6.25mg Tab | 6.25 | mg | TAB | PO/NG
Lisinopril | ACE inhibitors, plain | 10mg Tab | 10 | mg | TAB | PO/NG
Losartan Potassium | Angiotensin II receptor blockers (ARBs), plain | 50mg Tab | 50 | mg | TAB | PO/NG
Amlodipine | Dihydropyridine derivatives | 5mg Tab | 5 | mg | TAB | PO/NG
Diltiazem | Benzothiazepine derivatives | 30mg Tab | 30 | mg | TAB | PO/NG
Amiodarone | Antiarrhythmics, class III | 200mg Tab | 200 | mg | TAB | PO/NG
Digoxin | Digitalis glycosides | 0.125mg Tab | 0.125 | mg | TAB | PO/NG
Furosemide | Sulfonamides, plain | 40mg/4mL Vial | 40 | mg | VIAL | IV
Torsemide | Sulfonamides, plain | 20mg Tab | 20 | mg | TAB | PO/NG
Spironolactone | Aldosterone antagonists | 25mg Tab | 25 | mg | TAB | PO/NG
Hydrochlorothiazide | Thiazides, plain | 25mg Tab | 25 | mg | TAB | PO/NG
Nitroglycerin SL | Organic nitrates | 0.4mg SL Tablet Bottle | 0.4 | mg | TAB | SL
Isosorbide Mononitrate (Extended Release) | Organic nitrates | 30mg Tab | 30 | mg | TAB | PO
Hydralazine | Hydrazinophthalazine derivatives | 25mg Tab | 25 | mg | TAB | PO/NG
Norepinephrine | Adrenergic and dopaminergic agents | 8mg/250mL Bag | 8 | mg | BAG | IV DRIP
Phenylephrine | Adrenergic and dopaminergic agents | 60mg/250mL Bag | 60 | mg | BAG | IV DRIP
Vasopressin | Vasopressin and analogues | 20 Unit Vial | 20 | UNIT | VIAL | IV DRIP
Dobutamine | Adrenergic and dopaminergic agents | 500mg/250mL Bag | 500 | mg | BAG | IV DRIP
*NF* Bosentan | Antihypertensives for pulmonary arterial hypertension | 62.5mg Tab | 62.5 | mg | TAB | PO
Vancomycin | Glycopeptide antibacterials | 1g Frozen Bag | 1000 | mg | BAG | IV
CefePIME | Fourth-generation cephalosporins | 2g Vial | 2 | g | VIAL | IV
CefTRIAXone | Third-generation cephalosporins | 1g Frozen Bag | 1 | g | BAG | IV
CefazoLIN | First-generation cephalosporins | 2g Duplex Bag | 2 | g | BAG | IV
Piperacillin-Tazobactam | Combinations of penicillins, incl. beta-lactamase inhibitors | 4.5g Frozen Bag | 4.5 | g | BAG | IV
Meropenem | Carbapenems | 500mg Vial | 500 | mg | VIAL | IV
Azithromycin | Macrolides | 250mg Tablet | 250 | mg | TAB | PO/NG
Levofloxacin | Fluoroquinolones | 750mg Premix Bag | 750 | mg | BAG | IV
Ciprofloxacin HCl | Fluoroquinolones | 500mg Tablet | 500 | mg | TAB | PO/NG
MetRONIDAZOLE (FLagyl) | Imidazole derivatives | 500mg Premix Bag | 500 | mg | BAG | IV
Doxycycline Hyclate | Tetracyclines | 100mg Capsule | 100 | mg | CAP | PO/NG
Nitrofurantoin Monohyd (MacroBID) | Nitrofuran derivatives | 100mg Capsule | 100 | mg | CAP | PO
Fluconazole | Triazole derivatives | 200mg Tab | 200 | mg | TAB | PO/NG
Insulin | Insulins and analogues for injection, fast-acting | 100 Units / mL - 10 mL Vial | 2-10 | UNIT | VIAL | SC
Insulin Glargine | Insulins and analogues for injection, long-acting | 100 Units / mL - 10 mL Vial | 20 | UNIT | VIAL | SC
Glucose Gel | Carbohydrates | 15g Tube | 15 | g | TUBE | PO
Glucagon | Glycogenolytic hormones | 1mg Vial | 1 | mg | VIAL | IM
MetFORMIN (Glucophage) | Biguanides | 500mg Tab | 500 | mg | TAB | PO
GlipiZIDE | Sulfonylureas | 5mg Tab | 5 | mg | TAB | PO
Levothyroxine Sodium | Thyroid hormones | 50mcg Tab | 50 | mcg | TAB | PO/NG
PredniSONE | Glucocorticoids | 20mg Tab | 40 | mg | TAB | PO/NG
MethylPREDNISolone Sodium Succ | Glucocorticoids | 125mg/2mL Vial | 60 | mg | VIAL | IV
Dexamethasone | Glucocorticoids | 4mg Tab | 4 | mg | TAB | PO/NG
Albuterol 0.083% Neb Soln | Selective beta-2-adrenoreceptor agonists | 0.083%;3mL Vial | 1 | NEB | VIAL | IH
Ipratropium-Albuterol Neb | Adrenergics in combination with anticholinergics | 3mL Vial | 1 | NEB | VIAL | NEB
Tiotropium Bromide | Anticholinergics | 18mcg Cap | 1 | CAP | CAP | IH
Fluticasone-Salmeterol Diskus (250/50) | Adrenergics in combination with corticosteroids | 250/50 Disk | 1 | INH | DISK | IH
GuaiFENesin | Expectorants | 100mg/5mL Cup | 5 | mL | CUP | PO/NG
Benzonatate | Other cough suppressants | 100mg Cap | 100 | mg | CAP | PO
Pantoprazole | Proton pump inhibitors | 40mg Tablet | 40 | mg | TAB | PO
Omeprazole | Proton pump inhibitors | 20mg Cap | 20 | mg | CAP | PO
Famotidine | H2-receptor antagonists | 20mg Tab | 20 | mg | TAB | PO/NG
Octreotide Acetate | Somatostatin and analogues | 500mcg/mL Vial | 50 | mcg/hr | VIAL | IV DRIP
Ondansetron | Serotonin (5HT3) antagonists | 4mg/2mL Vial | 4 | mg | VIAL | IV
Prochlorperazine | Phenothiazines with piperazine structure | 10mg/2mL Vial | 10 | mg | VIAL | IV
Metoclopramide | Propulsives | 10mg/2mL Vial | 10 | mg | VIAL | IV
Docusate Sodium | Softeners, emollients | 100mg Cap | 100 | mg | CAP | PO
Senna | Contact laxatives | 8.6mg Tab | 8.6 | mg | TAB | PO/NG
Bisacodyl | Contact laxatives | 5mg Tab | 10 | mg | TAB | PO
Polyethylene Glycol | Osmotically acting laxatives | 17g Packet | 17 | g | PKT | PO/NG
Lactulose | Osmotically acting laxatives | 20g/30mL Cup | 30 | mL | CUP | PO/NG
Rifaximin | Antibiotics | 550mg Tab | 550 | mg | TAB | PO/NG
Milk of Magnesia | Osmotically acting laxatives | 30mL Cup | 30 | mL | CUP | PO
Loperamide | Antipropulsives | 2mg Cap | 2 | mg | CAP | PO
Simethicone | Silicones | 80mg Tab | 80 | mg | TAB | PO
Morphine Sulfate | Natural opium alkaloids | 4mg Syringe | 2-4 | mg | SYR | IV
HYDROmorphone (Dilaudid) | Natural opium alkaloids | 1mg/1mL Syringe | 0.5-1 | mg | SYR | IV
OxyCODONE (Immediate Release) | Natural opium alkaloids | 5mg Tablet | 5-10 | mg | TAB | PO
TraMADol | Other opioids | 50mg Tab | 50 | mg | TAB | PO
Fentanyl Citrate | Opioid anesthetics | 2.5mg/50mL Bag | 25-100 | mcg/hr | BAG | IV DRIP
Ketorolac | Acetic acid derivatives and related substances | 15mg/mL Vial | 15 | mg | VIAL | IV
Ibuprofen | Propionic acid derivatives | 600mg Tab | 600 | mg | TAB | PO
Lidocaine 5% Patch | Amides | 1 Patch | 1 | PTCH | PTCH | TD
Gabapentin | Gabapentinoids | 300mg Capsule | 300 | mg | CAP | PO/NG
Propofol | Other general anesthetics | 1000mg/100mL Vial | 20 | mcg/kg/min | VIAL | IV DRIP
Midazolam | Benzodiazepine derivatives | 100mg/100mL Bag | 1-5 | mg/hr | BAG | IV DRIP
Dexmedetomidine | Other hypnotics and sedatives | 400mcg/100mL Bag | 0.4 | mcg/kg/hr | BAG | IV DRIP
LORazepam | Benzodiazepine derivatives | 2mg/mL Vial | 0.5-1 | mg | VIAL | IV
Diazepam | Benzodiazepine derivatives | 5mg Tab | 10 | mg | TAB | PO
Haloperidol | Butyrophenone derivatives | 5mg/mL Vial | 2.5 | mg | VIAL | IV
QUEtiapine Fumarate | Diazepines, oxazepines, thiazepines and oxepines | 25mg Tab | 25 | mg | TAB | PO/NG
OLANZapine | Diazepines, oxazepines, thiazepines and oxepines | 5mg Tab | 5 | mg | TAB | PO
TraZODone | Other antidepressants | 50mg Tab | 50 | mg | TAB | PO/NG
Sertraline | Selective serotonin reuptake inhibitors | 50mg Tab | 50 | mg | TAB | PO/NG
Citalopram | Selective serotonin reuptake inhibitors | 20mg Tab | 20 | mg | TAB | PO/NG
Mirtazapine | Other antidepressants | 15mg Tab | 15 | mg | TAB | PO
LevETIRAcetam | Other antiepileptics | 500mg Tab | 500 | mg | TAB | PO/NG
Phenytoin Sodium | Hydantoin derivatives | 100mg Cap | 100 | mg | CAP | PO
Thiamine | Vitamin B1, plain | 100mg Tab | 100 | mg | TAB | PO/NG
FoLIC Acid | Folic acid and derivatives | 1mg Tab | 1 | mg | TAB | PO/NG
Multivitamins | Multivitamins, plain | 1 Tab | 1 | TAB | TAB | PO/NG
Vitamin D | Vitamin D and analogues | 1000 Unit Tab | 1000 | UNIT | TAB | PO/NG
Ferrous Sulfate | Iron bivalent, oral preparations | 325mg Tab | 325 | mg | TAB | PO/NG
Phytonadione | Vitamin K | 10mg/mL Amp | 10 | mg | AMP | IV
Potassium Chloride | Potassium | 20mEq Packet | 40 | mEq | PKT | PO/NG
Magnesium Sulfate | Magnesium | 2g/50mL Bag | 2 | g | BAG | IV
Calcium Gluconate | Calcium | 2g/100mL Bag | 2 | g | BAG | IV
Sodium Bicarbonate | Solutions affecting the electrolyte balance | 50mEq/50mL Syringe | 50 | mEq | SYR | IV
Sevelamer Carbonate | Drugs for treatment of hyperkalemia and hyperphosphatemia | 800mg Tab | 800 | mg | TAB | PO
Albumin 25% (12.5g / 50mL) | Blood substitutes and plasma protein fractions | 12.5g/50mL Vial | 25 | g | VIAL | IV
Tamsulosin | Alpha-adrenoreceptor antagonists | 0.4mg Cap | 0.4 | mg | CAP | PO
Allopurinol | Preparations inhibiting uric acid production | 100mg Tab | 100 | mg | TAB | PO/NG
Nicotine Patch | Drugs used in nicotine dependence | 14mg Patch | 14 | mg | PTCH | TD
Chlorhexidine Gluconate 0.12% Oral Rinse | Antiinfectives and antiseptics for local oral treatment | 15mL Cup | 15 | mL | CUP | ORAL
"""))
]  # fmt: skip

BASE_DRUGS = (
    "0.9% Sodium Chloride", "Sodium Chloride 0.9%  Flush", "Acetaminophen", "Heparin", "Docusate Sodium", "Senna",
    "Ondansetron", "Pantoprazole", "Potassium Chloride", "Magnesium Sulfate", "Insulin", "Bisacodyl", "5% Dextrose",
    "Iso-Osmotic Dextrose", "Polyethylene Glycol", "Calcium Gluconate", "TraZODone", "Multivitamins", "Lactated Ringers",
)  # fmt: skip
"""What any inpatient may be given, whatever the condition."""


class Diagnosis(NamedTuple):
    icd10: str
    icd9: str
    title: str
    ccs: str


DIAGNOSES = [Diagnosis(*row) for row in table("""
A419 | 0389 | Sepsis, unspecified organism | Septicemia (except in labor)
R6521 | 78552 | Severe sepsis with septic shock | Shock
A047 | 00845 | Enterocolitis due to Clostridium difficile | Intestinal infection
A084 | 0088 | Viral intestinal infection, unspecified | Intestinal infection
B182 | 07054 | Chronic viral hepatitis C | Hepatitis
C3490 | 1629 | Malignant neoplasm of unspecified part of bronchus or lung | Cancer of bronchus; lung
C189 | 1539 | Malignant neoplasm of colon, unspecified | Cancer of colon
C7951 | 1985 | Secondary malignant neoplasm of bone | Secondary malignancies
C9000 | 20300 | Multiple myeloma not having achieved remission | Multiple myeloma
D62 | 2851 | Acute posthemorrhagic anemia | Acute posthemorrhagic anemia
D649 | 2859 | Anemia, unspecified | Deficiency and other anemia
D696 | 2875 | Thrombocytopenia, unspecified | Coagulation and hemorrhagic disorders
D709 | 28800 | Neutropenia, unspecified | Diseases of white blood cells
E039 | 2449 | Hypothyroidism, unspecified | Thyroid disorders
E1010 | 25013 | Type 1 diabetes mellitus with ketoacidosis without coma | Diabetes mellitus with complications
E119 | 25000 | Type 2 diabetes mellitus without complications | Diabetes mellitus without complication
E1165 | 25002 | Type 2 diabetes mellitus with hyperglycemia | Diabetes mellitus with complications
E1122 | 25040 | Type 2 diabetes mellitus with diabetic chronic kidney disease | Diabetes mellitus with complications
E785 | 2724 | Hyperlipidemia, unspecified | Disorders of lipid metabolism
E860 | 27651 | Dehydration | Fluid and electrolyte disorders
E871 | 2761 | Hypo-osmolality and hyponatremia | Fluid and electrolyte disorders
E872 | 2762 | Acidosis | Fluid and electrolyte disorders
E875 | 2767 | Hyperkalemia | Fluid and electrolyte disorders
E876 | 2768 | Hypokalemia | Fluid and electrolyte disorders
E669 | 27800 | Obesity, unspecified | Other nutritional; endocrine; and metabolic disorders
E43 | 262 | Unspecified severe protein-calorie malnutrition | Nutritional deficiencies
F329 | 311 | Major depressive disorder, single episode, unspecified | Mood disorders
F419 | 30000 | Anxiety disorder, unspecified | Anxiety disorders
F05 | 2930 | Delirium due to known physiological condition | Delirium dementia and amnestic and other cognitive disorders
F0390 | 29420 | Unspecified dementia without behavioral disturbance | Delirium dementia and amnestic and other cognitive disorders
F10239 | 29181 | Alcohol dependence with withdrawal, unspecified | Alcohol-related disorders
F1020 | 30390 | Alcohol dependence, uncomplicated | Alcohol-related disorders
F17210 | 3051 | Nicotine dependence, cigarettes, uncomplicated | Screening and history of mental health and substance abuse codes
G40909 | 34590 | Epilepsy, unspecified, not intractable, without status epilepticus | Epilepsy; convulsions
G4733 | 32723 | Obstructive sleep apnea (adult) (pediatric) | Other lower respiratory disease
G936 | 3485 | Cerebral edema | Other nervous system disorders
G9341 | 34831 | Metabolic encephalopathy | Other nervous system disorders
I10 | 4019 | Essential (primary) hypertension | Essential hypertension
I110 | 40291 | Hypertensive heart disease with heart failure | Hypertension with complications and secondary hypertension
I214 | 41071 | Non-ST elevation (NSTEMI) myocardial infarction | Acute myocardial infarction
I2510 | 41401 | Atherosclerotic heart disease of native coronary artery without angina pectoris | Coronary atherosclerosis and other heart disease
I2699 | 41519 | Other pulmonary embolism without acute cor pulmonale | Pulmonary heart disease
I350 | 4241 | Nonrheumatic aortic (valve) stenosis | Heart valve disorders
I469 | 4275 | Cardiac arrest, cause unspecified | Cardiac arrest and ventricular fibrillation
I4891 | 42731 | Unspecified atrial fibrillation | Cardiac dysrhythmias
I5023 | 42823 | Acute on chronic systolic (congestive) heart failure | Congestive heart failure; nonhypertensive
I5032 | 42832 | Chronic diastolic (congestive) heart failure | Congestive heart failure; nonhypertensive
I619 | 431 | Nontraumatic intracerebral hemorrhage, unspecified | Acute cerebrovascular disease
I639 | 43491 | Cerebral infarction, unspecified | Acute cerebrovascular disease
I82409 | 45340 | Acute embolism and thrombosis of unspecified deep veins of unspecified lower extremity | Phlebitis; thrombophlebitis and thromboembolism
I8510 | 45621 | Secondary esophageal varices without bleeding | Other circulatory disease
I959 | 4589 | Hypotension, unspecified | Other circulatory disease
J189 | 486 | Pneumonia, unspecified organism | Pneumonia (except that caused by tuberculosis or sexually transmitted disease)
J440 | 49122 | Chronic obstructive pulmonary disease with acute lower respiratory infection | Chronic obstructive pulmonary disease and bronchiectasis
J441 | 49121 | Chronic obstructive pulmonary disease with (acute) exacerbation | Chronic obstructive pulmonary disease and bronchiectasis
J45909 | 49390 | Unspecified asthma, uncomplicated | Asthma
J690 | 5070 | Pneumonitis due to inhalation of food and vomit | Aspiration pneumonitis; food/vomitus
J90 | 5119 | Pleural effusion, not elsewhere classified | Pleurisy; pneumothorax; pulmonary collapse
J9601 | 51881 | Acute respiratory failure with hypoxia | Respiratory failure; insufficiency; arrest (adult)
K219 | 53081 | Gastro-esophageal reflux disease without esophagitis | Esophageal disorders
K264 | 53240 | Chronic or unspecified duodenal ulcer with hemorrhage | Gastroduodenal ulcer (except hemorrhage)
K922 | 5789 | Gastrointestinal hemorrhage, unspecified | Gastrointestinal hemorrhage
K56609 | 5609 | Unspecified intestinal obstruction | Intestinal obstruction without hernia
K5792 | 56211 | Diverticulitis of intestine without perforation or abscess without bleeding | Diverticulosis and diverticulitis
K7031 | 5712 | Alcoholic cirrhosis of liver with ascites | Liver disease; alcohol-related
K7290 | 5722 | Hepatic failure, unspecified without coma | Other liver diseases
K766 | 5723 | Portal hypertension | Other liver diseases
K8000 | 57400 | Calculus of gallbladder with acute cholecystitis without obstruction | Biliary tract disease
K859 | 5770 | Acute pancreatitis, unspecified | Pancreatic disorders (not diabetes)
L03115 | 6826 | Cellulitis of right lower limb | Skin and subcutaneous tissue infections
M1711 | 71536 | Unilateral primary osteoarthritis, right knee | Osteoarthritis
M545 | 7242 | Low back pain | Spondylosis; intervertebral disc disorders; other back problems
N179 | 5849 | Acute kidney failure, unspecified | Acute and unspecified renal failure
N183 | 5853 | Chronic kidney disease, stage 3 (moderate) | Chronic kidney disease
N186 | 5856 | End stage renal disease | Chronic kidney disease
N390 | 5990 | Urinary tract infection, site not specified | Urinary tract infections
R0789 | 78659 | Other chest pain | Nonspecific chest pain
R109 | 78900 | Unspecified abdominal pain | Abdominal pain
R4182 | 78097 | Altered mental status, unspecified | Residual codes; unclassified
R55 | 7802 | Syncope and collapse | Syncope
S065X0A | 85221 | Traumatic subdural hemorrhage without loss of consciousness, initial encounter | Intracranial injury
S72001A | 82020 | Fracture of unspecified part of neck of right femur, initial encounter for closed fracture | Fracture of neck of femur (hip)
Z66 | V4986 | Do not resuscitate | Residual codes; unclassified
Z7901 | V5861 | Long term (current) use of anticoagulants | Other aftercare
Z87891 | V1582 | Personal history of nicotine dependence | Screening and history of mental health and substance abuse codes
""")]  # fmt: skip


class Procedure(NamedTuple):
    icd10: str
    icd9: str
    title: str
    ccs: str


PROCEDURES = [Procedure(*row) for row in table("""
0BH17EZ | 9604 | Insertion of Endotracheal Airway into Trachea, Via Natural or Artificial Opening | Respiratory intubation and mechanical ventilation
5A1945Z | 9671 | Respiratory Ventilation, 24-96 Consecutive Hours | Respiratory intubation and mechanical ventilation
5A1955Z | 9672 | Respiratory Ventilation, Greater than 96 Consecutive Hours | Respiratory intubation and mechanical ventilation
02HV33Z | 3897 | Insertion of Infusion Device into Superior Vena Cava, Percutaneous Approach | Other vascular catheterization; not heart
03HY32Z | 3891 | Insertion of Monitoring Device into Upper Artery, Percutaneous Approach | Other vascular catheterization; not heart
05HM33Z | 3893 | Insertion of Infusion Device into Right Internal Jugular Vein, Percutaneous Approach | Other vascular catheterization; not heart
4A023N7 | 0066 | Measurement of Cardiac Sampling and Pressure, Left Heart, Percutaneous Approach | Diagnostic cardiac catheterization; coronary arteriography
B2111ZZ | 8856 | Fluoroscopy of Multiple Coronary Arteries using Low Osmolar Contrast | Diagnostic cardiac catheterization; coronary arteriography
027034Z | 3607 | Dilation of Coronary Artery, One Artery with Drug-eluting Intraluminal Device, Percutaneous Approach | Percutaneous transluminal coronary angioplasty (PTCA)
021009W | 3611 | Bypass Coronary Artery, One Artery from Aorta with Autologous Venous Tissue, Open Approach | Coronary artery bypass graft (CABG)
5A1221Z | 3961 | Performance of Cardiac Output, Continuous | Extracorporeal circulation auxiliary to open heart procedures
B24BZZZ | 8872 | Ultrasonography of Heart with Aorta | Diagnostic ultrasound of heart (echocardiogram)
5A1D70Z | 3995 | Performance of Urinary Filtration, Intermittent, Less than 6 Hours Per Day | Hemodialysis
5A1D90Z | 3994 | Performance of Urinary Filtration, Continuous, Greater than 18 hours Per Day | Hemodialysis
30233N1 | 9904 | Transfusion of Nonautologous Red Blood Cells into Peripheral Vein, Percutaneous Approach | Blood transfusion
30233K1 | 9907 | Transfusion of Nonautologous Frozen Plasma into Peripheral Vein, Percutaneous Approach | Blood transfusion
0DJ08ZZ | 4513 | Inspection of Upper Intestinal Tract, Via Natural or Artificial Opening Endoscopic | Upper gastrointestinal endoscopy; biopsy
0DJD8ZZ | 4523 | Inspection of Lower Intestinal Tract, Via Natural or Artificial Opening Endoscopic | Colonoscopy and biopsy
06L38CZ | 4233 | Occlusion of Esophageal Vein with Extraluminal Device, Via Natural or Artificial Opening Endoscopic | Other non-OR therapeutic procedures on esophagus
0W9G3ZZ | 5491 | Drainage of Peritoneal Cavity, Percutaneous Approach | Abdominal paracentesis
0W993ZZ | 3491 | Drainage of Right Pleural Cavity, Percutaneous Approach | Incision of pleura; thoracentesis; chest drainage
0BJ08ZZ | 3323 | Inspection of Tracheobronchial Tree, Via Natural or Artificial Opening Endoscopic | Diagnostic bronchoscopy and biopsy of bronchus
009U3ZX | 0331 | Drainage of Spinal Canal, Percutaneous Approach, Diagnostic | Diagnostic spinal tap
0FT44ZZ | 5123 | Resection of Gallbladder, Percutaneous Endoscopic Approach | Cholecystectomy and common duct exploration
0SRD0JZ | 8154 | Replacement of Left Knee Joint with Synthetic Substitute, Open Approach | Arthroplasty knee
0QS634Z | 7935 | Reposition Right Upper Femur with Internal Fixation Device, Percutaneous Approach | Treatment; fracture or dislocation of hip and femur
00C40ZZ | 0131 | Extirpation of Matter from Intracranial Subdural Space, Open Approach | Incision and excision of CNS
3E03317 | 9910 | Introduction of Other Thrombolytic into Peripheral Vein, Percutaneous Approach | Other therapeutic procedures
3E0G76Z | 966 | Introduction of Nutritional Substance into Upper GI, Via Natural or Artificial Opening | Enteral and parenteral nutrition
0DN80ZZ | 5459 | Release Small Intestine, Open Approach | Other OR lower GI therapeutic procedures
HZ2ZZZZ | 9462 | Detoxification Services for Substance Abuse Treatment | Alcohol and drug rehabilitation/detoxification
""")]  # fmt: skip

EXAMS = table("""
CHEST (PORTABLE AP) | C11 | The heart is mildly enlarged. There is no pneumothorax.
CHEST (PA & LAT) | C1 | The lungs are clear. The cardiomediastinal silhouette is normal.
CT HEAD W/O CONTRAST | Q111 | There is no evidence of acute hemorrhage, edema or mass effect.
CTA CHEST WITH CONTRAST | Q331 | There is no filling defect in the pulmonary arteries.
CT CHEST W/O CONTRAST | Q320 | There are scattered ground-glass opacities.
CT ABD & PELVIS WITH CONTRAST | Q213 | The liver, spleen and pancreas enhance homogeneously.
CT ABD & PELVIS W/O CONTRAST | Q204 | There is no hydronephrosis and no bowel obstruction.
CTA HEAD AND NECK WITH CONTRAST | Q114 | The vessels are patent without occlusion.
MR HEAD W/O CONTRAST | T1112 | There is restricted diffusion in the left hemisphere.
MR L-SPINE W/O CONTRAST | T1132 | There is multilevel degenerative change.
LIVER OR GALLBLADDER US | U46 | The hepatic parenchyma is coarsened.
RENAL U.S. | U62 | There is no hydronephrosis.
UNILAT LOWER EXT VEINS | V4 | There is normal compressibility of the veins.
BILAT LOWER EXT VEINS | V2 | There is normal flow in the common femoral veins.
ABDOMEN (SUPINE & ERECT) | C68 | There is a nonobstructive bowel gas pattern.
PORTABLE ABDOMEN | C63 | The enteric tube ends in the stomach.
KNEE (AP, LAT & OBLIQUE) RIGHT | C108 | There is tricompartmental osteoarthritis.
HIP UNILAT MIN 2 VIEWS RIGHT | C115 | There is a displaced femoral neck fracture.
FOOT AP,LAT & OBL RIGHT | C125 | There is soft tissue swelling without fracture.
PELVIS (AP ONLY) | C101 | There is no dislocation.
C-SPINE NON-TRAUMA 2-3 VIEWS | C32 | Vertebral heights are preserved.
CT C-SPINE W/O CONTRAST | Q126 | There is no acute fracture or malalignment.
VIDEO OROPHARYNGEAL SWALLOW | X15 | There is penetration with thin liquids.
PICC LINE PLACMENT SCH | W38 | The line ends in the superior vena cava.
PARACENTESIS DIAG/THERAP W IMAGING GUID | W61 | Three liters of clear fluid were removed.
THORACENTESIS NEEDLE/CATH ASP | W45 | Serosanguinous fluid was removed.
CHEST PORT. LINE PLACEMENT | C12 | The central line ends in the right atrium.
ART EXT (REST ONLY) | V20 | There is mild arterial insufficiency.
CAROTID SERIES COMPLETE | V8 | There is less than 40 percent stenosis.
ANKLE (AP, MORTISE & LAT) LEFT | C121 | The mortise is congruent.
""")  # fmt: skip
"""Radiology exams: name, code, one finding."""

MICRO_TESTS = table("""
90201 | Blood Culture, Routine | 70012 | BLOOD CULTURE
90046 | URINE CULTURE | 70079 | URINE
90270 | GRAM STAIN | 70062 | SPUTUM
90269 | RESPIRATORY CULTURE | 70062 | SPUTUM
90115 | R/O VANCOMYCIN RESISTANT ENTEROCOCCUS | 70070 | SWAB
90234 | MRSA SCREEN | 70091 | MRSA SCREEN
90122 | C. difficile PCR | 70064 | STOOL
90215 | FLUID CULTURE | 70019 | PERITONEAL FLUID
90187 | WOUND CULTURE | 70070 | SWAB
90249 | Respiratory Viral Antigen Screen | 70113 | Rapid Respiratory Viral Screen & Culture
""")
"""Microbiology: test number and name, specimen number and name."""

ORGANISMS = table("""
80002 | ESCHERICHIA COLI
80004 | KLEBSIELLA PNEUMONIAE
80023 | STAPH AUREUS COAG +
80026 | PSEUDOMONAS AERUGINOSA
80053 | ENTEROCOCCUS SP.
80155 | STAPHYLOCOCCUS, COAGULASE NEGATIVE
""")
ANTIBIOTICS = table("""
90012 | GENTAMICIN
90015 | VANCOMYCIN
90019 | CIPROFLOXACIN
90018 | CEFTAZIDIME
90029 | MEROPENEM
90008 | TRIMETHOPRIM/SULFA
90026 | PIPERACILLIN/TAZO
90006 | ERYTHROMYCIN
""")

DATETIME_ITEMS = table("""
224183 | Dialysis Catheter placed in outside facility | Access Lines - Invasive
225322 | 20 Gauge Insertion Date | Access Lines - Peripheral
225380 | 18 Gauge Insertion Date | Access Lines - Peripheral
224288 | Arterial line Insertion Date | Access Lines - Invasive
224290 | Arterial line Tubing Change | Access Lines - Invasive
225372 | 20 Gauge Dressing Change | Access Lines - Peripheral
225370 | 18 Gauge Dressing Change | Access Lines - Peripheral
224282 | Multi Lumen Insertion Date | Access Lines - Invasive
224284 | Multi Lumen Dressing Change | Access Lines - Invasive
225755 | 18 Gauge Tubing Change | Access Lines - Peripheral
225757 | 20 Gauge Tubing Change | Access Lines - Peripheral
224186 | PICC Line Insertion Date | Access Lines - Invasive
225343 | Foley Catheter Insertion Date | GI/GU
226137 | Intubation Date | Respiratory
""")

INPUT_ITEMS = table("""
225158 | NaCl 0.9% | 02-Fluids (Crystalloids) | Continuous IV | ml | mL/hour | 60
220949 | Dextrose 5% | 02-Fluids (Crystalloids) | Continuous IV | ml | mL/hour | 20
225828 | LR | 03-IV Fluid Bolus | Bolus | ml | mL/hour | 250
225943 | Solution | 02-Fluids (Crystalloids) | Drug Push | ml | mL/hour | 50
222168 | Propofol | 01-Drips | Continuous Med | mg | mcg/kg/min | 80
221744 | Fentanyl | 01-Drips | Continuous Med | mcg | mcg/hour | 75
221668 | Midazolam (Versed) | 01-Drips | Continuous Med | mg | mg/hour | 3
221906 | Norepinephrine | 01-Drips | Continuous Med | mg | mcg/kg/min | 1
221749 | Phenylephrine | 01-Drips | Continuous Med | mg | mcg/kg/min | 4
222315 | Vasopressin | 01-Drips | Continuous Med | units | units/hour | 2
221794 | Furosemide (Lasix) | 05-Med Bolus | Drug Push | mg | mg/hour | 40
223258 | Insulin - Regular | 06-Insulin (Non IV) | Drug Push | units | units/hour | 4
225152 | Heparin Sodium (Prophylaxis) | 11-Prophylaxis (Non IV) | Drug Push | dose | units/hour | 1
225910 | Famotidine (Pepcid) | 10-Prophylaxis (IV) | Drug Push | dose | mg/hour | 1
225166 | Potassium Chloride | 05-Med Bolus | Bolus | mEq | mEq/hour | 20
222011 | Magnesium Sulfate | 05-Med Bolus | Bolus | grams | grams/hour | 2
221456 | Calcium Gluconate | 05-Med Bolus | Bolus | grams | grams/hour | 2
225798 | Vancomycin | 08-Antibiotics (IV) | Drug Push | dose | mg/hour | 1
225851 | Cefepime | 08-Antibiotics (IV) | Drug Push | dose | mg/hour | 1
225893 | Piperacillin/Tazobactam (Zosyn) | 08-Antibiotics (IV) | Drug Push | dose | mg/hour | 1
225168 | Packed Red Blood Cells | 07-Blood Products | Bolus | ml | mL/hour | 300
220864 | Albumin 5% | 04-Fluids (Colloids) | Bolus | ml | mL/hour | 250
226452 | PO Intake | 14-Oral/Gastric Intake | Bolus | ml | mL/hour | 120
226453 | GT Flush | 14-Oral/Gastric Intake | Bolus | ml | mL/hour | 50
""")
"""Inputs: item, name, order category, how it is given, unit, unit of the rate, usual amount."""

INGREDIENT_ITEMS = table("""
220490 | Water | ml | mL/hour
227074 | Dextrose PN | grams | grams/hour
226060 | Calories | Kcal | mL/hour
227075 | Lipids (additive) | grams | grams/hour
220452 | Enteral Nutrition Ingredient | grams | grams/hour
226221 | Protein | grams | grams/hour
226509 | Sodium | mEq | mEq/hour
227079 | Carbohydrates | grams | grams/hour
""")

OUTPUT_ITEMS = table("""
226559 | Foley
226560 | Void
226588 | Chest Tube #1
226573 | Gastric Tube
226599 | Jackson Pratt #1
226579 | Stool
226571 | Emesis
226580 | Fecal Bag
""")

PROCEDURE_ITEMS = table("""
225792 | Invasive Ventilation | Ventilation | ContinuousProcess
224275 | 20 Gauge | Peripheral Lines | ContinuousProcess
224277 | 18 Gauge | Peripheral Lines | ContinuousProcess
225752 | Arterial Line | Invasive Lines | ContinuousProcess
224263 | Multi Lumen | Invasive Lines | ContinuousProcess
225459 | Chest X-Ray | Imaging | Task
225402 | EKG | Procedures | Task
221214 | CT scan | Imaging | Task
225432 | Transthoracic Echo | Imaging | Task
225401 | Blood Cultured | Procedures | Task
225454 | Urine Culture | Procedures | Task
227194 | Extubation | Intubation/Extubation | Task
224385 | Intubation | Intubation/Extubation | Task
225802 | Dialysis - CRRT | Dialysis | ContinuousProcess
228128 | Family meeting held | Communication | Task
225464 | Cardioversion | Procedures | Task
225966 | Nasal Swab | Procedures | Task
""")

ORDERS = table("""
Medications | | 440
Lab | | 185
General Care | Other | 42
General Care | Vitals/Monitoring | 22
General Care | Tubes/Drains | 28
General Care | Activity | 18
General Care | Restraints | 12
General Care | Telemetry | 20
IV therapy | IV fluids | 35
IV therapy | IV access | 22
Radiology | General Xray | 26
Radiology | CT Scan | 14
Radiology | Ultrasound | 5
Nutrition | Diet Order | 38
ADT orders | Admit | 9
ADT orders | Transfer | 10
ADT orders | Discharge | 14
Respiratory | Oxygen Therapy | 9
Respiratory | Mechanical Ventilation | 2
Blood Bank | Blood tests | 15
Consults | Physical Therapy | 3
Consults | Social Work | 2
Cardiology | ECG | 7
Critical Care | Critical Care Level of Care | 1
TPN | | 1
Hemodialysis | | 1
""")
"""Order types and subtypes of poe with a weight."""

HCPCS = table("""
99219 | Hospital observation services | Initial observation care, per day, moderate severity
G0378 | Hospital observation per hr | Hospital observation service, per hour
93454 | Cardiovascular | Catheter placement in coronary artery(s) for coronary angiography
43239 | Digestive system | Esophagogastroduodenoscopy with biopsy
36569 | Cardiovascular | Insertion of peripherally inserted central venous catheter
""")


class Condition(NamedTuple):
    """What drives an admission: `raised` and `lowered` labs, `drugs`, codes, exams and orders follow from it."""

    name: str
    weight: float
    icu: float
    """Log-odds added to the chance of intensive care."""
    service: str
    unit: str
    icu_unit: str
    complaint: str
    diagnosis: str
    others: tuple[str, ...]
    raised: tuple[str, ...]
    lowered: tuple[str, ...]
    drugs: tuple[str, ...]
    procedures: tuple[str, ...]
    exams: tuple[str, ...]


def _conditions(text: str) -> list[Condition]:
    def split(field: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in field.split(";") if part.strip())

    rows = []
    for r in table(text):
        rows.append(Condition(r[0], float(r[1]), float(r[2]), *r[3:8], *map(split, r[8:14])))
    return rows


CONDITIONS = _conditions("""
sepsis|10|0.5|MED|Medicine|Medical Intensive Care Unit (MICU)|Fever|A419|R6521; N390; E872; D696|Neutrophils; C-Reactive Protein; Creatinine|Platelet Count; Albumin|Piperacillin-Tazobactam; Meropenem; Lactated Ringers|02HV33Z; 03HY32Z|CHEST (PORTABLE AP); CT ABD & PELVIS WITH CONTRAST
heart failure|10|0|CMED|Medicine/Cardiology|Coronary Care Unit (CCU)|Dyspnea|I5023|I110; I5032; I2510; E876|NTproBNP; Urea Nitrogen|Oxygen Saturation|Spironolactone; Carvedilol; Lisinopril; Hydralazine|B24BZZZ; 4A023N7|CHEST (PA & LAT); CHEST (PORTABLE AP)
myocardial infarction|8|0.3|CMED|Medicine/Cardiology|Coronary Care Unit (CCU)|Chest pain|I214|I2510; E785; I10; R0789|Troponin T; Creatine Kinase, MB Isoenzyme; Creatine Kinase (CK)|Cholesterol, HDL|Aspirin; Clopidogrel; Atorvastatin; Metoprolol Tartrate|B2111ZZ; 027034Z|CHEST (PORTABLE AP); CTA CHEST WITH CONTRAST
pneumonia|9|0.2|MED|Medicine|Medical Intensive Care Unit (MICU)|Cough|J189|J690; J9601; J90|Neutrophils; C-Reactive Protein|pO2; Lymphocytes|Levofloxacin; Azithromycin; GuaiFENesin; Benzonatate|0BJ08ZZ; 0W993ZZ|CHEST (PA & LAT); CT CHEST W/O CONTRAST
COPD exacerbation|7|0|MED|Medicine|Medical Intensive Care Unit (MICU)|Shortness of breath|J441|J440; F17210; G4733|pCO2; Bicarbonate|pH; pO2|PredniSONE; Ipratropium-Albuterol Neb; Tiotropium Bromide; Nicotine Patch|5A1945Z; 0BJ08ZZ|CHEST (PA & LAT); CTA CHEST WITH CONTRAST
gastrointestinal bleed|8|0.2|MED|Med/Surg|Medical/Surgical Intensive Care Unit (MICU/SICU)|BRBPR|K922|D62; K264; I8510|Urea Nitrogen; INR(PT)|Hematocrit; Red Blood Cells; Platelet Count|Octreotide Acetate; Famotidine; Phytonadione; Ferrous Sulfate|0DJ08ZZ; 0DJD8ZZ; 30233N1|CT ABD & PELVIS WITH CONTRAST; PORTABLE ABDOMEN
cirrhosis|6|0.2|MED|Transplant|Medical/Surgical Intensive Care Unit (MICU/SICU)|Abdominal distention|K7031|K766; K7290; B182; E871|Bilirubin, Total; INR(PT); Asparate Aminotransferase (AST)|Albumin; Platelet Count|Lactulose; Rifaximin; Albumin 25% (12.5g / 50mL); Ciprofloxacin HCl|0W9G3ZZ; 06L38CZ|LIVER OR GALLBLADDER US; PARACENTESIS DIAG/THERAP W IMAGING GUID
stroke|6|0.3|NMED|Neurology|Neuro Surgical Intensive Care Unit (Neuro SICU)|Left sided weakness|I639|I619; G936; I4891|Cholesterol, LDL, Calculated; Hemoglobin A1c|Cholesterol, HDL|Clopidogrel; Atorvastatin; Amlodipine; Apixaban|3E03317; B24BZZZ|CT HEAD W/O CONTRAST; CTA HEAD AND NECK WITH CONTRAST; MR HEAD W/O CONTRAST
subdural hemorrhage|4|0.5|NSURG|Med/Surg/Trauma|Trauma SICU (TSICU)|s/p Fall|S065X0A|G936; G40909; R55|PT; Glucose|Platelet Count|LevETIRAcetam; Phenytoin Sodium; Dexamethasone|00C40ZZ; 03HY32Z|CT HEAD W/O CONTRAST; CT C-SPINE W/O CONTRAST
kidney injury|7|0|MED|Medicine|Medical Intensive Care Unit (MICU)|Abnormal labs|N179|E875; N183; E1122; E872|Creatinine; Urea Nitrogen; Potassium; Phosphate|Estimated GFR (MDRD equation); Bicarbonate|Sevelamer Carbonate; Torsemide; Losartan Potassium|5A1D70Z; 05HM33Z|RENAL U.S.; CHEST (PORTABLE AP)
diabetic ketoacidosis|4|0.3|MED|Medicine|Medical Intensive Care Unit (MICU)|Hyperglycemia|E1010|E1165; E876; E860|Glucose; Anion Gap; Ketone, Urine; Hemoglobin A1c|Bicarbonate; pH|Insulin Glargine; Glucose Gel; Glucagon; MetFORMIN (Glucophage)|05HM33Z|CHEST (PORTABLE AP); PORTABLE ABDOMEN
alcohol withdrawal|5|0.1|MED|Medicine|Medical/Surgical Intensive Care Unit (MICU/SICU)|ETOH|F10239|F1020; F329; E876|Asparate Aminotransferase (AST); MCV|Magnesium; Phosphate|Diazepam; LORazepam; Thiamine; FoLIC Acid|HZ2ZZZZ|CT HEAD W/O CONTRAST; CHEST (PA & LAT)
hip fracture|5|-0.6|ORTHO|Med/Surg|Trauma SICU (TSICU)|Hip pain|S72001A|F0390; D62; M1711|Creatine Kinase (CK)|Hematocrit; Calcium, Total|OxyCODONE (Immediate Release); Enoxaparin Sodium; CefazoLIN; Vitamin D|0QS634Z; 0SRD0JZ|HIP UNILAT MIN 2 VIEWS RIGHT; PELVIS (AP ONLY)
cholecystitis and pancreatitis|6|0|SURG|Med/Surg|Surgical Intensive Care Unit (SICU)|RUQ abdominal pain|K8000|K859; K56609; K5792; R109|Alkaline Phosphatase; Alanine Aminotransferase (ALT); Bilirubin, Total|Calcium, Total|MetRONIDAZOLE (FLagyl); Ketorolac; Morphine Sulfate; Simethicone|0FT44ZZ|LIVER OR GALLBLADDER US; CT ABD & PELVIS WITH CONTRAST
coronary surgery|4|1.2|CSURG|Cardiac Surgery|Cardiac Vascular Intensive Care Unit (CVICU)|Chest pressure|I2510|I350; I4891; D62; J90|Glucose, Whole Blood; Creatine Kinase, MB Isoenzyme|Platelet Count; Hematocrit; Fibrinogen, Functional|Aspirin; Metoprolol Tartrate; Amiodarone; Atorvastatin; Phenylephrine|021009W; 5A1221Z; 30233K1|CHEST PORT. LINE PLACEMENT; CHEST (PORTABLE AP)
malignancy|5|-0.2|OMED|Hematology/Oncology|Medical Intensive Care Unit (MICU)|Weakness|C3490|C7951; D709; C9000; C189; E43|Lactate Dehydrogenase (LD); Calcium, Total|Absolute Neutrophil Count; Platelet Count; Lymphocytes|Allopurinol; Dexamethasone; Prochlorperazine; Fluconazole|05HM33Z; 30233N1|CT CHEST W/O CONTRAST; CT ABD & PELVIS WITH CONTRAST; PICC LINE PLACMENT SCH
""")  # fmt: skip
"""The primary conditions. The labs, drugs and exams that signs (below) use do not appear here."""

COMMON_DIAGNOSES = ("I10", "E785", "E119", "K219", "I4891", "N183", "D649", "F419", "F329", "E039", "Z87891", "Z7901",
                    "E669", "I2510", "M545", "J45909", "Z66", "F05", "E43", "G9341")  # fmt: skip


class Sign(NamedTuple):
    """How an indicator shows in a window: a record of `table` with `item` (and `value`), written nowhere else."""

    indicator: str
    window: str
    table: str
    item: str
    value: str = ""


SIGNS = [Sign(*row) for row in table("""
acute       | ed  | triage             | acuity             | 2
shock       | ed  | vitalsign          | sbp                | 74
shock       | adm | labevents          | Lactate            | 6.8
shock       | icu | inputevents        | Norepinephrine     |
respiratory | ed  | vitalsign          | o2sat              | 82
respiratory | adm | poe                | Respiratory        | Mechanical Ventilation
respiratory | icu | procedureevents    | Invasive Ventilation |
neuro       | ed  | triage             | chiefcomplaint     | Altered mental status
neuro       | adm | emar               | Haloperidol        |
neuro       | icu | chartevents        | GCS - Verbal Response | No Response
infection   | ed  | pyxis              | CefePIME           |
infection   | adm | microbiologyevents | Blood Culture, Routine | STAPH AUREUS COAG +
infection   | icu | inputevents        | Vancomycin         |
renal       | ed  | labevents          | Potassium, Whole Blood | 7.4
renal       | adm | emar               | Sodium Bicarbonate |
renal       | icu | procedureevents    | Dialysis - CRRT    |
tachycardia | ed  | vitalsign          | heartrate          | 138
leukocytosis | ed | labevents          | White Blood Cells  | 21.4
fluids      | ed  | pyxis              | CefTRIAXone        |
nutrition   | adm | poe                | TPN                |
nutrition   | icu | ingredientevents   | Dextrose PN        |
surgery     | adm | procedures_icd     | 0DN80ZZ            |
surgery     | icu | outputevents       | Chest Tube #1      | 210
delirium    | adm | emar               | QUEtiapine Fumarate |
delirium    | icu | chartevents        | Richmond-RAS Scale | +3 Agitated
immobile    | adm | poe                | Consults           | Physical Therapy
immobile    | icu | datetimeevents     | Intubation Date    |
arrhythmia  | icu | procedureevents    | Cardioversion      |
transfusion | icu | inputevents        | Packed Red Blood Cells |
anemia      | icu | labevents          | Hemoglobin         | 6.4
congestion  | icu | emar               | Furosemide         |
pain        | ed  | vitalsign          | pain               | 10
opioid      | ed  | pyxis              | HYDROmorphone (Dilaudid) |
home opioid | ed  | medrecon           | TraMADol           |
lipase      | ed  | labevents          | Lipase             | 480
alone       | end | discharge          | The patient lives alone and has missed follow-up before. |
hyponatremia | end | labevents         | Sodium             | 121
warfarin    | end | emar               | Warfarin           |
social work | end | poe                | Consults           | Social Work
""")]  # fmt: skip
"""Windows: the ED stay; the admission's first day; the first day in intensive care; the day before discharge."""


class Outcome(NamedTuple):
    """`thresholds`: one task each, of the same score; an outcome is "yes" when score + logistic noise > threshold."""

    name: str
    indicators: tuple[str, ...]
    weight: float
    tasks: tuple[str, ...]
    thresholds: tuple[float, ...]


OUTCOMES = {
    outcome.name: outcome
    for outcome in (
        Outcome("hospital", ("acute", "tachycardia", "leukocytosis", "fluids", "shock", "neuro"), 2.0,
                ("ED_Hospitalization",), (2.7,)),
        Outcome("transfer", ("shock", "respiratory", "neuro", "renal"), 2.0, ("ED_ICU_Tranfer_12hour",), (3.2,)),
        Outcome("death", ("shock", "respiratory", "neuro", "infection", "renal"), 2.3,
                tuple(f"ICU_Mortality_{n}day" for n in (1, 2, 3, 7, 14)), (7.7, 7.3, 7.0, 6.4, 5.8)),
        Outcome("ward death", ("shock", "respiratory", "neuro", "infection", "renal"), 2.0, ("Inpatient_Mortality",), (5.6,)),
        Outcome("stay", ("nutrition", "surgery", "delirium", "immobile", "infection"), 2.7,
                ("LengthOfStay_3day", "LengthOfStay_7day", "ICU_Stay_7day", "ICU_Stay_14day"), (2.8, 5.5, 5.8, 7.1)),
        Outcome("icu return", ("arrhythmia", "transfusion", "anemia", "congestion"), 2.5, ("ICU_Readmission",), (4.8,)),
        Outcome("readmission", ("alone", "hyponatremia", "warfarin", "social work"), 2.2,
                ("Readmission_30day", "Readmission_60day"), (4.2, 3.4)),
        Outcome("reattendance", ("pain", "opioid", "home opioid", "lipase"), 2.2, ("ED_Reattendance_3day",), (3.2,)),
    )
}  # fmt: skip

PREVALENCE = 0.3
"""Chance of each indicator."""


class Table(NamedTuple):
    """A raw table: its folder, share of all records (percent), mean bytes a row, and columns in the official order.

    Shares and bytes are those of the open MIMIC-IV demo, rounded; they are what the generator aims at.
    """

    module: str
    share: float
    row_bytes: float
    columns: tuple[str, ...]


TABLES = {
    name: Table(module, float(share), float(row_bytes), tuple(columns.split()))
    for name, module, share, row_bytes, columns in table("""
patients | hosp | 0.011 | 35 | subject_id gender anchor_age anchor_year anchor_year_group dod
admissions | hosp | 0.027 | 173 | subject_id hadm_id admittime dischtime deathtime admission_type admit_provider_id admission_location discharge_location insurance language marital_status race edregtime edouttime hospital_expire_flag
diagnoses_icd | hosp | 0.408 | 28 | subject_id hadm_id seq_num icd_code icd_version
drgcodes | hosp | 0.045 | 73 | subject_id hadm_id drg_type drg_code description drg_severity drg_mortality
emar | hosp | 3.273 | 146 | subject_id hadm_id emar_id emar_seq poe_id pharmacy_id enter_provider_id charttime medication event_txt scheduletime storetime
hcpcsevents | hosp | 0.005 | 63 | subject_id hadm_id chartdate hcpcs_cd seq_num short_description
labevents | hosp | 10.242 | 114 | labevent_id subject_id hadm_id specimen_id itemid order_provider_id charttime storetime value valuenum valueuom ref_range_lower ref_range_upper flag priority comments
microbiologyevents | hosp | 0.289 | 226 | microevent_id subject_id hadm_id micro_specimen_id order_provider_id chartdate charttime spec_itemid spec_type_desc test_seq storedate storetime test_itemid test_name org_itemid org_name isolate_num quantity ab_itemid ab_name dilution_text dilution_comparison dilution_value interpretation comments
omr | hosp | 0.283 | 41 | subject_id chartdate seq_num result_name result_value
pharmacy | hosp | 1.492 | 221 | subject_id hadm_id pharmacy_id poe_id starttime stoptime medication proc_type status entertime verifiedtime route frequency disp_sched infusion_type sliding_scale lockout_interval basal_rate one_hr_max doses_per_24_hrs duration duration_interval expiration_value expiration_unit expirationdate dispensation fill_quantity
poe | hosp | 4.548 | 99 | poe_id poe_seq subject_id hadm_id ordertime order_type order_subtype transaction_type discontinue_of_poe_id discontinued_by_poe_id order_provider_id order_status
prescriptions | hosp | 1.789 | 172 | subject_id hadm_id pharmacy_id poe_id poe_seq order_provider_id starttime stoptime drug_type drug formulary_drug_cd gsn ndc prod_strength form_rx dose_val_rx dose_unit_rx form_val_disp form_unit_disp doses_per_24_hrs route
procedures_icd | hosp | 0.073 | 40 | subject_id hadm_id seq_num chartdate icd_code icd_version
services | hosp | 0.032 | 45 | subject_id hadm_id transfertime prev_service curr_service
transfers | hosp | 0.115 | 86 | subject_id hadm_id transfer_id eventtype careunit intime outtime
discharge | note | 0.027 | 1840 | note_id subject_id hadm_id note_type note_seq charttime storetime text
radiology | note | 0.041 | 372 | note_id subject_id hadm_id note_type note_seq charttime storetime text
edstays | ed | 0.020 | 99 | subject_id hadm_id stay_id intime outtime gender race arrival_transport disposition
triage | ed | 0.020 | 59 | subject_id stay_id temperature heartrate resprate o2sat sbp dbp pain acuity chiefcomplaint
medrecon | ed | 0.172 | 127 | subject_id stay_id charttime name gsn ndc etc_rn etccode etcdescription
pyxis | ed | 0.091 | 69 | subject_id stay_id charttime med_rn name gsn_rn gsn
vitalsign | ed | 0.093 | 61 | subject_id stay_id charttime temperature heartrate resprate o2sat sbp dbp rhythm pain
diagnosis | ed | 0.045 | 59 | subject_id stay_id seq_num icd_code icd_version icd_title
icustays | icu | 0.015 | 159 | subject_id hadm_id stay_id first_careunit last_careunit intime outtime los
chartevents | icu | 69.011 | 63 | subject_id hadm_id stay_id caregiver_id charttime storetime itemid value valuenum valueuom warning
datetimeevents | icu | 1.633 | 109 | subject_id hadm_id stay_id caregiver_id charttime storetime itemid value valueuom warning
ingredientevents | icu | 2.799 | 175 | subject_id hadm_id stay_id caregiver_id starttime endtime storetime itemid amount amountuom rate rateuom orderid linkorderid statusdescription originalamount originalrate
inputevents | icu | 2.215 | 263 | subject_id hadm_id stay_id caregiver_id starttime endtime storetime itemid amount amountuom rate rateuom orderid linkorderid ordercategoryname secondaryordercategoryname ordercomponenttypedescription ordercategorydescription patientweight totalamount totalamountuom isopenbag continueinnextdept statusdescription originalamount originalrate
outputevents | icu | 1.028 | 86 | subject_id hadm_id stay_id caregiver_id charttime storetime itemid value valueuom
procedureevents | icu | 0.158 | 186 | subject_id hadm_id stay_id caregiver_id starttime endtime storetime itemid value valueuom location locationcategory orderid linkorderid ordercategoryname ordercategorydescription patientweight isopenbag continueinnextdept statusdescription ORIGINALAMOUNT ORIGINALRATE
""")
}  # fmt: skip

DETAILS = {
    "discharge_detail": ("note", ("note_id", "subject_id", "field_name", "field_value", "field_ordinal")),
    "radiology_detail": ("note", ("note_id", "subject_id", "field_name", "field_value", "field_ordinal")),
}
