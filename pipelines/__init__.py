"""The steps of the nightly batch: plain typed functions that run with or without Airflow."""
