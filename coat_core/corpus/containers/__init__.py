"""Containers of audio: what the bytes of a file hold, independently of libsndfile."""
