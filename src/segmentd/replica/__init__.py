"""Each node's local store of what the hot read needs: the overrides, and the segments with their rollouts."""
