"""The one path of inference: batch invariance (law 1), unreadable recordings, operating points."""

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from signals import ARPA, check_same, make_model, make_talk, to_wav

from asr.checkpoint import Checkpoint, save_model
from asr.decoder.alignment import align
from asr.decoder.beam import BeamDecoder
from asr.decoder.config import DecoderConfig
from asr.decoder.greedy import GreedyDecoder
from asr.decoder.hypothesis import Hypothesis, join
from asr.encoder import Context, EncoderConfig
from asr.endpoint import EndpointConfig, Endpointer
from asr.errors import (
    AsrError,
    AudioError,
    CheckpointError,
    ConfigError,
    DecodeError,
    TextError,
)
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.recognizer import WHOLE, OperatingPoint, Recognizer, group_by_seconds
from asr.runtime.device import choose_device
from asr.stream import Segment, Stream
from asr.text import Vocabulary

ENCODERS = {
    "bidirectional": EncoderConfig("bidirectional", layers=2, hidden=24, dropout=0.5),
    "forward": EncoderConfig("forward", layers=2, hidden=24, stack=3),
    "latency_controlled": EncoderConfig(layers=2, hidden=24, stack=3),
    "rnn": EncoderConfig(cell="rnn", layers=2, hidden=24),
    "projection": EncoderConfig(layers=3, hidden=24, projection=16, stack=1),
}
# Lengths without a frame, of one window, of one stack, and of seconds.
SAMPLES = (20_000, 100, 48_000, 399, 400, 1_040, 31_999, 160, 12_345)


def make_recognizer(
    encoder: EncoderConfig | None = None, features: FeaturesConfig | None = None
) -> Recognizer:
    """A random model with confident outputs, so that texts are long and ties unlikely."""
    torch.manual_seed(7)
    vocabulary = Vocabulary.english()
    encoder = encoder or ENCODERS["bidirectional"]
    model = AcousticModel(features or FeaturesConfig(mels=40), encoder, len(vocabulary))
    with torch.no_grad():
        model.features.mean.fill_(-6.0)
        model.features.std.fill_(3.0)
        model.head.weight.mul_(4)
        for name, weight in model.encoder.named_parameters():
            if "weight_ih" in name:
                weight.mul_(3)
    return Recognizer(model, vocabulary)


def make_wav(samples: int, seed: int = 0, sample_rate: int = 16_000) -> bytes:
    """Noise that swells and fades, so that frames differ."""
    noise = np.random.default_rng(seed).standard_normal(samples)
    swell = np.sin(np.arange(samples) * 25 / sample_rate) ** 8
    file = io.BytesIO()
    soundfile.write(file, 0.3 * swell * noise, sample_rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return make_recognizer()


@pytest.fixture(scope="module")
def recordings() -> list[bytes]:
    return [make_wav(samples, seed) for seed, samples in enumerate(SAMPLES)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    recognizer = make_recognizer()
    save_model(path, recognizer.model, recognizer.vocabulary, {"epoch": 1})
    return path


def only(segments: list[Segment] | AsrError) -> np.ndarray:
    """The log-probs (T', V) of a recording of one segment."""
    assert isinstance(segments, list)
    [segment] = segments
    assert segment.first_frame == 0
    return segment.log_probs


def emit(
    recognizer: Recognizer, recording: bytes, point: OperatingPoint | None = None
) -> np.ndarray:
    [(_, segments)] = recognizer.emissions([recording], operating_point=point)
    return only(segments)


def text_of(result: Hypothesis | AsrError) -> str:
    assert isinstance(result, Hypothesis)
    return result.text


class TestBatchInvariance:
    """Law 1."""

    @pytest.mark.parametrize("name", ENCODERS)
    @pytest.mark.parametrize("batch_seconds", [2.0, 7.0, 1000.0])
    def test_alone_and_in_ragged_batches(
        self, name: str, batch_seconds: float, recordings: list[bytes]
    ) -> None:
        recognizer = make_recognizer(ENCODERS[name])
        texts = []
        for index, segments in recognizer.emissions(recordings, batch_seconds):
            log_probs, alone = only(segments), emit(recognizer, recordings[index])
            assert log_probs.dtype == np.float32
            assert log_probs.shape == (recognizer.model.frames(SAMPLES[index]), 29)
            np.testing.assert_allclose(log_probs, alone, rtol=0, atol=1e-5)
            texts.append(recognizer.decoder.decode(log_probs).text)
        assert texts == [recognizer.transcribe(recording).text for recording in recordings]
        assert len(set(texts)) >= 5  # texts of different recordings differ

    @settings(max_examples=15, deadline=None)
    @given(
        lengths=st.lists(st.integers(1, 30_000), min_size=1, max_size=6),
        batch_seconds=st.floats(0.1, 10.0),
    )
    def test_any_lengths_and_any_batch_size(
        self, recognizer: Recognizer, lengths: list[int], batch_seconds: float
    ) -> None:
        wavs = [make_wav(length, seed) for seed, length in enumerate(lengths)]
        for index, segments in recognizer.emissions(wavs, batch_seconds):
            log_probs, alone = only(segments), emit(recognizer, wavs[index])
            np.testing.assert_allclose(log_probs, alone, rtol=0, atol=1e-5)

    def test_all_of_a_batch_too_short_for_a_frame(self, recognizer: Recognizer) -> None:
        results = list(recognizer.emissions([make_wav(100), make_wav(399)]))
        assert [(index, only(found).shape) for index, found in results] == [
            (0, (0, 29)),
            (1, (0, 29)),
        ]


class TestManyRecordings:
    def test_results_come_in_the_order_given(
        self, recognizer: Recognizer, recordings: list[bytes]
    ) -> None:
        results = list(recognizer.transcribe_many(recordings * 4, batch_seconds=5.0))
        assert [index for index, _ in results] == list(range(4 * len(recordings)))
        texts = [text_of(result) for _, result in results]
        assert texts == [recognizer.transcribe(recording).text for recording in recordings] * 4

    def test_a_bad_recording_does_not_stop_the_rest(
        self, recognizer: Recognizer, recordings: list[bytes], tmp_path: Path
    ) -> None:
        missing = tmp_path / "missing.wav"
        sources = [missing, recordings[0], b"", recordings[2], b"certainly not audio", missing]
        for batch_seconds in (0.1, 1000.0):
            results = dict(recognizer.transcribe_many(sources, batch_seconds))
            assert list(results) == [0, 1, 2, 3, 4, 5]
            for index in (0, 2, 4, 5):
                assert isinstance(results[index], AudioError)
            assert str(missing) in str(results[0])
            assert text_of(results[1]) == recognizer.transcribe(recordings[0]).text
            assert text_of(results[3]) == recognizer.transcribe(recordings[2]).text

    def test_only_bad_recordings(self, recognizer: Recognizer) -> None:
        results = list(recognizer.transcribe_many([b"", b""]))
        assert [index for index, _ in results] == [0, 1]
        assert all(isinstance(result, AudioError) for _, result in results)

    def test_nothing_to_do(self, recognizer: Recognizer) -> None:
        assert list(recognizer.transcribe_many([])) == []

    def test_expected_seconds_are_checked(self, recognizer: Recognizer) -> None:
        wav = make_wav(16_000)
        results = dict(recognizer.transcribe_many([(wav, 1.0), (wav, 1.2), (wav, 0.8)]))
        assert text_of(results[0]) == recognizer.transcribe(wav).text
        assert isinstance(results[1], AudioError)
        assert isinstance(results[2], AudioError)

    def test_a_file_object_and_a_path(self, recognizer: Recognizer, tmp_path: Path) -> None:
        wav = make_wav(20_000)
        path = tmp_path / "speech.wav"
        path.write_bytes(wav)
        sources = [io.BytesIO(wav), str(path), path]
        texts = {text_of(result) for _, result in recognizer.transcribe_many(sources)}
        assert texts == {recognizer.transcribe(wav).text}

    def test_sources_are_drawn_as_they_are_needed(self, recognizer: Recognizer) -> None:
        drawn = 0

        def draw() -> Iterator[bytes]:
            nonlocal drawn
            for _ in range(200):
                drawn += 1
                yield make_wav(16_000)

        results = recognizer.transcribe_many(draw(), batch_seconds=2.0)
        next(results)
        assert drawn < 100
        results.close()  # type: ignore[attr-defined]
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("audio")]


class TestOneRecording:
    @pytest.mark.parametrize("samples", [1, 160, 399])
    def test_shorter_than_a_window_is_empty(self, recognizer: Recognizer, samples: int) -> None:
        hypothesis = recognizer.transcribe(make_wav(samples))
        assert (hypothesis.text, hypothesis.words) == ("", ())

    def test_what_cannot_be_read_is_refused(self, recognizer: Recognizer, tmp_path: Path) -> None:
        with pytest.raises(AudioError, match=r"gone\.wav"):
            recognizer.transcribe(tmp_path / "gone.wav")

    def test_recordings_are_resampled_to_the_models_rate(self) -> None:
        features = FeaturesConfig(sample_rate=8_000, mels=20, high_hz=3_800)
        recognizer = make_recognizer(features=features)
        log_probs = emit(recognizer, make_wav(32_000, sample_rate=16_000))
        assert len(log_probs) == recognizer.model.frames(16_000)

    def test_dropout_is_off_even_after_training(self) -> None:
        recognizer = make_recognizer(ENCODERS["bidirectional"])
        wav = make_wav(30_000)
        before = recognizer.transcribe(wav)
        model = recognizer.model.train()
        assert Recognizer(model, recognizer.vocabulary).transcribe(wav) == before

    def test_real_speech_through_every_call(self, recognizer: Recognizer, shared: Path) -> None:
        files = sorted((shared / "LibriSpeech/dev-mini").rglob("*.mp3"))[:4]
        many = dict(recognizer.transcribe_many(files))
        assert [text_of(many[i]) for i in range(4)] == [
            recognizer.transcribe(f).text for f in files
        ]


LONG_SECONDS = 27.0


@pytest.fixture(scope="module")
def long() -> bytes:
    """A recording with pauses that does not fit into one chunk."""
    return to_wav(make_talk(LONG_SECONDS, 16_000), 16_000)


@pytest.fixture(scope="module", params=["forward", "latency_controlled"])
def listener(request: pytest.FixtureRequest) -> Recognizer:
    return Recognizer(make_model(request.param), Vocabulary.english())


def segments_of(recognizer: Recognizer, recording: bytes) -> list[Segment]:
    [(_, segments)] = recognizer.emissions([recording])
    assert isinstance(segments, list)
    return segments


class TestLongRecordings:
    def test_they_are_cut_in_pauses(self, listener: Recognizer, long: bytes) -> None:
        segments = segments_of(listener, long)
        assert len(segments) > 1
        frames = listener.model.frames(round(LONG_SECONDS * 16_000))
        ends = [first + len(log_probs) for first, log_probs in segments]
        assert segments[0].first_frame == 0
        assert ends[-1] == frames
        for end, segment in zip(ends, segments[1:], strict=False):
            assert end <= segment.first_frame  # no frame is of two segments
        for _, log_probs in segments[:-1]:
            assert (np.exp(log_probs[-10:, :2]).sum(axis=1) >= 0.8).all()  # 0.4 s of silence
        assert len(segments_of(listener, to_wav(make_talk(11.9, 16_000), 16_000))) == 1

    def test_every_call_gives_the_same(
        self, listener: Recognizer, long: bytes, tmp_path: Path
    ) -> None:
        path = tmp_path / "long.wav"
        path.write_bytes(long)
        expected = listener.transcribe(long)
        times = [time for word in expected.words for time in word[1:3]]
        assert times == sorted(times)
        assert times[-1] > 20
        assert listener.transcribe(path) == listener.transcribe(io.BytesIO(long)) == expected
        segments = segments_of(listener, long)
        assert listener.decode(segments) == listener.decode(iter(segments)) == expected
        sharp = GreedyDecoder(listener.vocabulary, listener.model.frame_seconds)
        assert listener.decode(segments, sharp) == expected
        context = listener.long_context
        endpointer = partial(
            Endpointer, EndpointConfig(), listener.vocabulary, listener.model.frame_seconds
        )
        stream = Stream(listener.model, listener.decoder, context, endpointer)
        ended = stream.accept(make_talk(LONG_SECONDS, 16_000)).segments
        final = stream.finish()
        check_same(join([*ended, *stream.take_segments(), final]), expected)

    def test_among_short_and_bad_ones(
        self, listener: Recognizer, long: bytes, recordings: list[bytes]
    ) -> None:
        """Order is kept, and damage late in one recording concerns that one only."""
        samples = make_talk(LONG_SECONDS, 16_000)
        samples[-1_000] = np.nan
        damaged = to_wav(samples, 16_000)
        sources = [recordings[0], long, recordings[2], b"", damaged, long, recordings[3], damaged]
        for batch_seconds in (1.0, 1000.0):
            results = list(listener.transcribe_many(sources, batch_seconds))
            assert [index for index, _ in results] == list(range(len(sources)))
            emitted = dict(listener.emissions(sources, batch_seconds))
            for index, result in results:
                if index in (3, 4, 7):
                    assert isinstance(result, AudioError)
                    assert isinstance(emitted[index], AudioError)
                else:
                    assert text_of(result) == listener.transcribe(sources[index]).text
            assert "not finite" in str(results[4][1])

    def test_expected_seconds_are_checked(self, listener: Recognizer, long: bytes) -> None:
        sources = [(long, LONG_SECONDS + off) for off in (0.0, 0.2, -0.2)]
        results = dict(listener.transcribe_many(sources))
        assert text_of(results[0]) == listener.transcribe(long).text
        for index in (1, 2):
            assert isinstance(results[index], AudioError)
            assert "27.00 s" in str(results[index])

    @pytest.mark.parametrize("rate", [8_000, 44_100])
    def test_progress_adds_up(self, listener: Recognizer, rate: int) -> None:
        heard: list[float] = []
        short, long = (to_wav(make_talk(seconds, rate), rate) for seconds in (3.0, 24.0))
        listener.transcribe(short, on_progress=heard.append)
        assert heard == pytest.approx([3.0], abs=1e-3)
        listener.transcribe(long, on_progress=heard.append)
        assert sum(heard) == pytest.approx(27.0, abs=1e-3)
        assert len(heard) > 3

    @pytest.mark.parametrize("more", [-1, 0, 1])
    @pytest.mark.parametrize("latency", [400, 4_000])
    def test_around_the_length_of_a_chunk(
        self, listener: Recognizer, latency: float, more: int
    ) -> None:
        """The words are the same in a batch and block by block."""
        endpoint = EndpointConfig(silence=0.3)
        model, context = listener.model, listener.model.context(latency)
        frames = context.frames + more
        samples = next(n for n in range((frames - 1) * 640, 2**30) if model.frames(n) == frames)
        waveform = np.roll(make_talk(24.0, 16_000), -5_000)[:samples]
        new_endpointer = partial(Endpointer, endpoint, listener.vocabulary, model.frame_seconds)
        stream = Stream(model, listener.decoder, context, new_endpointer)
        ended = stream.accept(waveform).segments
        final = stream.finish()
        segments = [*ended, *stream.take_segments(), final]
        point = OperatingPoint(latency, endpoint)
        check_same(join(segments), listener.transcribe(to_wav(waveform, 16_000), point))
        assert len(segments) == 1 if more < 0 else len(segments) >= 1 + (latency > 1_000)

    def test_without_endpoints_it_is_one_segment(
        self, listener: Recognizer, long: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        point = OperatingPoint(400, endpoint=None)
        at_once = emit(listener, long, point)
        monkeypatch.setattr("asr.recognizer.BATCH_SECONDS", 5.0)  # block by block
        in_blocks = emit(listener, long, point)
        np.testing.assert_allclose(in_blocks, at_once, atol=1e-4)
        stream = listener.stream(400)
        stream.accept(make_talk(LONG_SECONDS, 16_000))
        check_same(stream.finish(), listener.transcribe(long, point))

    def test_a_bidirectional_encoder_reads_them_whole(self, long: bytes) -> None:
        recognizer = Recognizer(make_model("bidirectional"), Vocabulary.english())
        frames = recognizer.model.frames(round(LONG_SECONDS * 16_000))
        assert len(emit(recognizer, long)) == frames
        assert len(emit(recognizer, long, WHOLE)) == frames
        for point in (OperatingPoint(640), OperatingPoint(context=Context(4))):
            with pytest.raises(ConfigError, match="encoder=latency_controlled"):
                recognizer.transcribe(long, point)
        with pytest.raises(ConfigError, match="encoder=latency_controlled"):
            recognizer.check_operating_point(WHOLE)

    def test_an_impossible_latency_is_refused_before_reading(self, listener: Recognizer) -> None:
        def choose(latency: float) -> None:
            sources = (pytest.fail("a recording was asked for") for _ in range(1))
            listener.transcribe_many(sources, operating_point=OperatingPoint(latency))

        for latency in (0, -5, 54, 1e9, 1e300):
            with pytest.raises(ConfigError, match="it is from 55 ms"):
                choose(latency)
        for latency in (float("nan"), float("inf"), -float("inf")):
            for refuse in (listener.stream, choose):
                with pytest.raises(ConfigError, match=f"latency of {latency} ms is impossible"):
                    refuse(latency)
        listener.check_operating_point(OperatingPoint(55))

    def test_a_context_says_the_same_as_its_latency(
        self, listener: Recognizer, long: bytes
    ) -> None:
        context = listener.model.context(600)
        by_context = listener.transcribe(long, OperatingPoint(context=context))
        assert by_context == listener.transcribe(long, OperatingPoint(600))
        with pytest.raises(ConfigError, match="leave out one"):
            OperatingPoint(600, context=context)

    def test_calls_do_not_change_each_other(self, listener: Recognizer, long: bytes) -> None:
        before = listener.transcribe(long)
        assert listener.transcribe(long, OperatingPoint(100, EndpointConfig(0.1))) != before
        assert listener.transcribe(long, OperatingPoint()) == listener.transcribe(long) == before


class TestAlign:
    def test_words_are_found_again(self, listener: Recognizer, long: bytes) -> None:
        said = listener.transcribe(long, WHOLE)
        [(_, [(_, log_probs)])] = listener.emissions([long], operating_point=WHOLE)
        seconds = listener.model.frame_seconds
        expected = align(log_probs, said.text, listener.vocabulary, seconds)
        assert listener.align(long, said.text.upper() + "!") == expected
        assert [word.text for word in expected.words] == said.text.split()

    def test_refused(self, listener: Recognizer, long: bytes, tmp_path: Path) -> None:
        with pytest.raises(AudioError, match=r"gone\.wav"):
            listener.align(tmp_path / "gone.wav", "words")
        with pytest.raises(TextError, match="the script"):
            listener.align(long, "?", where="the script")
        with pytest.raises(DecodeError, match="the transcript needs"):
            listener.align(to_wav(make_talk(1.0, 16_000), 16_000), "many words " * 20)


MEMORY = """
import sys, os
import numpy as np, soundfile, torch
from asr.endpoint import EndpointConfig
from asr.recognizer import OperatingPoint, Recognizer

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

torch.set_num_threads(1)
recognizer = Recognizer.load(sys.argv[1])
endpoint = EndpointConfig(silence=0.3)
point = OperatingPoint(10_000, endpoint)
recognizer.transcribe(sys.argv[2], point)
before, largest = resident(), 0

def watch(seconds):
    global largest
    largest = max(largest, resident())

text = recognizer.transcribe(sys.argv[3], point, watch).text
stream, texts = recognizer.stream(10_000, endpoint), []
for block in soundfile.blocks(sys.argv[3], 80_000, dtype="float32"):
    texts += [segment.text for segment in stream.accept(block, 8_000).segments]
final = stream.finish()
texts += [segment.text for segment in stream.take_segments()] + [final.text]
assert " ".join(filter(None, texts)) == text, (text[:500], texts[:50])
print((largest - before) / 1e6, len(texts), len(text))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells no memory in use")
def test_memory_does_not_grow_with_a_recording(tmp_path: Path) -> None:
    """20 minutes: 38 MB of samples and 19 MB of features."""
    features = FeaturesConfig(sample_rate=8_000, mels=40, high_hz=3_800)
    model = make_model("latency_controlled", features, hidden=8)
    save_model(tmp_path / "tiny.pt", model, Vocabulary.english(), {"epoch": 1})
    minute = make_talk(60.0, 8_000)
    for name, minutes in (("short", 1), ("long", 20)):
        with soundfile.SoundFile(tmp_path / f"{name}.wav", "w", 8_000, 1) as file:
            for _ in range(minutes):
                file.write(minute)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, "tiny.pt", "short.wav", "long.wav"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    grown, segments, letters = map(float, done.stdout.split())
    assert grown < 30
    assert segments > 20
    assert letters > 500


class TestLoad:
    def test_it_is_the_saved_one(self, checkpoint: Path, recognizer: Recognizer) -> None:
        wav = make_wav(30_000)
        assert Recognizer.load(checkpoint).transcribe(wav) == recognizer.transcribe(wav)
        read = Checkpoint.read(checkpoint)
        assert Recognizer.load(read).transcribe(wav) == recognizer.transcribe(wav)

    def test_a_language_model_gives_the_tuned_beam(self, checkpoint: Path, tmp_path: Path) -> None:
        model, tuned = tmp_path / "tiny.arpa", tmp_path / "tuned.pt"
        model.write_text(ARPA)
        Checkpoint.read(checkpoint).write(tuned, DecoderConfig("beam", beam=7, alpha=0.9))
        expected = DecoderConfig("beam", beam=7, alpha=0.9, language_model=str(model))
        beam = Recognizer.load(tuned, language_model=model).decoder
        assert isinstance(beam, BeamDecoder)
        assert beam.config == expected
        other = DecoderConfig(nbest=1, beam=3)
        beam = Recognizer.load(tuned, decoder=other, language_model=str(model)).decoder
        assert isinstance(beam, BeamDecoder)
        assert beam.config == replace(expected, beam=3, alpha=other.alpha)
        assert isinstance(Recognizer.load(tuned).decoder, GreedyDecoder)

    def test_threads_are_set_only_when_asked_for(self, checkpoint: Path) -> None:
        before = torch.get_num_threads()
        try:
            Recognizer.load(checkpoint, threads=3)
            assert torch.get_num_threads() == 3
            Recognizer.load(checkpoint)
            assert torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(before)

    def test_a_missing_checkpoint_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"none\.pt"):
            Recognizer.load(tmp_path / "none.pt")

    @pytest.mark.parametrize("name", ["gpu", "cuda:x", "CPU", "", "cuda:-1", "cuda:99"])
    def test_a_device_that_is_not_there_is_refused(self, checkpoint: Path, name: str) -> None:
        if name == "cuda:":
            pytest.skip(
                "an empty number means the first GPU"
            ) if torch.cuda.is_available() else None
        with pytest.raises(ConfigError, match="choose auto"):
            Recognizer.load(checkpoint, device=name)

    def test_automatic_device(self) -> None:
        assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
        assert choose_device("cpu") == "cpu"


class TestGroupBySeconds:
    @settings(deadline=None)
    @given(seconds=st.lists(st.floats(0.0, 30.0), max_size=60), batch_seconds=st.floats(0.5, 120.0))
    def test_every_item_once_in_order_and_no_batch_too_large(
        self, seconds: list[float], batch_seconds: float
    ) -> None:
        items = [(length, index) for index, length in enumerate(seconds)]
        batches = list(group_by_seconds(items, batch_seconds))
        assert [index for batch in batches for index in batch] == list(range(len(seconds)))
        for batch in batches:
            longest = max(seconds[index] for index in batch)
            assert len(batch) == 1 or len(batch) * longest <= batch_seconds
            following = batch[-1] + 1
            if following < len(seconds):  # as large as can be
                assert (len(batch) + 1) * max(longest, seconds[following]) > batch_seconds

    @settings(deadline=None)
    @given(seconds=st.lists(st.floats(0.1, 30.0), min_size=1, max_size=60))
    def test_beginning_at_any_batch_gives_the_same_batches(self, seconds: list[float]) -> None:
        items = [(length, index) for index, length in enumerate(seconds)]
        batches = list(group_by_seconds(items, 60.0))
        for number, batch in enumerate(batches):
            assert list(group_by_seconds(items[batch[0] :], 60.0)) == batches[number:]
