"""What the docs take from the registries: one module a registry, each with `sections() -> {mark: function}`."""
