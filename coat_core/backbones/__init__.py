"""The large audio language models (LALMs) behind one narrow interface."""
