"""Entity tags (RFC 9110, 8.8.3): whether a client already has the answer."""


def names(field_value: str, etag: str) -> bool:
    """Whether `If-None-Match` names the entity tag, by weak comparison."""
    return field_value.strip() == "*" or etag in {
        tag.strip().removeprefix("W/") for tag in field_value.split(",")
    }
