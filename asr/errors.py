"""Everything that can go wrong for a user, as one small tree.

AsrError
├── AudioError        a recording cannot be read, or is not what it claims to be
├── TextError         a text, transcript or vocabulary is missing or holds what it must not
├── DataError         a manifest or corpus folder is wrong
├── FileError         a file cannot be written
├── CheckpointError   a checkpoint is missing, damaged, foreign or does not fit
├── ConfigError       a configuration value is misspelled, ill-typed or impossible
├── TrainingError     training cannot go on
├── DecodeError       log-probabilities do not fit the decoder
├── LanguageError     a language model cannot be read, built or asked
└── ScoreError        references and hypotheses cannot be compared

Each message is one sentence: what is wrong, where, and what to do. The program that catches an
AsrError prints it and ends with `EXIT_CODE`.
"""

SOME_FAILED = 1
"""Exit code of a command that did its work but found failed recordings or erroneous utterances."""

EXIT_CODE = 2
"""Exit code after an AsrError, as after wrong usage."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, the one that shells report for SIGINT."""

READER_GONE = 141
"""Exit code after the reader of stdout has closed it, the one that shells report for SIGPIPE."""


class AsrError(Exception):
    """Base of every error that a user can cause or fix."""


class AudioError(AsrError):
    """A recording cannot be read, or is not what it claims to be."""


class TextError(AsrError):
    """A text, transcript or vocabulary is missing or holds what it must not."""


class DataError(AsrError):
    """A manifest or corpus folder is wrong."""


class FileError(AsrError):
    """A file cannot be written."""


class CheckpointError(AsrError):
    """A checkpoint is missing, damaged, foreign or does not fit."""


class ConfigError(AsrError):
    """A configuration value is misspelled, ill-typed or impossible."""


class TrainingError(AsrError):
    """Training cannot go on."""


class DecodeError(AsrError):
    """Log-probabilities do not fit the decoder."""


class LanguageError(AsrError):
    """A language model cannot be read, built or asked."""


class ScoreError(AsrError):
    """References and hypotheses cannot be compared."""
