"""What is deployed beside the daemons; the sample configurations are read by `wattshift init`."""
