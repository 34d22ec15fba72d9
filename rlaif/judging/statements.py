"""Read a verdict that is a sentence of the reply: "Therefore, Output (b) is better."

For judges whose prompt asks for such a sentence; elsewhere prose is no verdict (``reading.read_choice``).
"""

from __future__ import annotations

import re

from rlaif.judging.reading import NOUN, SENTENCE, own_words

SIDE = rf"(?i:{NOUN})\s+[\[(]?(?:(?P<first>[aA1])|(?P<second>[bB2]))[\])]?"
ADVERB = r"(?:clearly|definitely|generally|indeed|much|overall|slightly|still|the|therefore)"
OTHERS = r"(?:argues|asserts|believes|claims|contends|insists|maintains|says|states|suggests|thinks)\s+that|whether|if"
CLAIM = re.compile(
    rf"(?P<others>\b(?i:{OTHERS})\s+)?\b{SIDE}\s+(?i:is|remains)\s+(?i:{ADVERB}\s+)*(?i:better|best|preferable|superior)\b"
)


def read_statement(text: str) -> int | None:
    """0 or 1 for the side that the last claim of a reply calls the better one, the one shown first or second; else None.

    A claim is a sentence with "Response A is better" or its like: one of the usual nouns with a letter or a number.
    What someone else is said to claim, a condition ("whether", "if") and a question are none. A last claim for both
    sides settles nothing.
    """
    said: set[int] = set()
    for sentence in SENTENCE.split(own_words(text)):
        claims = [match for match in CLAIM.finditer(sentence) if not match["others"]]
        if claims and not sentence.rstrip().endswith("?"):
            said = {0 if match["first"] else 1 for match in claims}
    return said.pop() if len(said) == 1 else None
