"""One module a resource: its addresses, parameters and bodies."""
