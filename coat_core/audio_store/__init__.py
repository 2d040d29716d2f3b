"""The audio store: the outputs of the frozen audio tower on disk, one folder per backbone, and their computation."""
