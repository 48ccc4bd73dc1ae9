"""Long recordings, which are read chunk by chunk: segments, operating points, alignment, memory."""

import io
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import check_same, emit, make_model, make_talk, make_wav, text_of, to_wav

from asr.checkpoint import save_model
from asr.decoder.alignment import align
from asr.decoder.greedy import GreedyDecoder
from asr.decoder.hypothesis import join_hypotheses
from asr.encoder import Context
from asr.endpoint import EndpointConfig, Endpointer
from asr.errors import AudioError, ConfigError, DecodeError, TextError
from asr.features import FeaturesConfig
from asr.recognizer import WHOLE, OperatingPoint, Recognizer
from asr.stream import Segment, Stream
from asr.text import Vocabulary

LONG_SECONDS = 27.0


@pytest.fixture(scope="module")
def long() -> bytes:
    """A recording with pauses that does not fit into one chunk."""
    return to_wav(make_talk(LONG_SECONDS, 16_000), 16_000)


@pytest.fixture(scope="module")
def recordings() -> list[bytes]:
    """Short recordings, of which two are shorter than a window."""
    return [make_wav(samples, seed) for seed, samples in enumerate((20_000, 100, 48_000, 399))]


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
        check_same(join_hypotheses([*ended, *stream.take_segments(), final]), expected)

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
        counted: list[float] = []
        short, long = (to_wav(make_talk(seconds, rate), rate) for seconds in (3.0, 24.0))
        listener.transcribe(short, on_progress=counted.append)
        assert counted == pytest.approx([3.0], abs=1e-3)
        listener.transcribe(long, on_progress=counted.append)
        assert sum(counted) == pytest.approx(27.0, abs=1e-3)
        assert len(counted) > 3

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
        check_same(join_hypotheses(segments), listener.transcribe(to_wav(waveform, 16_000), point))
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
                with pytest.raises(ConfigError, match=f"latency of {latency} ms is out of range"):
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
    """10 minutes: 19 MB of samples and 10 MB of features."""
    features = FeaturesConfig(sample_rate=8_000, mels=40, high_hz=3_800)
    model = make_model("latency_controlled", features, hidden=8)
    save_model(tmp_path / "tiny.pt", model, Vocabulary.english(), {"epoch": 1})
    minute = make_talk(60.0, 8_000)
    for name, minutes in (("short", 1), ("long", 10)):
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
    assert grown < 15
    assert segments > 10
    assert letters > 250
