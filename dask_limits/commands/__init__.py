"""Commands as calls: templates of command lines, and how they run in the process of a call."""
