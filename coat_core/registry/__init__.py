"""MLflow: tracking, registered versions, promotion gate and recipe, lineage, served model, model card."""
