"""What is said to those who log in."""

from typing import Final

from segmentd.console.language import Text

LOG_IN: Final = Text("Log in", "Вход")
TOKEN: Final = Text("Token", "Токен")
TOKEN_HINT: Final = Text(
    "An API token or a JWT. The session ends with it, after 7 days at the latest.",
    "Токен API или JWT. Сеанс закончится вместе с ним, самое позднее через 7 дней.",
)
PERSON: Final = Text("Your name", "Ваше имя")
PERSON_HINT: Final = Text(
    "History shows it beside the name of the token. It may be left out.",
    "История покажет его рядом с именем токена. Можно не указывать.",
)
SUBMIT: Final = Text("Log in", "Войти")
GO_ON: Final = Text("Go on to the page", "Перейти к странице")
ENDED: Final = Text("Your session has ended; log in again.", "Сеанс закончился; войдите снова.")
