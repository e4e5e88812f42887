"""The viewer on a long patient: size of the page, time to make and to open it, and time of interactions in a browser.

The patient is made up: --events events over several years, in bursts of hospital stays, with laboratory panels, charted
values, drugs, orders and notes. Interactions are scripted in a headless Chromium: next sample, filters, sorting, zoom,
choosing events; each is timed from the input to the next frame.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from pipeline.cli import REPOSITORY, Parser, at_least, run

SUBJECT = "10000001"
STAY = 400  # events of a hospital stay
CHAT = {"model_name_or_path": "model", "url": "http://127.0.0.1:1/v1", "chat": True, "max_new_tokens": 64, "temperature": 0.0}
# Each interaction: its name, and an expression whose promise is fulfilled when it is done.
INTERACTIONS = {
    "next sample": "move(1)",
    "previous sample": "move(-1)",
    "filter by task": "set('task', KNOWN.get(HEAD.samples[i % HEAD.samples.length].id).task)",
    "filter by answer": "set('outcome', ['right', 'wrong', ''][i % 3])",
    "no filter": "(set('task', ''), set('outcome', ''))",
    "sort": "document.querySelectorAll('#list thead button')[i % 4].click()",
    "zoom in": "zoom('in')",
    "zoom out": "zoom('out')",
    "whole record": "zoom('all')",
    "event": "selectEvent((i * 997) % state.patient.tables.length)",
}
SCRIPT = """(async () => {
  const set = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("input")); };
  const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  const times = {};
  for (let i = 0; i < ROUNDS; i++) for (const [name, act] of Object.entries({ACTIONS})) {
    const start = performance.now();
    await act(i, set);
    await drawing;
    await frame();
    (times[name] ??= []).push(performance.now() - start);
  }
  return times;
})()"""


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--events", type=at_least(10), default=5000, help="events of the patient (5000)")
    cli.add_argument("--samples", type=at_least(1), default=200, help="samples on the page (200)")
    cli.add_argument("--rounds", type=at_least(1), default=10, help="times that each interaction is done (10)")
    cli.add_argument("--screenshot", type=Path, metavar="PNG", help="also write what the page looks like")
    args = cli.parse_args(argv)

    sys.path.insert(0, str(REPOSITORY / "tests"))
    from browser import chromium

    from scripts.view import main as view

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_root(root, args.events, args.samples)
        page, start = root / "view.html", time.perf_counter()
        results = str(root / "results")
        words = ["--root_dir", str(root), "--dataset_name", str(root / "index.csv"), "--results", results]
        view([*words, "--limit", str(args.samples), "--output_path", str(page)])
        made = time.perf_counter() - start
        with chromium(root / "profile") as tab:
            start = time.perf_counter()
            tab.open(page, 1280, 800)
            tab.js("ready.then(() => 0)")
            opened = time.perf_counter() - start
            actions = ", ".join(f"{json.dumps(name)}: (i, set) => {action}" for name, action in INTERACTIONS.items())
            times = tab.js(SCRIPT.replace("ROUNDS", str(args.rounds)).replace("ACTIONS", actions))
            if args.screenshot:
                tab.screenshot(args.screenshot)
        megabytes = page.stat().st_size / 1e6
        print(f"{args.events:,} events: page of {megabytes:.1f} MB, made in {made:.1f} s, open after {opened:.1f} s")
        print("| interaction | median ms | slowest ms |\n| --- | ---: | ---: |")
        for name, values in times.items():
            print(f"| {name} | {statistics.median(values):.0f} | {max(values):.0f} |")
        together = [value for values in times.values() for value in values]
        print(f"| all | {statistics.median(together):.0f} | {max(together):.0f} |")


def write_root(root: Path, events: int, samples: int) -> None:
    """Write the data of a made-up patient: trajectory, `index.csv` with at least some of the samples, and `results/`."""
    import pyarrow as pa

    from mimiciv_dataset.index_files import SAMPLE_COLUMNS
    from mimiciv_dataset.lookups import Lookups
    from mimiciv_dataset.records import Event
    from mimiciv_dataset.samples import find_samples
    from mimiciv_dataset.timeline import Timeline
    from mimiciv_dataset.trajectory import COLUMNS, write_patient

    trajectory = [Event(*values) for values in make_events(events)]
    (root / "patients_ehr").mkdir(parents=True)
    columns = zip(*(event[: len(COLUMNS)] for event in trajectory), strict=True)
    write_patient(pa.table(dict(zip(COLUMNS, columns, strict=True))), root / "patients_ehr" / f"{SUBJECT}.parquet")
    all_samples = list(find_samples(Timeline(trajectory), Lookups("nowhere"), audit=False))
    random.Random(0).shuffle(all_samples)
    with (root / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(SAMPLE_COLUMNS)
        for sample in all_samples[:samples]:
            window = sample.context_begin, sample.context_end, sample.admissions_id, sample.last_discharge_id
            writer.writerow([SUBJECT, sample.hadm_id, sample.task, sample.event, *window, json.dumps(sample.target), ""])
    write_results(root, root / "results")


def write_results(root: Path, folder: Path) -> None:
    """Write the outputs of a chat run on `index.csv`: every third answer is right, and chains cite events."""
    from evaluation.metrics import sample_score
    from inference.backends import Generation, load_builder
    from inference.generation import Prompter, output_line, read_samples
    from inference.settings import InferenceSettings
    from mimiciv_dataset.samples import label_list

    settings = InferenceSettings.from_flags(CHAT | {"think_prompt": True})
    builder = load_builder(settings)
    folder.mkdir()
    with (folder / "outputs.jsonl").open("w", encoding="utf-8") as file:
        for number, sample in enumerate(read_samples(root, str(root / "index.csv"), settings.prompt)):
            prompter = Prompter(sample.dataset, builder, settings)
            prompt = prompter(sample.index, sample.sample_id)
            labels = "\n".join(label_list(prompt.label)) if number % 3 == 0 else "Placebo"
            headings = [line[3:] for line in str(sample.dataset.text(sample.index)).split("\n") if line.startswith("## ")]
            cited = [f"- **{heading}**: seen" for heading in [*headings[-3:], "Triage [2000-01-01 00:00:00]"]]
            chain = "\n".join(["## Extraction", *cited, "## Reasoning", "So it is.", "## Final Results", labels])
            risk = prompt.task.kind == "risk"
            text = ("yes" if number % 2 else "no") if risk else f"<think>\n{chain}\n</think>\n\n{labels}"
            reply = Generation(text, "stop", p_yes=(number % 100) / 100 if risk else None)
            file.write(json.dumps(output_line(prompt, [reply], sample_score)) + "\n")
    result = {"arguments": CHAT | {"think_prompt": True}}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def make_events(number: int) -> list[tuple[str, str | None, str | None, str | None, str]]:
    """The events of the patient, in the order of time: the columns of a trajectory."""
    draw, now = random.Random(0), datetime(2150, 1, 1)
    patient = {"subject_id": SUBJECT, "gender": "F", "anchor_age": "60", "dod": "nan"}
    events: list[tuple[str, str | None, str | None, str | None, str]] = [("patients", None, None, None, json.dumps([patient]))]
    while len(events) < number:
        now += timedelta(days=draw.randint(20, 60))
        begin, hadm_id = now, str(20_000_000 + len(events))
        stay = {"admission_type": "URGENT", "admission_location": "EMERGENCY ROOM", "hospital_expire_flag": "0"}
        stay |= {"admittime": str(begin), "dischtime": str(begin + timedelta(days=4)), "hadm_id": hadm_id}
        icu = {"stay_id": hadm_id, "intime": str(begin), "outtime": str(begin + timedelta(days=3)), "los": "3.0"}
        burst = [("admissions", begin, [stay]), ("icustays", begin, [icu])]
        for _ in range(STAY - 3):
            now += timedelta(minutes=draw.randint(2, 24))
            table = draw.choice(tuple(RECORDS))
            common = {"storetime": str(now + timedelta(minutes=draw.randint(0, 90)))}
            burst.append((table, now, [common | RECORDS[table](draw) for _ in range(draw.randint(1, 12))]))
        note = {"note_id": f"{SUBJECT}-DS-{len(events)}", "note_type": "DS", "note_seq": "1", "storetime": str(now)}
        words = " ".join(draw.choice(("patient", "stable", "fever", "cough", "denies", "pain")) for _ in range(600))
        burst.append(("discharge", now, [note | {"text": words}]))
        events += [(table, str(at), str(at), hadm_id, json.dumps(records)) for table, at, records in burst]
    return events[:number]


RECORDS: dict[str, Callable[[random.Random], dict[str, str]]] = {
    "labevents": lambda draw: {
        "labevent_id": str(draw.randrange(10**6)), "itemid": "50912", "valuenum": f"{draw.uniform(1, 200):.1f}",
        "valueuom": "mg/dL", "ref_range_lower": "70", "ref_range_upper": "105", "flag": "abnormal", "comments": "nan",
    },
    "chartevents": lambda draw: {
        "itemid": "220045", "valuenum": f"{draw.uniform(40, 120):.1f}", "valueuom": "bpm", "warning": "0.0",
    },
    "emar": lambda draw: {
        "emar_id": str(draw.randrange(10**6)), "medication": draw.choice(("Aspirin", "Heparin", "Furosemide", "Insulin")),
        "event_txt": "Administered",
    },
    "poe": lambda draw: {
        "poe_id": str(draw.randrange(10**6)), "order_type": draw.choice(("Medications", "Lab", "Radiology")),
        "order_subtype": "nan",
    },
}  # fmt: skip


if __name__ == "__main__":
    run(main)
