"""The generated task families, one module each; a new family is a module here and a row in `catalogue.py`."""
