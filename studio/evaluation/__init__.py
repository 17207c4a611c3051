"""How good a merge is: tasks, scores with intervals, and the scoreboard that holds them side by side."""
