"""What errors of real servers mean, in their own words: one table of kinds, pauses, fields and messages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from inference.server_errors import ACCOUNT, MODEL, OTHER, REFUSED, RETRY, TOO_LONG, error_in_body, fields_in, read_error
from inference.server_messages import parsed, pause_of, retry_after, server_message

FIELDS = ["temperature", "n", "seed", "max_tokens"]
KINDS: list[tuple[int, Any, str]] = [
    (429, {"message": "Rate limit reached for requests per minute"}, RETRY),
    (429, {"message": "Quota exceeded for metric: requests per minute"}, RETRY),
    (429, {"message": "Rate limit reached for your API key"}, RETRY),
    (429, {"error": {"message": "You exceeded your current quota, please check your plan and billing details.",
                     "details": [{"retryDelay": "22s"}]}}, RETRY),
    (500, None, RETRY),
    (500, {"message": "The content filter timed out, try again"}, RETRY),
    (503, {"message": "The moderation service is unavailable"}, RETRY),
    (400, {"__type": "ThrottlingException", "message": "Too many requests, please wait before trying again."}, RETRY),
    (403, {"message": "Rate limit exceeded"}, RETRY),
    (404, {"message": "The model is temporarily overloaded"}, RETRY),
    (404, {"message": "Not ready, please try again"}, RETRY),
    (424, "upstream failed", RETRY),
    (429, {"type": "insufficient_quota"}, ACCOUNT),
    (429, {"message": "Your account is suspended due to insufficient balance"}, ACCOUNT),
    (403, {"code": "insufficient_user_quota", "message": "no"}, ACCOUNT),
    (403, {"code": "billing_not_active"}, ACCOUNT),
    (403, "forbidden", ACCOUNT),
    (403, {"message": "Access to this resource is prohibited for your API key"}, ACCOUNT),
    (403, {"message": "Key limit exceeded (total limit)"}, ACCOUNT),
    (403, {"message": "Your team has used all available credits or reached its monthly spending limit."}, ACCOUNT),
    (400, {"message": "Budget has been exceeded! Current cost: 10.1", "type": "budget_exceeded"}, ACCOUNT),
    (400, {"message": "This organization has been disabled."}, ACCOUNT),
    (400, {"message": "You have reached your specified API usage limits. You will regain access on 2026-12-01."}, ACCOUNT),
    (400, {"message": "Organization has been restricted."}, ACCOUNT),
    (400, {"message": "User location is not supported for the API use."}, ACCOUNT),
    (412, {"message": "Account x is suspended, possibly due to failure to pay past invoices"}, ACCOUNT),
    (429, {"message": "账户已欠费，请充值后重试", "code": "1113"}, ACCOUNT),
    (400, {"code": "data_inspection_failed"}, REFUSED),
    (400, {"message": "The response was blocked by our safety system"}, REFUSED),
    (400, {"message": "Your prompt was flagged. Please try again with another.", "code": "invalid_prompt"}, REFUSED),
    (400, {"message": "Content Exists Risk", "code": "invalid_request_error"}, REFUSED),
    (400, {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"}, REFUSED),
    (446, {"message": "The guardrail checks defined in the config failed."}, REFUSED),
    (400, {"message": "The input contains personal information", "code": "pii_detected"}, REFUSED),
    (500, {"error": {"message": "No.", "code": "content_filter"}}, REFUSED),
    (500, {"message": "litellm.ContentPolicyViolationError: no"}, REFUSED),
    (502, {"error": {"message": "blocked", "status": "PROHIBITED_CONTENT"}}, REFUSED),
    (400, {"message": "The model `x` does not exist"}, MODEL),
    (400, {"message": "Invalid model: x", "code": "1500"}, MODEL),
    (400, {"message": "x is not a valid model ID"}, MODEL),
    (422, {"detail": "Model x not found"}, MODEL),
    (404, {"message": "model 'x' not found, try pulling it first"}, MODEL),
    (404, {"message": "The deployment does not exist. If it is new, please wait a moment and try again."}, MODEL),
    (400, {"message": "No models loaded. Please load a model"}, MODEL),
    (400, {"message": "Unable to access non-serverless model x."}, MODEL),
    (400, {"message": "Invocation of model ID x with on-demand throughput isn't supported."}, MODEL),
    (405, "Method Not Allowed", MODEL),
    (410, {"message": "The model was decommissioned"}, MODEL),
    (400, {"message": "n is not supported with this model"}, OTHER),
    (400, {"message": "'temperature' does not support 0.5 with this model. Only the default (1) value is supported."}, OTHER),
    (400, ["odd"], OTHER),
]  # fmt: skip
LENGTHS = [  # vLLM, OpenAI, Anthropic, Gemini, Mistral, Cerebras, llama.cpp, TGI, Bedrock, DashScope, SGLang, DeepSeek, …
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens. Please reduce the length of the "
    "messages or completion.",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "The input token count (40000) exceeds the maximum number of tokens allowed (32768).",
    "Prompt contains 9000 tokens and 0 draft tokens, too large for model with 8192 maximum context length",
    "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192",
    "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 3000 `inputs` tokens",
    "Input validation error: `inputs` must have less than 1024 tokens. Given: 3000",
    "Input is too long for requested model.",
    "Range of input length should be [1, 6000]",
    "Requested token count exceeds the model's maximum context length of 4096 tokens.",
    "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
    "Input tokens exceed the configured limit of 272000 tokens.",
    "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
    "max_tokens is too large: 40960. This model supports at most 16384 completion tokens",
    "max_tokens: 8192 > 4096, which is the maximum allowed number of output tokens",
    "Request too large for model",
    "the request body is too large",
    "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length and try again",
    "The maximum tokens you requested exceeds the model limit of 4096. Try again with a maximum tokens value that is lower",
    "max_tokens must be at least 1, got -904.",
]


@pytest.mark.parametrize(("status", "body", "kind"), KINDS)
def test_kinds_of_errors(status: int, body: Any, kind: str) -> None:
    assert read_error(status, body, fields=FIELDS).kind == kind


@pytest.mark.parametrize("status", [400, 413, 422, 500])
@pytest.mark.parametrize("text", LENGTHS)
def test_what_is_too_long_is_known_in_many_words(text: str, status: int) -> None:
    error = read_error(status, {"error": {"message": text}}, fields=FIELDS)
    assert (error.kind, error.refused) == (TOO_LONG, ()) and error.fix == "Lower --max_seq_len, or --max_new_tokens"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("Only the default (1) value is supported.", "temperature"),
        ("Temperature is not supported", "temperature"),
        ("Multiple candidates is not enabled for this model", "n"),
        ("Only one candidate can be specified", "n"),
        ("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
         "max_tokens"),
        ("property 'seed' is unsupported", "seed"),
        ("body.n: Input should be less than or equal to 1", "n"),
    ],
)  # fmt: skip
def test_fields_that_are_refused(text: str, field: str) -> None:
    assert fields_in(text, FIELDS) == (field,)
    assert read_error(400, {"error": {"message": text}}, fields=FIELDS).refused == (field,)


def test_fields_that_a_server_refuses_with_500() -> None:
    error = read_error(500, {"error": {"message": "Only one completion choice is allowed", "code": 500}}, fields=FIELDS)
    assert (error.kind, error.refused) == (OTHER, ("n",))
    assert (
        read_error(500, {"message": "temperature too high, only 2 GPUs are available, try again"}, fields=FIELDS).kind == RETRY
    )


@pytest.mark.parametrize("quoted", [str, json.dumps, lambda messages: messages[0]["content"]])
def test_words_of_the_prompt_do_not_tell_the_kind(quoted: Callable[[Any], str]) -> None:
    text = "## Triage\n- Allergy: sensitive to penicillin\n- Moderate pain, flagged as unsafe to walk\n- High risk of falls"
    messages = [{"role": "user", "content": text}]
    message = f"1 validation error for messages: input_value={quoted(messages)}"
    assert read_error(400, {"error": {"message": message}}, f" {messages}").kind == OTHER
    assert read_error(400, {"error": {"message": f"flagged: {quoted(messages)}"}}, f" {messages}").kind == REFUSED


def test_messages() -> None:
    assert server_message({"fault": {"faultstring": "Quota", "detail": {"errorcode": "x"}}}) == "Quota"
    assert (
        server_message("<?xml version='1.0'?><Error><Code>A</Code><Message>Denied by rule</Message></Error>")
        == "Denied by rule"
    )
    assert server_message({"title": "Bad", "status": 400, "detail": "no n"}) == "no n; Bad"
    raw = '{"error": {"message": "Too hot"}, "input": "a record"}'
    assert server_message({"error": {"message": "Provider error", "metadata": {"raw": raw}}}) == "Provider error; Too hot"
    assert server_message([{"error": {"message": "No", "status": "INVALID_ARGUMENT"}}]) == "No"
    assert parsed('\ufeff {"a": "line\n"} trailing') == {"a": "line\n"} and parsed("[1") == "[1"


def test_errors_in_replies_with_200() -> None:
    def kind(body: Any) -> str:
        return read_error(*error_in_body(body)).kind

    assert kind({"choices": [], "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}) == REFUSED
    assert kind({"choices": [], "prompt_filter_results": [{"hate": {"filtered": True, "severity": "high"}}]}) == REFUSED
    assert kind({"error": {"code": 500, "message": "No", "status": "content_filter"}}) == REFUSED
    assert kind({"code": 401, "message": "bad token"}) == ACCOUNT and kind({"detail": "queue full"}) == RETRY
    assert kind({"choices": [{"error": {"code": 502, "message": "upstream"}}]}) == RETRY
    assert kind({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}) == ACCOUNT
    assert kind({"error": "prompt is too long: 9 tokens > 8 maximum"}) == TOO_LONG
    assert error_in_body({"choices": []}) is None and error_in_body(None) is None


def test_times_to_wait() -> None:
    assert retry_after({"retry-after": "86400"}) == 86400 and retry_after({"retry-after-ms": "1500"}) == 1.5
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0 and retry_after({"retry-after": "6m0s"}) == 360
    assert retry_after({"retry-after": "inf"}) == float("inf") and retry_after({"retry-after": "-1"}) == 0
    assert 90 < retry_after({"x-ratelimit-reset": str(1000 * (time.time() + 100))}) <= 100
    for text, seconds in (
        ("Please try again in 20s.", 20), ("Please try again in 1h2m3.5s", 3723.5), ("Please retry after 26 seconds.", 26),
        ("retry in 22.9s", 22.9), ("try again in 350ms", 0.35), ("please wait 2 minutes", 120), ("no hint of 30 s", None),
    ):  # fmt: skip
        assert pause_of({"error": {"message": text}}) == pytest.approx(seconds) if seconds else pause_of(text) is None
    reset = {"X-RateLimit-Reset": str(int(1000 * (time.time() + 100)))}
    assert 90 < pause_of({"error": {"message": "no", "metadata": {"headers": reset}}}) <= 100
