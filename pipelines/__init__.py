"""The steps of the pipeline, as plain functions that know nothing of Airflow."""

import os

# Idle threads of LightGBM would spin; on a busy machine a training then takes 2.5 times the processor seconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
