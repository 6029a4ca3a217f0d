"""Who calls, which model is meant, which replica answers; and the snapshot that says so."""
