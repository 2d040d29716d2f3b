"""Neural experts: published encoders behind the expert interface."""
