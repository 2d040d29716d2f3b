"""The thinking block: template, trainable tokens, heads, losses, the trained model and its release."""
