"""The thinking block: template, rows, heads, losses, the trained model and its release."""
