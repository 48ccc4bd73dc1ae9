"""Selection: the utterances that CTC can align are selected, and all others are rejected."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr.audio.recording import TOLERANCE_SECONDS
from asr.data.augment import AugmentConfig, Augmenter, Timing
from asr.data.corpora import read_librispeech
from asr.data.index import Index
from asr.data.loading import SpeechDataset
from asr.data.manifest import Reject, Utterance
from asr.data.selection import select_trainable
from asr.features import FeaturesConfig, LogMel
from asr.text import Vocabulary, min_ctc_frames, normalize

ENGLISH = Vocabulary.english()


def select_one_by_one(
    utterances: list[Utterance],
    vocabulary: Vocabulary,
    frames: Callable[[int], int],
    fastest: float,
    limits: tuple[float, float],
    sample_rate: int,
) -> tuple[list[Utterance], list[Reject]]:
    """The definition of `select_trainable`, one utterance at a time."""
    trainable, rejects = [], []
    for utterance in utterances:
        name, seconds, text = utterance.id, utterance.seconds, normalize(utterance.text)
        unknown = set(text) - set(vocabulary.symbols)
        needed = 0 if unknown or not text else min_ctc_frames(vocabulary.encode(text))
        given = frames(round(round(max(0.0, seconds - TOLERANCE_SECONDS) * sample_rate) / fastest))
        if not text:
            rejects.append(Reject(name, "empty text"))
        elif unknown:
            characters = " ".join(map(repr, sorted(unknown)))
            rejects.append(Reject(name, "characters not in the vocabulary", characters))
        elif seconds < limits[0]:
            rejects.append(Reject(name, f"shorter than {limits[0]:g} s", f"{seconds:.2f} s"))
        elif seconds > limits[1]:
            rejects.append(Reject(name, f"longer than {limits[1]:g} s", f"{seconds:.2f} s"))
        elif given < needed:
            detail = f"needs {needed} encoder frames, has {given} at speed {fastest:g}"
            rejects.append(Reject(name, "too short for its text", detail))
        else:
            trainable.append(replace(utterance, text=text))
    return trainable, rejects


MANY = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 80))  # an index has fewer bits


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.05, 0.06, 0.3, 1.0, 17.25]) | st.floats(1e-3, 20.0),
            st.text("aab ' É7", max_size=12) | st.text(MANY + "a", max_size=30),
        ),
        max_size=12,
    ),
    st.sampled_from([ENGLISH, Vocabulary.from_transcripts(["ab", MANY[:70]])]),
    st.sampled_from([1, 640, 1280]),
    st.sampled_from([1.0, 1.1, 1.265]),
    st.sampled_from([(0.0, float("inf")), (0.06, 17.0)]),
    st.sampled_from([7, 8000, 44_100]),
)
@example([(9.0, letter) for letter in MANY + "a"], ENGLISH, 640, 1.0, (0.0, 9.0), 16_000)
@example([(2 / 7 + TOLERANCE_SECONDS, "ab")], ENGLISH, 1, 1.1, (0.0, 9.0), 7)  # 1.8 samples: 2
@settings(deadline=None, max_examples=300)
def test_selection_equals_its_definition(
    rows: list[tuple[float, str]],
    vocabulary: Vocabulary,
    hop: int,
    fastest: float,
    limits: tuple[float, float],
    sample_rate: int,
) -> None:
    utterances = [
        Utterance(f"u{number}", "x.wav", seconds, text)
        for number, (seconds, text) in enumerate(rows)
    ]

    def frames(samples: int) -> int:
        return samples // hop

    trainable, rejects = select_trainable(
        utterances, vocabulary, frames, fastest, *limits, sample_rate
    )
    expected = select_one_by_one(utterances, vocabulary, frames, fastest, limits, sample_rate)
    assert (list(trainable), rejects) == expected


def test_every_reason_is_named() -> None:
    texts = {"ok": "Two  Words", "e": " ", "c": "7 cafés", "s": "a", "l": "a", "t": "bookkeeper"}
    seconds = {"s": 0.19, "l": 10.01, "t": 0.4}
    utterances = [
        Utterance(name, "x.wav", seconds.get(name, 1.0), text) for name, text in texts.items()
    ]
    trainable, rejects = select_trainable(
        utterances, ENGLISH, lambda samples: samples // 640, 1.1, min_seconds=0.2, max_seconds=10
    )
    assert list(trainable) == [replace(utterances[0], text="two words")]
    assert rejects == [
        Reject("e", "empty text"),
        Reject("c", "characters not in the vocabulary", "'7' 'é'"),
        Reject("s", "shorter than 0.2 s", "0.19 s"),
        Reject("l", "longer than 10 s", "10.01 s"),
        Reject("t", "too short for its text", "needs 13 encoder frames, has 7 at speed 1.1"),
    ]


@given(st.text("ab", min_size=1, max_size=8))
@settings(deadline=None, max_examples=30)
def test_selected_utterances_are_those_that_ctc_can_align(text: str) -> None:
    """Law 5; the oracle is torch's CTC loss, which is infinite if there is no alignment."""
    target = torch.tensor([ENGLISH.encode(text)])
    for frames in range(1, 17):
        log_probs = torch.randn(frames, 1, len(ENGLISH)).log_softmax(-1)
        loss = torch.nn.functional.ctc_loss(
            log_probs, target, torch.tensor([frames]), torch.tensor([len(text)])
        )
        trainable, rejects = select_trainable(
            [Utterance("u", "", 1.0, text)], ENGLISH, lambda _, n=frames: n
        )
        assert len(trainable) == bool(torch.isfinite(loss))
        assert len(trainable) + len(rejects) == 1


def test_the_fastest_speed_decides() -> None:
    def frames(samples: int) -> int:
        return samples // 100

    utterance = Utterance("u", "", 1.0, "ab" * 40)  # 80 symbols; at least 152 frames
    assert select_trainable([utterance], ENGLISH, frames, fastest=1.9)[0]
    assert not select_trainable([utterance], ENGLISH, frames, fastest=1.91)[0]
    assert not select_trainable([utterance], ENGLISH, frames, fastest=1.1, sample_rate=8000)[0]


def test_a_selected_utterance_fits_with_any_augmentation(tmp_path: Path) -> None:
    """Law 5 over the whole path: the shortest selected recording, at every speed and tempo."""
    text = "no one will add all"
    needed = min_ctc_frames(ENGLISH.encode(text))
    log_mel, config = LogMel(FeaturesConfig()), AugmentConfig(speeds=[0.9, 1.1], tempo=0.15)

    def frames(samples: int) -> int:
        return -(-log_mel.frames(samples) // 4)

    def try_samples(samples: int) -> Index:
        utterance = Utterance("u", str(tmp_path / "u.wav"), samples / 16_000, text)
        return select_trainable([utterance], ENGLISH, frames, fastest=config.fastest)[0]

    samples = next(n for n in range(10_000, 30_000) if try_samples(n))
    shortest = samples - 798  # the tolerance of `load_audio`
    soundfile.write(tmp_path / "u.wav", np.random.default_rng(0).normal(0, 0.1, shortest), 16_000)
    trainable = try_samples(samples)
    dataset = SpeechDataset(
        trainable, trainable.symbols, ENGLISH, log_mel, Augmenter(config, 16_000)
    )
    timings = [Timing(1.1, tempo=tempo) for tempo in np.linspace(0.85, 1.15, 50)]
    given_frames = [-(-len(dataset[0, 0, timing].features) // 4) for timing in timings]
    assert min(given_frames) == needed


def test_a_real_corpus_is_selected_completely(shared: Path) -> None:
    found, _ = read_librispeech(shared / "LibriSpeech/dev-mini")
    trainable, rejects = select_trainable(
        found, ENGLISH, lambda samples: samples // 640, fastest=1.1
    )
    assert (list(trainable), rejects) == (found, [])
