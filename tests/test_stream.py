"""Streams: law 2 from samples to words, what is stable stays, bad input, and `asr stream`."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import cli, listening
from asr.beam import BeamDecoder, BeamState
from asr.checkpoint import save_model
from asr.decode import DecoderConfig, GreedyDecoder, Hypothesis
from asr.errors import AudioError, ConfigError, DecodeError
from asr.features import FeaturesConfig
from asr.language import LanguageModel
from asr.lstm import Context, EncoderConfig
from asr.model import AcousticModel, read_chunks
from asr.recognizer import Recognizer
from asr.stream import Partial, Stream
from asr.text import BLANK, Vocabulary

Run = Callable[..., tuple[int, str, str]]
RATES = (8_000, 16_000, 44_100, 48_000)
SAMPLE = 1 / 32_768  # of 16 bits
LATENCY_MS = 55.0  # one encoder frame: the least
ARPA = """\\data\\
ngram 1=6
ngram 2=2

\\1-grams:
-2.0\t<unk>
-99\t<s>\t-0.3
-1.0\t</s>
-0.7\tz\t-0.3
-0.9\tjz
-0.9\tlf

\\2-grams:
-0.3\t<s> z
-0.3\tz jz

\\end\\
"""


def make_model(kind: str = "forward") -> AcousticModel:
    """A random model that writes many words of what `make_signal` gives."""
    torch.manual_seed(7)
    encoder = EncoderConfig(kind, layers=1, hidden=24)
    model = AcousticModel(FeaturesConfig(mels=40), encoder, 29).eval()
    with torch.no_grad():
        model.features.mean.fill_(-6.0)
        model.features.std.fill_(3.0)
        model.head.weight.mul_(1.5)
        model.head.bias[1] += 2.5  # spaces
        for name, weights in model.encoder.named_parameters():
            if "weight_" in name:
                weights.mul_(3)
    return model


def make_signal(seconds: float, rate: int) -> np.ndarray:
    """A tone that wanders, on and off, and noise that swells, both below 4 kHz; float32 (N,)."""
    t = np.arange(round(seconds * rate)) / rate
    hertz = 500 + 400 * np.sin(7 * t) + 300 * np.sin(17 * t)
    tone = 0.3 * np.sin(2 * np.pi * np.cumsum(hertz) / rate) * (np.sin(5 * t) > 0)
    noise = np.random.default_rng(5).standard_normal(len(t)) * np.sin(25 * t) ** 4
    return np.clip(0.5 * (tone + 0.2 * noise), -1, 1 - SAMPLE).astype(np.float32)


def to_wav(samples: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    subtype = "PCM_16" if samples.dtype == np.int16 else "FLOAT"
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def cut(samples: np.ndarray, longest: int, seed: int = 0) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    place = 0
    while place < len(samples):
        size = int(generator.integers(0, longest + 1))
        yield samples[place : place + size]
        place += size


def words_of(text: str) -> list[str]:
    return text.split(" ") if text else []


def follow(stream: Stream, pieces: Iterator[np.ndarray], rate: int | None) -> list[Partial]:
    return [stream.accept(piece, rate) for piece in pieces]


def check_stable(partials: list[Partial], final: str) -> None:
    """Nothing stable is ever taken back."""
    texts = [words_of(partial.stable) for partial in partials] + [words_of(final)]
    for before, after in pairwise(texts):
        assert after[: len(before)] == before
    assert [p.seconds for p in partials] == sorted(p.seconds for p in partials)
    for partial in partials:
        assert words_of(partial.text) == words_of(partial.stable) + words_of(partial.tail)


def check_same(streamed: Hypothesis, whole: Hypothesis) -> None:
    assert streamed.text == whole.text
    assert [word[:3] for word in streamed.words] == [word[:3] for word in whole.words]
    assert streamed.score == pytest.approx(whole.score, abs=1e-4)
    assert streamed.confidence == pytest.approx(whole.confidence, abs=1e-4)


@pytest.fixture(scope="module")
def recognizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recognizer]:
    path = tmp_path_factory.mktemp("models") / "tiny.arpa"
    path.write_text(ARPA)
    beam = DecoderConfig("beam", beam=16)
    guided = DecoderConfig("beam", beam=16, language_model=str(path), nbest=3)
    model, vocabulary = make_model(), Vocabulary.english()
    return {
        "greedy": Recognizer(model, vocabulary),
        "beam": Recognizer(model, vocabulary, beam),
        "guided": Recognizer(model, vocabulary, guided, {"zq": 3.0, "z jz": 2.0}),
    }


KINDS = ("greedy", "beam", "guided")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_any_pieces_give_what_transcribe_gives(
    recognizers: dict[str, Recognizer], kind: str, rate: int, dtype: type
) -> None:
    """Law 2."""
    recognizer = recognizers[kind]
    samples = make_signal(2.5, rate)
    if dtype == np.int16:
        samples = (samples / SAMPLE).astype(np.int16)
    whole = recognizer.transcribe(to_wav(samples, rate))
    assert len(whole.words) > 3
    for longest in (rate // 20, rate // 2, 10 * rate):
        stream = recognizer.stream()
        partials = follow(stream, cut(samples, longest, seed=longest), rate)
        final = stream.finish()
        check_same(final, whole)
        check_stable(partials, final.text)
        assert partials[-1].seconds == pytest.approx(2.5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", RATES)
def test_sample_by_sample(recognizers: dict[str, Recognizer], kind: str, rate: int) -> None:
    """Law 2."""
    samples = make_signal(0.5, rate)[: 4_000 + 37]
    stream = recognizers[kind].stream()
    partials = [stream.accept(samples[i : i + 1], rate) for i in range(len(samples))]
    final = stream.finish()
    check_same(final, recognizers[kind].transcribe(to_wav(samples, rate)))
    check_stable(partials, final.text)


@pytest.mark.parametrize("kind", KINDS)
def test_real_speech(recognizers: dict[str, Recognizer], kind: str, shared: Path) -> None:
    """Law 2, and what is stable stays, at each rate."""
    path = min((shared / "LibriSpeech" / "dev-mini").rglob("*.mp3"))
    speech, found = soundfile.read(path, dtype="float32")
    for rate in RATES:
        samples = soxr.resample(speech[: 6 * found], found, rate)
        stream = recognizers[kind].stream()
        partials = follow(stream, cut(samples, rate // 5, seed=rate), rate)
        final = stream.finish()
        check_same(final, recognizers[kind].transcribe(to_wav(samples, rate)))
        check_stable(partials, final.text)
        assert len(words_of(partials[-1].stable)) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_partials_come_while_it_is_heard(recognizers: dict[str, Recognizer], kind: str) -> None:
    """Each is what the decoder makes of the log-probs so far, not something late or stale."""
    recognizer = recognizers[kind]
    stream, emissions = recognizer.stream(LATENCY_MS), recognizer.model.stream(Context(1))
    state = recognizer.decoder.start()
    for piece in cut(make_signal(2.0, 16_000), 3_000):
        partial = stream.accept(piece)
        emissions.accept(piece)
        while emissions.ready:
            [log_probs] = read_chunks([emissions])
            recognizer.decoder.advance(state, log_probs)
        assert partial.text == recognizer.decoder.best(state).text


# What is stable, on random log-probs


def log_probs_of(frames: int, symbols: int, seed: int, peak: float) -> np.ndarray:
    """Random (T', V) log-probs with a likely symbol in each frame."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(frames, symbols))
    logits[np.arange(frames), generator.integers(0, symbols, frames)] += peak
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def spell_all(state: BeamState, decoder: BeamDecoder) -> list[str]:
    """Every text of the beam, each read symbol by symbol: an independent look at the history."""
    texts = []
    for slot in state.active[: state.progress["texts"][0]]:
        symbols, node = [int(state.texts["last"][slot])], int(state.texts["past"][slot])
        while node:
            symbols.append(int(state.history["symbol"][node]))
            node = int(state.history["past"][node])
        letters = [decoder.vocabulary.symbols[symbol] for symbol in reversed(symbols) if symbol]
        texts.append("".join(letters))
    return texts


def ended_in_all(state: BeamState, decoder: BeamDecoder) -> list[str]:
    texts = spell_all(state, decoder)
    first, last = min(texts), max(texts)  # what these two share, all share
    pairs = enumerate(zip(first, last, strict=False))
    shared = next((place for place, (a, b) in pairs if a != b), len(first))
    # A text may begin with a space or without: while the beam holds both kinds, nothing is shared.
    return first[:shared].lstrip(" ").split(" ")[:-1]


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    path = tmp_path_factory.mktemp("models") / "ab.arpa"
    path.write_text(ARPA.replace("jz", "ba").replace("lf", "a").replace("z", "b"))
    return LanguageModel.read(path)


@given(
    seed=st.integers(0, 10_000),
    peak=st.sampled_from([0.0, 2.0, 4.0, 8.0]),
    beam=st.sampled_from([1, 2, 5, 30]),
    guided=st.booleans(),
    hot=st.booleans(),
    letters=st.sampled_from([" ab", " ", "ab"]),
    longest=st.sampled_from([1, 3, 40]),
)
@settings(deadline=None, max_examples=120)
def test_words_that_all_texts_share_are_stable(
    language_model: LanguageModel,
    seed: int,
    peak: float,
    beam: int,
    guided: bool,
    hot: bool,
    letters: str,
    longest: int,
) -> None:
    guided, hot = guided and letters == " ab", hot and letters == " ab"
    decoder = BeamDecoder(
        Vocabulary.from_list([BLANK, *letters]),
        0.04,
        DecoderConfig("beam", beam=beam),
        language_model if guided else None,
        None,
        {"ab": 2.0, "a b": 1.0} if hot else None,
    )
    state, untouched = decoder.start(), decoder.start()
    state.history = state.history[: 6 * beam + 20]  # compacted often
    log_probs = log_probs_of(80, len(letters) + 1, seed, peak)
    before: list[str] = []
    for piece in cut(log_probs, longest, seed):
        decoder.advance(state, piece)
        decoder.advance(untouched, piece)
        stable, tail = decoder.partial(state)
        words = words_of(stable)
        assert words == ended_in_all(state, decoder)
        assert words[: len(before)] == before
        best = decoder.best(state)
        assert words + words_of(tail) == words_of(best.text)
        assert best == decoder.best(untouched)
        before = words
    assert decoder.partial(untouched) == decoder.partial(state)
    if letters == "ab":
        assert not before


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_stable_words_do_not_wait_for_the_end(kind: str) -> None:
    """A beam that knows words soon compares texts that differ only in what is long ago."""
    text = "one two " * 40
    vocabulary = Vocabulary.english()
    log_probs = np.full((len(text), len(vocabulary)), np.log(0.01 / 28), np.float32)
    log_probs[np.arange(len(text)), vocabulary.encode(text)] = np.log(0.99)
    reader: Any = GreedyDecoder(vocabulary, 0.04)
    if kind == "beam":
        reader = BeamDecoder(vocabulary, 0.04, lexicon=["one", "two"])
    state = reader.start()
    for frame in range(len(text)):
        reader.advance(state, log_probs[frame : frame + 1])
        stable, tail = reader.partial(state)
        assert words_of(stable) + words_of(tail) == words_of(text[: frame + 1].strip())
        if frame < 3:
            assert not stable
        late = 0 if kind == "greedy" else 2
        assert len(words_of(stable)) >= text[: frame + 1].count(" ") - late


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
                r"not finite numbers, the first at 0\.500",
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
            (np.zeros(5, np.float32), 8_000, "began with 16,000 .* cannot go on with 8,000"),
            (np.zeros(5, np.float32), 0, "0 samples per second is impossible"),
            (np.zeros(5, np.float32), -16_000, "impossible"),
            (np.zeros(5, np.float32), 16_000.5, "impossible"),
            (np.zeros(5, np.float32), "16000", "impossible"),
            (np.zeros(5, np.float32), 10**9, "impossible"),
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

    def test_samples_beyond_all_numbers_end_one_stream_only(
        self, recognizers: dict[str, Recognizer]
    ) -> None:
        stream, other = recognizers["greedy"].stream(), recognizers["greedy"].stream()
        samples = make_signal(1.0, 16_000)
        other.accept(samples[:9_000])
        with pytest.raises(DecodeError, match="NaN"):
            stream.accept(np.full(16_000, 3e38, np.float32))
        other.accept(samples[9_000:])
        check_same(other.finish(), recognizers["greedy"].transcribe(to_wav(samples, 16_000)))


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", KINDS)
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


# asr stream


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, kind in (("model.pt", "forward"), ("both.pt", "bidirectional")):
        model = make_model(kind)
        save_model(folder / name, model, Vocabulary.english(), {"epoch": 1})
    (folder / "tiny.arpa").write_text(ARPA)
    for rate in (16_000, 44_100):
        soundfile.write(folder / f"{rate}.wav", make_signal(2.0, rate), rate, subtype="PCM_16")
    return folder


@pytest.fixture
def asr(
    checkpoints: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Run a command with the checkpoint, in its folder: (exit code, stdout, stderr)."""
    monkeypatch.setattr("asr.distributed.count_cores", lambda: 1)
    monkeypatch.chdir(checkpoints)

    def run(*words: str, content: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        capfd.readouterr()
        argv = [*words] if "--checkpoint" in words else [*words, "--checkpoint", "model.pt"]
        try:
            code = cli.main(argv)
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


def pcm(name: str) -> bytes:
    samples: np.ndarray = soundfile.read(name, dtype="int16")[0]
    return samples.astype("<i2").tobytes()


def documents(out: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    *partials, final = map(json.loads, out.splitlines())
    assert final.pop("final") is True
    assert [set(partial) for partial in partials] == [{"seconds", "stable", "tail"}] * len(partials)
    return partials, final


LIVE = ("--latency", "55", "--pause", "0")
GUIDED = ("--lm", "tiny.arpa", "--hotword", "zq")


@pytest.mark.parametrize("options", [(), GUIDED])
def test_all_doors_agree(asr: Run, options: tuple[str, ...]) -> None:
    """Laws 2 and 4: a file, its samples, and transcription of the whole."""
    for rate in ("16000", "44100"):
        name = f"{rate}.wav"
        _, whole, _ = asr("transcribe", *options, "--format", "json", name)
        by_file = asr("stream", *options, *LIVE, name)
        by_pipe = asr("stream", *options, *LIVE, "--rate", rate, "-", content=pcm(name))
        if rate == "16000":
            assert asr("stream", *options, *LIVE, "-", content=pcm(name)) == by_pipe
        for code, out, err in (by_file, by_pipe):
            assert (code, err) == (0, "")
            partials, final = documents(out)
            expected = json.loads(whole)
            assert final["text"] == expected["text"] != ""
            assert final["words"] == expected["words"]
            shown = [Partial(p["stable"], p["tail"], p["seconds"]) for p in partials]
            check_stable(shown, final["text"])
            assert len(shown) > 5
            assert all(a.text != b.text or a.stable != b.stable for a, b in pairwise(shown))


def test_samples_that_straddle_reads(asr: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dribble(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return super().read1(min(size or 1, 1001))

    content = pcm("16000.wav")
    pieces = list(listening.read_samples(Dribble(content), 16_000))
    assert np.array_equal(np.concatenate(pieces), np.frombuffer(content, "<i2"))
    assert {piece.dtype for piece in pieces} == {np.dtype(np.int16)}


def test_odd_number_of_bytes(asr: Run) -> None:
    content = pcm("16000.wav")
    _, even, _ = asr("stream", "-", content=content)
    code, out, err = asr("stream", "-", content=content + b"x")
    assert (code, out) == (1, even)
    assert "odd number of bytes" in err
    assert len(err.splitlines()) == 1
    code, out, err = asr("stream", "-", content=b"x")
    assert (code, out) == (1, "")
    assert "odd number of bytes" in err


def test_empty_standard_input_is_empty_text(asr: Run) -> None:
    code, out, err = asr("stream", "-")
    assert (code, err) == (0, "")
    assert documents(out) == ([], {"text": "", "confidence": 1.0, "score": 0.0, "words": []})


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("missing.wav",), 1, "missing.wav does not exist"),
        (("tiny.arpa",), 1, "not audio in a known format"),
        (("--rate", "5", "-"), 1, "5 samples per second is impossible"),
        (("--rate", "0", "-"), 2, "'0' is not a whole number"),
        (("--rate", "8000", "16000.wav"), 2, "--rate is that of standard input"),
        (("--realtime", "-"), 2, "--realtime plays a recording"),
        (("--checkpoint", "both.pt", "16000.wav"), 2, "encoder=latency_controlled"),
        (("--decoder", "greedy", "--beam", "3", "-"), 2, "knows no --beam"),
        (("--strict", "-"), 2, "--strict needs to know words"),
    ],
)
def test_refused_in_one_sentence(
    asr: Run, words: tuple[str, ...], code: int, sentence: str
) -> None:
    found, out, err = asr("stream", *words, content=b"\0" * 100)
    assert (found, out) == (code, "")
    assert sentence in err
    assert len(err.splitlines()) == 1 or "usage" in err


def test_what_was_heard_before_damage_is_shown(asr: Run, checkpoints: Path) -> None:
    samples = make_signal(6.0, 16_000)
    samples[80_000] = np.nan  # in the second block
    soundfile.write(checkpoints / "damaged.wav", samples, 16_000, subtype="FLOAT")
    code, out, err = asr("stream", "damaged.wav")
    assert code == 1
    assert "not finite" in err
    partials, final = documents(out)
    recognizer = Recognizer.load(checkpoints / "model.pt")
    assert final["text"] == recognizer.transcribe(to_wav(samples[:65_536], 16_000)).text
    assert partials


def test_realtime_waits_for_each_piece(asr: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(listening, "monotonic", lambda: clock[0])
    monkeypatch.setattr(listening, "sleep", sleep)
    at_once = asr("stream", "16000.wav")
    assert not slept
    assert asr("stream", "--realtime", "16000.wav") == at_once
    assert sum(slept) == pytest.approx(2.0)
    assert max(slept) == pytest.approx(0.1)
    times = [partial["seconds"] for partial in documents(at_once[1])[0]]
    assert times == sorted(set(times))


def test_live_pipe_answers_before_its_end_and_ctrl_c_finishes(checkpoints: Path) -> None:
    command = "import sys, asr.cli; sys.exit(asr.cli.main())"
    words = ["stream", *LIVE, "--checkpoint", "model.pt", "--threads", "1", "-"]
    program = subprocess.Popen(
        [sys.executable, "-c", command, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=checkpoints,
    )
    assert program.stdin
    assert program.stdout
    deadline = threading.Timer(60, program.kill)
    deadline.start()
    program.stdin.write(pcm(str(checkpoints / "16000.wav")))
    program.stdin.flush()
    lines = [json.loads(program.stdout.readline()) for _ in range(5)]  # the pipe is still open
    os.kill(program.pid, signal.SIGINT)
    rest, err = program.communicate()
    deadline.cancel()
    partials, final = documents(rest.decode())
    assert program.returncode == 130
    assert err == b"asr: interrupted.\n"
    shown = [Partial(p["stable"], p["tail"], p["seconds"]) for p in [*lines, *partials]]
    check_stable(shown, final["text"])
    assert final["text"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("options", [(), GUIDED])
def test_terminal_shows_one_line_and_then_the_text(
    asr: Run, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    options = (*options, *LIVE)
    text = documents(asr("stream", *options, "16000.wav")[1])[1]["text"]
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    code = cli.main(["stream", "--checkpoint", "model.pt", *options, "16000.wav"])
    shown = terminal.getvalue()
    assert code == 0
    assert "{" not in shown
    live, _, last = shown.rstrip("\n").rpartition("\x1b[2K")
    assert last == text
    assert "\x1b[2m" in live  # what may change is dim
    plain = live.replace("\x1b[2m", "").replace("\x1b[0m", "").replace("\x1b[2K", "")
    lines = [line for line in plain.split("\r") if "\x1b" not in line]
    assert len(lines) > 5
    assert max(map(len, lines)) <= 19
    assert any(line.strip() == text[-19:].strip() for line in lines)  # its end, cut at the front
