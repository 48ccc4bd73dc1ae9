"""Recordings: files, bytes and samples become mono waveforms."""
