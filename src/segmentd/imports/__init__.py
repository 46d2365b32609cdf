"""Lists of users that callers bring: how they are received, checked and applied."""
