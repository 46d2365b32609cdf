"""The page of one segment, and the forms that change it."""

from collections.abc import Mapping
from typing import Final

from segmentd.console.language import Plural, Text

DESCRIPTION: Final = Text("Description", "Описание")
NO_DESCRIPTION: Final = Text("none", "нет")
PERCENT: Final = Text("Percentage", "Процент")
NO_PERCENT: Final = Text("none: only those who are added", "нет: только добавленные")
MADE: Final = Text("Created", "Создан")
USERS: Final = Plural(("user", "users"), ("пользователь", "пользователя", "пользователей"))
DONE: Final[Mapping[str, Text]] = {
    "percent": Text("The percentage was set.", "Процент изменён."),
    "described": Text("The description was changed.", "Описание изменено."),
    "renamed": Text("The segment was renamed.", "Сегмент переименован."),
}

# Counts
COUNTS: Final = Text("Who is in it", "Кто в нём")
COUNT: Final = Text("Count", "Посчитать")
COUNTED: Final = Text("Counted at {at}", "Посчитано {at}")
MEMBERS: Final = Text("Members", "Участники")
ADDED: Final = Text("Added", "Добавлены")
BY_PERCENT: Final = Text("By percentage", "По проценту")
EXCLUDED: Final = Text("Taken out", "Исключены")
REGISTERED: Final = Text("Of all known users", "Из всех известных пользователей")
EXPORT: Final = Text("Export everybody in it (CSV)", "Выгрузить всех участников (CSV)")
IMPORT: Final = Text("Import a list", "Загрузить список")

# The percentage
CHANGE_PERCENT: Final = Text("Change the percentage", "Изменить процент")
NEW_PERCENT: Final = Text("New percentage", "Новый процент")
PERCENT_HINT: Final = Text(
    "From 0 to 100, at most four decimals; empty: no percentage. Nothing is set yet.",
    "От 0 до 100, до четырёх знаков после запятой; пусто — без процента. Пока ничего не меняется.",
)
SLIDER: Final = Text("Percentage, as a slider", "Процент, ползунком")
PREVIEW: Final = Text("Show what it would do", "Показать, что изменится")
WOULD: Final = Text("Percentage: {before} → {after}", "Процент: {before} → {after}")
NONE: Final = Text("none", "нет")
WOULD_ENTER: Final = Text("would get in", "войдут")
WOULD_LEAVE: Final = Text("would get out", "выйдут")
WOULD_STAY: Final = Text("would stay", "останутся")
SAMPLE: Final = Text("Some of them", "Некоторые из них")
SET: Final = Text("Set {percent}", "Установить {percent}")
END_PERCENT: Final = Text("End the percentage", "Убрать процент")
SAME: Final = Text("It has this percentage already.", "Такой процент уже установлен.")
MOVED: Final = Text(
    "Somebody else has changed the percentage meanwhile: you saw {seen}, now it is {now}. "
    "Yours, {wanted}, was not set; below is what it would do now.",
    "Тем временем процент изменил кто-то другой: вы видели {seen}, теперь {now}. "
    "Ваш, {wanted}, не установлен; ниже — что он изменил бы теперь.",
)

# The description
DESCRIBE: Final = Text("Change the description", "Изменить описание")
SAVE: Final = Text("Save", "Сохранить")
DESCRIPTION_MOVED: Final = Text(
    "Somebody else has changed the description meanwhile; above is what it says now. "
    "Yours was not saved and stands in the form: save it again to replace theirs.",
    "Тем временем описание изменил кто-то другой; его текст выше. "
    "Ваш не сохранён и стоит в форме: сохраните ещё раз, чтобы заменить.",
)

# Renaming and deleting
RENAME: Final = Text("Rename", "Переименовать")
NEW_SLUG: Final = Text("New slug", "Новое имя")
RENAME_HINT: Final = Text(
    "Members stay; programs that ask for the old slug find nothing.",
    "Участники остаются; программы, которые спросят прежнее имя, ничего не найдут.",
)
DELETE: Final = Text("Delete", "Удалить")
DELETE_HINT: Final = Text(
    "Every membership in it ends at once; its history stays. This cannot be undone.",
    "Все участники сразу выйдут; история останется. Отменить это нельзя.",
)
TYPE_SLUG: Final = Text("Type the slug of the segment", "Введите имя сегмента")
DELETE_BUTTON: Final = Text("Delete the segment", "Удалить сегмент")

# The members
MEMBERS_LIST: Final = Text("Members by id", "Участники по номеру")
NO_MEMBERS: Final = Text(
    "Nobody known is in it. Give it a percentage, import a list, or add a user on the user's page.",
    "Из известных пользователей в нём нет никого. "
    "Задайте процент, загрузите список или добавьте пользователя на его странице.",
)
NONE_ON_PAGE: Final = Text(
    "No members among the ids looked at; go on.", "Среди этих номеров никого; смотрите дальше."
)
FIRST_MEMBERS: Final = Text("From the beginning", "С начала")

# The chart
CHART: Final = Text("Size over the last 90 days", "Размер за последние 90 дней")
SHOW_CHART: Final = Text("Draw", "Показать")
CHART_LABEL: Final = Text(
    "Size of {slug} over time: from {first} to {last}", "Размер {slug}: с {first} до {last}"
)
CHART_AS_TABLE: Final = Text("The chart as a table", "График таблицей")
WHEN: Final = Text("When", "Когда")
