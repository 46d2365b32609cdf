"""The list of segments."""

from collections.abc import Mapping
from typing import Final

from segmentd.console.language import Plural, Text

TITLE: Final = Text("Segments", "Сегменты")
FILTER: Final = Text("A part of the slug", "Часть имени")
FIND: Final = Text("Find", "Найти")
ALL: Final = Text("All segments", "Все сегменты")
NONE_YET: Final = Text(
    "There are no segments yet. Create the first one below; then add users, or give it a percentage.",
    "Сегментов пока нет. Создайте первый ниже; затем добавьте пользователей или задайте процент.",
)
NONE_YET_TO_READ: Final = Text(
    "There are no segments yet. Who has the role editor can create one.",
    "Сегментов пока нет. Создать сегмент может тот, у кого роль editor.",
)
NONE_FOUND: Final = Text(
    "No segment has “{part}” in its slug.", "Нет сегмента, в имени которого есть «{part}»."
)
SLUG: Final = Text("Slug", "Имя")
DESCRIPTION: Final = Text("Description", "Описание")
PERCENT: Final = Text("Percentage", "Процент")
SIZE: Final = Text("Size", "Размер")
SHOW_SIZE: Final = Text("count", "посчитать")
SIZE_TITLE: Final = Text("Size of {slug}", "Размер {slug}")
MADE: Final = Text("Created", "Создан")
USERS: Final = Plural(("user", "users"), ("пользователь", "пользователя", "пользователей"))
CREATE: Final = Text("Create a segment", "Создать сегмент")
CREATE_BUTTON: Final = Text("Create", "Создать")
SLUG_HINT: Final = Text(
    "Letters, digits and . _ -, beginning with a letter or a digit; 128 characters at most.",
    "Латинские буквы, цифры и . _ -, первой — буква или цифра; до 128 символов.",
)
PERCENT_HINT: Final = Text(
    "How many of all users are in it; empty: only those who are added.",
    "Какая доля всех пользователей в нём; пусто — только добавленные.",
)
DONE: Final[Mapping[str, Text]] = {
    "made": Text("The segment was created.", "Сегмент создан."),
    "deleted": Text("The segment was deleted.", "Сегмент удалён."),
}
