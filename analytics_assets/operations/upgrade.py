"""What a new version of the code does to a home that an earlier one made."""

from analytics_assets.events.tables import RECORDS
from analytics_assets.warehouse.work import Platform


def upgrade(platform: Platform) -> list[str]:
    """Bring the tables that are not computed from events (landed lines, the ledger, records of runs) to their declarations.

    What is computed is brought there by the run that computes it anew.

    Returns:
        The tables that changed.

    Raises:
        LakeError: a table was written by a newer version. Nothing was changed.
    """
    tables = [RECORDS, *platform.published_tables]
    for table in tables:
        platform.lake.pin(table)
    computed = {table.name for computation in platform.computations.values() for table in computation.tables}
    return [table.name for table in tables if table.name not in computed and platform.lake.migrate(table)]
