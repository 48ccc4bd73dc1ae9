"""Examination of a corpus for defects before a model is trained on it."""
