"""Evaluation: responses, scores, statistics and latency."""
