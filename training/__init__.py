"""How every trained file in `assets/` was made, runnable again."""
