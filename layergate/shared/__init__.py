"""What every system that instances share has in common, written once.

A system such as Redis, PostgreSQL or S3 implements the ports of `layergate.shared.ports`; everything
else is here: a layer of entries, final purges, and leases. Nothing in this package knows a client
library or a particular system. The author of a layer imports `layergate.shared.api`.
"""
