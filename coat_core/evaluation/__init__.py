"""Evidence: responses, scorers, statistics, latency, report."""
