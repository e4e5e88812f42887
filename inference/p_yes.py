"""How p(yes) is computed: P(yes) / (P(yes) + P(no)) at the first position after the prompt (or after its reasoning).

P(yes) and P(no) are the sums of the probabilities of all tokens that spell the word, whatever their case and white space
(`yes_no_tokens`), from one forward pass at temperature 1. A model in this process gives the logits or log-probabilities of
exactly these tokens (`p_yes_from_logits`, `p_yes_from_logprobs`), a server those of its likeliest ones
(`p_yes_from_top_tokens`). What a reply says in words is read by `answers.read_yes_no`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, fsum, inf, isnan, log, nan
from typing import TYPE_CHECKING, NamedTuple

from mimiciv_dataset.tasks import NO, YES
from pipeline.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


SPACE_MARKS = "▁ĠĊĉč"  # how vocabularies write a space and a line end


def spelled_word(token: str | bytes) -> str:
    """The text of a token without white space around it, in lower case.

    >>> spelled_word("▁Yes"), spelled_word("ĠNO"), spelled_word(b" yes\\n")
    ('yes', 'no', 'yes')
    """
    text = token.decode("utf-8", "replace") if isinstance(token, bytes) else token
    return text.removesuffix("</w>").strip(" \t\r\n" + SPACE_MARKS).lower()


def yes_no_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids that spell yes, and those that spell no, whatever their case and white space.

    If the vocabulary has no such token, the first token of the word with visible text counts.

    Raises:
        UserError: yes and no begin with the same token, or with one of unknown text.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    ids: dict[str, list[int]] = {YES: [], NO: []}
    for token_id, token in enumerate(tokens):  # ids that a vocabulary leaves out have no text
        if token is not None and (word := spelled_word(token)) in ids:
            ids[word].append(token_id)
    for word in [word for word in ids if not ids[word]]:
        pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
        ids[word] = [piece for piece in pieces if tokens[piece] is not None and spelled_word(tokens[piece])][:1]
    if set(ids[YES]) & set(ids[NO]) or tokenizer.unk_token_id in (*ids[YES], *ids[NO]) or not all(ids.values()):
        fix = "Risk tasks need a model whose tokenizer tells them apart; leave them out of the index"
        raise UserError(
            f"{tokenizer.name_or_path}: expected different tokens for yes and no, got the same first token. {fix}."
        )
    return ids[YES], ids[NO]


class YesNo(NamedTuple):
    """P(yes) / (P(yes) + P(no)), and P(yes) + P(no): how much of the probability the first number rests on."""

    p_yes: float
    mass: float


def not_a_number() -> UserError:
    """The error of a model whose log-probabilities are NaN, as float16 gives where it overflows."""
    fix = "Use --dtype bfloat16 or float32 (a server: its own dtype), or check the model's weights"
    return UserError(f"the model's log-probabilities: expected numbers, got NaN. {fix}.")


def p_yes_from_logits(logits: torch.Tensor, yes: Sequence[int], no: Sequence[int]) -> list[YesNo]:
    """p(yes), computed in fp32, of each row of logits of shape (batch, vocabulary); `yes_no_tokens` gives the token ids."""
    logits = logits.float()
    log_yes, log_no = (logits[:, tokens].logsumexp(-1) for tokens in (yes, no))
    mass = (log_yes.logaddexp(log_no) - logits.logsumexp(-1)).exp()
    return list(map(YesNo, (log_yes - log_no).sigmoid().tolist(), mass.tolist()))


def p_yes_from_logprobs(logprobs_yes: Sequence[float], logprobs_no: Sequence[float]) -> YesNo:
    """P(yes) / (P(yes) + P(no)) from the log-probabilities of the tokens that spell each; NaN if one of them is.

    >>> from math import log
    >>> [round(value, 6) for value in p_yes_from_logprobs([log(0.2), log(0.1)], [log(0.1)])]
    [0.75, 0.4]
    """
    top = max([*logprobs_yes, *logprobs_no])
    yes, no = (fsum(exp(value - top) for value in values) for values in (logprobs_yes, logprobs_no))
    return YesNo(yes / (yes + no), exp(top) * (yes + no))


def p_yes_from_top_tokens(entries: Iterable[tuple[str, float | None]]) -> YesNo | None:
    """p(yes) from (token text, log-probability) of the top tokens of a position; None if neither word has a probability there.

    A word that is missing has at most the probability of the least likely entry, and at most what all entries leave. It is
    assigned the smaller one in p(yes), but not in the mass. NaN if an entry is NaN, which some servers send as null.

    >>> from math import log
    >>> top = [("Yes", log(0.3)), (" yes", log(0.3)), ("no", log(0.2)), ("The", log(0.1))]
    >>> [round(value, 6) for value in p_yes_from_top_tokens(top)]
    [0.75, 0.8]
    >>> [round(value, 6) for value in p_yes_from_top_tokens([("no", log(0.8)), ("The", log(0.1))])]
    [0.111111, 0.8]
    >>> p_yes_from_top_tokens([("yes", 0.0)]), p_yes_from_top_tokens([("The", 0.0)]), p_yes_from_top_tokens([("The", None)])
    (YesNo(p_yes=1.0, mass=1.0), None, YesNo(p_yes=nan, mass=nan))
    """
    logprobs: dict[str, list[float]] = {YES: [], NO: []}
    values: list[float] = []
    for text, logprob in entries:
        if logprob is None or isnan(logprob):
            return YesNo(nan, nan)
        values.append(logprob)
        if (word := spelled_word(text)) in logprobs:
            logprobs[word].append(logprob)
    listed = [*logprobs[YES], *logprobs[NO]]
    if max(listed, default=-inf) == -inf:
        return None
    left = 1 - fsum(map(exp, values))
    bound = min(*values, log(left) if left > 0 else -inf)
    p_yes, _ = p_yes_from_logprobs(logprobs[YES] or [bound], logprobs[NO] or [bound])
    return YesNo(p_yes, fsum(map(exp, listed)))
