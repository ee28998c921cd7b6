"""The whole product on one machine: Airflow and MLflow as processes, started, followed and stopped."""
