"""Concept matching: throughput and memory of the dictionary matcher, with a lexicon of a million terms.

Lexicon and notes are synthetic. Terms have one to five words whose frequencies follow Zipf's law, so that many words of a
note begin some term; notes consist of terms, other words, negation cues, lines and headings. Each process matches its own
notes, negation included, against one memory-mapped lexicon. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import itertools
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from pipeline.cli import Parser, at_least, run

CUES = ("no", "denies", "no evidence of", "without", "but", "was ruled out", "if", "mother with")
WORDS = 100_000
"""Size of the vocabulary."""


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--terms", type=at_least(1), default=1_000_000, help="terms of the lexicon (1,000,000)")
    cli.add_argument("--notes", type=at_least(1), default=200, help="notes per process (200)")
    cli.add_argument("--words", type=at_least(1), default=1600, help="minimal words per note (1600)")
    cli.add_argument("--processes", type=at_least(1), nargs="+", default=[1, 2], help="numbers of processes (1 2)")
    args = cli.parse_args(argv)

    from thinking_graph_preprocess.concept_lexicon import find_or_build

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_rrf(folder, args.terms)
        start = time.perf_counter()
        context = multiprocessing.get_context("spawn")  # so that building does not count as memory of matching
        with ProcessPoolExecutor(1, context) as pool:
            lexicon = pool.submit(find_or_build, folder / "lexicon", folder, folder, folder).result()
        about = json.loads((lexicon / "about.json").read_text())
        size = sum(path.stat().st_size for path in lexicon.iterdir()) >> 20
        seconds = time.perf_counter() - start
        print(f"{about['terms']:,} terms of {about['concepts']:,} concepts: built in {seconds:.0f} s, {size} MiB on disk")
        print("| processes | words per note | mentions per note | negated | notes/CPU s each | own MiB | mapped MiB |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for processes in args.processes:
            with ProcessPoolExecutor(processes, context) as pool:
                running = [pool.submit(match, lexicon, folder, args.notes, args.words, seed) for seed in range(processes)]
                results = [future.result() for future in running]
            words, mentions, negated, rate, own, mapped = map(statistics.mean, zip(*results, strict=True))
            memory = f"{own:,.0f} | {mapped:,.0f}"
            print(f"| {processes} | {words:,.0f} | {mentions:,.0f} | {negated:.0%} | {rate:,.1f} | {memory} |")


def vocabulary(rng: random.Random) -> tuple[list[str], list[float]]:
    """Random words and their cumulative frequencies, by Zipf's law."""
    letters = "aeioubcdfglmnprst"
    words = sorted({"".join(rng.choices(letters, k=rng.randint(3, 11))) for _ in range(WORDS)})
    rng.shuffle(words)
    return words, list(itertools.accumulate(1 / (rank + 10) for rank in range(len(words))))


def write_rrf(folder: Path, number: int) -> None:
    """Write MRCONSO.RRF and MRSTY.RRF with `number` terms, three per concept, and terms.txt with those that notes use."""
    rng = random.Random(0)
    words, weights = vocabulary(rng)
    terms: dict[str, None] = {}
    while len(terms) < number:
        drawn = iter(rng.choices(words, cum_weights=weights, k=1 << 16))
        for length in rng.choices((1, 2, 3, 4, 5), (1, 4, 4, 2, 1), k=1 << 14):
            terms[" ".join(word for word, _ in zip(drawn, range(length), strict=False))] = None
        terms.pop("", None)
    names = list(terms)[:number]
    with (folder / "MRCONSO.RRF").open("w") as file:
        for i, term in enumerate(names):
            flags = "P|L|PF|S|Y" if i % 3 == 0 else "S|L|VO|S|N"
            file.write(f"C{i // 3:07}|ENG|{flags}|A||||MSH|PT|D|{term}|0|N||\n")
    with (folder / "MRSTY.RRF").open("w") as file:
        file.writelines(f"C{i:07}|T047|B|Disease|AT||\n" for i in range(-(-number // 3)))
    (folder / "terms.txt").write_text("\n".join(rng.sample(names, min(number, 20_000))))


def write_note(rng: random.Random, words: list[str], weights: list[float], terms: list[str], minimal: int) -> str:
    """A note of at least `minimal` words."""
    lines, number = [], 0
    while number < minimal:
        line = rng.choices(words, cum_weights=weights, k=8)
        for extra in (rng.choice(terms), rng.choice(CUES)):
            line.insert(rng.randrange(9), extra)
        text = " ".join(line).capitalize() + rng.choice(("", "", ".", ","))
        lines.append(rng.choice(("", "", "", "- ", "History:\n")) + text)
        number += len(text.split())
    return "\n".join(lines)


def match(lexicon: Path, folder: Path, number: int, minimal: int, seed: int) -> tuple[float, ...]:
    """Match `number` notes.

    Returns:
        Words and mentions per note, share of negated mentions, notes per CPU second, and memory in MiB: the process's own, and
        that of mapped files.
    """
    from thinking_graph_preprocess.concept_lexicon import Lexicon
    from thinking_graph_preprocess.matchers import DictionaryMatcher

    rng = random.Random(seed)
    words, weights = vocabulary(random.Random(0))
    terms = (folder / "terms.txt").read_text().split("\n")
    notes = [write_note(rng, words, weights, terms, minimal) for _ in range(number)]
    matcher = DictionaryMatcher(Lexicon.read(lexicon))
    list(matcher.mentions(notes[0]))
    start = time.process_time()  # other processes of the machine do not count
    mentions = [mention for note in notes for mention in matcher.mentions(note)]
    rate = number / (time.process_time() - start)
    kib = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(kib[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    words_per_note = sum(len(note.split()) for note in notes) / number
    negated = sum(mention.negated for mention in mentions) / len(mentions)
    return words_per_note, len(mentions) / number, negated, rate, own, mapped


if __name__ == "__main__":
    run(main)
