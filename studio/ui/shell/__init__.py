"""What every room of the page shares: the page itself, sessions, panels, jobs, and how things look."""
