"""The scoring rules of published scripts, written again from their description and compared with verdicts of the scripts themselves."""
