"""Imports: the list, one of them, and the form that brings a list."""

from collections.abc import Mapping
from typing import Final

from segmentd.console.language import Text
from segmentd.console.words.user import FOR_GOOD
from segmentd.domain.imports import ImportOperation, Outcome, Status

TITLE: Final = Text("Imports", "Импорт")
NONE_YET: Final = Text(
    "No list has been brought yet. Bring the first one below: a file with a user id in each line is enough.",
    "Списков ещё не загружали. Загрузите первый ниже: "
    "достаточно файла с номером пользователя в каждой строке.",
)
NONE_YET_TO_READ: Final = Text(
    "No list has been brought yet. Who has the role editor can bring one.",
    "Списков ещё не загружали. Загрузить список может тот, у кого роль editor.",
)
BEGUN: Final = Text("Begun", "Начат")
STATUS: Final = Text("Status", "Состояние")
OPERATION: Final = Text("Operation", "Действие")
SEGMENT: Final = Text("Segment", "Сегмент")
ROWS: Final = Text("Rows", "Строк")
BAD_ROWS: Final = Text("Bad rows", "Плохие строки")
STATUSES: Final[Mapping[Status, Text]] = {
    Status.RECEIVING: Text("receiving", "принимается"),
    Status.CHECKING: Text("checking", "проверяется"),
    Status.APPLYING: Text("applying", "применяется"),
    Status.DONE: Text("done", "готово"),
    Status.FAILED: Text("failed", "не удалось"),
    Status.CANCELED: Text("canceled", "отменён"),
}
OPERATIONS: Final[Mapping[ImportOperation, Text]] = {
    ImportOperation.ADD: Text("add", "добавить"),
    ImportOperation.REMOVE: Text("remove", "удалить"),
    ImportOperation.REPLACE: Text("replace the members", "заменить участников"),
}
OUTCOMES: Final[Mapping[Outcome, Text]] = {
    Outcome.ADDED: Text("would get in", "войдёт"),
    Outcome.REMOVED: Text("would get out", "выйдет"),
    Outcome.UPDATED: Text("only the stored decision changes", "изменится только решение"),
}

# One import
TITLE_OF_ONE: Final = Text("Import {id}", "Импорт {id}")
DRY_RUN: Final = Text("dry run: nothing is changed", "пробный: ничего не меняется")
PROGRESS: Final = Text("{done} of {all} users", "{done} из {all} пользователей")
USERS: Final = Text("Users", "Пользователей")
ADDED: Final = Text("Got in", "Вошли")
REMOVED: Final = Text("Got out", "Вышли")
UPDATED: Final = Text("Only the decision changed", "Изменилось только решение")
UNCHANGED: Final = Text("Unchanged", "Без изменений")
REASON: Final = Text("Reason", "Причина")
ENDED: Final = Text("Ended", "Закончен")
LINE: Final = Text("Line", "Строка")
WRONG: Final = Text("What is wrong", "Что не так")
TEXT: Final = Text("Text", "Текст")
ALL_BAD_ROWS: Final = Text("All bad rows, as lines of JSON", "Все плохие строки, по строке JSON")
SAMPLE: Final = Text("What it would change, the first of it", "Что изменится, начало")
USER: Final = Text("User", "Пользователь")
OUTCOME: Final = Text("What happens", "Что произойдёт")
CANCEL: Final = Text("Cancel the import", "Отменить импорт")
CANCEL_HINT: Final = Text("What was applied stays.", "Уже применённое останется.")
DONE: Final[Mapping[str, Text]] = {"canceled": Text("The import was canceled.", "Импорт отменён.")}

# The form
BRING: Final = Text("Bring a list", "Загрузить список")
BRING_BUTTON: Final = Text("Send", "Отправить")
OPERATION_HINT: Final = Text(
    "Of rows that name none. Replacing takes all others out of the segment.",
    "Для строк без действия. Замена убирает из сегмента всех остальных.",
)
SEGMENT_HINT: Final = Text("Of rows that name none.", "Для строк, где сегмент не указан.")
TERM: Final = Text("Term", "Срок")
TERMS: Final[Mapping[str, Text]] = {
    "": FOR_GOOD,
    "86400": Text("1 day", "1 день"),
    "604800": Text("7 days", "7 дней"),
    "2592000": Text("30 days", "30 дней"),
}
DRY_RUN_FIELD: Final = Text("Only show what it would change", "Только показать, что изменится")
SKIP_FIELD: Final = Text(
    "Apply the good rows if others are bad", "Применить хорошие строки, даже если есть плохие"
)
FILE: Final = Text("File", "Файл")
FILE_HINT: Final = Text(
    "CSV with a user id in each line, or user id;segment;add or remove, or with named columns; "
    ".ndjson for JSON lines; .gz for either.",
    "CSV с номером пользователя в каждой строке, или номер;сегмент;add или remove, или с именами столбцов; "
    ".ndjson — строки JSON; .gz — сжатые.",
)
