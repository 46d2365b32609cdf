"""All that the console says, in every language: one module for each part of it."""
