"""Build a decoder from its configuration and its files."""

from collections.abc import Mapping

from asr.decoder.config import Decoder, DecoderConfig
from asr.decoder.greedy import GreedyDecoder
from asr.errors import ConfigError
from asr.text import Vocabulary


def load_decoder(
    config: DecoderConfig,
    vocabulary: Vocabulary,
    frame_seconds: float,
    hotwords: Mapping[str, float] | None = None,
) -> Decoder:
    """Build the decoder that `config` describes, reading its files.

    `hotwords` and their bonuses in nats are added to those of the file. Raises LanguageError for a
    language model that cannot be used, DataError for another such file, ConfigError for settings
    that exclude each other.
    """
    if config.kind == "greedy":
        if hotwords:
            raise ConfigError("the greedy decoder has no hotwords; use decoder.kind 'beam'")
        return GreedyDecoder(vocabulary, frame_seconds)
    from asr.decoder.beam import BeamDecoder  # greedy decoding does not load numba
    from asr.decoder.hotwords import read_hotwords
    from asr.decoder.lexicon import read_words
    from asr.lm.model import LanguageModel

    found = read_hotwords(config.hotwords, config.hotword_weight) if config.hotwords else {}
    hotwords = {**found, **(hotwords or {})}
    language_model = LanguageModel.read(config.language_model) if config.language_model else None
    lexicon = read_words(config.lexicon) if config.lexicon else None
    return BeamDecoder(vocabulary, frame_seconds, config, language_model, lexicon, hotwords)
