"""What stands on every page."""

from typing import Final

from segmentd.console.language import Text

SKIP: Final = Text("To the content", "К содержанию")
NAVIGATION: Final = Text("Pages", "Страницы")
SEARCH: Final = Text("Search", "Поиск")
SEGMENTS: Final = Text("Segments", "Сегменты")
IMPORTS: Final = Text("Imports", "Импорт")
REPORTS: Final = Text("Reports", "Отчёты")
ACTIVITY: Final = Text("Activity", "События")
AUDIT: Final = Text("Audit", "Журнал")
TOKENS: Final = Text("Tokens", "Токены")
REFRESH: Final = Text("Refresh", "Обновить")
SEARCH_FOR: Final = Text("User id or slug", "Номер пользователя или имя сегмента")
OPEN: Final = Text("no log-in needed", "вход не нужен")
LOG_OUT: Final = Text("Log out", "Выйти")
LANGUAGE: Final = Text("Language", "Язык")
NEVER: Final = Text("–", "–")
PAGES: Final = Text("More pages", "Другие страницы")
NEXT_PAGE: Final = Text("Next page", "Следующая страница")
BACK: Final = Text("Back to the search", "Назад к поиску")

# Refusals
REFUSED: Final = Text("This did not work", "Не получилось")
NOT_HERE: Final = Text("There is nothing here", "Здесь ничего нет")
FORBIDDEN: Final = Text("You may not do that", "У вас нет прав на это")
AWAY: Final = Text("Not available at the moment", "Сейчас недоступно")
TRY_AGAIN: Final = Text("Try again", "Повторить")
REQUEST: Final = Text("Request {id}", "Запрос {id}")
