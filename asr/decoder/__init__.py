"""Decoders: log-probabilities become hypotheses, greedily or by beam search."""
