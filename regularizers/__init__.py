"""What must not move, and how hard to hold it: importance, Fisher, quadratic anchors. torch only."""
