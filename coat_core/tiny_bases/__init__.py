"""Tiny bases of the three real classes: configuration, tokenizer, pretraining."""
