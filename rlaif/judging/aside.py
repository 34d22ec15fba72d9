"""What a judge writes before it gives its verdict: a rationale, a critique, a solution of its own."""

from __future__ import annotations

from rlaif.judging import Showing, Verdict
from rlaif.judging.reading import cut_off, without_thoughts
from rlaif.models import Reply


def read_aside(reply: Reply, prefill: str, showing: Showing, what: str) -> str | Verdict:
    """The text, fit to stand in the next question: without thoughts, and without the fence, which the model was shown and
    a reply may have talked it into writing down. Or why there is none: it is empty, or does not end."""
    if cut := cut_off(reply):
        return Verdict(reason=f"the {what} does not end{cut}")
    text = showing.unfenced(without_thoughts(prefill + reply.text))
    return text or Verdict(reason=f"the {what} is empty")
