"""Everything the mock server can be told, written once: the command line takes its flags from here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from rlaif.component import Options
from rlaif.mock.faults import parse_faults
from rlaif.mock.latency import parse_latency


class MockOptions(Options):
    """Options of the server, its minds, its limits and its faults."""

    host: str = Field(default="127.0.0.1", description="Address to listen at.")
    port: int = Field(default=0, ge=0, le=65535, description="Port; 0 takes a free one and says which.")
    workers: int = Field(default=1, ge=1, le=64, description="Processes that answer, on one port and with one count.")
    seed: int = Field(
        default=0, ge=0, lt=1 << 63, description="Another seed draws other opinions, latencies and faults."
    )

    skill: float = Field(default=0.8, ge=0, le=1, description="How far a judge sees the truth: 1 wholly, 0 not at all.")
    sharpness: float = Field(default=6.0, ge=0, description="Logit by which a judge prefers quality 1 to quality 0.")
    position_bias: float = Field(default=0.2, description="Logit a judge adds to what is shown first.")
    ties: float = Field(
        default=0.1, ge=0, le=1, description="Probability of a tie between equals, where one is offered."
    )
    truth: Literal["hash", "length"] = Field(
        default="hash",
        description="Quality of a reply without a mark quality=0.73: keyed by its text, or by its length.",
    )
    temperature: float = Field(
        default=1.0, ge=0, le=2, description="Where a request names none; 0 takes the likeliest."
    )
    prefill: bool = Field(default=False, description="Anthropic: go on from a last assistant turn, as old models do.")
    lenient: bool = Field(
        default=False, description="OpenAI: take parameters that only compatible servers know, such as top_k."
    )
    script: str | None = Field(
        default=None, description="JSONL or YAML rows {match: REGEX, reply: TEXT} that speak before the minds do."
    )

    latency: str = Field(default="0", description="Time in service: 50ms, 20-80ms or lognormal:50ms:0.5.")
    capacity: int | None = Field(default=None, ge=1, description="Requests in service at once; the others queue.")
    rpm: float | None = Field(default=None, gt=0, description="Requests a minute that a key is allowed.")
    tpm: float | None = Field(default=None, gt=0, description="Tokens a minute: the prompt's and max_tokens.")
    limit_window_seconds: float = Field(
        default=60.0, gt=0, description="A limit's bucket holds as much as this brings."
    )
    hide_limits: bool = Field(default=False, description="Tell of limits by refusals alone, not in headers.")
    key_expires_after: int | None = Field(default=None, ge=0, description="Requests after which a key gets 401.")

    fault: tuple[str, ...] = Field(
        default=(), description="NAME=RATE or NAME=first:K, for instance 429=0.05; may be repeated."
    )
    fault_seconds: float = Field(default=1.0, ge=0, description="What the faults slow and drip take.")
    retry_after: float = Field(default=1.0, ge=0, description="Seconds that the fault 429 asks for.")

    cache_minimum: int = Field(default=1024, ge=0, description="Tokens from which a prompt's beginning is cached.")
    batch_seconds: float = Field(default=2.0, ge=0, description="How long a batch takes.")

    @field_validator("fault")
    @classmethod
    def _known_faults(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parse_faults(value)
        return value

    @field_validator("latency")
    @classmethod
    def _known_latency(cls, value: str) -> str:
        parse_latency(value)
        return value
