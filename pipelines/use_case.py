"""What a use case must say: one frozen definition that features, training, scoring and monitoring share."""

import re
from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def core_tables_in(sql: str) -> list[str]:
    """Names of the core tables that some SQL reads, sorted."""
    return sorted({name.lower() for name in re.findall(r"\bcore__[a-z0-9_]+", sql, re.IGNORECASE)})


class BaseTable(_Frozen):
    """A temporary table that the feature tables of one snapshot share, so that it is computed once."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    sql: str
    is_choice: bool = Field(False, description="Chooses among what is read; a replay keeps the choice")


class FeatureTable(_Frozen):
    """One lake table of features: a grain, and a named SQL expression for each feature.

    The SQL sees the core tables as of the end of `as_of` (later rows do not exist there), the use case's base
    tables, and the parameter `$as_of`. It is computed in two steps: `aggregates` over the rows of `source`
    grouped by `keys`, then `derived` over the aggregates. Names that begin with an underscore are intermediate.
    """

    name: str = Field(pattern=r"^features__[a-z0-9_]+$")
    keys: tuple[str, ...] = Field(min_length=1)
    source: str
    aggregates: dict[str, str]
    derived: dict[str, str] = {}
    joins: str = ""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the stored features, in stored order."""
        return tuple(name for name in (*self.aggregates, *self.derived) if not name.startswith("_"))


class SimpleRule(_Frozen):
    """A ranking without a model: a SQL expression over the features, the higher the likelier."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    expression: str


class Reason(_Frozen):
    """A group of features that one sentence explains; `words` is SQL over the features that gives the sentence."""

    name: str
    features: tuple[str, ...] = Field(min_length=1)
    words: str


class TrainingPlan(_Frozen):
    """How a model of the use case is trained; days and weeks count back from the training date."""

    snapshots: int = Field(12, ge=3, description="Number of snapshots in a training set")
    snapshot_every_days: int = Field(7, ge=1)
    holdout: int = Field(2, ge=1, description="Newest snapshots with labels, kept from training for the gate")
    folds: int = Field(3, ge=1, description="Validation folds, the newest snapshots, in time order")
    most_rows: int = Field(300_000, ge=1, description="Of a snapshot that are looked at; of more, a sample of entities")
    negative_keep_share: float = Field(0.2, gt=0, le=1, description="Share of negatives kept, weighted 1/share")
    boosting_rounds: int = Field(200, ge=1, le=5000)
    learning_rate: float = Field(0.05, gt=0, le=1)
    leaves: int = Field(31, ge=2, le=4095)
    min_rows_in_leaf: int = Field(300, ge=1)
    feature_share: float = Field(0.5, gt=0, le=1)
    l2: float = Field(20.0, ge=0)
    ranker_weight: float = Field(2.0, gt=0, description="Of the ranker in the blend; the classifier weighs 1")
    seed: int = 20170101


class GatePolicy(_Frozen):
    """What a challenger must hold to become champion; all shares and errors between 0 and 1."""

    min_training_rows: int = Field(10_000, ge=1)
    min_positive_share: float = Field(0.001, ge=0, lt=1, description="Of training rows; and of negatives likewise")
    max_ndcg_loss: float = Field(0.002, ge=0, lt=1, description="Against the champion, lower end of the interval")
    max_calibration_error: float = Field(0.02, gt=0, lt=1)
    max_calibration_error_rise: float = Field(0.005, ge=0, lt=1, description="Against the champion")
    max_rate_error: float = Field(0.2, gt=0, description="Of the mean score, as a share of the observed rate")
    max_slice_auc_loss: float = Field(0.02, ge=0, lt=1, description="Against champion, or best rule without one")
    max_slice_rate_gap: float = Field(0.02, gt=0, lt=1, description="Mean score less observed rate in a slice")
    min_slice_positives: int = Field(200, ge=1, description="A slice with fewer positives is not judged")
    max_score_shift: float = Field(0.25, gt=0, description="Population stability index of the scores, to champion")
    max_item_share_rise: float = Field(0.15, gt=0, le=1, description="Of the lists that an item is in")
    max_cost_ratio: float = Field(5, gt=1, description="Of the CPU time of training, and of scoring, to champion")


class AuditPolicy(_Frozen):
    """How far a night may be from the nights before it before readers see it; a smaller night is not compared."""

    min_entities: int = Field(100, ge=1, description="Of the night before; with fewer, chance moves everything")
    max_rows_change: float = Field(0.2, gt=0, description="Of rows and of entities, to the median of last nights")
    max_score_shift: float = Field(0.1, gt=0, description="Population stability index of the scores, same model")
    max_item_mix_change: float = Field(0.1, gt=0, le=1, description="Share of rows that went to other items")
    min_list_overlap: float = Field(0.5, ge=0, lt=1, description="Mean share of an entity's list that stays")
    max_cold_start_rise: float = Field(0.1, gt=0, le=1, description="Of the share of rows that nobody scored")


class RetrainPolicy(_Frozen):
    """When the monitor asks for a new model: what one is worth, what it costs, and how often there may be one.

    Losses are log losses in nats, means over the candidates.
    """

    horizon_days: int = Field(28, ge=1, description="Over which a new model is to pay, at most")
    usd_per_nat_week: float = Field(16_000, ge=0, description="Worth of one nat, over a week")
    staleness_nats_per_week: float = Field(0.00005, ge=0, description="Least that a model loses with each week of age")
    usual_nats: float = Field(0.0005, ge=0, description="Avoidable loss of a model that is new")
    shift_nats: float = Field(0.0005, ge=0, description="What a shift of the features is taken to cost, before labels")
    training_usd: float = Field(10, ge=0, description="Of a training: machines, and the person who reads the verdict")
    risk_usd: float = Field(5, ge=0, description="Chance of a bad model that passes the gate, times its harm")
    champion_max_age_days: int = Field(56, ge=1, description="Beyond it a new model is asked for in any case")
    cooldown_days: int = Field(14, ge=1, description="Between two trainings; as long a verdict is waited for")
    max_per_30_days: int = Field(3, ge=1, description="Trainings within 30 days")
    min_auc_drop: float = Field(0.02, gt=0, lt=1, description="Fall of realised AUC below validation that counts")
    drifted_feature_share: float = Field(0.25, gt=0, le=1, description="Share of drifted features that counts")

    @property
    def cost_usd(self) -> float:
        """What a training costs, its risk included."""
        return self.training_usd + self.risk_usd


class Kpi(_Frozen):
    """A business figure: what it means, its unit, its owner, and SQL that gives one value or its parts by entity.

    The SQL sees the core tables, the parameters `$first_date` and `$last_date` (both included), and what
    `kpi_views.VIEWS` names, such as `lists` and `labels` of the score dates that matured between them. `entity_sql`
    gives the entity, `numerator` and `denominator`: the value is the ratio of their sums, with an interval. Where the
    SQL reads `lists`, it is evaluated for the lists of the simple rule too, as the reference.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    meaning: str
    unit: str
    sql: str = ""
    entity_sql: str = ""
    is_daily: bool = True
    has_band: bool = Field(True, description="Whether its past says what is usual of it")
    band_limit: float = Field(4.5, gt=0, description="Standard deviations beyond which it counts, as if normal")
    owner: str = Field("", description="Who answers for it; empty: the owner of the use case")

    @model_validator(mode="after")
    def _has_one_definition(self) -> Self:
        if bool(self.sql) == bool(self.entity_sql):
            raise ValueError(f"{self.name}: give either sql or entity_sql")
        return self

    @property
    def value_sql(self) -> str:
        """SQL that gives the one value."""
        ratio = f"SELECT sum(numerator) / nullif(sum(denominator), 0) AS value FROM ({self.entity_sql})"
        return self.sql or ratio

    @property
    def rule_sql(self) -> str:
        """The same for the lists of the simple rule; empty where there are no lists to replace."""
        replaced = re.sub(r"\blists\b", "rule_lists", self.value_sql)
        return replaced if replaced != self.value_sql else ""

    def reads(self, tables: Iterable[str]) -> bool:
        """Whether the SQL names one of these tables."""
        return any(re.search(rf"\b{table}\b", self.value_sql) for table in tables)


class Signal(_Frozen):
    """A figure of the data that is watched for shifts: a ratio of two sums over entities, by window and slice.

    The SQL gives `window_date`, the entity, `slice`, `numerator` and `denominator`. It sees the core tables, the use
    case's `signal_tables`, and the macro `window_of(day)`: the last day of the window that holds a day, null outside
    of what is read. A row whose slice is null is part of the denominator of every slice.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    meaning: str
    sql: str
    lookback_days: int = Field(0, ge=0, description="Days before a window that the figure needs as well")
    is_relative: bool = Field(False, description="Changes are compared as shares of the figure, not as differences")
    min_change: float = Field(0, ge=0, description="A smaller change does not matter; a share where is_relative")
    is_quality: bool = Field(False, description="A shift of it is a fault of the data")
    season_change: float = Field(0.5, ge=0, description="Largest change that a known season explains; 0: none does")
    moves_with_year: bool = Field(False, description="Slow change is usual: it is not held against earlier windows")
    fault_factor: float = Field(0, ge=0, description="So many times its reference, or less than 1/so many, is a fault")


class Season(_Frozen):
    """Days on which entities are known to behave otherwise; both dates are included."""

    name: str
    first_date: date
    last_date: date


class Trial(_Frozen):
    """A known change that is made in real rows to see whether, when and as what the monitor finds it.

    The SQL gives the rows of core__transactions with the change, from the rows of the table `untouched` and the core
    tables; it sees the variables `onset`, the first changed day, and `seed`, which makes a change of its own.
    """

    name: str
    size: str = Field("", description="How large, in words")
    sql: str
    cause: str = Field("", description="What the monitor should call it; empty: it must not be found")
    weeks: int = Field(3, ge=1, description="Weeks from the onset on in which it may be found")
    aim: float = Field(0, ge=0, le=1, description="Share of the trials to be found in time")
    within_weeks: int = Field(1, ge=1, description="What in time means")
    is_drawn: bool = Field(False, description="What is changed depends on the seed")
    is_announced: bool = Field(False, description="The calendar knows of its first week")


class Repeats(_Frozen):
    """How often an entity comes back to an item, as the look-up reads it from Feast's online store.

    The feature's value, divided by `days`, is the rate per day.
    """

    feature: str = Field(pattern=r"^\w+:\w+$", description="view:feature, with the grain (entity, item)")
    days: float = Field(gt=0)


class MonitorPolicy(_Frozen):
    """How shifts are told from chance; distances are in standard deviations of what is usual between windows."""

    window_days: int = Field(7, ge=1)
    history_windows: int = Field(24, ge=8, description="Windows before the newest that tell what is usual")
    min_windows: int = Field(6, ge=4, description="Fewer changes between windows tell nothing yet")
    reference_windows: int = Field(4, ge=1, description="Windows just before: the rolling reference of the season")
    earlier_windows: int = Field(8, ge=1, description="How far back the second reference lies: it shows slow change")
    limit: float = Field(3.5, gt=0, description="Distance that counts if two of three windows have it")
    severe: float = Field(7.0, gt=0, description="Distance that counts at once")
    ramp_limit: float = Field(6.0, gt=0, description="Sum of small distances to one side that counts, by CUSUM")
    ramp_slack: float = Field(0.75, ge=0, description="Part of each distance that such a sum leaves out")
    prior_windows: int = Field(8, ge=0, description="Weight of the other figures in what is usual of one")
    false_share: float = Field(0.05, gt=0, lt=1, description="Of the shifts found at once, by Benjamini-Hochberg")
    min_item_positives: int = Field(
        200, ge=1, description="An item of which fewer are expected is not judged by itself"
    )


class UseCase(_Frozen):
    """One prediction task: for every `entity` and `item`, does the event happen within `horizon_days`?

    `positives_sql` gives the events of the core tables between `$first_date` and `$last_date`, one row per entity
    and item, with `value_usd`. `active_sql` gives the entities that must have a published row as of `$as_of`,
    `popular_sql` the items, with `probability`, that fill lists which candidates leave short; by `segment` where an
    entity's is known, else those of segment null. `segments_sql` gives for each entity its value in each dimension
    (a column of text each) as of `$as_of`; the first dimension is the segment, all are slices that the gate judges.
    `slices` are further ones: SQL conditions over the features. `baseline_rule` scores where no model can.
    The candidates are the rows of `feature_tables[0]` whose item is not in `excluded_items`.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    question: str
    owner: str
    entity: str
    item: str
    horizon_days: int = Field(ge=1, le=366)
    top_n: int = Field(ge=1, le=1000)
    late_window_days: int = Field(3, ge=0, le=31, description="How late a purchase may be delivered and still count")
    base_tables: tuple[BaseTable, ...] = ()
    feature_tables: tuple[FeatureTable, ...] = Field(min_length=1)
    positives_sql: str
    active_sql: str
    popular_sql: str
    excluded_items: tuple[str, ...] = ()
    segments_sql: str = ""
    slices: dict[str, str] = {}
    rules: tuple[SimpleRule, ...] = Field(min_length=1)
    baseline_rule: str
    reasons: tuple[Reason, ...] = ()
    training: TrainingPlan = TrainingPlan()
    gate: GatePolicy = GatePolicy()
    audit: AuditPolicy = AuditPolicy()
    retraining: RetrainPolicy = RetrainPolicy()
    kpis: tuple[Kpi, ...] = ()
    signal_tables: tuple[BaseTable, ...] = ()
    signals: tuple[Signal, ...] = ()
    calendar: tuple[Season, ...] = ()
    trials: tuple[Trial, ...] = ()
    monitor: MonitorPolicy = MonitorPolicy()
    repeats: Repeats | None = None
    expectations_module: str
    feature_module: str
    data_notice: str = Field("", description="Where the data comes from and under what licence, for the model card")

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        twice = [name for name, count in Counter(self.features).items() if count > 1]
        if twice:
            raise ValueError(f"features defined in more than one table: {', '.join(sorted(twice))}")
        if set(self.feature_tables[0].keys) != {self.entity, self.item}:
            raise ValueError("the first feature table must have the grain (entity, item): it gives the candidates")
        for table in self.feature_tables[1:]:
            if not set(table.keys) < {self.entity, self.item}:
                raise ValueError(f"{table.name}: its keys must be part of (entity, item)")
        unknown = {name for reason in self.reasons for name in reason.features} - set(self.features)
        if unknown:
            raise ValueError(f"reasons name features that do not exist: {', '.join(sorted(unknown))}")
        if self.baseline_rule not in [rule.name for rule in self.rules]:
            raise ValueError(f"baseline_rule: no simple rule is named {self.baseline_rule}")
        if self.training.folds >= self.training.snapshots:
            raise ValueError("training.folds must be below training.snapshots: the oldest is only trained on")
        return self

    @property
    def keys(self) -> tuple[str, str]:
        """The grain of candidates, labels and scores."""
        return (self.entity, self.item)

    @property
    def features(self) -> tuple[str, ...]:
        """Every feature, in the order in which a model sees them."""
        return tuple(name for table in self.feature_tables for name in table.features)

    @property
    def labels_table(self) -> str:
        """Lake table of labels."""
        return f"labels__{self.name}"

    @property
    def scores_table(self) -> str:
        """Lake table of all candidates' scores, and warehouse table of the published ones."""
        return f"scores__{self.name}"

    @property
    def staging_table(self) -> str:
        """Warehouse table of scores that await their audit; no reader may see it."""
        return f"staging__{self.name}"

    @property
    def outcomes_table(self) -> str:
        """Warehouse table of what became of the published rows."""
        return f"outcomes__{self.name}"
