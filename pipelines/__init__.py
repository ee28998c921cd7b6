"""The steps of the nightly batch: plain typed functions that run with or without Airflow."""

import os

# Idle threads of LightGBM would spin; on a busy machine a training then takes 2.5 times the processor seconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
