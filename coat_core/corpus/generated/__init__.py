"""The generated corpus: scenes, synthetic speech and task families."""
