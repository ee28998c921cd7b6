"""The schemas that tables and files must have, column by column."""

from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 1
USD = pa.decimal128(12, 2)
UTC_TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Column:
    """One column: its type and what it holds."""

    name: str
    type: pa.DataType
    meaning: str


@dataclass(frozen=True)
class TableContract:
    """A table's columns; `key` is unique within a partition and gives its stored order.

    Each partition of a snapshot table is the whole table as known that day; those of the others add up.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partition: str = "business_date"
    is_snapshot: bool = False

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema, the partition column included."""
        return pa.schema([(column.name, column.type) for column in self.columns])


@dataclass(frozen=True)
class DropContract:
    """A file that the upstream system delivers: its columns, and whether each day must bring one.

    `core_table` is the lake table that keeps it. A drop that is not daily comes on the dates on which it changes.
    An open day may be without rows only where `may_be_empty` says so.
    """

    name: str
    columns: tuple[tuple[str, pa.DataType], ...]
    core_table: TableContract
    is_daily: bool = False
    may_be_empty: bool = False

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the delivered file."""
        return pa.schema(self.columns)


_DAY = Column("business_date", pa.date32(), "Business day in the stores' time zone")

CORE_TRANSACTIONS = TableContract(
    "core__transactions",
    (
        _DAY,
        Column("household_id", pa.int64(), "Pseudonym of the household that holds the loyalty card"),
        Column("store_id", pa.int64(), "Store"),
        Column("basket_id", pa.int64(), "One purchase occasion"),
        Column("product_id", pa.int64(), "Product; may be absent from core__products"),
        Column("item_qty", pa.int64(), "Units bought; for fuel, a volume"),
        Column("sales_usd", USD, "What the retailer received from the sale"),
        Column("retail_discount_usd", USD, "Discount of the loyalty card"),
        Column("coupon_discount_usd", USD, "Discount of a manufacturer's coupon"),
        Column("coupon_match_discount_usd", USD, "Discount of the retailer's match of a coupon"),
        Column("transacted_at", UTC_TIMESTAMP, "Time of the purchase, UTC"),
    ),
    key=("basket_id", "product_id"),
)
QUARANTINE_TRANSACTIONS = TableContract(
    "quarantine__transactions",
    (
        _DAY,
        Column("household_id", pa.int64(), "Pseudonym of the household; null where the row names none"),
        Column("rule_id", pa.string(), "The first rule that the row broke"),
        Column("reason", pa.string(), "Every rule that it broke, in words"),
        Column("source_file", pa.string(), "Path of the delivered file below landing"),
        Column("source_line", pa.int64(), "Row number in that file, from 0"),
        Column("row_json", pa.string(), "The whole row as delivered, as JSON; the household by its pseudonym"),
    ),
    key=("source_file", "source_line"),
)
CORE_PRODUCTS = TableContract(
    "core__products",
    (
        _DAY,
        Column("product_id", pa.int64(), "Product"),
        Column("manufacturer_id", pa.int64(), "Manufacturer"),
        Column("department", pa.string(), "Department, the widest group"),
        Column("brand", pa.string(), "National or private label"),
        Column("product_category", pa.string(), "Category; null for 540 products"),
        Column("product_type", pa.string(), "Narrowest group"),
        Column("package_size", pa.string(), "Size as printed"),
    ),
    key=("product_id",),
    is_snapshot=True,
)
CORE_HOUSEHOLDS = TableContract(
    "core__households",
    (
        _DAY,
        Column("household_id", pa.int64(), "Household; only those that answered the survey"),
        Column("age", pa.string(), "Age band"),
        Column("income", pa.string(), "Income band"),
        Column("home_ownership", pa.string(), "Owner or renter"),
        Column("marital_status", pa.string(), "Marital status"),
        Column("household_size", pa.string(), "Persons"),
        Column("household_comp", pa.string(), "Composition"),
        Column("kids_count", pa.string(), "Children"),
    ),
    key=("household_id",),
    is_snapshot=True,
)
CORE_CAMPAIGNS = TableContract(
    "core__campaigns",
    (
        _DAY,
        Column("campaign_id", pa.int64(), "Campaign"),
        Column("household_id", pa.int64(), "Household that it targets"),
        Column("campaign_type", pa.string(), "Type A, B or C"),
        Column("start_date", pa.date32(), "First day of the campaign"),
        Column("end_date", pa.date32(), "Last day of the campaign"),
    ),
    key=("campaign_id", "household_id"),
)
CORE_COUPONS = TableContract(
    "core__coupons",
    (
        _DAY,
        Column("coupon_upc", pa.int64(), "Coupon"),
        Column("product_id", pa.int64(), "Product that it is good for"),
        Column("campaign_id", pa.int64(), "Campaign that sent it"),
    ),
    key=("coupon_upc", "product_id", "campaign_id"),
)
CORE_REDEMPTIONS = TableContract(
    "core__redemptions",
    (
        _DAY,
        Column("household_id", pa.int64(), "Household that redeemed"),
        Column("coupon_upc", pa.int64(), "Coupon"),
        Column("campaign_id", pa.int64(), "Campaign that sent it"),
    ),
    key=("household_id", "coupon_upc", "campaign_id"),
)
CORE_PROMOTIONS = TableContract(
    "core__promotions",
    (
        _DAY,
        Column("product_id", pa.int64(), "Product"),
        Column("store_id", pa.int64(), "Store"),
        Column("display_location", pa.string(), "Code of the in-store display"),
        Column("mailer_location", pa.string(), "Code of the place in the weekly mailer"),
        Column("week", pa.int64(), "Retail week, from 1"),
    ),
    key=("product_id", "store_id", "display_location", "mailer_location"),
)

_FLOAT, _INT, _TEXT, _STAMP = pa.float64(), pa.int64(), pa.string(), pa.timestamp("us")


def _as_delivered(contract: TableContract) -> tuple[tuple[str, pa.DataType], ...]:
    return tuple((column.name, column.type) for column in contract.columns if column.name != "business_date")


TRANSACTIONS_DROP = DropContract(
    "transactions",
    (
        ("household_id", _INT),
        ("store_id", _INT),
        ("basket_id", _INT),
        ("product_id", _INT),
        ("quantity", _INT),
        ("sales_value", _FLOAT),
        ("retail_disc", _FLOAT),
        ("coupon_disc", _FLOAT),
        ("coupon_match_disc", _FLOAT),
        ("transaction_timestamp", _STAMP),
    ),
    CORE_TRANSACTIONS,
    is_daily=True,
)
REFERENCE_DROPS = (
    DropContract("products", _as_delivered(CORE_PRODUCTS), CORE_PRODUCTS),
    DropContract("households", _as_delivered(CORE_HOUSEHOLDS), CORE_HOUSEHOLDS),
    DropContract("campaigns", _as_delivered(CORE_CAMPAIGNS), CORE_CAMPAIGNS),
    DropContract("coupons", _as_delivered(CORE_COUPONS), CORE_COUPONS),
    DropContract("promotions", _as_delivered(CORE_PROMOTIONS), CORE_PROMOTIONS),
    DropContract("redemptions", _as_delivered(CORE_REDEMPTIONS), CORE_REDEMPTIONS, is_daily=True, may_be_empty=True),
)
DROPS = {drop.name: drop for drop in (TRANSACTIONS_DROP, *REFERENCE_DROPS)}
CORE_TABLES = {drop.core_table.name: drop.core_table for drop in DROPS.values()}
