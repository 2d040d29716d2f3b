"""The page of `coat demo`: models answer side by side with the read-out of the thinking block, and a browser of saved responses."""
