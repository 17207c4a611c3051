"""The room Route: routers trained over the open adapters, compared, and writing."""
