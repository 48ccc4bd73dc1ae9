"""N-gram language models: estimating, reading, writing and querying them."""
