"""Recordings: files, bytes and samples become 16 kHz mono waveforms."""
