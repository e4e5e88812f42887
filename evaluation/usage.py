"""Tokens, seconds and cost of a run, in total and per sample."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from statistics import fmean, median
from typing import Any

from evaluation.predictions import Prediction
from inference.costs import CostSettings


def summarise_usage(predictions: Collection[Prediction], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`usage` of a result: {"prompt_tokens", "completion_tokens", "seconds", "cost"}.

    Each is {"n", "total", "mean", "median"} over the n samples for which it is known, or None if there are none. A prompt is
    counted once for each of its replies, as servers bill it. Seconds are those of the process, so that those of chunks add up;
    replies to a batch come together, so that they have no median.

    Args:
        predictions: of the run.
        arguments: of the run, with `price_in` and `price_out`.
    """
    prompt, completion, seconds, cost = [], [], [], []
    prices = CostSettings(arguments.get("price_in"), arguments.get("price_out"))
    for prediction in predictions:
        replies = (prediction, *prediction.further)
        tokens = [reply.completion_tokens for reply in replies]
        if prediction.prompt_tokens is not None:
            prompt.append(prediction.prompt_tokens * len(replies))
        if None not in tokens:
            completion.append(sum(tokens))
        if None not in (prediction.prompt_tokens, *tokens):
            cost.append(prices.of(prompt[-1], completion[-1]))
        if prediction.seconds is not None:
            seconds.append(prediction.seconds)
    has_price = (prices.price_in, prices.price_out) != (None, None)
    usage = {"prompt_tokens": _summary(prompt), "completion_tokens": _summary(completion), "seconds": _summary(seconds)}
    if usage["seconds"]:
        del usage["seconds"]["median"]
    return usage | {"cost": _summary(cost) if has_price else None}


def _summary(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    values = sorted(values)  # sums do not depend on the order of the lines
    return {"n": len(values), "total": sum(values), "mean": fmean(values), "median": median(values)}


def format_usage(usage: Mapping[str, Any]) -> str | None:
    """`usage` of a result in one line; None if nothing is known.

    >>> seconds = {"n": 2, "total": 3.0, "mean": 1.5}
    >>> format_usage({"prompt_tokens": {"mean": 1200.0}, "completion_tokens": None, "seconds": seconds, "cost": None})
    'per sample: 1,200 prompt tokens, 1.50 seconds'
    """
    formats = {
        "prompt_tokens": "{:,.0f} prompt tokens",
        "completion_tokens": "{:,.0f} tokens of replies",
        "seconds": "{:,.2f} seconds",
        "cost": "cost {:,.4f}",
    }
    parts = [text.format(usage[name]["mean"]) for name, text in formats.items() if usage.get(name)]
    return f"per sample: {', '.join(parts)}" if parts else None
