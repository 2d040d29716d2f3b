"""How much memory and disk a LALM needs, worked out without its weights."""
