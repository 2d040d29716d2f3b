"""The expert store: features on disk, and their extraction."""
