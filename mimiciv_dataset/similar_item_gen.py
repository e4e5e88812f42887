"""Training rows of a task index → the answer vocabularies and nearest answers that candidates are drawn from.

For every decision task: cache/item_set/<task>.csv (a column `item`, the distinct answers) and
cache/similar_item/<task>.csv (no header: an answer, then its nearest answers). Near means by default that names share
character n-grams (cosine of TF-IDF vectors); --sentence_transformer takes a model's embeddings instead.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from mimiciv_dataset.candidates import HEADER, MAX_CANDIDATES
from mimiciv_dataset.index_files import index_files, reading, scan, target_labels, task_of_file
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.tasks import TASKS
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.progress import Summary, progress

# Similarities computed at a time: a block of answers against all of them, 128 MiB of float32.
_BLOCK_CELLS = 32 << 20


def main(argv: Sequence[str] | None = None) -> None:
    decision = [task.name for task in TASKS.values() if task.kind == "decision"]
    cli = Parser(__doc__)
    cli.add_path("--data_index_dir", "--data_index_path", default="task_index/all", help="task index: folder or CSV")
    cli.add_path("--subject_id_path", default="patient_data/train.csv", help="CSV of the patients whose answers count")
    cli.add_path("--output_path", "--cache_dir", default="cache", help="folder for item_set/ and similar_item/")
    cli.add_argument("--task", nargs="+", choices=decision, metavar="TASK", help="only these decision tasks (all)")
    cli.add_argument("--top_k", type=int, default=MAX_CANDIDATES, help=f"nearest answers to keep of each ({MAX_CANDIDATES})")
    cli.add_argument("--sentence_transformer", metavar="MODEL", help="compare by this model's embeddings")
    args = cli.parse_args(argv)
    summary = Summary("similar_item_gen")
    if args.top_k < 1:
        raise UserError(f"--top_k {args.top_k}: wanted a number ≥ 1")
    tasks = args.task or decision
    subjects = set(read_subject_ids(args.subject_id_path))
    vocabularies = read_answers(index_files(args.data_index_dir), tasks, subjects)
    if not any(vocabularies.values()):
        raise UserError(
            f"{args.data_index_dir}: wanted decision rows of the patients of {args.subject_id_path}, found none; are "
            "the index and the patient list of the same data?"
        )
    embed = tfidf if args.sentence_transformer is None else sentence_embedder(args.sentence_transformer)
    print(f"{'task':<24}{'answers':>10}")
    for task in tasks:
        items = vocabularies[task]
        print(f"{task:<24}{len(items):>10,}" + ("" if items else "  no rows, no file"), flush=True)
        if items:
            write(args.output_path / "item_set" / f"{task}.csv", [[HEADER], *([item] for item in items)])
            rows = nearest(embed(items), args.top_k)
            bar = progress(rows, total=len(items), desc=task, unit="answer", leave=False)
            write(
                args.output_path / "similar_item" / f"{task}.csv",
                ([item, *(items[other] for other in others)] for item, others in zip(items, bar, strict=True)),
            )
    found = [items for items in vocabularies.values() if items]
    summary.print(f"{sum(map(len, found)):,} answers of {len(found)} tasks → {args.output_path}")


def read_answers(files: Sequence[Path], tasks: Sequence[str], subjects: Collection[str]) -> dict[str, list[str]]:
    """The distinct answers of each task in the rows of some patients, by name."""
    import polars as pl

    answers: dict[str, set[str]] = {task: set() for task in tasks}
    for path in files:
        if task_of_file(path) not in (None, *tasks):
            continue
        if path.stem.isdecimal() and path.stem not in subjects:
            continue  # --group patient: the file of a patient who does not count
        with reading(path):
            mine = pl.col("task").is_in(list(tasks)) & pl.col("subject_id").is_in(list(subjects))
            frame = scan(path).filter(mine).select("task", label=target_labels()).explode("label").unique()
            for task, label in frame.collect(engine="streaming").iter_rows():
                if label is not None:
                    answers[task].add(label)
    return {task: sorted(found) for task, found in answers.items()}


def tfidf(items: Sequence[str]) -> Any:
    """Each name as a sparse TF-IDF vector of length 1 over its character n-grams, 2 to 4 long, inside words."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, dtype=np.float32).fit_transform(items)


def sentence_embedder(model: str) -> Any:
    """The same from a sentence-transformers model.

    Raises:
        UserError: the library is not installed.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError(
            "--sentence_transformer: wanted the library sentence-transformers, found none; install it with "
            "pip install sentence-transformers"
        ) from None
    encoder = SentenceTransformer(model)
    return lambda items: encoder.encode(list(items), normalize_embeddings=True, convert_to_numpy=True)


def nearest(vectors: Any, top_k: int) -> Iterator[list[int]]:
    """For each vector (length 1, dense or sparse rows) the numbers of the nearest others, nearest first.

    Ties go to the smaller number, which is the earlier name. Similarities are rounded, so that the last bits of a sum
    do not decide.

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
            if top_k < 1:
                yield []
                continue
            least = np.partition(scores, number - top_k)[number - top_k]
            ahead = np.flatnonzero(scores > least)
            level = np.flatnonzero(scores == least)[: top_k - len(ahead)]
            chosen = np.concatenate([ahead, level])
            yield chosen[np.lexsort((chosen, -scores[chosen]))].tolist()


def write(path: Path, rows: Any) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    run(main)
