"""WebSockets: subscriptions, the latest state of each object, slow readers."""
