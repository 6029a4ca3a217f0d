"""What people ask about models that run: start, stop, replicas, and the answers of REST."""
