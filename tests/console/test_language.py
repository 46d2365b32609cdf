"""The language of a reader, and texts in it."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import segmentd.console.words
from segmentd.console.language import Language, Plural, Text, wanted
from tests.support.console import ConsoleApp


def texts(value: object) -> Iterator[Text]:
    if isinstance(value, Text):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from texts(each)


def all_texts() -> list[tuple[str, Text]]:
    modules = [
        importlib.import_module(f"segmentd.console.words.{found.name}")
        for found in pkgutil.iter_modules(segmentd.console.words.__path__)
    ]
    return [
        (f"{module.__name__}.{name}", text)
        for module in modules
        for name, value in vars(module).items()
        for text in texts(value)
    ]


def test_every_text_has_the_same_places_in_both_languages_and_is_translated() -> None:
    found = all_texts()
    assert len(found) > 50
    for name, text in found:
        places = [sorted(re.findall(r"\{(\w*)\}", written)) for written in text]
        assert places[0] == places[1], name
        assert "" not in places[0], name
        assert all(written.strip() for written in text), name
        assert not re.search(r"[\u0400-\u04ff]", text.en), name


@pytest.mark.parametrize(
    ("chosen", "accepted", "language"),
    [
        (None, "", "en"),
        (None, "de-DE,de;q=0.9", "en"),
        (None, "ru-RU,ru;q=0.9,en;q=0.8", "ru"),
        (None, "en;q=0.5, ru;q=0.7", "ru"),
        (None, "ru;q=0, en;q=0.1", "en"),
        (None, "ru;q=x", "en"),
        (None, ",;=,ru", "ru"),
        ("ru", "en", "ru"),
        ("en", "ru", "en"),
        ("xx", "ru", "ru"),
    ],
)
def test_the_choice_counts_first_and_then_what_the_browser_prefers(
    chosen: str | None, accepted: str, language: str
) -> None:
    assert wanted(chosen, accepted) == language


def test_numbers_have_the_form_of_their_noun() -> None:
    days = Plural(("day", "days"), ("день", "дня", "дней"))
    russian = [days.form(number, Language.RUSSIAN) for number in (1, 2, 5, 11, 12, 21, 22, 25, 101, 111, 0)]
    assert " ".join(russian) == "день дня дней дней дней день дня дней день дней дней"
    assert [Language.ENGLISH.counted(number, days) for number in (0, 1, 2000)] == [
        "0 days",
        "1 day",
        "2,000 days",
    ]


async def test_a_reader_can_switch_the_language_and_comes_back_to_the_page(open_console: ConsoleApp) -> None:
    browser = open_console.browser(Accept_Language="ru")
    page = await browser.get("/segments?q=A")
    assert (page.all("html")[0].attributes["lang"], page.texts("h1")) == ("ru", ["Сегменты"])
    form_token = page.all("input", name="form_token")[0].attributes["value"]

    switched = await browser.send("/language", form_token=form_token, language="en", back="/segments?q=A")

    assert (switched.all("html")[0].attributes["lang"], switched.texts("h1")) == ("en", ["Segments"])
    assert str(switched.answer.url).endswith("/console/segments?q=A")
    assert (await browser.send("/language", form_token=form_token, language="xx")).status == 422
