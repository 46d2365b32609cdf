"""The hot calls, answered without the framework."""
