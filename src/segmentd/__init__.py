"""segmentd: the service that knows which segments each user is in."""

__version__ = "0.1.0"
