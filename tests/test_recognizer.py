"""The one path of inference: batch invariance (law 1), unreadable recordings, operating points."""

import io
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from project import ROOT
from signals import ARPA, emit, make_wav, only, text_of

from asr.checkpoint import Checkpoint, save_model
from asr.decoder.beam import BeamDecoder
from asr.decoder.config import DecoderConfig
from asr.decoder.greedy import GreedyDecoder
from asr.encoder import EncoderConfig
from asr.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
)
from asr.features import FeaturesConfig
from asr.model import AcousticModel, group_by_seconds
from asr.recognizer import Recognizer
from asr.runtime.device import choose_device
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
        with pytest.raises(ConfigError, match="use auto"):
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_recognizer_that_has_computed_works_in_a_forked_child() -> None:
    code = """
        import multiprocessing
        import torch
        from asr import Recognizer
        torch.set_num_threads(2)
        recognizer = Recognizer.default()
        expected = recognizer.transcribe("docs/sample.flac").text
        def work(path):
            return recognizer.transcribe(path).text
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.map_async(work, ["docs/sample.flac"]).get(60) == [expected]
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
