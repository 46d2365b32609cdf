"""The console: pages for people, rendered on the server. One more door: it has no rules of its own."""
