"""Which devices an instance gets and which instances are evicted for it: pure functions, no clock, no database."""
