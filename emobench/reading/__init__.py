"""Reading conversations in a terminal: which match, one of them, two side by side, patterns."""
