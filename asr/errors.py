"""The errors that a user can cause or fix, as one small tree.

AsrError
├── AudioError        a recording cannot be read, or is not what it claims to be
├── TextError         a text, transcript or vocabulary is missing, empty or has invalid characters
├── DataError         a manifest or corpus folder is wrong
├── FileError         a file cannot be written
├── CheckpointError   a checkpoint is missing, damaged, written by another program or incompatible
├── ConfigError       a configuration value is misspelled, of the wrong type, or out of range
├── TrainingError     training cannot continue
├── DecodeError       log-probabilities do not fit the decoder
├── LanguageError     a language model cannot be read, built or queried
└── ScoreError        references and hypotheses cannot be compared

Each message is one sentence without its final period: what is wrong, where, and what to do. Programs
print it and exit with `EXIT_CODE`.
"""

SOME_FAILED = 1
"""Exit code of a command that did its work but found failed recordings or erroneous utterances."""

EXIT_CODE = 2
"""Exit code after an AsrError, as after wrong usage."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, the one that shells report for SIGINT."""

BROKEN_PIPE = 141
"""Exit code after the reader of stdout has closed it, the one that shells report for SIGPIPE."""


class AsrError(Exception):
    """Base class of every error that a user can cause or fix.

    Its message says in one sentence what is wrong, where, and what to do.

    Example:
        >>> try:
        ...     raise AudioError("talk.wav does not exist; check the path")
        ... except AsrError as error:
        ...     print(error)
        talk.wav does not exist; check the path
    """


class AudioError(AsrError):
    """A recording cannot be read, or is not what it claims to be."""


class TextError(AsrError):
    """A text, transcript or vocabulary is missing, empty or has invalid characters."""


class DataError(AsrError):
    """A manifest or corpus folder is wrong."""


class FileError(AsrError):
    """A file cannot be written."""


class CheckpointError(AsrError):
    """A checkpoint is missing, damaged, written by another program or incompatible."""


class ConfigError(AsrError):
    """A configuration value is misspelled, of the wrong type, or out of range."""


class TrainingError(AsrError):
    """Training cannot continue."""


class DecodeError(AsrError):
    """Log-probabilities do not fit the decoder."""


class LanguageError(AsrError):
    """A language model cannot be read, built or queried."""


class ScoreError(AsrError):
    """References and hypotheses cannot be compared."""


def quote(value: object, most: int = 80) -> str:
    """The representation of a value for a sentence, cut if it is long.

    Example:
        >>> quote("a" * 1000, most=6)
        "'aaaaaa...'"
    """
    if isinstance(value, str):
        return repr(value if len(value) <= most else f"{value[:most]}...")
    shown = repr(value)
    return shown if len(shown) <= most else f"{shown[:most]}..."


def check_number(
    name: str,
    value: object,
    lowest: float = float("-inf"),
    most: float = float("inf"),
    whole: bool = False,
) -> None:
    """Raise ConfigError if the configuration's value `name` is no number or is out of range."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int if whole else int | float)
        or value != value
    ):
        wanted = "whole number" if whole else "number"
        raise ConfigError(f"{name} is {str(value)[:80]!r}; it must be a {wanted}")
    if value < lowest:
        raise ConfigError(f"{name} is {value}; it must be at least {lowest}")
    if value > most:
        raise ConfigError(f"{name} is {value}; it must be at most {most}")
