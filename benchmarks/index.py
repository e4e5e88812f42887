"""Time to index a patient, by the length of the trajectory.

Trajectories of 1,250 to 40,000 events repeat one synthetic pattern of events; linear growth shows as a constant time per
event.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
import statistics
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from pipeline.cli import Parser, at_least, run

PATTERN = (
    ("labevents", {"itemid": "50912", "valuenum": "1.0"}, 8), ("emar", {"medication": "Aspirin"}, 2),
    ("chartevents", {"itemid": "220045", "valuenum": "80.0"}, 20), ("poe", {"order_type": "Lab"}, 2),
    ("prescriptions", {"drug": "Aspirin", "ndc": "00002143361"}, 2), ("pharmacy", {"medication": "Aspirin"}, 1),
    ("inputevents", {"itemid": "220949", "amount": "5.0"}, 2), ("outputevents", {"itemid": "226559", "value": "9.0"}, 1),
    ("icustays", {"outtime": "2150-03-01 00:00:00"}, 1), ("edstays", {"outtime": "2150-03-01 00:00:00"}, 1),
    ("admissions", {"dischtime": "2150-03-01 00:00:00", "admission_type": "URGENT", "hospital_expire_flag": "0"}, 1),
)  # fmt: skip
"""Table, a record of it, and records per event."""


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    lengths = [1250, 2500, 5000, 10000, 20000, 40000]
    cli.add_argument("--lengths", type=at_least(1), nargs="+", default=lengths, help="events per patient (1250 ... 40000)")
    cli.add_argument("--rounds", type=at_least(1), default=3, help="rounds (3); the table has medians")
    args = cli.parse_args(argv)

    from mimiciv_dataset.lookups import Lookups
    from mimiciv_dataset.records import Event
    from mimiciv_dataset.samples import find_samples
    from mimiciv_dataset.timeline import Timeline

    lookups = Lookups("nowhere")
    print("| events | samples | ms | µs per event |\n| ---: | ---: | ---: | ---: |")
    for length in args.lengths:
        start = datetime(2150, 1, 1)
        events = [Event("patients", None, None, None, '[{"dod": "nan"}]')]
        for i in range(length - 1):
            table, record, count = PATTERN[i % len(PATTERN)]
            time_of_event = str(start + timedelta(minutes=20 * i))
            items = json.dumps([list(record.values())] * count)
            events.append(Event(table, time_of_event, time_of_event, str(1000 + i // 2000), items, tuple(record)))
        seconds, samples = [], 0
        for _ in range(args.rounds):
            start_of_round = time.perf_counter()
            samples = sum(1 for _ in find_samples(Timeline(events), lookups))
            seconds.append(time.perf_counter() - start_of_round)
        median = statistics.median(seconds)
        print(f"| {length:,} | {samples:,} | {median * 1e3:,.0f} | {median / length * 1e6:.1f} |")


if __name__ == "__main__":
    run(main)
