"""The data contract, checked with Great Expectations."""
