"""A decoder's configuration and its files become a decoder."""

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
    """The decoder that `config` describes, its files read, with `hotwords` and their weights.

    Raises LanguageError for a language model, DataError for another file that cannot be used,
    ConfigError for what does not go together.
    """
    if config.kind == "greedy":
        if hotwords:
            raise ConfigError("the greedy decoder knows no hotwords: choose decoder.kind 'beam'")
        return GreedyDecoder(vocabulary, frame_seconds)
    from asr.decoder.beam import BeamDecoder  # not needed, and not loaded, for greedy decoding
    from asr.decoder.hotwords import read_hotwords
    from asr.decoder.lexicon import read_words
    from asr.lm.model import LanguageModel

    found = read_hotwords(config.hotwords, config.hotword_weight) if config.hotwords else {}
    return BeamDecoder(
        vocabulary,
        frame_seconds,
        config,
        LanguageModel.read(config.language_model) if config.language_model else None,
        read_words(config.lexicon) if config.lexicon else None,
        {**found, **(hotwords or {})},
    )
