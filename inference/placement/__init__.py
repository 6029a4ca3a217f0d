"""Where instances go and who has to go for them: pure functions over a snapshot, no clock, no database."""
