"""Which clovenet this is."""

from importlib import metadata

NAME = "clovenet"


def version() -> str:
    """The installed distribution's version, `0+source` where it runs without being installed."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return "0+source"
