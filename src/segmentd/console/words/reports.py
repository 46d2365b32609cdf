"""Reports: the order, its progress, and the link."""

from collections.abc import Mapping
from typing import Final

from segmentd.console.language import Text
from segmentd.domain.reports import Status

TITLE: Final = Text("Reports", "Отчёты")
ORDER_ONE: Final = Text("Order a report", "Заказать отчёт")
ABOUT: Final = Text(
    "A file of every time that a user got into a segment or out of it in a month.",
    "Файл со всеми входами пользователей в сегменты и выходами из них за месяц.",
)
MONTH: Final = Text("Month", "Месяц")
MONTH_HINT: Final = Text("In UTC, such as 2026-11.", "По UTC, например 2026-11.")
USER: Final = Text("User id", "Номер пользователя")
USER_HINT: Final = Text("Empty: all users.", "Пусто — все пользователи.")
SEGMENT: Final = Text("Segment", "Сегмент")
SEGMENT_HINT: Final = Text("Empty: all segments.", "Пусто — все сегменты.")
HEADER: Final = Text("With a first line that names the columns", "С первой строкой с именами столбцов")
ORDER: Final = Text("Order", "Заказать")

# All reports
NONE_YET: Final = Text(
    "No report has been ordered yet. Order one below.", "Отчётов пока нет. Закажите первый ниже."
)
NONE_YET_TO_READ: Final = Text(
    "No report has been ordered yet. Who has the role editor can order one.",
    "Отчётов пока нет. Заказать отчёт может тот, у кого роль editor.",
)
ORDERED: Final = Text("Ordered", "Заказан")
ORDERED_BY: Final = Text("By", "Кем")
ABOUT_WHAT: Final = Text("About", "О чём")
ABOUT_USER: Final = Text("user {user}", "пользователь {user}")
ABOUT_ALL: Final = Text("all users and segments", "все пользователи и сегменты")
FILE: Final = Text("File", "Файл")
EXPIRED: Final = Text("expired", "истёк")

# One report
TITLE_OF_ONE: Final = Text("Report {id}", "Отчёт {id}")
STATUS: Final = Text("Status", "Состояние")
STATUSES: Final[Mapping[Status, Text]] = {
    Status.PENDING: Text("waiting to be made", "ждёт очереди"),
    Status.RUNNING: Text("being made", "строится"),
    Status.DONE: Text("done", "готов"),
    Status.FAILED: Text("failed", "не удался"),
}
PERIOD: Final = Text("Period", "Период")
FROM_TO: Final = Text("from {begin} to before {end}", "с {begin} до {end}")
ROWS: Final = Text("Rows", "Строк")
AS_OF: Final = Text("As of", "По состоянию на")
EXPIRES: Final = Text("The link works until", "Ссылка действует до")
OPEN: Final = Text("Open the file", "Открыть файл")
SHARE: Final = Text(
    "With this link anybody can open the file, without logging in:",
    "По этой ссылке файл откроет любой, без входа:",
)
ALL: Final = Text("All reports", "Все отчёты")
