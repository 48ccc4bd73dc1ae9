"""The beam search against exact scores: the sum over all CTC paths, and a rescoring of its texts."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from beams import (
    LARGER,
    QUIET,
    SMALL,
    SPACELESS,
    WORDS,
    Setup,
    all_of,
    beam_config,
    close,
    lingering,
    log_ctc,
    log_ctc_of_all,
    log_softmax,
    model_of,
    most_frames,
    random_entries,
    scores,
    scores_of_all,
    setups,
    tiny_log_probs,
    vocabulary_of,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ngrams import Entries

from asr.text import Vocabulary


class TestExhaustive:
    """With an unlimited beam, scores are exact."""

    @pytest.mark.slow
    @given(st.data())
    @settings(QUIET, max_examples=250)
    def test_scores_equal_the_sum_over_all_paths(self, data: st.DataObject) -> None:
        setup = data.draw(setups())
        vocabulary = setup.vocabulary
        log_probs = data.draw(tiny_log_probs(len(vocabulary), most_frames(vocabulary)))
        expected = scores_of_all(setup, log_probs)
        hypothesis = setup.decoder().decode(log_probs)
        if expected:
            assert scores(hypothesis) == close(expected)
            assert hypothesis.score == close(max(expected.values()))
        else:  # strict, and no open word can end here; or the floor leaves no path
            known = set(hypothesis.text.split()) <= set(setup.known_words())
            assert known or hypothesis.score == -math.inf

    @pytest.mark.parametrize("characters", ["a", " "])
    @given(st.data())
    @settings(QUIET, max_examples=30)
    def test_vocabularies_of_two_symbols(self, characters: str, data: st.DataObject) -> None:
        setup = Setup(vocabulary_of(characters))
        log_probs = data.draw(tiny_log_probs(2, 7))
        assert scores(setup.decoder().decode(log_probs)) == close(scores_of_all(setup, log_probs))

    @given(st.data())
    @settings(QUIET, max_examples=100)
    def test_nbest_truncates_the_full_list(self, data: st.DataObject) -> None:
        setup = data.draw(setups())
        log_probs = data.draw(tiny_log_probs(len(setup.vocabulary), 5))
        everything = all_of(setup.decoder().decode(log_probs))
        for nbest in (1, 3):
            found = all_of(setup.decoder(nbest=nbest).decode(log_probs))
            assert found == everything[:nbest]


class TestPruning:
    """Pruning may lose alignments of a text, so its score is exact or too low."""

    @pytest.mark.slow
    @given(st.data())
    @settings(QUIET, max_examples=200)
    def test_recombination_never_overestimates_scores(self, data: st.DataObject) -> None:
        setup = data.draw(setups(recombine=True))
        log_probs = data.draw(tiny_log_probs(len(setup.vocabulary), 5))
        exact = scores_of_all(setup, log_probs)
        assume(exact)  # otherwise an open word is dropped
        for text, score in scores(setup.decoder().decode(log_probs)).items():
            assert score <= exact[text] + 1e-5 + 1e-6 * abs(score)

    @pytest.mark.slow
    @given(st.data(), st.integers(1, 12), st.sampled_from([0.0, 1.0, 4.0, 12.0, math.inf]))
    @settings(QUIET, max_examples=200)
    def test_a_narrow_beam_never_overestimates_scores(
        self, data: st.DataObject, beam: int, beam_range: float
    ) -> None:
        numbers = {"beam": beam, "beam_range": beam_range, "strict": False}
        setup = data.draw(setups(**numbers, recombine=data.draw(st.booleans())))
        log_probs = data.draw(tiny_log_probs(len(setup.vocabulary), 5))
        exact = scores_of_all(setup, log_probs)
        found = scores(setup.decoder().decode(log_probs))
        assert len(found) <= beam
        for text, score in found.items():
            assert score <= exact[text] + 1e-5 + 1e-6 * abs(score)

    @pytest.mark.slow
    def test_recombination_seldom_changes_the_best_text(self) -> None:
        changed, losses = recombination_losses(rounds=300)
        assert changed <= 8
        assert np.mean(losses) < 0.005

    def test_recombination_keeps_one_prefix_per_key(self) -> None:
        """In a unigram model, earlier words do not matter."""
        entries: Entries = {
            ("<s>",): (-99.0, 0.0), ("</s>",): (-0.5, 0.0), ("a",): (-0.7, 0.0), ("b",): (-0.7, 0.0),
        }  # fmt: skip
        config = beam_config(beam=200, nbest=200)
        setup = Setup(SMALL, config, entries, model_of(entries))
        for seed in range(6):
            log_probs = lingering(60, 4, np.random.default_rng(seed), peak=2.0)
            few, many = [
                scores(setup.decoder(recombine=recombine).decode(log_probs))
                for recombine in (True, False)
            ]
            assert len(few) <= 10 < 100 <= len(many)
            assert max(few.values()) > max(many.values()) - 5.0

    @pytest.mark.slow
    @given(st.data())
    @settings(QUIET, max_examples=100)
    def test_random_extreme_frames_are_never_overestimated(self, data: st.DataObject) -> None:
        """Log-probabilities of -1e4 are practically impossible, but sums of them are finite."""
        setup = data.draw(setups(beam=4, beam_range=data.draw(st.sampled_from([12.0, 1e9]))))
        symbols = len(setup.vocabulary)
        generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        logits = generator.choice(
            [0.0, 0.0, -1.0, -90.0, -300.0, -1e4, -np.inf], size=(40, symbols)
        )
        logits[np.arange(40), generator.integers(0, symbols, size=40)] = 0.0
        log_probs = log_softmax(logits)
        for found in all_of(setup.decoder().decode(log_probs)):
            assert found.score < math.inf  # and not NaN
            if setup.config.strict:
                assert set(found.text.split()) <= set(setup.known_words())
            if setup.config.strict or found.score == -math.inf:
                continue
            exact = log_ctc(setup.without_priors(log_probs), found.text, setup.vocabulary)
            exact += setup.beyond_acoustics(found.text)
            assert found.score <= exact + 1e-4 + 1e-6 * abs(exact)


def recombination_losses(rounds: int) -> tuple[int, list[float]]:
    """How often recombination changes the best text of tiny inputs, and the loss in nats."""
    changed, losses = 0, []
    for seed in range(rounds):
        generator = random.Random(seed)
        words = generator.sample(WORDS[:7], 4)
        entries = random_entries(generator, words, 1 + seed % 3)
        setup = Setup(SMALL, entries=entries, model=model_of(entries))
        setup.config = replace(setup.config, nbest=1, recombine=True)
        if seed % 2:
            setup.hotwords = {"a b": 2.0}
        scale = (0.5, 1.5, 4.0)[seed % 5 % 3]
        logits = np.random.default_rng(seed).normal(size=(6, 4)) * scale
        log_probs = log_softmax(logits)
        exact = scores_of_all(setup, log_probs)
        found = setup.decoder().decode(log_probs)
        best = max(exact, key=exact.__getitem__)
        changed += found.text != best
        losses.append(exact[best] - exact[found.text])
    return changed, losses


class TestRescoring:
    """The forward algorithm gives exact scores of texts that are too long to enumerate paths."""

    @given(st.data(), st.sampled_from([SMALL, LARGER, SPACELESS]))
    @settings(QUIET, max_examples=30)
    def test_the_forward_algorithm_equals_the_sum_over_all_paths(
        self, data: st.DataObject, vocabulary: Vocabulary
    ) -> None:
        log_probs = data.draw(tiny_log_probs(len(vocabulary), 5))
        expected = log_ctc_of_all(log_probs, vocabulary)
        for text in list(expected)[::7]:
            assert log_ctc(log_probs, text, vocabulary) == close(expected[text])

    @given(st.integers(0, 2**32), st.sampled_from([1, 4, 32]), st.sampled_from([1.0, 3.0, 6.0]))
    @settings(QUIET, max_examples=40)
    def test_scores_of_long_inputs_are_never_overestimated(
        self, seed: int, beam: int, peak: float
    ) -> None:
        log_probs = lingering(80, 5, np.random.default_rng(seed), peak)
        generator = random.Random(seed)
        entries = random_entries(generator, generator.sample(WORDS, 5), 2)
        priors = [0.5, 0.2, 0.15, 0.1, 0.05]
        config = beam_config(beam=beam, nbest=4, token_floor=-math.inf, prior=0.6, priors=priors)
        model = model_of(entries)
        setup = Setup(LARGER, config, entries, model, hotwords={"ab": 2.0, "b a": 3.0, "c": -1.0})
        for found in all_of(setup.decoder().decode(log_probs)):
            acoustic = log_ctc(setup.without_priors(log_probs), found.text, LARGER)
            exact = acoustic + setup.beyond_acoustics(found.text)
            assert found.score <= exact + 1e-4
