"""A user's page, and the search that leads to it."""

from collections.abc import Mapping
from typing import Final

from segmentd.console.language import Plural, Text
from segmentd.domain.memberships import Because, Cause, Operation, Source

# The search

TITLE_OF_SEARCH: Final = Text("Who is in what, and why", "Кто в каких сегментах и почему")
HOW_TO_SEARCH: Final = Text(
    "Type the id of a user, or a part of a segment's slug. The key / leads to the search from every page.",
    "Введите номер пользователя или часть имени сегмента. Клавиша / ведёт к поиску с любой страницы.",
)
FIND: Final = Text("Find", "Найти")
NOTHING_YET: Final = Text(
    "There are no segments yet. First create one: ", "Сегментов пока нет. Сначала создайте сегмент: "
)

# The page

USER: Final = Text("User {id}", "Пользователь {id}")
NAMED: Final = Text("Name: {name}. Known since {since}.", "Имя: {name}. Известен с {since}.")
KNOWN: Final = Text("Known since {since}.", "Известен с {since}.")
UNKNOWN: Final = Text(
    "This service has not heard of the user yet, so only percentages decide. "
    "The first segment that is added registers the user.",
    "Сервис пока не знает этого пользователя, поэтому решают только проценты. "
    "Первый добавленный сегмент зарегистрирует его.",
)
SEGMENTS: Final = Text("Segments", "Сегменты")
SEGMENTS_AT: Final = Text("Segments at {at}", "Сегменты на момент {at}")
SEGMENTS_COUNT: Final = Plural(("segment", "segments"), ("сегмент", "сегмента", "сегментов"))
NO_SEGMENTS: Final = Text(
    "The user is in no segment. Add one below, or see in the history what there was.",
    "Пользователь не состоит ни в одном сегменте. Добавьте его ниже или посмотрите историю.",
)
NO_SEGMENTS_THEN: Final = Text(
    "The user was in no segment then.", "Тогда пользователь не состоял ни в одном сегменте."
)
SEGMENT: Final = Text("Segment", "Сегмент")
SOURCE: Final = Text("Source", "Источник")
SINCE: Final = Text("Since", "С")
UNTIL: Final = Text("Until", "До")
WHY: Final = Text("Why", "Почему")
CHANGE: Final = Text("Change", "Изменить")
FOR_GOOD: Final = Text("for good", "бессрочно")

SOURCES: Final[Mapping[Source, Text]] = {
    Source.EXPLICIT: Text("added", "добавлен"),
    Source.ROLLOUT: Text("percentage", "процент"),
}

# Why. The numbers stand where the rule needs them.
ADDED_FOR_GOOD: Final = Text(
    "Added for good; no percentage takes the user out.",
    "Добавлен бессрочно; никакой процент не исключит пользователя.",
)
ADDED_UNTIL: Final = Text(
    "Added until {until}; then the percentage decides, or the user is out.",
    "Добавлен до {until}; затем решает процент, или пользователь выходит.",
)
COVERED: Final = Text(
    "The percentage of {percent} % covers the buckets below {threshold}, and this user's bucket is {bucket}.",
    "Процент {percent} % охватывает корзины ниже {threshold}, а корзина этого пользователя — {bucket}.",
)
EXCLUDED: Final = Text(
    "Taken out by request. That outweighs every percentage (now {percent}) until the user is added again.",
    "Исключён по запросу. Это сильнее любого процента (сейчас {percent}), пока его не добавят снова.",
)
NOT_COVERED: Final = Text(
    "The percentage of {percent} % covers the buckets below {threshold}, but this user's bucket is {bucket}.",
    "Процент {percent} % охватывает корзины ниже {threshold}, но корзина этого пользователя — {bucket}.",
)
COVERED_NO_LONGER: Final = Text(
    "The percentage that covered the user ended at {since}.",
    "Процент, который охватывал пользователя, закончился {since}.",
)
EXPIRED: Final = Text("The term ended at {since}.", "Срок закончился {since}.")
REMOVED: Final = Text("Removed by request at {since}.", "Удалён по запросу {since}.")
NEVER_ADDED: Final = Text(
    "Nobody ever added the user, and the segment has no percentage.",
    "Пользователя никто не добавлял, и у сегмента нет процента.",
)
NO_PERCENTAGE: Final = Text("none", "нет")

# Asking about one segment
ASK: Final = Text("Why (not) in a segment?", "Почему (не) в сегменте?")
ASK_BUTTON: Final = Text("Explain", "Объяснить")
IS_IN: Final = Text("In {slug}.", "В сегменте {slug}.")
IS_OUT: Final = Text("Not in {slug}.", "Не в сегменте {slug}.")

# As it was
AT: Final = Text("As it was at (UTC)", "Как было на момент (UTC)")
SHOW: Final = Text("Show", "Показать")
NOW: Final = Text("Back to now", "Вернуться к настоящему")

# The change
ADD: Final = Text("Add to a segment", "Добавить в сегмент")
ADD_BUTTON: Final = Text("Add", "Добавить")
REMOVE: Final = Text("Remove", "Удалить")
REMOVE_FROM: Final = Text("Remove from {slug}", "Удалить из {slug}")
EXCLUDES: Final = Text(
    "The segment has a percentage: whatever it becomes, the user will stay out until they are added again.",
    "У сегмента есть процент: при любом его значении пользователь исключён, пока его не добавят снова.",
)
CANCEL: Final = Text("Leave it", "Оставить")
TERM: Final = Text("Term", "Срок")
TERMS: Final[Mapping[str, Text]] = {
    "": FOR_GOOD,
    "86400": Text("1 day", "1 день"),
    "604800": Text("7 days", "7 дней"),
    "2592000": Text("30 days", "30 дней"),
    "until": Text("until the time beside", "до указанного времени"),
}
UNTIL_TIME: Final = Text("Until (UTC)", "До (UTC)")
REASON: Final = Text("Reason", "Причина")
REASON_HINT: Final = Text("History shows it, at most 500 characters.", "История покажет её, до 500 символов.")
DONE: Final[Mapping[str, Text]] = {
    "added": Text("The user was added.", "Пользователь добавлен."),
    "removed": Text("The user was removed.", "Пользователь удалён."),
    "updated": Text(
        "The user's term or decision was changed; the user was in or out before already.",
        "Срок или решение изменены; состоит ли пользователь в сегменте, не изменилось.",
    ),
    "unchanged": Text(
        "Nothing had to be changed: it was so already.", "Менять ничего не пришлось: так уже и было."
    ),
}

# The timeline
TIMELINE: Final = Text("Timeline", "Шкала времени")
DAYS: Final = Plural(("day", "days"), ("день", "дня", "дней"))
TIMELINE_AS_TABLE: Final = Text("The timeline as a table", "Шкала времени таблицей")
NO_TIMELINE: Final = Text(
    "In this time the user was in no segment.", "За это время пользователь не состоял ни в одном сегменте."
)
TIMELINE_CUT: Final = Text(
    "There are more changes than the timeline shows; it begins at {since}.",
    "Изменений больше, чем показывает шкала; она начинается с {since}.",
)
LANES_CUT: Final = Text(
    "Only the first {shown} of {all} segments are drawn.",
    "Показаны только первые {shown} из {all} сегментов.",
)
STILL: Final = Text("still in", "всё ещё")
BEFORE: Final = Text("before", "раньше")
BAR: Final = Text("{slug}: from {since} to {until}", "{slug}: с {since} до {until}")

# The history
HISTORY: Final = Text("History", "История")
NO_HISTORY: Final = Text(
    "Nothing has happened yet. Every time that the user gets in or out will stand here, with its cause.",
    "Пока ничего не произошло. Здесь будет каждый вход и выход с его причиной.",
)
HISTORY_BEGINS: Final = Text("What was before this time was removed:", "Всё, что было раньше, удалено:")
WHEN: Final = Text("When", "Когда")
WHAT: Final = Text("What", "Что")
CAUSE: Final = Text("Cause", "Почему")
WHO: Final = Text("Who", "Кто")
OLDER: Final = Text("Older events", "Более ранние события")
OPERATIONS: Final[Mapping[Operation, Text]] = {
    Operation.ADD: Text("in", "вошёл"),
    Operation.REMOVE: Text("out", "вышел"),
}
CAUSES: Final[Mapping[Cause, Text]] = {
    Cause.REQUEST: Text("by request", "по запросу"),
    Cause.EXPIRY: Text("the term ended", "закончился срок"),
    Cause.SEGMENT_DELETED: Text("the segment was deleted", "сегмент удалён"),
    Cause.USER_DELETED: Text("the user was deleted", "пользователь удалён"),
    Cause.ROLLOUT: Text("by percentage", "по проценту"),
}
FOR: Final = Text("{actor} for {person}", "{actor} за {person}")
ENDS: Final = Text("until {until}", "до {until}")

WHYS: Final[Mapping[Because, Text]] = {
    Because.EXCLUDED: EXCLUDED,
    Because.ROLLOUT: COVERED,
    Because.EXPIRED: EXPIRED,
    Because.REMOVED: REMOVED,
    Because.NEVER_ADDED: NEVER_ADDED,
}
