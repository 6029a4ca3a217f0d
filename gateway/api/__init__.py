"""The inference routes of each protocol: what they accept, and how replies are rendered."""
