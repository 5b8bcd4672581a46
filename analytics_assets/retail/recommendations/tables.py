"""The tables of recommendations: lists of customers, of products' pages, and what they were worth."""

from analytics_assets.warehouse.tables import Column, Table

_AS_OF = Column("as_of_date", "DATE", "Business day at whose end this was computed.")
_RANK = Column("rank", "BIGINT", "Place in the list, from 1.")
_SCORE = Column("score", "DOUBLE", "What the order is by, comparable within one list only; 0 for what only fills the list.")
_BASIS = Column(
    "basis",
    "VARCHAR",
    "`history` (bought before), `similarity` (goes with what was bought) or `popular` (more than either, or it fills the list).",
)
_REASON = Column("reason", "VARCHAR", "Why the product is there, in words that a customer may read.")

RECOMMENDATIONS = Table(
    name="recommendations",
    rows_are="customer, list, rank and day",
    columns=(
        _AS_OF,
        Column("customer_id", "VARCHAR", "The customer.", personal=True),
        Column("list", "VARCHAR", "`buy_again` or `discover` (never bought before)."),
        _RANK,
        Column("product_id", "VARCHAR", "The product."),
        _SCORE,
        _BASIS,
        _REASON,
    ),
    key=("as_of_date", "list", "customer_id", "rank"),
    grain="day",
    partition_column="as_of_date",
)

PRODUCT_RECOMMENDATIONS = Table(
    name="product_recommendations",
    rows_are="product, rank and day",
    columns=(
        _AS_OF,
        Column("product_id", "VARCHAR", "The product whose page it is."),
        _RANK,
        Column("related_product_id", "VARCHAR", "The product to show there."),
        _SCORE,
        _BASIS,
        _REASON,
    ),
    key=("as_of_date", "product_id", "rank"),
    grain="day",
    partition_column="as_of_date",
)

RECOMMENDATION_QUALITY = Table(
    name="recommendation_quality",
    rows_are="list, model, cut-off and day",
    columns=(
        _AS_OF,
        Column("list", "VARCHAR", "`buy_again` or `discover`."),
        Column("model", "VARCHAR", "What the lists were made with; `popular` is the yardstick."),
        Column("cut_off", "DATE", "Day up to which purchases were known to the lists."),
        Column("days", "BIGINT", "Days after the cut-off whose purchases had to be foreseen.", "days"),
        Column("customers", "BIGINT", "Customers with a history who bought in those days.", "customers"),
        Column("recall_at_20", "DOUBLE", "Share of what they bought that stood in the first 20 places.", "0 to 1"),
        Column("ndcg_at_10", "DOUBLE", "The same for the first 10, earlier places counting more.", "0 to 1"),
        Column("coverage", "DOUBLE", "Share of the offered products that stood in any of these lists.", "0 to 1"),
        Column(
            "lift_over_popular",
            "DOUBLE",
            "Recall as a multiple of that of `popular`; NULL where that is 0.",
            "times",
            nullable=True,
        ),
        Column("chosen", "BOOLEAN", "Whether the lists of the day are made with this model."),
        Column("reason", "VARCHAR", "Why it was chosen, or not."),
    ),
    key=("as_of_date", "list", "model", "cut_off"),
    grain="day",
    partition_column="as_of_date",
)

TABLES = (RECOMMENDATIONS, PRODUCT_RECOMMENDATIONS, RECOMMENDATION_QUALITY)
