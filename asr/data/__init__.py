"""Training data: manifests, corpora, the index, batch plans, augmentation and loading."""
