"""Fitting of the classifiers on audio that is generated for this purpose only."""
