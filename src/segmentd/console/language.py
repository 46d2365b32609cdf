"""The languages of the console: a text in each of them, and which one a reader wants."""

import enum
from typing import Final, NamedTuple


class Language(enum.StrEnum):
    """The languages that every text is in."""

    ENGLISH = "en"
    RUSSIAN = "ru"

    def say(self, text: "Text", **values: object) -> str:
        """The text in this language, with values in its places `{name}`."""
        return self.raw(text).format(**values)

    def raw(self, text: "Text") -> str:
        """The text in this language, its places empty."""
        return text.ru if self is Language.RUSSIAN else text.en

    def counted(self, number: int, plural: "Plural") -> str:
        """A number with the form of the noun that goes with it: 1 user, 2 users."""
        return f"{self.number(number)} {plural.form(number, self)}"

    def number(self, number: int) -> str:
        """A number with thin spaces between thousands, or commas in English."""
        written = f"{number:,}"
        return written.replace(",", "\u202f") if self is Language.RUSSIAN else written


class Text(NamedTuple):
    """What the console says, in each language; the same places for values in all of them."""

    en: str
    ru: str


class Plural(NamedTuple):
    """A noun in the forms that go with numbers: English has one and many, Russian one, few and many."""

    en: tuple[str, str]
    ru: tuple[str, str, str]

    def form(self, number: int, language: Language) -> str:
        """The form that goes with this number."""
        if language is Language.ENGLISH:
            return self.en[number != 1]
        last, teen = number % 10, number % 100 in range(11, 15)
        if last == 1 and not teen:
            return self.ru[0]
        return self.ru[1] if last in range(2, 5) and not teen else self.ru[2]


COOKIE: Final = "segmentd_language"


def wanted(chosen: str | None, accept_language: str) -> Language:
    """The language that the reader chose, else the one that the browser prefers, else English."""
    if chosen is not None and chosen in set(Language):
        return Language(chosen)
    best, weight_of_best = Language.ENGLISH, 0.0
    for part in accept_language.lower().split(","):
        tag, _, parameter = part.strip().partition(";")
        primary = tag.partition("-")[0].strip()
        weight = _weight(parameter)
        if primary in set(Language) and weight > weight_of_best:
            best, weight_of_best = Language(primary), weight
    return best


def _weight(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
