"""A mock LLM server: real HTTP, the wire formats of OpenAI and Anthropic, and every fault a provider can have.

To rehearse on before paying, to test against, to measure against. ``rlaif mock-server`` starts it; ``MockServer`` is the
same in a running loop, and ``start`` puts it into a process of its own. The opinions of its judge are keyed numbers
around a planted truth (``judge.py``): they prove plumbing and meters, nothing about any model.
"""

from rlaif.mock.options import MockOptions
from rlaif.mock.server import MockServer
from rlaif.mock.workers import Running, start

__all__ = ["MockOptions", "MockServer", "Running", "start"]
