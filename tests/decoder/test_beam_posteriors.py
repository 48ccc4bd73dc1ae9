"""The beam search on log-probabilities of a real acoustic model."""

import itertools
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
from beams import (
    ENGLISH,
    SECONDS,
    Bench,
    all_of,
    beam_config,
    load_bench,
)

from asr.decoder.beam import BeamDecoder
from asr.decoder.greedy import GreedyDecoder


@pytest.fixture(scope="session")
def bench(shared: Path) -> Bench:
    return load_bench(shared)


class TestRealPosteriors:
    @pytest.mark.parametrize("beam", [16, 64])
    def test_scores_are_close_to_a_rescoring_and_never_above_it(
        self, bench: Bench, beam: int
    ) -> None:
        config = beam_config(beam=beam, nbest=2)
        decoder = BeamDecoder(ENGLISH, SECONDS, config, bench.model)
        gaps = []
        for index in range(6):
            for found in all_of(decoder.decode(bench.log_probs[index])):
                exact = bench.rescore(index, found.text, config)
                assert found.score <= exact + 1e-4
                gaps.append(exact - found.score)
        assert np.median(gaps) < 0.3  # mostly due to symbols below `token_floor`

    def test_a_wider_beam_never_lowers_the_mean_score(self, bench: Bench) -> None:
        few = range(0, 48, 2)
        means = []
        for beam in (8, 16, 32, 64, 128):
            decoder = BeamDecoder(ENGLISH, SECONDS, beam_config(beam=beam), bench.model)
            means.append(np.mean([decoder.decode(bench.log_probs[index]).score for index in few]))
        assert all(wide > narrow - 1e-3 for narrow, wide in itertools.pairwise(means)), means
        assert means[-1] > means[0]

    def test_error_rates_are_as_expected(self, bench: Bench) -> None:
        jiwer = pytest.importorskip("jiwer")
        decoder = BeamDecoder(ENGLISH, SECONDS, beam_config(beam=16), bench.model)
        found = decoder.decode_many(bench.log_probs[:50])
        rate = jiwer.wer(bench.references[:50], [hypothesis.text for hypothesis in found])
        assert rate < 0.04
        greedy = GreedyDecoder(ENGLISH, SECONDS)
        plain = BeamDecoder(ENGLISH, SECONDS, beam_config(beam=16))
        rates = [
            jiwer.wer(bench.references[:20], [d.decode(x).text for x in bench.log_probs[:20]])
            for d in (greedy, plain)
        ]
        assert rates[1] < rates[0] + 0.005

    def test_results_are_independent_of_chunking(self, bench: Bench) -> None:
        hotwords = dict.fromkeys(bench.references[0].split()[5:12], 3.0)
        config = beam_config(nbest=5)
        decoder = BeamDecoder(ENGLISH, SECONDS, config, bench.model, None, hotwords)
        log_probs = bench.log_probs[0]
        whole = decoder.decode(log_probs)
        for size in (1, 7, 100):
            state = decoder.start()
            for begin in range(0, len(log_probs), size):
                decoder.advance(state, log_probs[begin : begin + size])
            assert decoder.best(state) == whole

    def test_results_are_independent_of_threads(self, bench: Bench) -> None:
        decoder = BeamDecoder(ENGLISH, SECONDS, beam_config(beam=8, nbest=2), bench.model)
        log_probs = bench.log_probs[:10]
        one_by_one = [decoder.decode(matrix) for matrix in log_probs]
        assert decoder.decode_many(log_probs) == one_by_one
        assert decoder.decode_many(log_probs, threads=3) == one_by_one
        assert decoder.decode_many([], threads=2) == []

    def test_word_times_agree_with_greedy_decoding(self, bench: Bench) -> None:
        """Both decoders place a common word in about the same frames."""
        greedy = GreedyDecoder(ENGLISH, SECONDS)
        decoder = BeamDecoder(ENGLISH, SECONDS, beam_config(), bench.model)
        differences = []
        for log_probs in bench.log_probs[:10]:
            one, other = greedy.decode(log_probs).words, decoder.decode(log_probs).words
            matcher = SequenceMatcher(
                None, [word.text for word in one], [word.text for word in other], autojunk=False
            )
            for block in matcher.get_matching_blocks():
                for k in range(block.size):
                    first, second = one[block.a + k], other[block.b + k]
                    differences.append(abs(first.start - second.start))
                    differences.append(abs(first.end - second.end))
        assert len(differences) > 1000
        assert np.mean(np.array(differences) < 1e-9) > 0.98
        assert max(differences) < 0.5
