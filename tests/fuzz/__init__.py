"""A seeded fuzzer: damaged inputs for every door of asr, and a runner that survives what they do."""
