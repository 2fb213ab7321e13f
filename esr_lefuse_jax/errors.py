"""The errors a user can cause.

Each carries one line that names the file, key or step and says what to do. The command line prints that line
and exits with `exit_code`; a library user catches `EsrLefuseError` for all of them.
"""


class EsrLefuseError(Exception):
    """Base of every error that bad input or a bad environment can cause."""

    exit_code = 2


class CheckpointError(EsrLefuseError):
    """A weights file or checkpoint folder cannot be used: damaged, unsafe, or not the network asked for."""


class ImageError(EsrLefuseError):
    """An image file cannot be used: unreadable, truncated, too large, or of an unsupported kind."""


class PairError(EsrLefuseError):
    """A folder of pairs cannot be used: stems that do not match, sizes that differ, nothing to pair."""


class ConfigError(EsrLefuseError):
    """A config key or a flag has a value that cannot be used."""


class OutputError(EsrLefuseError):
    """A result cannot be written: folder missing or read-only, disk full."""


class MetricError(EsrLefuseError):
    """A metric is not defined for this input."""


class TrainingError(EsrLefuseError):
    """Training cannot start or go on: no data, non-finite steps beyond the limit, no usable checkpoint."""
