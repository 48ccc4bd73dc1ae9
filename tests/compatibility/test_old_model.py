"""The English model that comes with asr hears what it heard with an older version."""

import numpy as np
from golden import SAMPLE, STORED

import asr

TOLERANCE = 1e-4  # nats


def test_log_probs_are_the_same() -> None:
    recognizer = asr.Recognizer.default()
    waveform = asr.load_audio(SAMPLE, recognizer.sample_rate)
    [log_probs] = recognizer.model.emit([waveform]).log_probs.numpy()
    with np.load(STORED / "log-probs.npz") as stored:
        np.testing.assert_allclose(log_probs, stored["log_probs"], rtol=0, atol=TOLERANCE)
