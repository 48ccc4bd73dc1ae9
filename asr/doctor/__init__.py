"""The examination of a corpus: what is wrong with it before a model is trained on it."""
