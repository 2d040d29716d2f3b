"""Corpora made from recordings, manifests and audio folders."""
