"""Text from outside, on its way to a terminal."""


def printable(text: str) -> str:
    """The text with an escape for each character that a terminal would obey, or hide.

    These are the control characters (C0, DEL, C1), line breaks, and what turns the direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
