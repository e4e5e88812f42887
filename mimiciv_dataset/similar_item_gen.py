"""Make the answer vocabularies and nearest answers that candidates are drawn from, from the training rows of a task index.

Every decision task with rows gets cache/item_set/<task>.csv (a column `item`: the distinct answers) and
cache/similar_item/<task>.csv (no header: an answer, then its nearest answers). Similarity is the cosine of TF-IDF vectors of
character n-grams, or of the embeddings of --sentence_transformer.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import groupby
from operator import itemgetter
from typing import Any

from mimiciv_dataset.candidates import HEADER, MAX_CANDIDATES
from mimiciv_dataset.index_files import index_files
from mimiciv_dataset.index_frames import scan, target_labels, task_of_file
from mimiciv_dataset.patients import DATA_USE, read_subject_ids
from mimiciv_dataset.sources import index_sources, patients_source
from mimiciv_dataset.tasks import TASKS
from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.progress import Summary, print_table
from pipeline.provenance import Provenance
from pipeline.records import output_files
from pipeline.work import Workers, map_lines

STEP, RULES = "mimiciv_dataset/similar_item_gen.py", 1
_BLOCK_CELLS = 32 << 20  # similarities computed at a time, of a block of answers with all of them: 128 MiB of float32


def main(argv: Sequence[str] | None = None) -> None:
    decision = [task.name for task in TASKS.values() if task.kind == "decision"]
    cli = Parser(__doc__)
    cli.add_path("--data_index_dir", "--data_index_path", default="task_index/all", help="task index: directory or CSV")
    cli.add_path("--subject_id_path", default="patient_data/train.csv", help="CSV of the patients whose answers are used")
    cli.add_path("--output_path", "--cache_dir", default="cache", help="directory for item_set/ and similar_item/")
    cli.add_argument("--task", nargs="+", choices=decision, metavar="TASK", help="these decision tasks only (all)")
    keep = f"nearest answers to keep of each answer ({MAX_CANDIDATES})"
    cli.add_argument("--top_k", type=at_least(1), default=MAX_CANDIDATES, help=keep)
    cli.add_argument("--sentence_transformer", metavar="MODEL", help="compare answers by the embeddings of this model")
    cli.add_num_workers()
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    summary = Summary("similar_item_gen")
    if args.sentence_transformer and find_spec("sentence_transformers") is None:
        package = "the package sentence-transformers, which is not installed. Run pip install sentence-transformers"
        raise UserError(f"--sentence_transformer: expected {package}.")
    tasks = args.task or decision
    subjects = set(read_subject_ids(args.subject_id_path))
    sources = [*index_sources(args.data_index_dir, verify=args.verify), patients_source(args.subject_id_path, subjects)]
    settings = {"tasks": tasks, "top_k": args.top_k, "sentence_transformer": args.sentence_transformer}
    provenance = Provenance(args.output_path, STEP, sources, settings, RULES, cli.arguments)
    folders = [args.output_path / name for name in ("item_set", "similar_item")]  # sft.py keeps its own cache beside them
    if not provenance.begin(args.overwrite, args.verify, used=any(folder.exists() for folder in folders)):
        return
    answers = read_answers(index_files(args.data_index_dir), tasks, subjects)
    counts = {task: len(items) for task, items in answers.items()}
    if not any(counts.values()):
        expected = f"rows of decision tasks for the patients of {args.subject_id_path}"
        raise UserError(f"{args.data_index_dir}: expected {expected}, got none. Use an index and patients of the same data.")
    names = [task for task in tasks if counts[task]]
    compute = partial(neighbours, answers, args.top_k, args.sentence_transformer)
    lines = map_lines(names, compute, args.output_path, "vocabularies", workers=workers, desc="similar_item_gen", unit="task")
    for task, of_task in groupby(lines, itemgetter("task")):
        write_csv(args.output_path / "item_set" / f"{task}.csv", [[HEADER], *([item] for item in answers[task])])
        write_csv(args.output_path / "similar_item" / f"{task}.csv", map(itemgetter("row"), of_task))
    files = [file for folder in folders for file in output_files(folder)]
    provenance.complete(files=files, tasks=counts, data_use=DATA_USE)
    print_table(("task", "answers"), counts.items())
    summary.print(f"{sum(counts.values()):,} answers of {len(names)} tasks → {args.output_path}")


def read_answers(files: Sequence[Path], tasks: Sequence[str], subjects: Collection[str]) -> dict[str, list[str]]:
    """The distinct answers of each task in the rows of some patients, sorted."""
    import polars as pl

    answers: dict[str, set[str]] = {task: set() for task in tasks}
    selected = pl.col("task").is_in(list(tasks)) & pl.col("subject_id").is_in(list(subjects))
    for path in files:
        if task_of_file(path) not in (None, *tasks) or (path.stem.isdecimal() and path.stem not in subjects):
            continue  # the file of another task or patient
        frame = scan(path).filter(selected).select("task", label=target_labels()).explode("label").drop_nulls().unique()
        for task, label in frame.collect(engine="streaming").iter_rows():
            answers[task].add(label)
    return {task: sorted(labels) for task, labels in answers.items()}


def neighbours(answers: dict[str, list[str]], top_k: int, model: str | None, task: str) -> Iterator[dict[str, Any]]:
    """Yield each answer of a task with its nearest answers, as `row`.

    Answers are compared by the embeddings of a sentence-transformers model or, without one, by TF-IDF.
    """
    items = answers[task]
    if model is None:
        vectors = tfidf(items)
    else:
        from sentence_transformers import SentenceTransformer

        vectors = SentenceTransformer(model).encode(items, normalize_embeddings=True, convert_to_numpy=True)
    for item, numbers in zip(items, nearest(vectors, top_k), strict=True):
        yield {"task": task, "row": [item, *(items[number] for number in numbers)]}


def tfidf(items: Sequence[str]) -> Any:
    """The TF-IDF vectors of some names over their character n-grams (2 to 4, within words), as sparse rows of length 1."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, dtype=np.float32).fit_transform(items)


def nearest(vectors: Any, top_k: int) -> Iterator[list[int]]:
    """Yield, for each vector, the row numbers of the `top_k` nearest other vectors (all if there are fewer), nearest first.

    `vectors` are dense or sparse rows of length 1. Similarities are rounded to 5 decimals, so that the result does not depend
    on the order of summation; ties go to the smaller row number.

    >>> import numpy as np
    >>> list(nearest(np.array([[1, 0], [0, 1], [0.6, 0.8], [0, 1]], dtype=np.float32), 2))
    [[2, 1], [3, 2], [1, 3], [1, 2]]
    """
    import numpy as np
    from scipy.sparse import issparse

    number = vectors.shape[0]
    top_k = min(top_k, number - 1)
    block = max(1, _BLOCK_CELLS // number)
    for start in range(0, number, block):
        similar = vectors[start : start + block] @ vectors.T
        similar = np.round(similar.toarray() if issparse(similar) else similar, 5)
        for row, scores in enumerate(similar, start):
            scores[row] = -np.inf
            threshold = np.partition(scores, -top_k)[-top_k] if top_k else np.inf
            above = np.flatnonzero(scores > threshold)
            ties = np.flatnonzero(scores == threshold)[: top_k - len(above)]
            chosen = np.concatenate([above, ties])
            yield chosen[np.lexsort((chosen, -scores[chosen]))].tolist()


def write_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    run(main)
