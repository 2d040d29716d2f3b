-- PostgreSQL runs this once, when its volume is empty. `mlflow` itself is POSTGRES_DB.
CREATE DATABASE mlflow_accounts;
CREATE DATABASE prefect;
