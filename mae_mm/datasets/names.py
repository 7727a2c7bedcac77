"""File names are bytes: Python keeps those that are no UTF-8 as lone surrogates, which no stream writes."""


def printable(text: str) -> str:
    """A text for people and logs, with such bytes as `\\xff`."""
    return text.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
