"""The English model that comes with asr hears what it heard with an older version."""

import numpy as np
from golden import STORED
from observations import hear_sample

TOLERANCE = 1e-4  # nats


def test_log_probs_are_the_same() -> None:
    log_probs = hear_sample()
    with np.load(STORED / "log-probs.npz") as stored:
        np.testing.assert_allclose(log_probs, stored["log_probs"], rtol=0, atol=TOLERANCE)
