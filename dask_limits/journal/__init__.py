"""What is remembered of runs: which calls have ended and how, for the time after a driver."""
