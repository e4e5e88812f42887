"""Lists of items in every shape that models write: read as the list they are, names whole, or counted as unreadable."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.metrics import sample_score
from inference.answers import fold_name, read_items, split_reasoning
from mimiciv_dataset.index_rows import read_rows
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.tasks import TASKS

NAMES = ["Aspirin", "Blood Culture", "X-Ray"]

# Names that contain what looks like marks of a list.
WITH_MARKS = [
    *("0.9% Sodium Chloride", "*NF* Bosentan", "24. Hour Urine", "1.25-Dihydroxyvitamin D", "5-HIAA", "(1,3)-Beta-D-Glucan"),
    *(
        "A | B",
        "St. John's Wort",
        "E. coli",
        "Gloves Inc.",
        "#1 Dressing",
        "C. difficile PCR",
        "Culture, blood",
        "PT/PTT (Lab)",
    ),
    *(
        'Needle 4"',
        "'C' Peptide",
        "[Endoscopic] polypectomy",
        "<Albumin>",
        "Barium (2%)*",
        "Precautions: Standard +",
        "-2",
        ">85y",
    ),
]


def lines(layout: str) -> Callable[[Sequence[str]], str]:
    """A shape with a line for each name; {i} is its number, {a} its letter, {r} its Roman numeral."""
    roman = ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"]

    def text(names: Sequence[str]) -> str:
        numbers = range(1, len(names) + 1)
        return "\n".join(
            layout.format(name, i=i, a=chr(96 + i), r=roman[i - 1]) for i, name in zip(numbers, names, strict=True)
        )

    return text


def as_table(names: Sequence[str]) -> str:
    return "| # | Item | Reason |\n|---|:---|---|\n" + "\n".join(f"| {i} | {name} | pain |" for i, name in enumerate(names, 1))


SHAPES: dict[str, Callable[[Sequence[str]], str]] = {
    "trained": lines("{}"),
    "round bullets": lines("• {}"),
    "bullets without space": lines("•{}"),
    "en dashes": lines("– {}"),
    "em dashes": lines("— {}"),
    "hyphens": lines("- {}"),
    "stars": lines("* {}"),
    "pluses": lines("+ {}"),
    "squares": lines("▪ {}"),
    "quotation": lines("> {}"),
    "check boxes": lines("- [x] {}"),
    "numbers": lines("{i}. {}"),
    "numbers and hyphens": lines("{i}- {}"),
    "keycaps": lines("{i}\ufe0f\u20e3 {}"),
    "circled numbers": lambda names: "\n".join(f"{chr(0x245F + i)} {name}" for i, name in enumerate(names, 1)),
    "diamonds": lines("🔹 {}"),
    "open boxes": lines("☐ {}"),
    "emoji check marks": lines("✔\ufe0f {}"),
    "named numbers": lines("Item {i}: {}"),
    "groups with numbers": lambda names: "\n".join(f"{i}. **Group:**\n   - {name}" for i, name in enumerate(names, 1)),
    "numbers and brackets": lines("{i}) {}"),
    "numbers in brackets": lines("({i}) {}"),
    "numbers in square brackets": lines("[{i}] {}"),
    "bold numbers": lines("**{i}.** {}"),
    "bold lines": lines("**{i}. {}**"),
    "escaped numbers": lines("{i}\\. {}"),
    "bullets and numbers": lines("- {i}. {}"),
    "bold": lines("**{}**"),
    "numbers and bold": lines("{i}. **{}**"),
    "quotes": lines('"{}"'),
    "curly quotes": lines("“{}”"),
    "strings": lines('"{}",'),
    "headings": lines("### {}"),
    "remarks": lines("- **{}**: because of the fever"),
    "remarks below": lines("{i}. **{}**\n   - because of the fever"),
    "boxes": lines("\\boxed{{{}}}"),
    "one box": lambda names: "The answer:\n\\boxed{" + "\n".join(names) + "}",
    "answer tag": lambda names: "So:\n<answer>" + "\n".join(names) + "</answer>",
    "answer tags": lines("<answer>{}</answer>"),
    "list tags": lambda names: "<ul>\n" + lines("<li>{}</li>")(names) + "\n</ul>",
    "JSON": lambda names: json.dumps(names),
    "JSON on lines": lambda names: json.dumps(names, indent=2, ensure_ascii=False),
    "JSON object": lambda names: json.dumps({"reasoning": ["a", "b"], "items": names}),
    "JSON objects": lambda names: json.dumps({"result": {"items": [{"name": name, "code": "B01"} for name in names]}}),
    "JSON lines": lambda names: "\n".join(json.dumps({"item": name}) for name in names),
    "numbered keys": lambda names: json.dumps({f"item{i}": name for i, name in enumerate(names)}),
    "Python": str,
    "Python object": lambda names: str({"items": names, "certain": True}),
    "fenced JSON": lambda names: f"Here they are:\n```json\n{json.dumps(names, indent=1)}\n```\nThese are likely.",
    "fence": lambda names: "```\n" + "\n".join(names) + "\n```",
    "inline list": lambda names: f"The answer is {json.dumps(names)}.",
    "table": lambda names: "Here:\n\n| Item |\n|---|\n" + lines("| {} |")(names) + "\n\nI hope this helps!",
    "wide table": as_table,
    "table without edges": lambda names: "Item | Code\n--- | ---\n" + lines("{} | B01")(names),
    "bold lead-in": lambda names: "**Final Answer:**\n\n" + "\n".join(names),
    "heading": lambda names: "## Final Answer\n" + lines("- {}")(names),
    "sentences around": lambda names: "Here are the items:\n\n" + lines("- {}")(names) + "\n\nLet me know if you need more.",
    "groups": lambda names: "\n\n".join(f"**Group {i}**\n- {name}" for i, name in enumerate(names, 1)),
    "end token": lambda names: "\n".join(names) + "<|eot_id|>",
    "next turn": lambda names: "\n".join(names) + "<|im_end|>\n<|im_start|>user\nZinc",
    "sentence end": lambda names: "\n".join(names) + "</s>",
    "no-break spaces": lambda names: "\n".join(names).replace(" ", "\u00a0"),
}  # fmt: skip
AMBIGUOUS = {  # on one line, or with a name that has them too, only known names tell
    "numbers without space": lines("{i}.{}"),
    "letters": lines("{a}) {}"),
    "Roman numerals": lines("{r}. {}"),
    "colons": lines("{i}: {}"),
    "full stops": lines("{}."),
    "commas": lines("{},"),
    "italic": lines("*{}*"),
}


def folded(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(map(fold_name, names)))


@pytest.mark.parametrize("shape", [*SHAPES, *AMBIGUOUS])
def test_every_shape_is_read_as_the_list_it_is(shape: str) -> None:
    text = (SHAPES | AMBIGUOUS)[shape](NAMES)
    assert folded(read_items(text)) == folded(NAMES)
    assert sample_score("emar", NAMES, split_reasoning(text)[1]) == 1


@pytest.mark.parametrize("name", WITH_MARKS)
def test_a_name_that_contains_marks_stays_whole(name: str) -> None:
    for names in ([name], [name, "Aspirin"], ["Zinc", name, "Aspirin"]):
        assert read_items("\n".join(names)) == names
        for shape, text in SHAPES.items():
            assert folded(read_items(text(names), known=names)) == folded(names), shape
            assert sample_score("emar", names, text(names)) == 1, shape


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(WITH_MARKS + NAMES), min_size=1, max_size=10, unique=True), st.sampled_from([*SHAPES, *AMBIGUOUS])
)
def test_known_names_come_back_from_every_shape(names: list[str], shape: str) -> None:
    assert folded(read_items((SHAPES | AMBIGUOUS)[shape](names), known=[*names, *WITH_MARKS])) == folded(names)


@pytest.mark.parametrize(
    ("answer", "items"),
    [
        ("-Heparin\n1.Aspirin", ["-Heparin", "1.Aspirin"]),  # no space, and not the same on all lines
        ("1. 0.9% Sodium Chloride\n10) *NF* Bosentan", ["0.9% Sodium Chloride", "*NF* Bosentan"]),
        ("- 2. Aspirin", ["2. Aspirin"]),  # a list does not begin with 2
        ("2. Aspirin\n1. Heparin", ["2. Aspirin", "1. Heparin"]),
        ("24. Hour Urine\n48. Hour Urine", ["24. Hour Urine", "48. Hour Urine"]),
        ("Labs:\n1. Glucose\n2. Sodium\n\nDrugs:\n1. Zinc", ["Glucose", "Sodium", "Zinc"]),
        ("1. Labs:\n   - Glucose\n   - Sodium", ["Glucose", "Sodium"]),
        ("- Glucose\n  - Sodium", ["Glucose", "Sodium"]),
        ("A. Glucose\nB. Sodium", ["Glucose", "Sodium"]),
        ("A. baumannii\nB. fragilis", ["A. baumannii", "B. fragilis"]),
        ("Culture, blood\r\nPT, PTT", ["Culture, blood", "PT, PTT"]),
        ("Glucose,\nSodium,\nZinc.", ["Glucose", "Sodium", "Zinc"]),
        ("Glucose.\nSodium", ["Glucose.", "Sodium"]),
        ("Aspirin\nASPIRIN\naspirin ", ["Aspirin"]),
        ("\n\n \n-\n1.\n", []),
        ("“Aspirin”\n'Heparin'\n`Insulin`", ["Aspirin", "Heparin", "Insulin"]),
        ('"a" or "b"', ['"a" or "b"']),
        ("**A** and **B**", ["**A** and **B**"]),
        ('["a, b", "c"]', ["a, b", "c"]),
        ("['a', \"patient's\", 'it\\'s']", ["a", "patient's", "it's"]),
        ("['a', 'b',]", ["a", "b"]),
        ("['a\\nb']", ["a", "b"]),
        ('["a\\%", ["b"]]', ["a\\%", "b"]),
        ('Items:\n["a", "b"]', ["a", "b"]),
        ('Labs: ["a"]\nDrugs: ["b"]', ["a", "b"]),
        ('{"labs": ["a"], "drugs": ["b"], "reason": "fever"}', ["a", "b"]),
        ('{"answer": "a\\nb"}', ["a", "b"]),
        ('{"name": "a", "codes": ["1", "2"]}', ["a"]),
        ("[]", []),
        ("[Redacted]", ["[Redacted]"]),
        ("Answer: Aspirin", ["Aspirin"]),
        ("The final answer is **Aspirin**", ["Aspirin"]),
        ("| Code | Description |\n|---|---|\n| B01 | A\\|B |\n| B02 | C | D |", ["A|B", "C | D"]),
        ("| Aspirin |\n| Heparin", ["Aspirin", "Heparin"]),
        ("\\boxed{0.9\\% Sodium Chloride \\\\ \\text{Zinc}}", ["0.9% Sodium Chloride", "Zinc"]),
        ("\\boxed{Zinc", ["Zinc"]),
        ("```\nAspirin\nHeparin", ["Aspirin", "Heparin"]),
        ('{\n "items": [\n  "Aspirin",\n  "Heparin",', ["Aspirin", "Heparin"]),  # cut off
        ('["Aspirin", "Hep', ["Aspirin"]),
        ("Here: ['Aspirin', 'Heparin'", ["Aspirin", "Heparin"]),
        ('{"items": [{"name": "Aspirin"}, {"name": "Hep', ["Aspirin"]),
        ('[{"drug": "Aspirin", "dose": "81 mg"}, {"lab_test": "Zinc", "code": "B1"}]', ["Aspirin", "Zinc"]),
        ('{"medication": "Aspirin", "route": "oral"}', ["Aspirin"]),
        ('[{"Procedure": "CT", "when": "now"}, {"service": "MED", "n": "1"}]', ["CT", "MED"]),
        ('{"Aspirin": 0.9, "Heparin": true, "Zinc": false, "Iron": 0, "confidence": 0.8}', ["Aspirin", "Heparin"]),
        ('{"labs": {"Platelet Count": 0.9}}', ["Platelet Count"]),
        ("Prediction: Aspirin", ["Aspirin"]),
        ("Item 1: Aspirin", ["Aspirin"]),
        ("**Item 1:** Aspirin\n**Item 2:** Zinc", ["Aspirin", "Zinc"]),
        ("1. **Labs:**\n   - Glucose\n   - Zinc\n2. **Drugs:**\n   - Aspirin", ["Glucose", "Zinc", "Aspirin"]),
        (
            "- **Drugs**:\n\t- Oral:\n\t\t1. Aspirin\n\t- IV:\n\t\t1. Heparin\n- Labs:\n\t1. Zinc",
            ["Aspirin", "Heparin", "Zinc"],
        ),
        ("1. Labs:\n   - Glucose\n2. Aspirin", ["Glucose", "Aspirin"]),
        ("1. Aspirin\n   - for pain\n2. Labs:\n   - Glucose", ["Aspirin", "Glucose"]),
        ("1. Aspirin\n\t- for pain", ["Aspirin"]),
        ("Aspirin\nHeparin\nThe patient has a fever.", ["Aspirin", "Heparin"]),
        ("", []),
        (None, []),
    ],
)
def test_items_are_read(answer: str | None, items: list[str]) -> None:
    assert read_items(answer) == items


@pytest.mark.parametrize(
    ("answer", "known", "items"),
    [
        ("24. Aspirin", ["Aspirin"], ["Aspirin"]),
        ("24. Aspirin", ["24. Aspirin", "Aspirin"], ["24. Aspirin"]),
        ("Aspirin\n3. Zinc", ["Zinc"], ["Aspirin", "Zinc"]),
        ("1. Hour Urine", ["1. Hour Urine"], ["1. Hour Urine"]),
        ("Aspirin.", ["Aspirin"], ["Aspirin"]),
        ("Gloves Inc.\nGowns Inc.", ["gloves inc.", "gowns inc."], ["Gloves Inc.", "Gowns Inc."]),
        ("*NF*", ["*NF*"], ["*NF*"]),
        ("CMED.", ["MED", "CMED"], ["CMED"]),  # a known name inside a longer one
        ("NSURG,\nCMED;", ["MED", "CMED", "SURG", "NSURG"], ["NSURG", "CMED"]),
        ("(CMED)", ["MED", "CMED"], ["CMED"]),
        ("L-Lactate\nT-Spine", ["Lactate", "Spine"], ["L-Lactate", "T-Spine"]),
        ("a) Lactate\nL: Spine", ["Lactate", "Spine"], ["Lactate", "Spine"]),
        ("Aspirin", ["Heparin"], ["Aspirin"]),  # a known name is never added
        ("I can walk", ["I can walk"], ["I can walk"]),
        ("1. Labs\n    - Glucose\n    - Sodium", ["Glucose"], ["Glucose", "Sodium"]),  # all below or none
        ("* Labs\n    * Glucose", ["Glucose"], ["Glucose"]),
        ("1. Aspirin\n   - or Zinc", ["Aspirin"], ["Aspirin"]),
        ("1. **Aspirin:**\n   - for pain\n2. Zinc:\n   - for growth", ["Aspirin"], ["Aspirin", "Zinc"]),
        ("None", ["None"], ["None"]),
    ],
)
def test_known_names_decide_what_is_a_mark(answer: str, known: Collection[str], items: list[str]) -> None:
    assert read_items(answer, known) == items


@pytest.mark.parametrize(
    "answer",
    [
        "I cannot determine the medications from this record.",
        "I'm sorry, but I can't help with that.",
        "Unfortunately, there is not enough information.",
        "As an AI, I do not give medical advice.",
        "Based on the record, no medication can be named.",
        "The patient has a fever.\nThere is no sign of sepsis.",
        "It is not possible to say",
        "Final answer:",
        "Here are the items:",
        '{"certainty": 0.5, "urgency": "high", "state": "stable"}',
        "[1, 2]",
        '["Asp',
        '{"answer": 0.5, "mortality_risk": 0.7}',
        "None",
        "**N/A**",
        "Answer: none.",
        '["None"]',
        "```json\n{}\n```",
        "<think>",
        "---",
    ],
)
def test_what_names_no_item_is_unreadable(answer: str) -> None:
    assert read_items(split_reasoning(answer)[1]) == []


@pytest.mark.parametrize(
    "name", ["I intend to report the asthma measures group", "Unable to assess pain", "Patient refused test", "I"]
)
def test_names_that_begin_like_sentences_are_names(name: str) -> None:
    assert read_items(name) == [name]


def test_names_are_compared_in_their_compatibility_form() -> None:
    assert sample_score("emar", ["Café", "X-Ray", "Patient's drug"], "Cafe\u0301\nX\u2011Ray\nPATIENT’S\u202fDRUG") == 1
    assert read_items("Café\nCafe\u0301") == ["Café"]


def test_repeated_lines_count_once() -> None:
    assert read_items("Aspirin\n" * 20_000 + "heparin") == ["Aspirin", "heparin"]
    assert sample_score("emar", ["Aspirin"], "- Aspirin\n" * 20_000) == 1


def test_label_names_do_not_change_the_score_of_wrong_items() -> None:
    """Without candidates, a wrong item costs the same in every shape, whether or not its marks can be removed."""
    for label in (["Zinc"], ["Zinc", "Iron"]):
        scores = {sample_score("emar", label, shape(["Zinc", "Aspirin"])) for shape in (SHAPES | AMBIGUOUS).values()}
        assert len(scores) == 1


# --- names of real dictionaries


def test_every_name_of_real_tables_is_read_as_itself_in_the_trained_format(test_data: Path) -> None:
    """Answers of the demo's tasks and names of its dictionaries: alone, and in lists of up to ten in any order."""
    names: set[str] = set()
    with gzip.open(test_data / "golden/task_index.csv.gz", "rt", newline="", encoding="utf-8") as file:
        csv.field_size_limit(1 << 30)
        for row in csv.DictReader(file):
            if TASKS[row["task"]].metric in ("f1", "accuracy"):
                target = json.loads(row["target"])
                names.update([target] if isinstance(target, str) else target)
    for path in (test_data / "data").rglob("d_*.csv.gz"):
        with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names.update(value for row in random.Random(0).sample(rows, min(500, len(rows))) for value in row.values())
    names = {name.strip() for name in names if name and name.strip()} - {
        "None"
    }  # the unit of items without one; alone, no item
    assert len(names) > 5_000 and {"%", "*", ",", "/", "(", "'", "#", "|", "."} <= set("".join(names))
    for name in names:
        assert read_items(name) == [name]
    draw, ordered = random.Random(0), sorted(names)
    for _ in range(2_000):
        sample = draw.sample(ordered, draw.randint(1, 10))
        once = {name.casefold(): name for name in reversed(sample)}  # some names differ in case only
        assert sorted(read_items("\n".join(sample))) == sorted(once.values())


def test_known_real_names_come_back_from_every_shape(test_data: Path) -> None:
    names: dict[str, str] = {}
    for path in sorted((test_data / "data/mimic-iv-demo").rglob("d_*items.csv.gz")):
        with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
            names |= {fold_name(row["label"]): row["label"].strip() for row in csv.DictReader(file) if row["label"]}
    draw, ordered = random.Random(1), sorted(names.values())
    for name, shape in (SHAPES | AMBIGUOUS).items():
        for _ in range(20):
            sample = draw.sample(ordered, draw.randint(1, 10))
            assert folded(read_items(shape(sample), known=sample)) == folded(sample), name


def test_every_answer_of_the_demo_is_read_as_itself(demo: Path) -> None:
    """Drugs, laboratory tests, diagnoses: names with percent signs, numbers, asterisks, commas and slashes."""
    answers: set[str] = set()
    for task in TASKS.values():
        path = demo / f"task_index/all/{task.name}.csv"
        rows = read_rows(path) if path.exists() and task.kind == "decision" else []
        for row in rows:
            target = label_list(row["target"])
            once: dict[str, str] = {}  # some lists hold a name in two cases, or with one and two spaces
            for name in target:
                once.setdefault(fold_name(name), name)
            assert read_items("\n".join(target)) == list(once.values())
            assert sample_score(task, target, "\n".join(target)) == 1
            answers.update(target)
    assert {"%", "*", ",", "/", "(", "'"} <= set("".join(answers)) and len(answers) > 2000
    comes_back(answers)


def comes_back(names: Iterable[str]) -> None:
    """In the layouts that models write, all names at once."""
    unique = sorted({fold_name(name): name.strip() for name in names if name.strip()}.values())
    for layout in ("{}", "- {}", "* {}", "1. {}", "2) {}"):
        assert read_items("\n".join(layout.format(name) for name in unique)) == unique
    assert read_items(json.dumps(unique)) == unique
