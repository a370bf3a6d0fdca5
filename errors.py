"""The error tree. Every message names the place, the finding and the way out."""


class NevaPrepError(Exception):
    """What neva-prep raises on purpose; the command line prints it without a traceback.

    Attributes:
        reason: short machine-readable code, one of those in docs/reasons.md where a record or image
            is at fault; empty elsewhere.
    """

    exit_code = 1

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class RecordError(NevaPrepError):
    """A source record is malformed; the message has the source, the line or index, and the id."""

    exit_code = 3


class ImageError(NevaPrepError):
    """An image is missing, unsafe or unreadable; the message has its path."""

    exit_code = 3


class TemplateError(NevaPrepError):
    """A chat template cannot render a conversation; the message has the template's name."""


class ShardError(NevaPrepError):
    """A shard, its index or its folder is missing, corrupt or cannot be written."""

    exit_code = 3


class DiskError(ShardError):
    """The operating system refuses to read or write: no fault of the source."""

    exit_code = 1


class PackError(NevaPrepError):
    """A sample cannot fit a pack; the message has its key, its length and the limit."""


class ConfigError(NevaPrepError):
    """Settings that cannot work, or cannot work together."""

    exit_code = 2


class TrainingError(NevaPrepError):
    """Training cannot go on; the message has the samples, or the rank that stopped."""
