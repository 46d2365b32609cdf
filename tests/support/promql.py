"""The part of PromQL that shows which metrics and labels an expression uses."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

_STRING: Final = r'"(?:[^"\\]|\\.)*"'
_SELECTOR: Final = re.compile(rf"\b([a-z]\w*)\s*\{{((?:[^\"}}]|{_STRING})*)\}}")
_MATCHER: Final = re.compile(rf"(\w+)\s*(=~|!~|!=|=)\s*({_STRING})")
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^()]*)\)")
_RANGE: Final = re.compile(r"\[(?:\d+[smhd]|\$__rate_interval)\]")
_WORD: Final = re.compile(r"\b[A-Za-z_]\w*")

WORDS: Final = {
    *("absent", "by", "count", "histogram_quantile", "increase", "max", "min"),
    *("offset", "on", "or", "rate", "sum", "unless", "vector"),
}
"""The functions and operators that the expressions use."""


class Matcher(NamedTuple):
    """A selector's condition on one label."""

    label: str
    operator: str
    value: str


class Expression:
    """One expression, taken apart."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.selectors: list[tuple[str, list[Matcher]]] = [
            (name, [Matcher(label, sign, value[1:-1]) for label, sign, value in _MATCHER.findall(matchers)])
            for name, matchers in _SELECTOR.findall(text)
        ]
        plain = _SELECTOR.sub(lambda found: found[1], text)
        self.grouped_by = {
            label.strip() for labels in _GROUPING.findall(plain) for label in labels.split(",")
        }
        plain = re.sub(r"\boffset \d+[smhd]", "offset", _RANGE.sub("", _GROUPING.sub("on", plain)))
        self.metrics = {word for word in _WORD.findall(plain) if word not in WORDS}

    def is_balanced(self) -> bool:
        """Whether every bracket is closed by its like."""
        open_brackets: list[str] = []
        pairs: Mapping[str, str] = {")": "(", "]": "[", "}": "{"}
        for sign in re.sub(_STRING, "", self.text):
            if sign in "([{":
                open_brackets.append(sign)
            elif sign in pairs and (not open_brackets or open_brackets.pop() != pairs[sign]):
                return False
        return not open_brackets
