"""One completion asked and judged by its content.

A status of 200 proves nothing: vLLM ends an aborted stream with `finish_reason: "abort"` and `[DONE]`, and a crashed
one with an error event and `[DONE]`, both under 200. Only a full answer counts: every token, and a proper end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Way:
    """One way to reach a service: by path, by host name, or by the body's `model`."""

    name: str
    path: str
    model: str
    host: str = ""


def ways_to(namespace: str, name: str, domain: str = "example.com") -> tuple[Way, Way, Way]:
    """The three ways in to one service."""
    return (
        Way("path", f"/{namespace}/{name}/v1/completions", name),
        Way("host", "/v1/completions", name, f"{name}-{namespace}.{domain}"),
        Way("model", "/v1/completions", name),
    )


@dataclass(frozen=True, slots=True)
class Question:
    """What one request asks for."""

    way: Way
    tokens: int
    stream: bool
    prompt: str = "hello world"

    def body(self) -> bytes:
        """An OpenAI completion request that ends at `tokens` and nowhere else."""
        fields: dict[str, Any] = {"model": self.way.model, "prompt": self.prompt, "max_tokens": self.tokens}
        fields |= {"ignore_eos": True, "temperature": 0, "stream": self.stream}
        if self.stream:
            fields["stream_options"] = {"include_usage": True}
        return json.dumps(fields).encode()

    def headers(self) -> dict[str, str]:
        """Host is set only where it is the way in."""
        host = {"Host": self.way.host} if self.way.host else {}
        return {"Content-Type": "application/json"} | host


class Verdict(StrEnum):
    """What became of a request. Refused: told before any byte of an answer to come back later."""

    OK = "ok"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict on one request. Times are seconds since it was sent; `first` is that of a stream's first token."""

    verdict: Verdict
    reason: str = ""
    seconds: float = 0.0
    first: float | None = None
    text: str = ""


class _BadAnswer(Exception):
    """The answer is not what was asked for."""


@dataclass(slots=True)
class _Heard:
    """What a stream has said so far."""

    finish: list[str] = field(default_factory=list)
    tokens: int | None = None
    text: list[str] = field(default_factory=list)
    first_at: float | None = None
    done: bool = False


class Caller:
    """One keep-alive connection to the proxy. A silence of `patience` seconds counts as frozen."""

    def __init__(self, url: str, patience: float) -> None:
        parts = urlsplit(url)
        self._patience = patience
        self._connection = HTTPConnection(parts.hostname or "", parts.port or 80, timeout=patience)

    def ask(self, question: Question) -> Answer:
        """Never raises for what the other side does."""
        begun = time.perf_counter()
        try:
            answer = self._exchange(question, begun)
        except TimeoutError:
            answer = Answer(Verdict.LOST, f"froze: no byte for {self._patience:g} s")
        except (OSError, HTTPException) as error:
            answer = Answer(Verdict.LOST, f"connection broke: {type(error).__name__}: {error}")
        except _BadAnswer as error:
            answer = Answer(Verdict.LOST, str(error))
        if answer.verdict is Verdict.LOST:
            self.close()
        return Answer(answer.verdict, answer.reason, time.perf_counter() - begun, answer.first, answer.text)

    def close(self) -> None:
        """The next question opens a new connection."""
        self._connection.close()

    def _exchange(self, question: Question, begun: float) -> Answer:
        response = self._send(question)
        if response.status != 200:
            return _judge_refusal(response)
        if question.stream:
            heard = _hear(response)
            _check(question, heard.finish, heard.tokens)
            first = heard.first_at - begun if heard.first_at else None
            return Answer(Verdict.OK, first=first, text="".join(heard.text))
        return Answer(Verdict.OK, text=_judge_body(question, response))

    def _send(self, question: Question) -> HTTPResponse:
        try:
            self._connection.request("POST", question.way.path, question.body(), question.headers())
            return self._connection.getresponse()
        except TimeoutError:
            raise
        except (OSError, HTTPException) as error:
            raise _BadAnswer(f"connection broke before an answer: {type(error).__name__}: {error}") from None


def _judge_refusal(response: HTTPResponse) -> Answer:
    body = response.read()
    retry_after = response.headers.get("Retry-After", "")
    if response.status == 503 and retry_after.isdigit():
        return Answer(Verdict.REFUSED, f"503, Retry-After {retry_after}")
    raise _BadAnswer(f"status {response.status}: {_short(body)}")


def _judge_body(question: Question, response: HTTPResponse) -> str:
    answer = _parse(response.read())
    choices = answer.get("choices") or []
    _check(question, [c.get("finish_reason") for c in choices], (answer.get("usage") or {}).get("completion_tokens"))
    return "".join(choice.get("text") or "" for choice in choices)


def _hear(response: HTTPResponse) -> _Heard:
    heard = _Heard()
    for data in _events(response):
        if heard.done:
            raise _BadAnswer(f"something after [DONE]: {_short(data)}")
        if data == b"[DONE]":
            heard.done = True
        else:
            _take_in(heard, _parse(data))
    if not heard.done:
        raise _BadAnswer("the stream ended without [DONE]")
    return heard


def _take_in(heard: _Heard, event: dict[str, Any]) -> None:
    for choice in event.get("choices") or ():
        heard.first_at = heard.first_at or time.perf_counter()
        heard.text.append(choice.get("text") or "")
        if choice.get("finish_reason"):
            heard.finish.append(choice["finish_reason"])
    if event.get("usage"):
        heard.tokens = event["usage"].get("completion_tokens")


def _events(response: HTTPResponse) -> Iterator[bytes]:
    """The data of each server-sent event, to the very end of the response, so that a cut after [DONE] is seen too."""
    for line in response:
        if line.strip():
            name, _, data = line.partition(b":")
            if name == b"event" and data.strip() == b"error":
                raise _BadAnswer("an error event in the stream")
            if name == b"data":
                yield data.strip()


def _parse(data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except ValueError:
        raise _BadAnswer(f"not JSON: {_short(data)}") from None
    if not isinstance(parsed, dict):
        raise _BadAnswer(f"not a JSON object: {_short(data)}")
    if parsed.get("error") or parsed.get("object") == "error":
        raise _BadAnswer(f"an error under status 200: {_short(data)}")
    return parsed


def _check(question: Question, finish: list[str], tokens: int | None) -> None:
    if finish != ["length"]:
        raise _BadAnswer(f"finish_reason {', '.join(map(str, finish)) or 'missing'}, expected length")
    if tokens != question.tokens:
        raise _BadAnswer(f"{tokens} tokens of {question.tokens}")


def _short(data: bytes) -> str:
    return data[:160].decode(errors="replace")
