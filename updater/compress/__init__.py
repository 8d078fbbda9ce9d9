"""What of a checkpoint goes, and making the smaller one."""
