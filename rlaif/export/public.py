"""What is fit to be read elsewhere: no place of this machine, no key."""

from __future__ import annotations

import re
from typing import Any

LEFT_OUT = "(left out)"
SECRET = re.compile(
    r"(^|[_-])(api[_-]?key|key|token|secret|password|passphrase|authorization|credentials?)$", re.IGNORECASE
)
KEY = re.compile(r"\b(?:sk|pk|hf|gsk|xai|ghp)[-_][\w*-]{8,}|(?<=Bearer )[^\s'\"]+")
USERINFO = re.compile(r"(?<=://)[^/\s@]+@")
QUERY = re.compile(r"(?<=[?&])([\w-]*(?:key|token|sig|signature|secret))=[^&\s]+", re.IGNORECASE)
PART = r"[^\s/:'\"`,;()<>|]+"
PATH = re.compile(rf"(?:(?<=hub:)|(?<=file://)|(?<![\w:/.~-]))(?:~|~?(?:/{PART})+)/({PART})")
WHOLE_PATH = re.compile(r"(?:~/|[A-Za-z]:\\|/[^/\n]+/)[^\n]*")


def public_text(text: str) -> str:
    """Text without keys, and of every absolute path of two or more names the last name alone."""
    for pattern, to in ((KEY, LEFT_OUT), (USERINFO, ""), (QUERY, rf"\1={LEFT_OUT}"), (PATH, r"\1")):
        text = pattern.sub(to, text)
    return text


def public_name(name: str) -> str:
    """A setting's value: one that is a path from the root as a whole, spaces and all, is its last name."""
    if WHOLE_PATH.fullmatch(name):
        return re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return public_text(name)


def public(value: Any) -> Any:
    """A value as JSON or YAML gives it with every text in it public; what stands under a secret's name is left out."""
    if isinstance(value, dict):
        return {name: _item(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    return public_name(value) if isinstance(value, str) else value


def _item(name: str, item: Any) -> Any:
    return LEFT_OUT if SECRET.search(name) and isinstance(item, str) else public(item)
