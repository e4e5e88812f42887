"""The cues of assertions: the table `assertion_cues.csv`, its classes of words, and its rules.

Columns of the table:

  category   negated, family or hypothetical; `pseudo`, which only looks like a cue ("gram negative"); or `end`, which ends
             the scope of other cues
  direction  forward
             backward
             either: backward if the clause has a mention before the cue, else forward
             bound: the word after it ("non-smoker")
             adjacent: the mention before it, and those joined with it ("DVT and PE prophylaxis"), or else, with a colon,
               forward ("Precautions: fall")
             comma: for an `end` cue, which counts only after a comma ("No fever, new cough")
             result: backward, but a test is not its own result ("cultures were negative"), or the next word ("neg HSM")
             section: forward, or the whole section if it is a heading
             from: forward from the first of the words in `ends` ("evaluate this patient with cirrhosis for varices")
             closing: backward if it ends a clause, after a mention ("chest pain denied"), else forward
             opening: forward if it begins a clause ("Should fever recur, ...")
             label: forward if a colon, a dash or a mention follows ("Father: gout")
  scope      most words it reaches; for adjacent: most words between mention and cue
  ends       words that end its scope, besides the end of the sentence and the `end` cues; `,` is a comma that no "or"
             follows. For an `end` cue: the categories that it ends
  cues       phrases, separated by bars. <classes> are `CLASSES`
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

from thinking_graph_preprocess.term_search import PhraseTable, words_of

CUES_FILE = Path(__file__).with_name("assertion_cues.csv")

_CONTRACTED = words_of("do does did is are was were has have had could would should ca wo")

# Classes of words and phrases in the table of cues.
CLASSES: dict[str, tuple[str, ...]] = {
    "be": ("is", "are", "was", "were", "been", "being", "be"),
    "not": ("not", "cannot", *(f"{verb}n't" for verb in _CONTRACTED), *(f"{verb}nt" for verb in _CONTRACTED)),
    "surely": ("entirely", "completely", "definitively", "definitely", "fully", "reliably", "absolutely", "totally"),
    "exclude": ("exclude", "rule out", "r/o"),
    "kind": ("radiographic", "ct", "clinical", "imaging", "sonographic", "mr", "mri", "echocardiographic", "ecg", "ekg",
             "laboratory", "objective", "definite", "definitive", "convincing", "obvious", "clear", "strong", "other", "new"),
    "unseen": ("seen", "identified", "detected", "visualized", "appreciated", "noted", "demonstrated", "found", "evident",
               "observed", "present", "visible", "confirmed", "documented", "diagnosed", "proven", "recorded",
               "apparent", "reported", "endorsed", "elicited", "palpated", "heard"),
    "his": ("his", "her", "their", "the patient's", "pt's", "patient's", "both", "my"),
    "relative": ("mother", "father", "mom", "dad", "parent", "parents", "brother", "brothers", "sister", "sisters", "sibling",
                 "siblings", "half brother", "half sister", "grandmother", "grandfather", "grandparent", "grandparents", "mgm",
                 "mgf", "pgm", "pgf", "aunt", "aunts", "uncle", "uncles", "cousin", "cousins", "niece", "nephew", "son",
                 "sons", "daughter", "daughters", "children", "child", "relative", "relatives", "wife", "husband", "spouse",
                 "first degree relative", "first degree relatives", "stepmother", "stepfather", "boyfriend", "girlfriend",
                 "partner", "fiance", "roommate", "friend", "neighbor", "coworker"),
    "noticed": ("noticed", "noted", "called", "found", "seen", "reported", "witnessed", "brought", "stated", "to call",
                "observed", "been concerned", "concerns", "concern"),
    "procedure": ("the procedure", "this procedure", "surgery", "the surgery", "the operation", "treatment", "therapy",
                  "anticoagulation", "transfusion", "sedation", "anesthesia"),
    "show": ("show", "reveal", "demonstrate", "identify", "detect", "find", "suggest", "indicate", "yield"),
    "believe": ("think", "believe", "feel", "suspect", "thinks", "believes", "feels", "thought"),
    "did": ("did", "does", "has", "had", "is", "was"),
    "he": ("he", "she", "they", "the patient", "patient", "pt"),
    "him": ("him", "her", "patient", "pt", "the patient", "this patient", "closely", "carefully", "regularly"),
    "suspected": ("suspected", "considered", "entertained", "questioned", "feared", "thought", "thought to be", "felt"),
    "emergency": ("the ed", "ed", "the er", "er", "the emergency room", "the emergency department", "the hospital"),
    "doctor": ("your doctor", "the doctor", "your physician", "your pcp", "md", "ho", "us", "911", "the clinic", "the office",
               "your surgeon", "your cardiologist", "your nurse", "your primary care doctor", "provider", "your provider",
               "dr"),
}  # fmt: skip


class Rule(NamedTuple):
    """A row of the table of cues; see the module."""

    category: str
    direction: str
    scope: int
    ends: frozenset[str]


@cache
def cue_table() -> tuple[PhraseTable, list[Rule]]:
    """The phrases of the cues, with numbers of rules, and the rules."""
    import csv

    rules: list[Rule] = []
    phrases: list[tuple[list[str], int]] = []
    with CUES_FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            ends = re.findall(r"[\w']+|,", row["ends"])
            rule = Rule(row["category"], row["direction"], int(row["scope"] or 0), frozenset(ends))
            phrases += ((words_of(phrase), len(rules)) for cue in row["cues"].split("|") for phrase in expand(cue))
            rules.append(rule)
    return PhraseTable.build(phrases), rules


def expand(cue: str) -> Iterator[str]:
    """The phrases of a cue with classes of words.

    >>> list(expand("<relative> <be> deceased"))[:2]
    ['mother is deceased', 'mother are deceased']
    """
    parts = re.split(r"<(\w+)>", cue)
    choices = [CLASSES[part] if i % 2 else (part,) for i, part in enumerate(parts)]
    yield from ("".join(choice) for choice in product(*choices))
