"""The few errors a user can meet, each with the exit code of the contract.

0 done; 2 the user's configuration or data is wrong (the message names the field or file and the remedy, and the
command line prints it without a traceback); 1 anything else.
"""


class VgseError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class UserError(VgseError):
    """Something the user can put right: a setting, a file, a credential.

    Args:
        message: what is wrong, naming the field path or the file.
        remedy: what to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.remedy}" if self.remedy else self.message


class ConfigError(UserError):
    """A wrong key, type or range in the configuration."""


class DataError(UserError):
    """The images, splits or word vectors cannot be used as they are."""


class StorageError(UserError):
    """A location cannot be reached, read or written."""


class WeightsError(UserError):
    """A backbone's weights are missing, unreadable or belong to another architecture."""


class RunDirectoryError(UserError):
    """The run directory holds results of another data set or class split."""


class ClusterError(UserError):
    """A stage asks for more than the cluster has or could have, or a file that describes a cluster is wrong."""


class NonFiniteLossError(VgseError):
    """Training met a loss or gradient that is not a number. Nothing was saved at or after that step."""

    def __init__(self, step: int, rank: int, term: str) -> None:
        super().__init__(step, rank, term)
        self.step, self.rank, self.term = step, rank, term

    def __str__(self) -> str:
        return (
            f"non-finite {self.term} at step {self.step} on rank {self.rank}; training stopped and kept its last good "
            "checkpoint\n  -> lower cluster.learning_rate, or look for broken features or word vectors"
        )
