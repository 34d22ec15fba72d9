"""Read a verdict from a raw reply. Pure functions: a better reader can be run over old replies.

What cannot be read stays unreadable; nothing here guesses.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from rlaif.models import Reply
from rlaif.prompting import THOUGHTS

T = TypeVar("T")

THINK = re.compile(  # closed; or cut off, where a line begins with it: elsewhere the mark is spoken of
    rf"[<\[]{THOUGHTS}[>\]].*?[<\[]/{THOUGHTS}[>\]]|(?:^[ \t]*<{THOUGHTS}>|\A\s*\[think\]).*\Z",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)
THOUGHT = re.compile(rf"\A.*[<\[]/{THOUGHTS}[>\]]", re.DOTALL | re.IGNORECASE)  # where the template opened the mark
QUOTED = re.compile(r'(?<!\w)"(?=\S)[^"]*"|“[^”]*”|„[^“”]*[“”]|«[^»]*»|「[^」]*」|『[^』]*』|^[ \t]*>.*$', re.MULTILINE)
MAY_QUOTE = re.compile(r'["“„«「『>]')
WIDE = str.maketrans("［］【】", "[][]")  # brackets as Chinese and Japanese text has them
CODE = re.compile(r"`([^`\n]+)`")
CODE_BLOCK = re.compile(r"```(\w*)[^\n]*\n(.*?)```(?=\s*\S)", re.DOTALL)  # with something after it
MARKED = re.compile(r"\[\[|\[RESULT\]|\\boxed", re.IGNORECASE)
SENTENCE = re.compile(r"\n|(?<=[.!?])\s+")
MARKUP = re.compile(r"\*+|`+|__|^[ \t]*#+", re.MULTILINE)
KEYWORD = (
    r"(?:verdict|answer|choice|winner|preferred(?: reply| response)?|better(?: one| reply| response)?"
    r"|urteil|veredicto|veredito|verdetto|вердикт|最[终終]?(?:结论|結論|判定|答案)|结论|結論|判定|答案)"
)
NOUN = r"(?:response|reply|option|output|assistant)"
ANNOUNCED = re.compile(rf"(?:{KEYWORD}|score|rating|ranking)\W*(?:is\W*)?$", re.IGNORECASE)
LEAD = r"(?:so|thus|hence|my|the|final|overall)"
OPENING = rf"\s*(?i:{NOUN}\s+)?[\[(\"']*"
CLOSING = r"[^\w\n?+#]*"  # brackets, full stops, emoji; not "B?", "C++" or "C#"
MINUS = re.compile(r"[\u2212\u2013](?=\d)")  # a minus sign or a dash before a digit
NUMBER = r"-?\d+(?:[.,]\d{1,2})?(?![\w.,]*\d)"
OUT_OF = r"(?:\s*(?:/|out of)\s*(\d+))?"
SCORE = r"(?:score|rating|grade|points?|mark|verdict)"  # what a number may be called; "answer" may be of the question
STEP = r"(?:(?:first\W+)?(?:wrong\W+|incorrect\W+)?(?:step|index)|verdict)"
CHOOSING = (  # words that may stand between a negation and the verdict it denies
    r"(?:choose|chosen|pick|picked|prefer|preferred|select|selected|say|give|given|go|with|for|call|rate|the|an?|it|is|be|to"
    rf"|of|better|best|winner|verdict|answer|{NOUN})"
)
NEGATED = re.compile(
    rf"(?:\b(?:not|never|cannot|neither|nor)|n[’']t)\s+(?:{CHOOSING}\s+){{0,4}}$"
    rf"|\b(?:rather than|instead of|than|over)\s+(?:the\s+)?(?:{NOUN}\s+)?$",
    re.IGNORECASE,
)
UNREAL = re.compile(r"\b(?:would|could|might|should)\s+have\s+(?:\w+\s+){0,3}$", re.IGNORECASE)
DENIES = re.compile(  # before "better: A" at the end of a line
    r"\b(?:second|third|next|other|least|less|lesser|worst|worse|wrong|not|never|no|nor|if|whether|had|would)\b|n[’']t\b",
    re.IGNORECASE,
)
OWN_ANSWER = re.compile(r"\banswer|答案", re.IGNORECASE)  # may be that of the question
BRACKETED_NUMBER = re.compile(
    rf"(?<![\"'])(?:\[\[\s*({NUMBER}){OUT_OF}\s*\]\]{OUT_OF}|\[RESULT\]\s*({NUMBER}){OUT_OF})", re.IGNORECASE
)
NUMBER_ALONE = re.compile(rf"[\s\[(\"']*({NUMBER}){OUT_OF}{CLOSING}", re.IGNORECASE)
NAMED = r"\W*{name}[\"']?\s*(?:is|[:：=-]+)[\s\[(\"']*"
BRACKETED_LIST = re.compile(r"(?<![\"'])\[\[([^\[\]\n]*)\]\]")
OBJECT = re.compile(r"^[ \t]*(\{[^{}]*\})[ \t]*$", re.MULTILINE)  # on lines of its own
BLOCK_QUOTE = re.compile(r"^[ \t]*>.*$", re.MULTILINE)
RANKING_LINE = re.compile(
    r"(?:\W*(?:(?:my|the|final|overall)\W+)*(?:ranking|order|verdict|answer)\s*(?:is|[:：=-]+))?\s*(\S.*)",
    re.IGNORECASE,
)


def cut_off(reply: Reply) -> str:
    """What a reason adds where the reply ended at its length limit, else ""."""
    return " (cut off at its length limit)" if reply.finish_reason == "length" else ""


def two_words(words: tuple[str, str]) -> tuple[str, str]:
    """The words of two choices. Raises ValueError where they are not two."""
    if words[0].strip() == words[1].strip() or not all(word.strip() for word in words):
        raise ValueError("the two choices must be different words")
    return words


def need_third_word(tie: str | None, words: tuple[str, str]) -> None:
    """Raises ValueError where the word for a tie is one of the choices, or none at all."""
    if tie is not None and tie.strip() in ("", *(word.strip() for word in words)):
        raise ValueError(f'"tie" must be another word than the choices, or null (found {tie!r})')


def own_words(text: str) -> str:
    """What a judge says itself: without thoughts between think marks, without what it quotes, without markup.

    A verdict in code marks is quoted where other words stand before it on its line that do not announce a verdict, or
    where it fills a block of code that the reply goes on after.
    """
    body = without_thoughts(text).translate(WIDE)
    if "`" in body:
        body = CODE.sub(_uncoded, CODE_BLOCK.sub(_unblocked, body))
    body = MARKUP.sub("", body)
    return (QUOTED.sub(_unquoted, body) if MAY_QUOTE.search(body) else body).strip()


def without_thoughts(text: str) -> str:
    """``text`` without what stands between think marks, and without the white space around it."""
    return (THOUGHT.sub("", THINK.sub("", text)) if "<" in text or "[" in text else text).strip()


def object_in(text: str, names: Sequence[str]) -> dict[str, Any]:
    """The last JSON object on lines of its own, prose or none around them, that has all of these keys; {} where there is
    none. One in the midst of a sentence may be quoted."""
    for found in reversed(OBJECT.findall(BLOCK_QUOTE.sub("", without_thoughts(text)))):
        try:
            values = json.loads(found)
        except ValueError:
            continue
        if set(names) <= set(values):
            return dict(values)
    return {}


def option_masses(logprobs: Iterable[tuple[str, float]], options: Sequence[str]) -> list[float]:
    """Probability of each option as the next token, summed over token variants ("A", " A", "▁A").

    Case counts: "a" may open a sentence ("a longer reply would …"), and stays outside the option mass.
    """
    masses = [0.0] * len(options)
    for text, logprob in logprobs:
        word = word_of(text)
        for i, option in enumerate(options):
            if word == option.strip():
                masses[i] += math.exp(logprob)
    return masses


def word_of(token: str) -> str:
    """A token's text without the space that may open it, however its tokenizer writes one."""
    return token.replace("▁", " ").replace("Ġ", " ").strip()


def read_choice(text: str, options: Sequence[str], tie: str | None = None) -> int | None:
    """Index of the option a reply settles on; ``len(options)`` for the tie word; None where it does not settle.

    A reply that is a JSON object says it by its key "verdict". Else reasoning between think marks, and what is quoted from
    the replies, are set aside. A verdict in brackets, ``[[A]]``, or after a mark, ``[RESULT] A``, counts before anything else,
    the last one if there are several (models correct themselves); one that was not offered, two in its sentence, or one that
    is taken back ("not [[A]]"), settle nothing. Else a line that is only "Verdict: A" or its like, or a last line that ends
    so, or one below a heading "Verdict", or a JSON object on lines of its own. Else a reply that is nothing but the option.
    Words elsewhere are not verdicts; "the answer is A" is one at the end alone, since the question may have an answer A.
    """
    forms = _forms(tuple(options), tie)
    whole = _whole_object(text)
    if "verdict" in whole:
        return _of_object(forms, whole)
    stated = object_in(text, ("verdict",))
    body = own_words(text)
    if stated:
        body = OBJECT.sub("", body).strip()
    found_any, word = _settled(forms.bracketed, body, lambda match: "".join(filter(None, match.groups())))
    if found_any:
        return None if word is None else _index(forms.words, word)
    lines = [line for line in body.splitlines() if line.strip()]
    found = [match for i, line in enumerate(lines) if (match := _stated(forms, line, i == 0, i == len(lines) - 1))]
    if lines and (match := _ends(forms, lines[-1]) or forms.below.search(body)):
        found.append(match)
    if found:
        return _index(forms.words, next(filter(None, found[-1].groups())))
    if stated:
        return _of_object(forms, stated)
    alone = forms.alone.fullmatch(body)
    return _index(forms.words, alone.group(1)) if alone else None


def _settled(
    pattern: re.Pattern[str], body: str, value_of: Callable[[re.Match[str]], T | None]
) -> tuple[bool, T | None]:
    """Whether a verdict of this form is found that counts, and which: the last, None where it settles nothing. One that is
    only imagined ("would have chosen") is none; one that is denied takes back the same one said before."""
    found = False
    settled: T | None = None
    for sentence in SENTENCE.split(body):
        said: set[T | None] = set()
        denied: set[T | None] = set()
        for match in pattern.finditer(sentence):
            before = sentence[: match.start()]
            if not UNREAL.search(before):
                (denied if NEGATED.search(before) else said).add(value_of(match))
        if said:
            found, settled = True, said.pop() if len(said | denied) == 1 else None
        elif settled in denied:
            settled = None
    return found, settled


def _stated(forms: Forms, line: str, first: bool, last: bool) -> re.Match[str] | None:
    """A line that is only "Verdict: A"."""
    match = forms.line.fullmatch(line)
    if match and OWN_ANSWER.search(match.group()) and not (last or (first and match[2])):
        return None
    return match


def _ends(forms: Forms, line: str) -> re.Match[str] | None:
    """A line that ends with "the better reply is A", unless what stands before it denies it."""
    match = forms.end.search(line)
    return None if match is None or DENIES.search(SENTENCE.split(line[: match.start()])[-1]) else match


def _whole_object(text: str) -> dict[str, Any]:
    """The values of a reply that is a JSON object and nothing else, perhaps in a block of code; {} for any other."""
    body = without_thoughts(text)
    if body.startswith("```"):
        body = body.removeprefix("```").removeprefix("json").removesuffix("```").strip()
    if not body.startswith("{"):
        return {}
    try:
        values = json.loads(body)
    except ValueError:
        return {}
    return dict(values)


def _of_object(forms: Forms, values: dict[str, Any]) -> int | None:
    said = forms.alone.fullmatch(str(values["verdict"]))
    return _index(forms.words, said.group(1)) if said else None


class Forms(NamedTuple):
    """How a verdict between these words may be written."""

    words: tuple[str, ...]
    bracketed: re.Pattern[str]
    line: re.Pattern[str]
    end: re.Pattern[str]
    below: re.Pattern[str]
    alone: re.Pattern[str]


@lru_cache(maxsize=64)
def _forms(options: tuple[str, ...], tie: str | None) -> Forms:
    words = (*options, *([tie] if tie else []))
    longest_first = sorted(words, key=len, reverse=True)
    either = "|".join(re.escape(word) for word in longest_first)
    # after "is" a lower-case letter may be a word of the sentence: "the better reply is a ..."
    exact = "|".join(re.escape(word) if len(word) == 1 else f"(?i:{re.escape(word)})" for word in longest_first)
    stated = (
        rf"\b(?i:{KEYWORD})[\"']?\s*(?:(?i:is){OPENING}({exact})|(?i:is)?\s*[:：=-]+{OPENING}((?i:{either}))){CLOSING}"
    )
    return Forms(
        words,
        re.compile(
            rf"(?<![\"'])(?:\[\[\s*(?:(?i:{NOUN})\s+)?({either}|\w+)\s*\]\]"
            rf"|\[RESULT\]\s*(?:(?i:{NOUN})\s+)?({either}|\w+)(?![\w+#?])"
            rf"|\\boxed\{{\s*(?:\\text\{{)?({either}|\w+)\s*\}})"
        ),
        re.compile(rf"\W*(?:(?i:{LEAD})\W+)*{stated}"),
        re.compile(rf"{stated}$"),
        re.compile(
            rf"^\W*(?:(?i:{LEAD})\W+)*(?i:{KEYWORD})\s*[:：]?\s*\n\s*{OPENING}({either}){CLOSING}\Z", re.MULTILINE
        ),
        re.compile(rf"{OPENING}((?i:{either})){CLOSING}"),
    )


def read_number(text: str, low: float, high: float, called: str = SCORE) -> float | None:
    """The number from ``low`` to ``high`` that a reply settles on, or None.

    As verdicts are read: what stands in brackets, ``[[7]]``, or after ``[RESULT]`` counts first, the last if there are
    several, and two in one sentence settle nothing. Else the last line that is only "Score: 7" or its like, by what the
    number may be ``called``, or a reply that is nothing but the number. "7/10" and "7 out of 10" are read where 10 is the
    highest.
    """
    body = MINUS.sub("-", own_words(text))
    found, number = _settled(BRACKETED_NUMBER, body, lambda match: _bracketed_number(match, low, high))
    if found:
        return number
    form = _stated_number(called)
    stated = [match for line in body.splitlines() if (match := form.fullmatch(line))]
    last = stated[-1] if stated else NUMBER_ALONE.fullmatch(body)
    return _number(last[1], last[2], low, high) if last else None


def read_numbers(text: str, names: Sequence[str], low: float, high: float) -> dict[str, float] | None:
    """The number of every name, from its last line "name: 7" or "name: [[7]]", else from a JSON object; None where one of
    them has none."""
    lines = MINUS.sub("-", own_words(text)).splitlines()
    values = object_in(text, names)
    found: dict[str, float] = {}
    for name in names:
        line = re.compile(rf"{_named(name)}({NUMBER}){OUT_OF}{CLOSING}", re.IGNORECASE)
        matches = [(match[1], match[2]) for each in lines if (match := line.fullmatch(each))]
        if not matches and type(values.get(name)) in (int, float):
            matches = [(str(values[name]), "")]
        value = _number(*matches[-1], low, high) if matches else None
        if value is None:
            return None
        found[name] = value
    return found


def read_words(text: str, names: Sequence[str], words: Sequence[str]) -> dict[str, int] | None:
    """The index of every name's word, from its last line "name: yes", else from a JSON object; None where one of them has
    none."""
    lines = own_words(text).splitlines()
    values = object_in(text, names)
    either = "|".join(re.escape(word) for word in words)
    found: dict[str, int] = {}
    for name in names:
        line = re.compile(rf"{_named(name)}({either}){CLOSING}", re.IGNORECASE)
        matches = [match[1] for each in lines if (match := line.fullmatch(each))]
        said = matches[-1] if matches else values.get(name)
        places = [i for i, word in enumerate(words) if isinstance(said, str) and word.lower() == said.lower()]
        if not places:
            return None
        found[name] = places[0]
    return found


def read_ranking(text: str, labels: Sequence[str], *, ties: bool) -> tuple[tuple[int, ...], ...] | None:
    """The ranking of all labels that a reply settles on, as places in groups, best first; None where it does not.

    ``[[B > A = C]]`` counts first, the last if there are several and they are in different sentences; else a JSON list
    under "ranking", of labels or of groups of labels; else the last line that is nothing but a ranking. One that leaves a
    label out, names it twice, names another, or ties where ties are not offered settles nothing.
    """
    ranking = _settled_ranking(text, labels)
    return ranking if ranking and (ties or all(len(group) == 1 for group in ranking)) else None


def _settled_ranking(text: str, labels: Sequence[str]) -> tuple[tuple[int, ...], ...] | None:
    body = own_words(text)
    found, ranking = _settled(BRACKETED_LIST, body, lambda match: _ranked(match[1], labels))
    if found:
        return ranking
    if listed := object_in(text, ("ranking",)):
        return _listed(listed["ranking"], labels)
    lines = [_ranked(match[1], labels) for line in body.splitlines() if (match := RANKING_LINE.fullmatch(line))]
    return next((each for each in reversed(lines) if each), None)


@lru_cache(maxsize=16)
def _stated_number(called: str) -> re.Pattern[str]:
    return re.compile(
        rf"\W*(?:(?:{LEAD})\W+)*\b{called}[\"']?\s*(?:is|[:：=-]+)[\s\[(\"']*({NUMBER}){OUT_OF}{CLOSING}", re.IGNORECASE
    )


def _bracketed_number(match: re.Match[str], low: float, high: float) -> float | None:
    one, top, after, other, over = match.groups()
    return _number(one or other, top or after or over or "", low, high)


def _number(said: str, top: str, low: float, high: float) -> float | None:
    value = float(said.replace(",", "."))
    return value if low <= value <= high and (not top or float(top) == high) else None


def _named(name: str) -> str:
    """How a line about ``name`` begins, however its words are joined."""
    return NAMED.format(name="[ _-]+".join(map(re.escape, re.split(r"[ _-]+", name))))


def _ranked(text: str, labels: Sequence[str]) -> tuple[tuple[int, ...], ...] | None:
    """``B > A = C`` as places; None where it is no ranking of exactly these labels."""
    groups = [re.split(r"\s*[=~＝]\s*", group) for group in re.split(r"\s*[>＞≻]\s*", text.strip(" .[](){}\"'"))]
    return _places(groups, labels)


def _listed(found: Any, labels: Sequence[str]) -> tuple[tuple[int, ...], ...] | None:
    """A list of labels, or of groups of labels, as places; None where it is no ranking of exactly these labels."""
    groups = [group if isinstance(group, list) else [group] for group in found] if isinstance(found, list) else []
    return _places(groups, labels) if all(isinstance(word, str) for group in groups for word in group) else None


def _places(groups: Sequence[Sequence[str]], labels: Sequence[str]) -> tuple[tuple[int, ...], ...] | None:
    names = [[re.sub(rf"(?i)^{NOUN}\s+", "", word.strip(" [](){}\"'")) for word in group] for group in groups]
    if sorted(name for group in names for name in group) != sorted(labels):
        return None
    return tuple(tuple(sorted(labels.index(name) for name in group)) for group in names)


def _uncoded(match: re.Match[str]) -> str:
    """The words of inline code; nothing where they are a verdict that the line before them does not announce."""
    before = match.string[match.string.rfind("\n", 0, match.start()) + 1 : match.start()]
    if not MARKED.search(match[1]) or not re.search(r"\w", before) or ANNOUNCED.search(before):
        return match[1]
    return ""


def _unblocked(match: re.Match[str]) -> str:
    """The words of a block of code that is not the last of a reply; nothing where it is a verdict by itself."""
    is_object = match[1].lower() == "json" or match[2].lstrip().startswith("{")
    return match[2] if is_object or not MARKED.search(match[2]) else ""


def _unquoted(match: re.Match[str]) -> str:
    """Nothing for quoted prose; one quoted word stays, such as the key or the value of a JSON verdict."""
    inside = match.group().strip('"“”„«»「」『』')
    return f'"{inside}"' if re.fullmatch(r"[\[(]*\w+[\])]*", inside) else ""


def _index(words: Sequence[str], found: str) -> int | None:
    exact = [i for i, word in enumerate(words) if word == found]
    loose = [i for i, word in enumerate(words) if word.lower() == found.lower()]
    return (exact or loose)[0] if len(loose) == 1 or exact else None
