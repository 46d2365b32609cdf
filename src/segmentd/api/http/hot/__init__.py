"""The hot calls, answered past the framework."""
