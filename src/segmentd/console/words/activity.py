"""What happens now: the feed."""

from collections.abc import Mapping
from typing import Final

from segmentd.console.language import Text
from segmentd.domain.feed import SegmentOperation

TITLE: Final = Text("Activity", "События")
ABOUT: Final = Text(
    "Changes of users and segments appear here as they come, the newest first. "
    "What was before is in the history of a user.",
    "Изменения пользователей и сегментов появляются здесь по мере поступления, сначала новые. "
    "Что было раньше, показывает история пользователя.",
)
NOTHING_NEW: Final = Text("Nothing new yet.", "Пока ничего нового.")
NEWER: Final = Text("Look for newer ones", "Посмотреть новые")
LONG: Final = Text("The page has become long; begin again.", "Страница стала длинной; начните заново.")
USER: Final = Text("User {user}", "Пользователь {user}")
SEGMENT_OPERATIONS: Final[Mapping[SegmentOperation, Text]] = {
    SegmentOperation.CREATED: Text("segment created", "сегмент создан"),
    SegmentOperation.RENAMED: Text("renamed, before it was {before}", "переименован, раньше {before}"),
    SegmentOperation.PERCENT: Text("percentage {before} → {after}", "процент {before} → {after}"),
    SegmentOperation.DELETED: Text("segment deleted", "сегмент удалён"),
}
