"""What happened and what happens: the feed."""

from collections.abc import Mapping
from typing import Final

from segmentd.console.language import Text
from segmentd.domain.feed import SegmentOperation

TITLE: Final = Text("Activity", "События")
ABOUT: Final = Text(
    "The latest changes of users and segments, the newest first. New ones appear as they come.",
    "Последние изменения пользователей и сегментов, сначала новые. Новые появляются по мере поступления.",
)
NONE_YET: Final = Text(
    "Nothing has changed yet. Create a segment and add a user to it.",
    "Изменений пока нет. Создайте сегмент и добавьте в него пользователя.",
)
NEWER: Final = Text("Look for newer ones", "Посмотреть новые")
NEWEST: Final = Text("Back to the newest", "К самым новым")
LONG: Final = Text("The page has become long; begin again.", "Страница стала длинной; начните заново.")
USER: Final = Text("User {user}", "Пользователь {user}")
SEGMENT_OPERATIONS: Final[Mapping[SegmentOperation, Text]] = {
    SegmentOperation.CREATED: Text("segment created", "сегмент создан"),
    SegmentOperation.RENAMED: Text("renamed, before it was {before}", "переименован, раньше {before}"),
    SegmentOperation.PERCENT: Text("percentage {before} → {after}", "процент {before} → {after}"),
    SegmentOperation.DELETED: Text("segment deleted", "сегмент удалён"),
}
