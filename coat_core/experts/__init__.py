"""Audio experts: specs, signal-processing experts, the feature store and its extraction."""
