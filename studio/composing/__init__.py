"""From a recipe to an adapter and its report: checks before a merge, the merge, advice, export."""
