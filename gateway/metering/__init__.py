"""What each request used: written to a journal on disk, then to Postgres."""
