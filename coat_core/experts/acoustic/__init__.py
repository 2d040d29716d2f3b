"""Acoustic experts: signal processing, no weights."""
