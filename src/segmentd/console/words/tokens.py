"""Tokens: the list, and the form that makes one."""

from collections.abc import Mapping
from typing import Final

from segmentd.console.language import Text
from segmentd.domain.access import Role

TITLE: Final = Text("Tokens", "Токены")
NONE_YET: Final = Text(
    "There are no tokens. Everybody may do everything until the first one is made on the command line: "
    "segmentd token create. From then on everybody needs one.",
    "Токенов нет. Всем можно всё, пока первый не создан командой segmentd token create. "
    "После этого токен нужен каждому.",
)
NONE_YET_CLOSED: Final = Text("There are no tokens yet; make one below.", "Токенов пока нет; создайте ниже.")
NAME: Final = Text("Name", "Имя")
NAME_HINT: Final = Text(
    "History shows it: the name of a program or a team, up to 128 visible ASCII characters.",
    "Его показывает история: имя программы или команды, до 128 видимых символов ASCII.",
)
ROLE: Final = Text("Role", "Роль")
ROLES: Final[Mapping[Role, Text]] = {
    Role.READER: Text("reader: reads everything", "reader: читает всё"),
    Role.EDITOR: Text(
        "editor: also changes users and segments, orders reports",
        "editor: также меняет пользователей и сегменты, заказывает отчёты",
    ),
    Role.ADMIN: Text(
        "admin: also erases users, reads the audit log, makes tokens",
        "admin: также стирает пользователей, читает журнал, создаёт токены",
    ),
}
TERM: Final = Text("Valid for", "Действует")
TERMS: Final[Mapping[str, Text]] = {
    "30": Text("30 days", "30 дней"),
    "90": Text("90 days", "90 дней"),
    "365": Text("a year", "год"),
    "": Text("until it is revoked", "пока не отозван"),
}
MADE: Final = Text("Made", "Создан")
ENDS: Final = Text("Ends", "До")
LAST_USED: Final = Text("Last used", "Использован")
STATE: Final = Text("State", "Состояние")
IN_FORCE: Final = Text("in force", "действует")
EXPIRED: Final = Text("expired", "истёк")
REVOKED: Final = Text("revoked {at}", "отозван {at}")
REVOKE: Final = Text("Revoke", "Отозвать")
CREATE: Final = Text("Make a token", "Создать токен")
CREATE_BUTTON: Final = Text("Make", "Создать")
SHOWN_ONCE: Final = Text(
    "The token {name}. It is shown only now; keep it where secrets are kept:",
    "Токен {name}. Он показан только сейчас; сохраните его там, где хранят секреты:",
)
DONE: Final[Mapping[str, Text]] = {
    "revoked": Text(
        "The token was revoked: every node refuses it.", "Токен отозван: его не примет ни один узел."
    )
}
