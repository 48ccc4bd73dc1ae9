"""Streams: law 2 from samples to words, endpoints, stable words stay stable, and bad input."""

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from signals import (
    ARPA,
    PAUSED,
    RATES,
    SAMPLE,
    SPOKEN,
    check_same,
    check_stable,
    cut,
    make_model,
    make_signal,
    make_talk,
    to_wav,
    words_of,
)

from asr.decoder.beam import BeamDecoder
from asr.decoder.config import DecoderConfig
from asr.decoder.greedy import GreedyDecoder
from asr.decoder.hypothesis import Hypothesis, join_hypotheses
from asr.encoder import Context
from asr.endpoint import EndpointConfig
from asr.errors import AsrError, AudioError, ConfigError
from asr.model import advance_models
from asr.recognizer import OperatingPoint, Recognizer
from asr.stream import Partial, Stream, advance_streams
from asr.text import Vocabulary

LATENCY_MS = 55.0  # one encoder frame: the least
PAUSE = EndpointConfig(silence=0.3)
ENCODERS = ("forward", "latency_controlled")
DECODERS = ("greedy", "beam", "guided")


def follow(
    stream: Stream, pieces: Iterable[np.ndarray], rate: int | None
) -> tuple[list[Hypothesis], list[Partial]]:
    """Every segment of what arrives, the last one too, and the partials until then."""
    partials = [stream.accept(piece, rate) for piece in pieces]
    ended = [segment for partial in partials for segment in partial.segments]
    final = stream.finish()
    late = stream.take_segments()
    check_stable(partials, late[0].text if late else final.text)
    return [*ended, *late, final], partials


def check_segments(segments: list[Hypothesis], whole: Hypothesis, seconds: float) -> None:
    """The segments are those of `whole`; their times count from the start of the stream."""
    check_same(join_hypotheses(segments), whole)
    times = [time for segment in segments for word in segment.words for time in word[1:3]]
    assert times == sorted(times)
    assert not times or 0 <= times[0] < times[-1] <= seconds + 0.04


def make_recognizers(kind: str, folder: Path) -> dict[str, Recognizer]:
    path = folder / "tiny.arpa"
    path.write_text(ARPA)
    beam = DecoderConfig("beam", beam=16)
    guided = DecoderConfig("beam", beam=16, language_model=str(path), nbest=3)
    model, vocabulary = make_model(kind), Vocabulary.english()
    return {
        "greedy": Recognizer(model, vocabulary),
        "beam": Recognizer(model, vocabulary, beam),
        "guided": Recognizer(model, vocabulary, guided, {"zq": 3.0, "z jz": 2.0}),
    }


@pytest.fixture(scope="module")
def recognizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recognizer]:
    """Of a forward encoder, by decoder."""
    return make_recognizers("forward", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def both(
    recognizers: dict[str, Recognizer], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Recognizer]]:
    """Recognizers by encoder and decoder."""
    other = make_recognizers("latency_controlled", tmp_path_factory.mktemp("models"))
    return {"forward": recognizers, "latency_controlled": other}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("rate", RATES)
def test_any_pieces_give_what_transcribe_gives(
    both: dict[str, dict[str, Recognizer]], encoder: str, decoder: str, rate: int
) -> None:
    """Law 2, with endpoints and without, of floats and of 16 bits."""
    recognizer, samples = both[encoder][decoder], make_talk(4.6, rate)
    integers = (samples / SAMPLE).astype(np.int16)
    for signal, latency, endpoint, sizes in (
        (samples, 200.0, PAUSE, (rate // 10, rate)),
        (integers, 640.0, None, (rate // 4,)),
    ):
        whole = recognizer.transcribe(to_wav(signal, rate), OperatingPoint(latency, endpoint))
        assert len(whole.words) > 3
        for longest in sizes:
            pieces = cut(signal, longest, seed=longest)
            segments, partials = follow(recognizer.stream(latency, endpoint), pieces, rate)
            check_segments(segments, whole, 4.6)
            assert partials[-1].seconds == pytest.approx(4.6)
            assert len(segments) == (3 if endpoint else 1)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("rate", RATES)
def test_sample_by_sample(
    both: dict[str, dict[str, Recognizer]], encoder: str, decoder: str, rate: int
) -> None:
    """Law 2: at the start, where an endpoint is found, and at the end."""
    recognizer, samples = both[encoder][decoder], make_talk(3.3, rate)
    found = round((SPOKEN + PAUSE.silence) * rate)
    edges = [0, 700, found, found + 2_000, len(samples) - 500, len(samples)]
    pieces: list[np.ndarray] = []
    for turn, (begin, end) in enumerate(pairwise(edges)):
        part = samples[begin:end]
        pieces += [part] if turn % 2 else np.split(part, len(part))
    segments, _ = follow(recognizer.stream(LATENCY_MS, PAUSE), pieces, rate)
    whole = recognizer.transcribe(to_wav(samples, rate), OperatingPoint(LATENCY_MS, PAUSE))
    check_segments(segments, whole, 3.3)
    assert len(segments) == 2


@given(
    encoder=st.sampled_from(ENCODERS),
    decoder=st.sampled_from(DECODERS),
    latency=st.floats(LATENCY_MS, 1_500),
    silence=st.floats(0.04, 1.0),
    longest=st.sampled_from([0.5, 2.0, 20.0]),
    rate=st.sampled_from(RATES),
    cuts=st.lists(st.floats(0, 1), max_size=12),
)
@settings(deadline=None, max_examples=12)
def test_at_any_operating_point(
    both: dict[str, dict[str, Recognizer]],
    encoder: str,
    decoder: str,
    latency: float,
    silence: float,
    longest: float,
    rate: int,
    cuts: list[float],
) -> None:
    """Law 2."""
    recognizer, samples = both[encoder][decoder], make_talk(3.3, rate)
    endpoint = EndpointConfig(silence=silence, longest=longest)
    pieces = np.split(samples, sorted(int(cut * len(samples)) for cut in cuts))
    segments, _ = follow(recognizer.stream(latency, endpoint), pieces, rate)
    whole = recognizer.transcribe(to_wav(samples, rate), OperatingPoint(latency, endpoint))
    check_segments(segments, whole, 3.3)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_real_speech(
    both: dict[str, dict[str, Recognizer]], encoder: str, decoder: str, shared: Path
) -> None:
    """Law 2, and what is stable stays, at each rate."""
    recognizer = both[encoder][decoder]
    path = min((shared / "LibriSpeech" / "dev-mini").rglob("*.mp3"))
    speech, found = soundfile.read(path, dtype="float32")
    talk = np.concatenate([speech[: 3 * found], np.zeros(found), speech[3 * found : 6 * found]])
    for rate in RATES:
        samples = soxr.resample(talk, found, rate).astype(np.float32)
        pieces = cut(samples, rate // 5, seed=rate)
        segments, partials = follow(recognizer.stream(300, PAUSE), pieces, rate)
        point = OperatingPoint(300, PAUSE)
        check_segments(segments, recognizer.transcribe(to_wav(samples, rate), point), 7.0)
        assert len(segments) > 1
        assert any(words_of(partial.stable) for partial in partials)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_an_endpoint_forgets_everything(
    both: dict[str, dict[str, Recognizer]], encoder: str, decoder: str
) -> None:
    """A segment has the log-probs and words of a signal that begins where the segment does."""
    recognizer = both[encoder][decoder]
    model, context = recognizer.model, recognizer.model.context(300)
    samples = make_talk(7.0, 16_000)
    recordings, point = [to_wav(samples, 16_000)], OperatingPoint(300, PAUSE)
    [(_, segments)] = recognizer.emissions(recordings, operating_point=point)
    assert isinstance(segments, list)
    assert len(segments) > 2
    heard, _ = follow(recognizer.stream(300, PAUSE), [samples], 16_000)
    features = model.features(torch.from_numpy(samples))  # (T, F)
    for (begin, segment), hypothesis in zip(segments, heard, strict=True):
        rest = features[begin * model.encoder.config.stack :]
        with torch.inference_mode():
            own = model(rest[None], torch.tensor([len(rest)]), context).log_probs[0].numpy()
        np.testing.assert_allclose(segment, own[: len(segment)], atol=1e-4)
        fresh = recognizer.decoder.decode(own[: len(segment)])
        check_same(hypothesis, fresh.shifted(begin * model.frame_seconds))
        assert [other.text for other in hypothesis.alternatives] == [
            other.text for other in fresh.alternatives
        ]


def test_endpoints_come_in_the_pauses_of_speech(recognizers: dict[str, Recognizer]) -> None:
    """Soon after the silence that is asked for, and the next segment begins there."""
    stream = recognizers["greedy"].stream(LATENCY_MS, PAUSE)
    samples, at_seconds = make_talk(7.0, 16_000), []
    for place in range(0, len(samples), 160):
        partial = stream.accept(samples[place : place + 160])
        at_seconds += [partial.seconds] * len(partial.segments)
        if partial.segments:
            assert partial.text == ""
    expected = [turn * (SPOKEN + PAUSED) + SPOKEN + PAUSE.silence for turn in range(2)]
    assert at_seconds[:2] == pytest.approx(expected, abs=0.25)


def test_silence_is_of_no_segment(recognizers: dict[str, Recognizer]) -> None:
    """However long it is: the next segment begins with the next sound."""
    stream = recognizers["greedy"].stream(LATENCY_MS, PAUSE)
    first = stream.accept(np.concatenate([make_talk(1.5, 16_000), np.zeros(16_000, np.float32)]))
    second = stream.accept(np.zeros(80_000, np.float32))
    assert [len(first.segments), len(second.segments)] == [1, 0]
    assert second.text == ""
    stream.accept(make_talk(1.5, 16_000))
    last = stream.finish()
    assert last.words[0].start == pytest.approx(7.5, abs=0.4)
    assert stream.take_segments() == ()


def test_segments_are_told_once(recognizers: dict[str, Recognizer]) -> None:
    stream = recognizers["beam"].stream(LATENCY_MS, PAUSE)
    partial = stream.accept(make_talk(5.0, 16_000))
    assert len(partial.segments) == 2
    assert stream.take_segments() == ()
    assert stream.accept(np.zeros(0, np.float32)).segments == ()


class TestTogether:
    """`advance_streams`."""

    @pytest.mark.parametrize("encoder", ENCODERS)
    @pytest.mark.parametrize("decoder", ["greedy", "guided"])
    def test_each_stream_gives_what_it_gives_alone(
        self, both: dict[str, dict[str, Recognizer]], encoder: str, decoder: str
    ) -> None:
        """Law 2: of many rates, some waiting, some finished, some sent what is no good."""
        recognizer = both[encoder][decoder]
        rates = [*RATES, 16_000, 16_000]
        signals = [np.roll(make_talk(3.6, rate), 999 * i) for i, rate in enumerate(rates)]
        streams = [recognizer.stream(300, PAUSE) for _ in rates]
        alone = [recognizer.stream(300, PAUSE) for _ in rates]
        for group in (streams, alone):
            for stream, rate in zip(group, rates, strict=True):
                stream.accept(np.zeros(0, np.float32), rate)
        generator = np.random.default_rng(3)
        places, ended, failed = [0] * len(rates), 0, 0
        bad = [np.array([np.nan], np.float32), np.zeros(3), np.zeros((2, 2), np.float32)]
        for turn in range(40):
            if turn == 15:
                check_same(streams[0].finish(), alone[0].finish())
            pieces: list[Any] = []
            for i, (rate, signal) in enumerate(zip(rates, signals, strict=True)):
                size = 0 if i == 1 and turn < 10 else int(generator.integers(0, rate // 5))
                pieces.append(signal[places[i] : places[i] + size])
                places[i] += size
            if turn % 3 == 0:
                places[2] -= len(pieces[2])
                pieces[2] = bad[turn % len(bad)]
            results = advance_streams(streams, pieces)
            for stream, piece, result in zip(alone, pieces, results, strict=True):
                if isinstance(result, AsrError):
                    with pytest.raises(type(result), match=re.escape(str(result))):
                        stream.accept(piece)
                    failed += 1
                    continue
                expected = stream.accept(piece)
                shown = (result.stable, result.tail, result.seconds)
                assert shown == (expected.stable, expected.tail, expected.seconds)
                for one, other in zip(result.segments, expected.segments, strict=True):
                    check_same(one, other)
                ended += len(result.segments)
        assert ended > 4
        assert failed == 25 + 14
        for one, other in list(zip(streams, alone, strict=True))[1:]:
            check_same(one.finish(), other.finish())

    def test_what_is_no_good_is_told_in_its_place(self, recognizers: dict[str, Recognizer]) -> None:
        good, finished, slow, loud = (recognizers["beam"].stream(LATENCY_MS) for _ in range(4))
        finished.finish()
        slow.accept(np.zeros(10, np.float32), 8_000)
        samples = make_signal(1.0, 16_000)
        pieces = [samples, samples, samples, np.full(16_000, 3e38, np.float32)]
        results = advance_streams([good, finished, slow, loud], pieces, 16_000)
        kinds = [Partial, AudioError, AudioError, AudioError]
        assert [type(result) for result in results] == kinds
        for result, sentence in zip(
            results[1:], ("is finished", "8,000", "above 1,000,000"), strict=True
        ):
            assert isinstance(result, AsrError)
            assert sentence in str(result)
        other = recognizers["beam"].stream(LATENCY_MS)
        assert results[0] == other.accept(samples)
        check_same(good.finish(), other.finish())

    def test_as_many_pieces_as_streams(self, recognizers: dict[str, Recognizer]) -> None:
        assert advance_streams([], []) == []
        streams = [recognizers["greedy"].stream() for _ in range(2)]
        for count in (1, 3):
            with pytest.raises(ValueError, match=r"pieces"):
                advance_streams(streams, [np.zeros(5, np.float32)] * count)


@pytest.mark.parametrize("kind", DECODERS)
def test_partials_come_while_it_is_heard(recognizers: dict[str, Recognizer], kind: str) -> None:
    """Each is what the decoder makes of the log-probs so far, not something late or stale."""
    recognizer = recognizers[kind]
    stream, emissions = recognizer.stream(LATENCY_MS), recognizer.model.stream(Context(1))
    state = recognizer.decoder.start()
    for piece in cut(make_signal(2.0, 16_000), 3_000):
        partial = stream.accept(piece)
        emissions.accept(piece)
        while emissions.ready:
            [log_probs] = advance_models([emissions])
            recognizer.decoder.advance(state, log_probs)
        assert partial.text == recognizer.decoder.best(state).text


# Bad input


@pytest.fixture
def stream(recognizers: dict[str, Recognizer]) -> Stream:
    return recognizers["beam"].stream()


class TestRefused:
    @pytest.mark.parametrize(
        ("piece", "rate", "sentence"),
        [
            (
                np.array([0, np.nan, 0], np.float32),
                None,
                r"not finite numbers .* the first at 0\.500",
            ),
            (np.array([np.inf], np.float32), None, "not finite"),
            (np.array([-np.inf], np.float32), 16_000, "not finite"),
            (np.zeros(5), None, "float32 or int16, not float64"),
            (np.zeros(5, np.int32), None, "float32 or int16, not int32"),
            (np.zeros(5, np.uint8), None, "float32 or int16, not uint8"),
            (np.zeros(5, ">f4"), None, "float32 or int16, not >f4"),
            ([0.0, 0.1], None, "not list"),
            (b"\0\0", None, "not bytes"),
            (None, None, "not NoneType"),
            (np.zeros((5, 2), np.float32), None, r"shape \(5, 2\) are not one channel"),
            (np.float32(0.5) * np.ones((), np.float32), None, "not"),
            (np.zeros(5, np.float32), 8_000, "began with 16,000 .* cannot change to 8,000"),
            (np.zeros(5, np.float32), 0, "0 samples per second is not supported"),
            (np.zeros(5, np.float32), -16_000, "not supported"),
            (np.zeros(5, np.float32), 16_000.5, "not supported"),
            (np.zeros(5, np.float32), "16000", "not supported"),
            (np.zeros(5, np.float32), 10**9, "not supported"),
        ],
    )
    def test_a_bad_piece_is_left_out(
        self, recognizers: dict[str, Recognizer], piece: Any, rate: Any, sentence: str
    ) -> None:
        samples = make_signal(1.5, 16_000)
        stream, other = recognizers["beam"].stream(), recognizers["beam"].stream()
        stream.accept(samples[:8_000])
        other.accept(samples[:8_000])
        with pytest.raises(AudioError, match=sentence) as caught:
            stream.accept(piece, rate)
        assert "\n" not in str(caught.value)
        assert stream.accept(samples[8_000:]) == other.accept(samples[8_000:])
        assert stream.finish() == other.finish()

    def test_a_refused_first_piece_fixes_no_rate(self, stream: Stream) -> None:
        with pytest.raises(AudioError):
            stream.accept(np.full(3, np.nan, np.float32), 8_000)
        assert stream.accept(np.zeros(4_410, np.float32), np.int64(44_100)).seconds == 0.1
        assert stream.accept(np.zeros(4_410, np.int16)).seconds == 0.2

    def test_nothing_follows_the_end(self, stream: Stream) -> None:
        stream.accept(make_signal(0.5, 16_000))
        stream.finish()
        for call in (stream.finish, lambda: stream.accept(np.zeros(1, np.float32))):
            with pytest.raises(AudioError, match="stream is finished"):
                call()

    def test_bidirectional_encoder_names_the_alternative(self) -> None:
        recognizer = Recognizer(make_model("bidirectional"), Vocabulary.english())
        with pytest.raises(ConfigError, match=r"cannot stream.*encoder=latency_controlled"):
            recognizer.stream()


@pytest.mark.parametrize("kind", DECODERS)
def test_without_audio_the_text_is_empty(recognizers: dict[str, Recognizer], kind: str) -> None:
    for pieces in ([], [0], [0, 0], [1], [0, 40, 0]):
        stream = recognizers[kind].stream()
        heard = 0
        for size in pieces:
            heard += size
            partial = stream.accept(np.zeros(size, np.float32), 48_000)
            assert partial == Partial("", "", heard / 48_000)
        final = stream.finish()
        assert (final.text, final.words, final.confidence) == ("", (), 1.0)


def test_empty_pieces_change_nothing(stream: Stream) -> None:
    first = stream.accept(make_signal(1.0, 16_000))
    for dtype in (np.float32, np.int16):
        assert stream.accept(np.zeros(0, dtype)) == first


def test_streams_do_not_disturb_each_other(recognizers: dict[str, Recognizer]) -> None:
    signals = {rate: make_signal(1.5, rate) for rate in RATES}
    streams = {rate: recognizers["guided"].stream() for rate in RATES}
    for step in range(30):
        for rate, stream in streams.items():
            size = rate // 20
            stream.accept(signals[rate][step * size : (step + 1) * size], rate)
    for rate, stream in streams.items():
        check_same(stream.finish(), recognizers["guided"].transcribe(to_wav(signals[rate], rate)))


def test_the_callers_array_is_free_again(recognizers: dict[str, Recognizer]) -> None:
    """Whatever its layout, and whatever the caller writes into it next."""
    samples = make_signal(1.0, 16_000)
    whole = recognizers["beam"].transcribe(to_wav(samples, 16_000))
    stream, buffer = recognizers["beam"].stream(), np.zeros(100, np.float32)
    for place in range(0, len(samples), 100):
        buffer[:] = samples[place : place + 100]
        stream.accept(buffer)
        buffer[:] = np.nan
    check_same(stream.finish(), whole)

    stream = recognizers["beam"].stream()
    stream.accept(np.repeat(samples[:5_000], 2)[::2])
    stream.accept(samples[5_000:9_000][::-1].copy()[::-1])
    rest = samples[9_000:].copy()
    rest.flags.writeable = False
    stream.accept(rest)
    check_same(stream.finish(), whole)


def held_bytes(thing: Any, seen: set[int]) -> int:
    """Bytes of all arrays and tensors that are reached from `thing`, but for model and decoder."""
    if id(thing) in seen or isinstance(thing, torch.nn.Module | BeamDecoder | GreedyDecoder):
        return 0
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    if isinstance(thing, torch.Tensor):
        return thing.untyped_storage().nbytes()
    if isinstance(thing, list | tuple):
        return 8 * len(thing) + sum(held_bytes(part, seen) for part in thing)
    if isinstance(thing, str):
        return len(thing)
    slots = [getattr(thing, name) for name in getattr(thing, "__slots__", ())]
    return sum(
        held_bytes(part, seen) for part in [*slots, *getattr(thing, "__dict__", {}).values()]
    )


@pytest.mark.parametrize("kind", DECODERS)
def test_memory_is_bounded_by_the_text(recognizers: dict[str, Recognizer], kind: str) -> None:
    stream = recognizers[kind].stream()
    samples = make_signal(40.0, 16_000)
    sizes, letters = [], []
    for place in range(0, len(samples), 1_600):
        partial = stream.accept(samples[place : place + 1_600])
        sizes.append(held_bytes(stream, set()))
        letters.append(len(partial.text))
    start = max(sizes[:50])
    grown = letters[-1] - letters[50]
    assert grown > 100
    # A history of twice the nodes that 4,096 were too few for, and some bytes for each letter.
    assert max(sizes) - start <= 200 * grown
    silence = np.zeros(1_600, np.float32)
    for _ in range(50):
        stream.accept(silence)
    letters.append(len(stream.accept(silence).text))
    assert held_bytes(stream, set()) - sizes[-1] <= 200 * (letters[-1] - letters[-2]) + 10_000
