"""Each node's own copy of what the hot read needs: the overrides, and the segments with their rollouts."""
