"""Tiny bases of the three model classes: configuration, tokenizer, pretraining."""
