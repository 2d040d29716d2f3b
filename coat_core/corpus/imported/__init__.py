"""Corpora made from existing recordings, manifests and audio folders."""
