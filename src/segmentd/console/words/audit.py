"""The audit log."""

from collections.abc import Mapping
from typing import Final

from segmentd.console.language import Text
from segmentd.domain.audit import AuditOperation

TITLE: Final = Text("Audit log", "Журнал аудита")
NONE_YET: Final = Text(
    "Nothing yet. Changes of segments and tokens, imports and erasures will stand here.",
    "Пока пусто. Здесь будут изменения сегментов и токенов, импорт и стирания.",
)
WHEN: Final = Text("When", "Когда")
WHO: Final = Text("Who", "Кто")
WHAT: Final = Text("What", "Что")
SUBJECT: Final = Text("Of what", "С чем")
BEFORE: Final = Text("Before", "До")
AFTER: Final = Text("After", "После")
OPERATIONS: Final[Mapping[AuditOperation, Text]] = {
    AuditOperation.SEGMENT_CREATED: Text("segment created", "сегмент создан"),
    AuditOperation.SEGMENT_CHANGED: Text("segment changed", "сегмент изменён"),
    AuditOperation.SEGMENT_DELETED: Text("segment deleted", "сегмент удалён"),
    AuditOperation.TOKEN_CREATED: Text("token created", "токен создан"),
    AuditOperation.TOKEN_REVOKED: Text("token revoked", "токен отозван"),
    AuditOperation.USER_ERASED: Text("user erased", "пользователь стёрт"),
    AuditOperation.IMPORT_STARTED: Text("import began", "импорт начат"),
    AuditOperation.IMPORT_ENDED: Text("import ended", "импорт закончен"),
    AuditOperation.SIGNING_KEY_REPLACED: Text("signing key replaced", "ключ подписи заменён"),
}
