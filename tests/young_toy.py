"""The toy use case for a history of weeks, whose nights still differ: they are not compared with those before.

It is registered with `NIGHTJAR_USE_CASES=young_toy`.
"""

import toy

from pipelines.use_case import AuditPolicy

USE_CASE = toy.USE_CASE.model_copy(update={"audit": AuditPolicy(min_entities=1_000_000)})
