"""The generated corpus: synthetic sounds and speech, task families, plans."""
