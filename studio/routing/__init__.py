"""Routing between adapters: ReMix (arXiv 2603.10160), the routers beside it, and what the collapse claim says."""
