"""Acoustic experts with small fitted networks: posteriors of sounds, speaking styles and words."""
