"""One module for each resource: its addresses, parameters and bodies."""
