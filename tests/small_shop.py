"""The toy use case for a shop of some hundred households: one rule beside the model, and a gate for few rows.

It is registered with `NIGHTJAR_USE_CASES=small_shop`.
"""

import toy

from pipelines.use_case import GatePolicy, RetrainPolicy

USE_CASE = toy.USE_CASE.model_copy(
    update={
        "rules": tuple(rule for rule in toy.USE_CASE.rules if rule.name == toy.USE_CASE.baseline_rule),
        "retraining": RetrainPolicy(usd_per_nat_week=1000, usual_nats=0.02),  # nothing pays before tastes change
        "gate": GatePolicy(
            min_training_rows=1000,
            max_calibration_error=0.2,
            max_rate_error=0.5,
            max_slice_rate_gap=0.5,
            max_slice_auc_loss=0.2,
            max_item_share_rise=0.5,
        ),
    }
)
