"""MLflow: tracking, promotion gate, registered versions, served model, model card."""
