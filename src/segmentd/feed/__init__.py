"""Those who follow the feed of changes."""
