"""The generated task families, one module each. A new family is a module and an entry in `catalogue.py`."""
