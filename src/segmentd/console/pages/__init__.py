"""The pages, each with the forms that stand on it."""
