"""Memory, disk space and parameters of full-size LALMs, computed without their weights."""
