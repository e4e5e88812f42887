"""The thinking graph of a sample, laid out: concepts of the history on the left, answers on the right, relations between."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.files import Line


def graph_layout(paths: Sequence[Sequence[str]]) -> Line | None:
    """Nodes and edges of the paths (term, relation, term, …) of a sample; None without paths.

    A term that several paths have at the same distance from their start is one node; answers are all in the last column.
    Rows of a column are spread evenly, so that the graph is as high as its longest column (`rows`).

    >>> layout = graph_layout([["Pain", "treated by", "Aspirin"], ["Fever", "sign of", "Flu", "treated by", "Aspirin"]])
    >>> [(node["term"], node["column"], node["row"]) for node in layout["nodes"]]
    [('Pain', 0, 0.5), ('Fever', 0, 1.5), ('Flu', 1, 1.0), ('Aspirin', 2, 1.0)]
    >>> [(edge["column"], edge["to_column"], edge["relation"]) for edge in layout["edges"]]
    [(0, 2, 'treated by'), (0, 1, 'sign of'), (1, 2, 'treated by')]
    """
    if not paths:
        return None
    last = max(len(path) // 2 for path in paths)
    columns: list[dict[str, None]] = [{} for _ in range(last + 1)]
    relations: dict[tuple[int, str, int, str, str], None] = {}
    for path in paths:
        places = [(last if step == len(path) // 2 else step, term) for step, term in enumerate(path[::2])]
        for column, term in places:
            columns[column].setdefault(term)
        for (column, term), relation, (to, answer) in zip(places, path[1::2], places[1:], strict=False):
            relations.setdefault((column, term, to, answer, relation))
    rows = max(map(len, columns))
    row = {
        (number, term): (position + 0.5) * rows / len(column)
        for number, column in enumerate(columns)
        for position, term in enumerate(column)
    }
    nodes = [{"term": term, "column": number, "row": row[number, term]} for number, term in row]
    edges = [
        {"column": a, "row": row[a, term], "to_column": b, "to_row": row[b, answer], "relation": relation}
        for a, term, b, answer, relation in relations
    ]
    return {"nodes": nodes, "edges": edges, "rows": rows, "columns": last + 1}
