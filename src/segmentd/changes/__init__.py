"""Changes of memberships: in groups, each with its own answer, shown in the node's replica."""
