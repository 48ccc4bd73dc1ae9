"""Checks between utterances: copies, and speakers or sentences shared between splits."""

import numpy as np
import numpy.typing as npt

SAME_LIKENESS = 0.98  # of two envelopes; the likest of 399,170 pairs of other recordings reach 0.88
SAME_SECONDS = 0.1  # what encoders add in front and behind
NEIGHBOURS = 200  # readings of one sentence that are compared with each
SHARED_SENTENCES = 0.1  # of a split
SENTENCE_WORDS = 4  # shorter ones, such as "yes", are shared by chance
Indices = npt.NDArray[np.int64]
